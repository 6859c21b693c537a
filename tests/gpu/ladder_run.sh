# shellcheck shell=bash
# Part of first_contact.sh: where its programs are, and how a step is run, bounded and noted.

# A line of the results: keys and values in turns, values as JSON.
line() {
  local separator="{"
  while [[ $# -gt 0 ]]; do
    printf '%s"%s": %s' "$separator" "$1" "$2"
    separator=", "
    shift 2
  done >>"$results"
  echo "}" >>"$results"
}
# As a string of JSON.
quoted() { printf '"%s"' "$(tr -d '\000-\037' <<<"$1" | sed 's/\\/\\\\/g; s/"/\\"/g')"; }
note_check() { # NAME RESULT SECONDS
  line kind '"check"' name "$(quoted "$1")" result "$(quoted "$2")" seconds "$3"
  echo "== $1: $2 ($3 s)"
}

unpack() {
  mkdir -p "$1" && { tar -C "$1" -xJf "$bundle" 2>/dev/null ||
    "$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="tar")' "$bundle" "$1"; }
}

# CUDA's libraries: the toolkit's, the driver's, and those that came with PyTorch.
cuda_folders() {
  ls -d /usr/local/cuda/lib64 /usr/local/nvidia/lib64 2>/dev/null
  "$python" -c '
import pathlib, sysconfig
for folder in sorted(pathlib.Path(sysconfig.get_paths()["purelib"]).glob("nvidia/**/lib")): print(folder)' 2>/dev/null
}

# Sets bin, what the programs are called in a rehearsal (emulated, test_kernels), what starts Limbeck's programs (ours), and what they were made of (commit).
find_programs() {
  ours=(env "LIMBECK_TEST_SOURCE_DIR=$root" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
  commit=$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)
  bin=$build/bin emulated="" test_kernels=test_kernels_cuda
  ! $rehearse || emulated=_emulated test_kernels=test_kernels_emulated
  if [[ -n $bundle ]]; then
    unpack "$work/bundle" || { echo "first_contact.sh: error: $bundle cannot be unpacked" >&2 && exit 1; }
    local here=$work/bundle/limbeck-gpu
    bin=$here/bin commit=$(cat "$here/commit")
    [[ ! -d $here/text ]] || text=$here/text
    local folders=$here/debian:$here/lib
    # OpenMPI of elsewhere, with nothing but what one process needs.
    ours+=("OPAL_PREFIX=$here/openmpi" "OPAL_BINDIR=$here/openmpi/bin" "OPAL_LIBDIR=$here/openmpi/lib" "OPAL_PKGLIBDIR=$here/openmpi/lib/openmpi3"
      "OPAL_PKGDATADIR=$here/openmpi/share/openmpi" "PMIX_INSTALL_PREFIX=$here/pmix" "PMIX_PKGLIBDIR=$here/pmix/lib/pmix"
      OMPI_MCA_plm_rsh_agent=/bin/true OMPI_MCA_btl=^tcp,openib)
    ours+=("LD_LIBRARY_PATH=$folders:$(cuda_folders | paste -sd:)")
  fi
  "${ours[@]}" "$bin/limbeck$emulated" --version >>"$log" 2>&1 ||
    note_check "limbeck --version" "**failed**: $(tail -n 1 "$log")" 0
}

describe_ladder() {
  has_torch=false
  ! "$python" -c 'import torch' 2>/dev/null || has_torch=true
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  line kind '"ladder"' rehearsal "$rehearse" date "\"$(date +%F)\"" commit "$(quoted "$commit")" \
    processors "$(nproc)" torch "$has_torch"
}

seconds_left() { echo $((deadline - SECONDS)); }

verdict() { # STATUS BOUND
  local tests failed
  tests=$(sed -n 's/^\[==========\] \([0-9]*\) tests\{0,1\} from .* ran.*/\1/p' "$work/step" | awk '{ sum += $1 } END { if (NR) print ", " sum " tests" }')
  case $1 in
    0) echo "passed$tests" ;;
    124 | 137) echo "**not done after $2 s**" ;;
    *)
      failed=$(grep -E '^\[  FAILED  \] [A-Za-z]' "$work/step" | sed 's/^\[  FAILED  \] //; s/[, ].*//' | awk '!seen[$0]++')
      [[ $(wc -l <<<"$failed") -lt 4 ]] || failed=$(sed -n 1,3p <<<"$failed" && echo "and $(($(wc -l <<<"$failed") - 3)) more")
      failed=$(paste -sd' ' <<<"$failed")
      echo "**failed** (exit code $1): ${failed:-$(grep -v '^ *$' "$work/step" | tail -n 1)}"
      ;;
  esac
}

