#!/usr/bin/env bash
# Whether the tests would see a fault: each patch of tests/faults is planted, alone, into a copy of the tree under build/faults,
# what it touches is built there, and the tests that it names have to fail. Not for every change: a fault takes half a minute
# or more. docs/testing.md says how to write one.
#
#     tests/plant_faults.sh                 # all of them; fails where fewer than 9 of 10 are caught
#     tests/plant_faults.sh 007 033         # those whose file's name begins so
#     tests/plant_faults.sh --whole 007     # against every test that needs no teacher, whatever the patch names
#     tests/plant_faults.sh --check         # only whether each can still be planted
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
tree=build/faults
logs=$tree/build/logs
planted=$tree/build/planted  # the files that a fault is in now
stale=$tree/build/stale      # those that had one since everything was built without

fail() {
  echo "tests/plant_faults.sh: error: $*" >&2
  exit 1
}

# apply PATCH FOLDER OPTION...
apply() { patch -p1 --force --silent --fuzz=1 --no-backup-if-mismatch "${@:3}" -d "$2" <"$1"; }

# What a patch's second line names: "PROGRAM FILTER".
tests_of() { sed -n '2s/^# caught by //p' "$1"; }

check_each() {
  local patch bad=0 names
  for patch in "$@"; do
    [[ $(tests_of "$patch") =~ ^test_[a-z_]+\ [^\ ]+$ ]] || { echo "$patch:2: expected '# caught by PROGRAM FILTER'" && bad=1; }
    apply "$patch" . --dry-run || { echo "$patch: cannot be planted any more" && bad=1; }
    names=$(tests_of "$patch")
    for name in $(tr ':' ' ' <<<"${names#* }"); do  # those that are no pattern are there in the sources
      [[ $name == *'*'* ]] || grep -rqE "TEST(_[FP])?\(${name%.*}, ${name#*.}\)" tests --include='*_test.cpp' ||
        { echo "$patch:2: there is no test $name" && bad=1; }
    done
  done
  return "$bad"
}

copy_tree() {
  mkdir -p "$tree/build"
  find "$tree" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
  git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
    [[ -e $file ]] && printf '%s\0' "$file"
  done | tar --null --files-from=- -cf - | tar -xf - -C "$tree"
}

# Takes out what is planted. The files get a new time, so that what was built of the fault is built again.
take_out() {
  local file
  while IFS= read -r file; do
    cp "$file" "$tree/$file"
    touch "$tree/$file"
  done <"$planted"
  : >"$planted"
}

# Whole steps on the emulation of a GPU are of the preset that knows GPUs.
preset_of() { [[ $1 == test_gpu_emulated ]] && echo cuda || echo release; }

# What a test runs: itself, and the program.
targets_of() { [[ $1 == test_gpu_emulated ]] && echo "$1" || echo "limbeck $1"; }

# build PROGRAM...: each in its preset; everything of the release where none is named.
build() {
  local program emulated=() others=()
  for program in "$@"; do
    [[ $(preset_of "$program") == cuda ]] && emulated+=("$program") || others+=("$program")
  done
  [[ ${#emulated[@]} -eq 0 ]] || "$tree/launch/build.sh" cuda "${emulated[@]}" || return 1
  [[ ${#emulated[@]} -gt 0 && ${#others[@]} -eq 0 ]] || "$tree/launch/build.sh" release ${others[@]+"${others[@]}"}
}

# passes PROGRAM FILTER LOG: the tests, in the copy.
passes() {
  local program
  program=$tree/build/$(preset_of "$1")/bin/$1
  timeout 900 "$program" --gtest_filter="$2" --gtest_brief=1 >"$3" 2>&1 </dev/null || return 1
  ! grep -qE '^\[==========\] (Running )?0 tests|^\[  PASSED  \] 0 tests' "$3" || fail "$1 has no test named $2"
}

whole_passes() { (cd "$tree" && tests/ctest.sh build/release --exclude-regex '^(TeacherTest|planted_faults)') >"$1" 2>&1; }

mode=named
case ${1:-} in
  --check) mode=check && shift ;;
  --whole) mode=whole && shift ;;
esac
patches=()
for name in "${@:-}"; do
  for patch in tests/faults/"$name"*.patch; do
    [[ -f $patch ]] || fail "tests/faults has no patch whose name begins with $name"
    patches+=("$patch")
  done
done

if [[ $mode == check ]]; then
  check_each "${patches[@]}" || fail "these faults have to be written anew"
  echo "${#patches[@]} faults can be planted"
  exit
fi

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
copy_tree
mkdir -p "$logs"
[[ ! -f $stale ]] || sort -u "$stale" >"$planted"  # whoever was here before may have been stopped
: >>"$planted"
trap take_out EXIT
take_out
programs=()
if [[ $mode != whole ]]; then  # else every target
  for patch in "${patches[@]}"; do
    program=$(tests_of "$patch")
    for target in $(targets_of "${program%% *}"); do
      [[ " ${programs[*]-} " == *" $target "* ]] || programs+=("$target")
    done
  done
fi
echo "== ${#patches[@]} faults; building without any"
build ${programs[@]+"${programs[@]}"}
rm -f "$stale"
echo "== the tests without a fault"
if [[ $mode == whole ]]; then
  whole_passes "$logs/sound.log" || fail "the tests fail without a fault (whole log: $logs/sound.log)"
else
  while read -r program filter; do
    passes "$program" "$filter" "$logs/sound.log" ||
      fail "$program --gtest_filter=$filter fails without a fault (whole log: $logs/sound.log)"
  done < <(for patch in "${patches[@]}"; do tests_of "$patch"; done | sort -u)
fi

caught=0
missed=()
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch)
  since=$SECONDS
  sed -n 's/^+++ b\///p' "$patch" | tee -a "$stale" >"$planted"
  apply "$patch" "$tree"
  read -r program filter < <(tests_of "$patch")
  targets=()
  [[ $mode != named ]] || read -r -a targets <<<"$(targets_of "$program")"
  build ${targets[@]+"${targets[@]}"} || fail "$name does not build"
  if [[ $mode == whole ]]; then whole_passes "$logs/$name.log"; else passes "$program" "$filter" "$logs/$name.log"; fi &&
    verdict="NOT CAUGHT" || verdict=caught
  [[ $verdict == caught ]] && caught=$((caught + 1)) || missed+=("$name")
  printf '%-10s %4d s  %s: %s\n' "$verdict" "$((SECONDS - since))" "$name" "$(sed -n '1s/^# //p' "$patch")"
  take_out
done

echo "== $caught of ${#patches[@]} faults caught"
[[ ${#missed[@]} -eq 0 ]] || printf 'not caught: %s\n' "${missed[@]}"
((10 * caught >= 9 * ${#patches[@]})) || fail "expected 9 of 10"
