#!/usr/bin/env bash
# The ladder for a GPU that is there for minutes: kernels against the CPU's, models against the CPU's, times of kernels beside
# their floors and PyTorch's, whole steps beside PyTorch's, the main job beside the CPU's, steps beside what is planned of them.
# Each step is bounded, and what comes after it runs whatever became of it; all of it takes 8 minutes at most. Ends with a table,
# for docs/gpu.md.
#
#     tests/gpu/first_contact.sh --bundle build/gpu/limbeck-gpu.tar.xz --out DIR     # what tests/gpu/pack.sh made elsewhere
#     tests/gpu/first_contact.sh --build build/cuda --out DIR                         # what was built here
#     tests/gpu/first_contact.sh --rehearse --out DIR     # no GPU: everything small, on the CPU and the emulation (targets NAME_emulated)
#
#     --python PYTHON     one that has PyTorch; without it those columns stay empty       (python3)
#     --teacher FILE      SmolLM2-135M; without it a small teacher is trained first        (beside the bundle in pieces, or downloads/)
#     --seconds N         all of it                                                        (470; of a rehearsal 3000)
#
# DIR gets table.md, results.jsonl and log.txt. Needs no mpirun, PyTorch or compute-sanitizer: the table says what was not there.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
wrong_use() {
  echo "first_contact.sh: error: $1" >&2
  exit 2
}
bundle="" build="" out=build/gpu_results rehearse=false python=python3 teacher="" seconds=""
while [[ $# -gt 0 ]]; do
  case $1 in
    --help | -h)
      sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p'
      exit
      ;;
    --rehearse)
      rehearse=true
      shift
      continue
      ;;
    --bundle | --build | --out | --python | --teacher | --seconds) [[ $# -gt 1 ]] || wrong_use "$1 needs a value (--help)" ;;&
    --bundle) bundle=$(realpath "$2") ;;
    --build) build=$(realpath "$2") ;;
    --out) out=$2 ;;
    --python) python=$2 ;;
    --teacher) teacher=$(realpath "$2") ;;
    --seconds) seconds=$2 ;;
    *) wrong_use "unknown argument '$1' (--help)" ;;
  esac
  shift 2
done
$rehearse && build=${build:-$root/build/cuda}
[[ -n $bundle || -n $build ]] || wrong_use "expected --bundle FILE, --build FOLDER or --rehearse (--help)"
[[ -z $bundle || -f $bundle ]] || wrong_use "--bundle is $bundle, which is not there"
[[ -z $build || -d $build/bin ]] || wrong_use "--build is $build, which has no folder bin"
[[ ${seconds:-1} =~ ^[1-9][0-9]*$ ]] || wrong_use "--seconds is '$seconds', expected a number"
$rehearse && deadline=${seconds:-3000} || deadline=${seconds:-470}

mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
work=$(mktemp -d)
finish() {
  for pid in $(jobs -rp); do kill -- "-$pid" 2>/dev/null; done # the asides, each a group of its own
  rm -rf "$work"
}
trap finish EXIT
results=$out/results.jsonl log=$out/log.txt
: >"$results"
: >"$log"
tiny=()
! $rehearse || tiny=(--tiny)
cd "$root" || exit 1

for part in run job; do
  # shellcheck source=/dev/null
  source "$root/tests/gpu/ladder_$part.sh"
done

find_programs
describe_ladder
begin_job_of_the_cpu
begin_compiling

# (a) Kernels against the CPU's; once more under each tool of the sanitizer, all at once and beside (b): memory of all, races and
# barriers of those that share memory.
step "kernels against the CPU's" 45 "${ours[@]}" tests/gpu/by_suite.sh '*' "$bin/$test_kernels"
begin_sanitizer memcheck '*'
begin_sanitizer racecheck '*Attention*:*Grouped*:*Distillation*:*RmsNorm*:*Sums*'
begin_sanitizer synccheck '*Attention*:*Grouped*:*Permute*'

# (b) Models against the CPU's.
step "models against the CPU's" 60 "${ours[@]}" tests/gpu/by_suite.sh '*' "$bin/test_gpu$emulated"
for tool in memcheck racecheck synccheck; do
  end_sanitizer "$tool"
done

# (c) Times of kernels.
end_compiling
for kind in memory small product grouped attention head; do # what breaks one does not break the others
  step "times of kernels: $kind" 25 "${ours[@]}" "$bin/bench_gpu$emulated" "${tiny[@]}" --json "$work/$kind.jsonl" "^$kind:"
  keep "$work/$kind.jsonl"
done
torch_step "PyTorch's times of kernels" 50 --kinds memory,small,product,grouped,attention
torch_step "PyTorch's time of the head" 40 --kinds head --modes default,max-autotune-no-cudagraphs

# (d) Whole steps.
for model in mixture dense; do
  step "steps: $model" 25 "${ours[@]}" "$bin/bench_gpu_step$emulated" "$model" --device CUDA "${tiny[@]}" --json "$work/$model.jsonl"
  keep "$work/$model.jsonl"
  torch_step "PyTorch's steps: $model" 55 --kinds step --names "$model" --modes default,max-autotune-no-cudagraphs
done

# (e) The main job.
run_job

# (f) Steps as they are planned by what is measured here.
if ! $rehearse; then
  step "steps planned to 25 %" 90 "${ours[@]}" "$python" tests/bench/plan_times.py --gpu --rounds 1 --limbeck "$bin/limbeck"
fi

end_ladder
"$python" tests/gpu/table.py "$results" | tee "$out/table.md"
