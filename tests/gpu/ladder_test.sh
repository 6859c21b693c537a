#!/usr/bin/env bash
# The ladder without a GPU: its scripts are sound, its steps say how they ended, its table says what was met. Exit code 77: skipped,
# for there is no Python.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
command -v python3 >/dev/null || exit 77
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() {
  echo "tests/gpu/ladder_test.sh: error: $*" >&2
  exit 1
}
has() { grep -qF -- "$2" "$1" || fail "expected '$2' in: $(cat "$1")"; }

for script in *.sh; do bash -n "$script"; done
for options in "" "--bundle" "--bundle $work/none" "--build $work" "--rehearse --seconds never" "--fast"; do
  status=0
  # shellcheck disable=SC2086 # words
  ./first_contact.sh $options >"$work/said" 2>&1 || status=$?
  [[ $status -eq 2 && $(wc -l <"$work/said") -eq 1 ]] || fail "first_contact.sh $options: exit code $status, $(cat "$work/said")"
done

# Steps: what they say, and that their lines are JSON.
(
  results=$work/results work=$work log=$work/log rehearse=false deadline=$((SECONDS + 100))
  : >"$results"
  # shellcheck source=/dev/null
  source ./ladder_run.sh
  step "one that passes" 10 printf '[==========] %s from 2 test suites ran. (4 ms total)\n' "3 tests" "1 test"
  ! step 'one that "fails"' 10 bash -c 'echo "[  FAILED  ] CudaSums.AreRight, where x = 1 (3 ms)"; exit 1'
  ! step "one that does not end" 1 sleep 60
  aside one 10 echo aside
  await one 10
  note_aside one "one beside it"
  aside other 10 sleep 60
  await other 0
  note_aside other "one that is ended"
  ended() { ! is_running one && ! is_running other && ! kill -0 -- "-${pid_of[other]}" 2>/dev/null; }
  for ((tries = 0; tries < 100; ++tries)); do ended && break || sleep 0.1; done
  ended || fail "asides go on"
  deadline=$SECONDS
  ! step "one too late" 10 true
) >"$work/said"
has "$work/said" "== one that passes: passed, 4 tests"
has "$work/said" '== one that "fails": **failed** (exit code 1): CudaSums.AreRight'
has "$work/said" "== one that does not end: **not done after 1 s**"
grep -qx aside "$work/log" || fail "the output of an aside is lost"
[[ $(cat "$work/one.status") == "0 0" && ! -e $work/other.status ]] || fail "how asides ended"
has "$work/said" "== one beside it: passed (0 s)"
has "$work/said" "== one that is ended: **not done after"
has "$work/said" "== one too late: not run: the time was up"
python3 table.py "$work/results" >"$work/table"
has "$work/table" '| one that "fails" | **failed** (exit code 1): CudaSums.AreRight |'

# Tests by suites: this program has three, of which one fails and one crashes.
cat >"$work/program" <<'END'
#!/usr/bin/env bash
case $* in
  *list_tests*) printf 'Running main() from ./main.cc\nGood.\n  One\nBad/0.  # TypeParam = int\n  Two\nWorse.\n  Three\n' ;;
  *"=Good.*") echo '[==========] 1 test from 1 test suite ran. (0 ms total)' ;;
  *"=Bad/0.*") echo '[  FAILED  ] Bad/0.Two, where it stands (0 ms)' && exit 1 ;;
  *"=Worse.*") kill -SEGV $$ ;;
esac
END
chmod +x "$work/program"
! ./by_suite.sh '*' "$work/program" >"$work/said" 2>/dev/null || fail "by_suite.sh passes where suites fail"
has "$work/said" '1 test from 1 test suite ran'
has "$work/said" '[  FAILED  ] Bad/0.Two'
has "$work/said" '[  FAILED  ] Worse.ended, exit code 139'

# The table: 6e9 bytes in 2.5 ms are 2.4 TB/s, 80 % of the copies' 3; 2.8e9 in 2 ms are 1.4; floors are those of 3.35 TB/s and
# 989 TFLOP/s; 0.0038 s are 0.95 of 0.004 s.
python3 table.py samples/results.jsonl >"$work/table"
has "$work/table" "2026-01-02, commit abc1234, NVIDIA H100: copies 3,000 GB/s, products 800 TFLOP/s; 16 processors; PyTorch 2.11"
has "$work/table" "| swiglu | T 1000 F 1000000 | 6 T F = 6 GB |  | 1,791.0 | 2,500.0 | 80 % |  |  | ≥ 80 % of copies: met |"
has "$work/table" "| 835.8 | 2,000.0 | 47 % | 1,600.0 (fused) | 0.80x | ≥ 80 % of copies: **missed** |"
has "$work/table" "| 2 T C F = 1.978 T | 2,000.0 | 4,000.0 | 62 % | 3,800.0 (linear) | 0.95x | ≥ 0.95x PyTorch: met |"
has "$work/table" "| CUDA: an illegal address / at x |  | there was no time left for it |  | ≥ 1.0x PyTorch |"
has "$work/table" "1.25x | ≥ 1.0x PyTorch: met |"
has "$work/table" "| 800 MiB |  | 4,000 MiB | 0.200 | ≤ 0.1 of PyTorch's: **missed** |"
has "$work/table" "| 40.0 | 409,600 | 30.0 | 36.0 | 50.0 | 327,680 | 40.0 | 1.25x | ≥ 1.2x PyTorch: met |"
has "$work/table" "| 120.0 | 136,533 | 30.0 |  |  |  |  |  | ≥ 150,000 tokens/s: **missed** |"
has "$work/table" "| main job | CUDA | 3.0000 | 0.9900 | 0.530 | 53248 | 9.5 | the CPU's KL ± 0.03: **missed**; ≤ 60 s: met |"

# A rehearsal's figures meet and miss nothing.
sed 's/"rehearsal": false/"rehearsal": true/' samples/results.jsonl | python3 table.py >"$work/table"
has "$work/table" "**REHEARSAL"
! grep -qE ': (met|\*\*missed)' "$work/table" || fail "a rehearsal is judged: $(cat "$work/table")"
