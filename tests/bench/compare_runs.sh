# shellcheck shell=bash
# Part of compare.sh: one run of a program, whose figures are noted.

declare -A figures # values of all rounds, by "row program figure"

note() { figures[$1]+=" $2"; }

fails() { # WHAT LOG
  echo "compare.sh: error: $1 failed: $(grep -i error "$2" | tail -n 1)" >&2
  exit 1
}

# Words of three letters at random, all equally likely: some 17,000 tokens, so that routers are about as even as they get.
make_text() {
  [[ ! -d $work/text ]] || return 0
  mkdir "$work/text"
  awk -v folder="$work/text" 'BEGIN {
    srand(1)
    for (d = 10; d < 30; ++d)
      for (i = 1; i <= 20000; ++i) {
        for (j = 0; j < 3; ++j) printf "%c", 97 + int(26 * rand()) >(folder "/" d ".txt")
        printf "%s", i % 16 ? " " : "\n" >(folder "/" d ".txt")
      }
  }'
  "$limbeck" tokenize "$work/text" --train --vocab 18800 --out "$work/tokenizer" --quiet >/dev/null
}

# median FILE FIELD: of the steps of metrics.jsonl after the warm-up.
median_of_steps() { tail -n +$((warm_up + 1)) "$1" | grep -o "\"$2\":[-+.0-9e]*" | cut -d: -f2 | median; }
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) printf "%.9g\n", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }

# ours KEY COMMAND... : a run by COMMAND, which is followed by what all runs have; its figures are noted under KEY.
ours() {
  local key=$1
  shift
  make_text
  timed "$key" "$@" --set "data.text=$work/text" --set "data.tokenizer=$work/tokenizer" --set "data.cache_dir=$work/cache"
}

# timed KEY COMMAND... : the same of a command that names its text.
timed() {
  local key=$1 run=$work/run
  shift
  rm -rf "$run"
  "$@" --set "train.steps=$((warm_up + steps))" --out "$run" >"$work/log" 2>&1 </dev/null || fails "$*" "$work/log"
  note "$key speed" "$(median_of_steps "$run/metrics.jsonl" tokens_per_s)"
  note "$key share" "$(median_of_steps "$run/metrics.jsonl" mfu)"
  note "$key memory" "$(tail -n 1 "$run/metrics.jsonl" | grep -o '"rss_bytes":[0-9]*' | cut -d: -f2)"
  note "$key load" "$(grep -o '"max":[.0-9e-]*' "$run/metrics.jsonl" | cut -d: -f2 | median)"
  rm -rf "$run"
}

# most_memory PID: until that process ends, the most that its children held at once, in bytes, pages that they share counted
# once (PSS); a look every half second.
most_memory() {
  local most=0 sum child
  local -a kibibytes
  while kill -0 "$1" 2>/dev/null; do
    kibibytes=(0)
    for child in $(pgrep -P "$1"); do
      kibibytes+=("$(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$child/smaps_rollup" 2>/dev/null || true)")
    done
    sum=$(printf '%s\n' "${kibibytes[@]}" | awk '{ sum += $1 } END { print sum }')
    most=$((sum > most ? sum : most))
    sleep 0.5
  done
  echo $((1024 * most))
}

# fields KEY COMMAND... : a program that prints a line of JSON, whose figures are noted under KEY.
fields() {
  local key=$1 name value
  shift
  "$@" >"$work/log" 2>&1 </dev/null || fails "$*" "$work/log"
  for name in tokens_per_s:speed peak_share:share peak_bytes:memory prefill:prefill decode:decode; do
    value=$(grep -o "\"${name%:*}\": *[-+.0-9e]*" "$work/log" | cut -d: -f2 | tr -d ' ' || true)
    [[ -z $value ]] || note "$key ${name#*:}" "$value"
  done
}

# theirs ROW PROGRAM... : PyTorch's run in each precision, noted under "ROW torch-PRECISION"; after the first round those alone
# that a ratio needs: float32 and the fastest.
theirs() {
  [[ -n $peer ]] || return 0
  local row=$1 precision best
  shift
  best=$(for precision in float32 autocast bfloat16; do
    echo "$(figure "$row torch-$precision speed") $precision"
  done | sort -g | tail -n 1)
  for precision in float32 autocast bfloat16; do
    [[ $round -eq 1 || $precision == float32 || $best == *" $precision" ]] || continue
    fields "$row torch-$precision" env "${peer_environment[@]}" "$python" "$@" --precision "$precision" --steps "$steps" \
      --warm-up "$warm_up" --threads "$threads"
  done
}
