#!/usr/bin/env bash
# The way of somebody new, in one go, with an installed program: own text, own tokenizer, a mixture of experts, how good it
# is, two runs side by side, the model for others, and Limbeck as a library. Everything happens in a temporary folder.
#
#     tests/newcomer.sh build/release            # a model that has learnt something: some minutes
#     tests/newcomer.sh build/release --small    # a few steps of everything
set -euo pipefail

build=$(cd "${1:?a build folder}" && pwd)
steps=400
[[ ${2-} != --small ]] || steps=30
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
  echo "tests/newcomer.sh: error: $*" >&2
  exit 1
}
# run COMMAND...: says it; its output is in $said, and shown where it fails.
run() {
  printf '$ %s\n' "${*//$work\//}"
  said=$("$@" 2>&1 </dev/null) || fail "'$*' ended with $?: $said"
}
# says WHAT...: each is in the last output.
says() {
  local what
  for what in "$@"; do [[ $said == *"$what"* ]] || fail "expected '$what' in: $said"; done
}
# number_of NAME: of the last JSON output, the first.
number_of() { sed -nE "s/.*\"$1\": *([0-9.eE+-]+).*/\1/p" <<<"$said" | sed -n 1p; }
# holds CONDITION NAME=VALUE...: in awk's arithmetic.
holds() {
  local condition=$1 value assignments=()
  for value in "${@:2}"; do assignments+=(-v "$value"); done
  awk "${assignments[@]}" "BEGIN {exit !($condition)}" || fail "expected $condition, with ${*:2}"
}

if [[ $(id -u) -eq 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_btl=^tcp
ranks=(mpirun --bind-to none --oversubscribe -n 2)

echo "== install"
cmake --install "$build" --prefix "$work/limbeck" >/dev/null
export PATH=$work/limbeck/bin:$PATH
run limbeck --version
says "limbeck " "kernels for"
run limbeck --help
says tokenize train eval compare report generate convert

echo "== text and tokenizer"
mkdir text
cp limbeck/share/limbeck/docs/*.md text/
mv text/data.md validation.txt # which no run sees
run limbeck tokenize text --train --vocab 512 --out my_tokenizer

echo "== a mixture of experts"
cat >mine.textproto <<END
model {
  width: 64 num_layers: 2 num_heads: 4 num_kv_heads: 2 max_positions: 128
  moe { num_experts: 4 experts_per_token: 2 expert_width: 96 }
}
data { text: "text" tokenizer: "my_tokenizer" sequence_length: 64 }
optimizer { rate: 3e-3 }
batch { sequences_per_step: 16 }
train { steps: $steps checkpoint_every_steps: $((steps / 2)) eval_every_steps: $((steps / 2)) eval_tokens: 2048 }
END
run "${ranks[@]}" limbeck train mine.textproto --out runs/first
run "${ranks[@]}" limbeck train mine.textproto --out runs/slower --set optimizer.rate=3e-4
for name in first slower; do [[ -d runs/$name/checkpoints/step_$steps ]] || fail "runs/$name has no checkpoint of step $steps"; done

echo "== how good is it"
run limbeck eval runs/first
says cross-entropy
run limbeck eval runs/first --text validation.txt
says perplexity validation.txt
run limbeck eval runs/slower --text validation.txt --json
slower=$(number_of perplexity)
run limbeck eval runs/first --text validation.txt --json
first=$(number_of perplexity)
holds "1 < first && first < slower && slower < 512" first="$first" slower="$slower"

echo "== side by side"
run limbeck compare runs/first runs/slower
says first slower 0.003 0.0003
run limbeck compare runs/first runs/slower --json
says first slower
run limbeck report runs/first runs/slower --out rates.html
grep -q '<svg' rates.html || fail "rates.html draws nothing"
for name in first slower; do grep -q "$name" rates.html || fail "rates.html does not name $name"; done

echo "== for others"
run limbeck generate runs/first --prompt "The run" --max-tokens 16 --temperature 0 --quiet
own=$said
for model in first.gguf first_hf; do
  run limbeck convert runs/first "$model"
  run limbeck eval "$model" --text validation.txt --window 64 --json  # the run's sequence length
  holds "x / y < 1.0001 && y / x < 1.0001" x="$(number_of perplexity)" y="$first"
  run limbeck generate "$model" --prompt "The run" --max-tokens 16 --temperature 0 --quiet
  [[ $said == "$own" ]] || fail "$model goes on with '$said', the run with '$own'"
done
ls first_hf/{config.json,tokenizer.json} first_hf/*.safetensors >/dev/null || fail "first_hf is no Hugging Face model"

echo "== Limbeck as a library"
run cmake -S limbeck/share/limbeck/examples/library -B library -DCMAKE_PREFIX_PATH="$work/limbeck"
run cmake --build library
run library/regression
says "step 1000"
run library/moe_on_ranks 2
says "step 300"
echo "passed after $SECONDS s"
