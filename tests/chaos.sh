#!/usr/bin/env bash
# Runs under `limbeck launch` that are disturbed at random instants until each is done: ranks, mpirun and the launcher
# are killed (-9) or stopped (SIGSTOP), asked to save and end (SIGTERM), checkpoints are damaged, the disk is filled. The
# end has to be that of a run that nothing disturbed, to the bit, and nothing may stand still for a minute. Every third run does
# without a rank that is at fault twice (--min-ranks), and has to end with the same loss to 1e-4.
#
#     tests/chaos.sh build/release              # half a minute
#     tests/chaos.sh build/release 30 4711      # 30 minutes, by that seed
#
# The seed decides what is done and after how long; where the run is then is not repeated. A small file system is
# mounted for the runs where that is allowed; else no disk is filled. RANKS [2], STEPS of a run [150].
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(realpath "${1:?a build folder}")
minutes=${2:-0.5}
seed=${3:-$RANDOM}
ranks=${RANKS:-2}
steps=${STEPS:-150}
by_chance='two attempts in a row ended before they did a step|failed twice by the same cause: .*(ended by signal 9|mpirun ended with 137)'
by_chance+='|asked to stop, but '
longest=60 # seconds without a step or an attempt
limbeck=$build/bin/limbeck
work=$(mktemp -d)
disk=$work/disk
launcher=
RANDOM=$seed
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=^tcp OMP_NUM_THREADS=1

mkdir "$disk"
fills=true
mount -t tmpfs -o size=16m none "$disk" 2>/dev/null || fills=false

clean() {
  if [[ -n $launcher ]]; then kill -9 "$launcher" 2>/dev/null || true; fi # its mpirun goes with it
  if $fills; then
    for _ in $(seq 50); do if umount "$disk" 2>/dev/null; then break; fi; sleep 0.2; done
  fi
  rm -rf "$work" || true
}
trap clean EXIT
fail() {
  echo "tests/chaos.sh: error: seed $seed, run $run: $*" >&2
  tail -n 40 "$work/log" >&2 || true
  exit 1
}

mkdir "$work/text"
for i in 1 2 3 4 5 6; do sed -n "$((i * 20)),$((i * 20 + 60))p" "$root/docs/parallelism.md" >"$work/text/$i.txt"; done
cat >"$work/run.textproto" <<CONFIG
model {
  width: 32 num_layers: 2 num_heads: 4 num_kv_heads: 2 mlp_width: 48 max_positions: 128
  moe { num_experts: 4 experts_per_token: 2 expert_width: 24 }
}
data { text: "text" tokenizer: "bytes" sequence_length: 48 held_out_fraction: 0.2 cache_dir: "cache" }
batch { sequences_per_step: 8 }
train { steps: $steps checkpoint_every_steps: 10 keep_checkpoints: 3 eval_tokens: 96 threads: 1 }
parallel { deadline_s: 20 }
CONFIG
cd "$work"
mpirun --oversubscribe --bind-to none -n "$ranks" "$limbeck" train run.textproto --out undisturbed --quiet >log 2>&1

# start [--resume]
start() {
  said=$(wc -c <log)
  "$limbeck" launch -n "$ranks" "${fewer[@]}" --max-restarts 1000 --silent-after 3 --step-deadline 20 --oversubscribe --bind-to none -- \
    train run.textproto --out "$disk/run" --quiet "$@" >>log 2>&1 &
  launcher=$!
}
# A process of the job: of a rank, by its last sign of life, or mpirun.
of_rank() { sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$disk/run/ranks/$victim.json" 2>/dev/null || true; }
of_mpirun() { pgrep -P "$launcher" -x mpirun || true; }
# send SIGNAL PROCESS: fails where there is none, or another's.
send() {
  [[ $(readlink "/proc/${2:-0}/exe" 2>/dev/null) =~ (limbeck|orterun|mpirun|prterun)$ ]] && kill "-$1" "$2" 2>/dev/null
}
# Where the victim is held, so that the run cannot end in between with what is damaged, which nobody would find.
# A file of it has other bytes, lacks its end, or is gone; where there is one before it, for without any launch does not begin anew.
damage_newest() {
  local newest files file
  sleep 0.1
  [[ $(ps -o state= -p "${1:-0}" 2>/dev/null) == T ]] || return 1
  newest=$(find "$disk/run/checkpoints" -maxdepth 1 -name 'step_*' ! -name '*.tmp*' 2>/dev/null | sort -V | sed 1d | tail -n 1)
  mapfile -t files < <(find "${newest:-/nowhere}" -type f 2>/dev/null | sort)
  [[ ${#files[@]} -gt 0 ]] || return 1
  file=${files[chance % ${#files[@]}]}
  case $((chance / 64 % 3)) in
    0) printf XXXXXXXX | dd of="$file" bs=1 seek=$(($(stat -c %s "$file") / 2)) conv=notrunc status=none 2>/dev/null ;;
    1) truncate -s -1 "$file" 2>/dev/null ;;
    2) rm -f "$file" ;;
  esac
}
fill_disk() {
  dd if=/dev/zero of="$disk/filler" bs=64k status=none 2>/dev/null || true
  sleep "$((victim % 3)).5"
  rm -f "$disk/filler"
}

# disturb KIND: and says how, where there is what it disturbs.
disturb() {
  case $1 in
    0 | 1 | 2) send KILL "$(of_rank)" && echo "a rank is killed" ;;
    3 | 4) send STOP "$(of_rank)" && echo "a rank is stopped" ;;
    5) send KILL "$(of_mpirun)" && echo "mpirun is killed" ;;
    6) send STOP "$(of_mpirun)" && echo "mpirun is stopped" ;;
    # Its mpirun ends the ranks then, and has to be able to.
    7) send CONT "$(of_mpirun)" || true; send KILL "$launcher" && echo "the launcher is killed" ;;
    8) send TERM "$launcher" && echo "the launcher is asked to stop" ;;
    9) held=$(of_rank) && send STOP "$held" && { ! damage_newest "$held" || echo "a checkpoint is damaged"; } && send KILL "$held" && echo "a rank is killed" ;;
    10 | 11) if $fills; then fill_disk && echo "the disk is filled"; fi ;;
  esac
}

