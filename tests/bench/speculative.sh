#!/usr/bin/env bash
# A distilled student as its teacher's draft: how many of its tokens are accepted, beside the mean of sum min(p,q) at the places where
# they were tried, which is what acceptance is on average; and tokens a second with and without it, one text at a time.
#
#     tests/bench/speculative.sh [STUDENT] [ROUNDS]     # [runs/distill_smollm2] [5]
#
# Needs the release build, the teacher (launch/fetch_teacher.sh), a student that was distilled from it, and jq.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
student=${1:-runs/distill_smollm2}
rounds=${2:-5}
teacher=downloads/SmolLM2-135M-Instruct.Q4_1.gguf
limbeck=${LIMBECK:-build/release/bin/limbeck}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/prompts.txt" <<'END'
The idea of freedom means that
Every state has its beginning in
Workers who own their factory
In the winter of that year
A teacher knows more than
What we call property is
The village by the river
When the war was over
END

# said NAME OPTION...: the texts into $work/NAME.jsonl, what the program says of itself into $work/NAME.log
said() {
  "$limbeck" generate "$teacher" --prompts "$work/prompts.txt" --json --batch 1 --max-tokens 128 --temperature 1 --top-k 0 --top-p 1 \
    "${@:2}" >"$work/$1.jsonl" 2>"$work/$1.log"
}
speed() { jq -s '(map(.tokens) | add) / (map(.seconds) | add)' "$work/$1.jsonl"; }
median() { sort -g | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }

for ((round = 1; round <= rounds; round++)); do
  said alone --seed "$round"
  speed alone >>"$work/alone"
  said drafted --seed "$round" --draft "$student"
  speed drafted >>"$work/drafted"
  cat "$work/drafted.jsonl" >>"$work/every.jsonl"
done
echo "tokens/s, medians of $rounds: alone $(median <"$work/alone"), with drafts $(median <"$work/drafted")"
jq -s -r '(map(.tried) | add) as $tried | "acceptance \((map(.accepted) | add) / $tried) of \($tried) tried, sum min(p,q) there \(
  (map(.sum_min * .tried) | add) / $tried), \((map(.tokens_per_pass) | add) / length) tokens a pass"' "$work/every.jsonl"