# step NAME SECONDS COMMAND... : runs it for so long at most, or for what is left; in a rehearsal, ten times as long.
step() {
  local name=$1 bound=$2 start=$SECONDS status=0 left
  shift 2
  ! $rehearse || bound=$((10 * bound))
  left=$(seconds_left)
  bound=$((bound < left ? bound : left))
  if ((bound < 1)); then
    note_check "$name" "not run: the time was up" 0
    return 1
  fi
  timeout --kill-after=3 "$bound" "$@" >"$work/step" 2>&1 </dev/null || status=$?
  { echo "=== $name: $*" && cat "$work/step"; } >>"$log"
  note_check "$name" "$(verdict "$status" "$bound")" $((SECONDS - start))
  return "$status"
}

keep() { [[ ! -f $1 ]] || cat "$1" >>"$results"; }

# aside NAME SECONDS COMMAND... : begins it beside what follows; await ends it.
declare -A pid_of begun_at
aside() {
  local name=$1 bound=$2
  shift 2
  ! $rehearse || bound=$((10 * bound))
  # shellcheck disable=SC2016 # of the other shell
  setsid bash -c 'timeout --kill-after=3 "${@:2}"; echo $? $SECONDS >"$1"' - "$work/$name.status" "$bound" "$@" >"$work/$name.log" 2>&1 </dev/null &
  pid_of[$name]=$!
  begun_at[$name]=$SECONDS
}
is_running() { grep -qx "${pid_of[$1]}" <<<"$(jobs -rp)"; }
# await NAME SECONDS: until it has ended, or else it is ended. Its output is the last step's, and goes to the log.
await() {
  local end=$((SECONDS + $2))
  while is_running "$1" && ((SECONDS < end)); do sleep 0.2; done
  # The process alone, where it has not become a group yet.
  ! is_running "$1" || kill -- "-${pid_of[$1]}" 2>/dev/null || kill "${pid_of[$1]}"
  cp "$work/$1.log" "$work/step"
  { echo "=== aside: $1" && cat "$work/step"; } >>"$log"
}
# How what was awaited has ended, under a name of the table.
note_aside() { # NAME LABEL
  local status=124 took=$((SECONDS - begun_at[$1]))
  [[ ! -f $work/$1.status ]] || read -r status took <"$work/$1.status"
  note_check "$2" "$(verdict "$status" "$took")" "$took"
}

begin_sanitizer() { # TOOL FILTER
  [[ -n $sanitizer ]] || return 0
  aside "$1" 110 "${ours[@]}" SUITE_SECONDS=100 tests/gpu/by_suite.sh "$2" "$bin/$test_kernels" "$sanitizer" --tool "$1" --error-exitcode 9
}
end_sanitizer() { # TOOL
  if [[ -z $sanitizer ]]; then
    note_check "kernels under $1" "not run: there is no compute-sanitizer here" 0
    return
  fi
  await "$1" 50
  note_aside "$1" "kernels under $1"
}

# What PyTorch compiles is kept, so that little of it is left where time is taken.
torch_files() { export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton; }
torch_options() { if $rehearse; then echo --device cpu --steps 2; fi; }
write_cases() {
  local model
  "${ours[@]}" "$bin/bench_gpu$emulated" --floors "${tiny[@]}"
  for model in mixture dense; do
    "${ours[@]}" "$bin/bench_gpu_step$emulated" "$model" --floors "${tiny[@]}"
  done
}
begin_compiling() {
  torch_files
  write_cases >"$work/cases.jsonl" 2>>"$log"
  if $has_torch && ! $rehearse; then
    aside compiling 150 "$python" tests/gpu/torch_bench.py "$work/cases.jsonl" --kinds head,step --steps 1
  fi
}
end_compiling() { [[ -z ${pid_of[compiling]-} ]] || await compiling 45; }

# torch_step NAME SECONDS OPTION... : of torch_bench.py.
torch_step() {
  local name=$1 bound=$2
  shift 2
  if ! $has_torch; then
    note_check "$name" "not run: $python has no PyTorch" 0
    return
  fi
  local left=$(($(seconds_left) - 3))
  $rehearse || left=$((left < bound ? left : bound))
  left=$((left > 1 ? left : 1))
  rm -f "$work/torch.jsonl"
  # shellcheck disable=SC2046 # words
  step "$name" $((bound + 3)) "$python" tests/gpu/torch_bench.py "$work/cases.jsonl" --json "$work/torch.jsonl" --seconds "$left" \
    "$@" $(torch_options)
  keep "$work/torch.jsonl"
}

end_ladder() { line kind '"end"' seconds "$SECONDS"; }