loss_of() { tail -n 1 "$1/metrics.jsonl" | sed -E 's/.*"loss":([^,]*),.*/\1/'; }
# Of the newest step or attempt, and of the launcher's start.
last_sign() { stat -c %Y "$disk/run/metrics.jsonl" "$disk/run/launches.jsonl" "$work/started" 2>/dev/null | sort -n | tail -n 1; }

end=$((SECONDS + $(awk "BEGIN {print int(60 * $minutes)}")))
disturbances=0
echo "chaos: seed $seed, $minutes minutes, $ranks ranks, runs of $steps steps; a disk is filled: $fills"
for ((run = 1; SECONDS < end || run == 1; ++run)); do
  rm -rf "$disk/run"
  touch started
  fewer=()
  [[ $((run % 3)) -ne 0 ]] || fewer=(--min-ranks 1)
  start
  next=$((SECONDS + 1 + RANDOM % 4))
  while true; do
    if ! kill -0 "$launcher" 2>/dev/null; then
      code=0
      wait "$launcher" 2>/dev/null || code=$?
      [[ $code -ne 0 ]] || break
      [[ $code -ne 2 ]] || fail "wrong use"
      # Twice at the beginning, or in one step, is by chance here, and so is a request to stop where a rank or mpirun is stopped.
      [[ $code -ne 1 ]] || tail -c "+$((said + 1))" log | grep -E "$by_chance" >/dev/null ||
        fail "the launcher ended with 1"
      echo "  the launcher ended with $code and is started again" >>log
      touch started
      start --resume
    fi
    # What is killed or stopped while a run begins or ends is meant too; a run that has its time is left alone.
    if [[ $SECONDS -ge $next && $SECONDS -lt $end ]]; then
      kind=$((RANDOM % 12)) victim=$((RANDOM % ranks)) chance=$RANDOM
      if disturbed=$(disturb $kind) && [[ -n $disturbed ]]; then
        sed 's/^/  /' <<<"$disturbed" | tee -a log
        disturbances=$((disturbances + 1))
      fi
      next=$((SECONDS + 1 + RANDOM % 5))
    fi
    [[ $(($(date +%s) - $(last_sign))) -le $longest ]] || fail "no step and no attempt for more than $longest s"
    sleep 0.1
  done
  launcher=
  if [[ ${#fewer[@]} -gt 0 ]]; then
    awk -v a="$(loss_of undisturbed)" -v b="$(loss_of "$disk/run")" 'BEGIN {exit !(a - b < 1e-4 && b - a < 1e-4)}' ||
      fail "the last loss is $(loss_of "$disk/run"), of a run that nothing disturbed $(loss_of undisturbed)"
    how="with the same loss, $(grep -o '"ranks":[0-9]*' "$disk/run/launches.jsonl" | sort | uniq -c | awk '{sub(/.*:/, "", $2); print $1 " of " $2}' | paste -sd,) ranks"
  else
    for ((rank = 0; rank < ranks; ++rank)); do
      name=$(printf 'checkpoints/step_%d/rank_%05d.h5' "$steps" "$rank")
      cmp "undisturbed/$name" "$disk/run/$name" >&2 || fail "$name is not that of a run that nothing disturbed"
    done
    how="to the same bits"
  fi
  echo "run $run: done, $how; attempts: $(wc -l <"$disk/run/launches.jsonl")"
done
echo "chaos: $((run - 1)) runs, $disturbances disturbances"
