#!/usr/bin/env bash
# Runs under a Slurm that is started for it, of two nodes on this machine: launch/slurm does what docs/clusters.md says, whatever
# stops a job. Everything lies in a temporary folder. Exit code 77: skipped, for there is no Slurm (Debian: slurm-wlm, munge).
#
#     tests/slurm.sh build/release
#     tests/slurm.sh build/release --unpack    # Debian's packages, downloaded and unpacked into that folder
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$(cd "${1:?a build folder}" && pwd)
work=$(mktemp -d)
steps=300
export LIMBECK=$build/bin/limbeck OMP_NUM_THREADS=1 SLURM_CONF=$work/slurm.conf
if [[ $(id -u) -eq 0 ]]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

stop_slurm() {
  local pid
  if [[ -s $SLURM_CONF ]]; then scancel --user="$(id -un)" --full 2>/dev/null && sleep 3; fi  # of its own Slurm alone
  for pid in "$work"/{slurmd_left,slurmd_right,slurmctld,munged}.pid; do
    [[ ! -s $pid ]] || kill "$(cat "$pid")" 2>/dev/null || true
  done
  sleep 1
  rm -rf "$work"
}
trap stop_slurm EXIT
fail() {
  echo "tests/slurm.sh: error: $*" >&2
  tail -n 20 "$work"/*.out >&2 || true
  exit 1
}
# eventually WHAT COMMAND...: until it succeeds, for five minutes.
eventually() {
  local what=$1 end=$((SECONDS + 300))
  shift
  until "$@"; do
    [[ $SECONDS -lt $end ]] || fail "$what: not within five minutes"
    sleep 0.5
  done
}

if [[ ${2-} == --unpack ]]; then
  mkdir "$work/packages"
  (cd "$work/packages" && apt-get download -q slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 liblua5.1-0 libhwloc15) \
    >"$work/download.log" 2>&1 || fail "Debian's packages were not downloaded: $(cat "$work/download.log")"
  for package in "$work"/packages/*.deb; do dpkg -x "$package" "$work/unpacked"; done
  export PATH=$work/unpacked/usr/sbin:$work/unpacked/usr/bin:$PATH
fi
program() { command -v "$1" || command -v "$1-wlm"; }  # slurm-wlm's name, where no link has the plain one
program slurmctld >"$work/found" && program slurmd >>"$work/found" && command -v munged >>"$work/found" || exit 77
plugins=$(dirname "$(find "$work"/unpacked/usr/lib /usr/lib /usr/lib64 -name auth_munge.so -print -quit 2>/dev/null)")
if [[ ${2-} == --unpack ]]; then export LD_LIBRARY_PATH=$(dirname "$plugins"):$plugins; fi

start_slurm() {
  local name host port=$((20000 + RANDOM % 20000))
  host=$(hostname)
  (umask 077 && head -c 1024 /dev/urandom >"$work/munge.key")
  munged --force --socket="$work/munge.socket" --key-file="$work/munge.key" --pid-file="$work/munged.pid" --log-file="$work/munged.log" \
    --seed-file="$work/munge.seed"
  mkdir "$work/state" "$work/spool_left" "$work/spool_right"
  cat >"$SLURM_CONF" <<CONF
ClusterName=limbeck
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
PluginDir=$plugins
StateSaveLocation=$work/state
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd_%n.pid
SlurmdSpoolDir=$work/spool_%n
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=10
NodeName=left NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2
NodeName=right NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
PartitionName=all Nodes=left,right Default=YES State=UP GraceTime=60
PartitionName=urgent Nodes=left,right State=UP PriorityTier=2 PreemptMode=OFF
CONF
  local slurmd
  slurmd=$(program slurmd)
  "$(program slurmctld)"
  for name in left right; do "$slurmd" -N $name -d "${slurmd/slurmd/slurmstepd}"; done
  eventually "two nodes" eval '[[ $(sinfo -h -N -t idle -o %n 2>/dev/null | wc -l) -eq 2 ]]'
}

# queue NAME OPTION... -- SCRIPT ARGUMENT...: its log is $work/NAME.out, its job $job.
queue() {
  local name=$1 options=()
  shift
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  job=$(sbatch --parsable --job-name="$name" --output="$work/$name.out" "${options[@]}" "$root/launch/slurm/$2" "${@:3}")
}
# submit NAME OPTION... -- SCRIPT ARGUMENT...: the run $work/NAME.
submit() {
  local name=$1 words=("${@:2}") at=0
  while [[ ${words[at]} != -- ]]; do at=$((at + 1)); done
  queue "$name" "${words[@]:0:at + 2}" train "$root/examples/tiny_moe.textproto" --out "$work/$name" --set data.text="$work/text" \
    --set generation= --set train.steps=$steps "${words[@]:at + 2}"
}
over_both=(--nodes=2 --ntasks-per-node=1)
steps_done() { cat "$work/$1/metrics.jsonl" 2>/dev/null | wc -l; }
has_done() { [[ $(steps_done "$1") -ge $2 ]]; }
has_ended() { grep -q "start $2: exit code $3\$" "$work/$1.out" 2>/dev/null; }
is_in() { [[ $(squeue -h -j "$1" -o %T 2>/dev/null) == "$2" ]]; }
loss_of() { tail -n 1 "$work/$1/metrics.jsonl" | sed -E 's/.*"loss":([^,]*),.*/\1/'; }
# ends_as_undisturbed NAME: all steps are there once, and the last has the loss of the run that nothing stopped.
ends_as_undisturbed() {
  [[ $(steps_done "$1") -eq $steps && $(loss_of "$1") == "$(loss_of undisturbed)" ]] ||
    fail "$1: $(steps_done "$1") steps, the last of loss $(loss_of "$1"), expected $steps and $(loss_of undisturbed)"
  echo "$1: as it should be"
}

start_slurm
mkdir "$work/text"
for i in $(seq 40); do  # words in an order that is their own
  awk -v seed="$i" 'BEGIN {srand(seed); n = split("the state is a thing that we make and who makes it has power", w); for (i = 0; i < 400; ++i) printf "%s ", w[1 + int(n * rand())]}' \
    >"$work/text/$i.txt"
done

# mpirun within sbatch, over both nodes; and srun within one, whose sums are the same.
submit undisturbed "${over_both[@]}" -- run.sbatch
eventually "the undisturbed run" has_ended undisturbed 1 0
grep -q "launch task StepId=$job.0" "$work/slurmd_right.log" || fail "the second node had no part: $(cat "$work/slurmd_right.log")"
ends_as_undisturbed undisturbed
submit of_srun --ntasks=2 -- node.sbatch
eventually "srun's run" has_ended of_srun 1 0
grep -q "threads a rank: .*, shared by 2 ranks" "$work/of_srun.out" || fail "expected srun's two ranks to share the cores: $(grep "ranks: " "$work/of_srun.out")"
ends_as_undisturbed of_srun

# scontrol requeue kills the ranks; the next start goes on from the last checkpoint.
submit requeued "${over_both[@]}" -- run.sbatch
eventually "25 steps" has_done requeued 25
scontrol requeue "$job"
eventually "the requeued job" is_in "$job" PENDING
[[ $(steps_done requeued) -lt $steps ]] || fail "the run was done before it was requeued"
scontrol update JobId="$job" StartTime=now  # Slurm would wait for two minutes
eventually "the end of the requeued job" has_ended requeued 2 0
grep -q "continuing from .* after step" "$work/requeued.out" || fail "expected the second start to go on"
ends_as_undisturbed requeued

# Who has to make room for others is told, saves, and goes on behind them.
submit preempted "${over_both[@]}" -- run.sbatch
preempted=$job
eventually "25 steps" has_done preempted 25
job=$(sbatch --parsable --partition=urgent --exclusive "${over_both[@]}" --output="$work/urgent.out" --wrap="sleep 3")
eventually "the run that makes room" has_ended preempted 1 3
[[ -d $work/preempted/checkpoints/step_$(steps_done preempted) ]] || fail "preempted: $(steps_done preempted) steps, saved $(ls "$work/preempted/checkpoints")"
eventually "the preempted job" is_in "$preempted" PENDING
scontrol update JobId="$preempted" StartTime=now
eventually "the end of the preempted job" has_ended preempted 2 0
ends_as_undisturbed preempted

# A time limit, announced: every step is saved, and the job is in the queue again.
for script in run.sbatch node.sbatch; do
  name=limited_${script%.*} options=("${over_both[@]}" --signal=B:USR1@30)
  [[ $script == run.sbatch ]] || options=(--ntasks=2 --signal=USR1@30)
  submit "$name" --time=1 "${options[@]}" -- $script --set train.steps=1000000 --set train.checkpoint_every_steps=1000000
  eventually "the time limit" has_ended "$name" 1 3
  eventually "the job in the queue" is_in "$job" PENDING
  [[ -d $work/$name/checkpoints/step_$(steps_done "$name") ]] || fail "$name: $(steps_done "$name") steps, saved $(ls "$work/$name/checkpoints")"
  scancel "$job"
  echo "$name: as it should be"
done

# scancel of mpirun's step kills the ranks and ends the job; the same command goes on from the last checkpoint.
submit cancelled "${over_both[@]}" -- run.sbatch
eventually "25 steps" has_done cancelled 25
scancel "$job.0"
eventually "the end of the job" grep -q "start 1: exit code" "$work/cancelled.out"
if has_ended cancelled 1 0 || has_ended cancelled 1 3; then fail "expected an error where a step is cancelled"; fi
eventually "the job's end" eval '[[ -z $(squeue -h -j $job 2>/dev/null) ]]'
mv "$work/cancelled.out" "$work/cancelled_before.out"
submit cancelled "${over_both[@]}" -- run.sbatch
eventually "the run after a cancelled step" has_ended cancelled 1 0
ends_as_undisturbed cancelled

# Under launch, within the job, a killed rank and a cancelled step are started again.
SUPERVISED=1 submit supervised "${over_both[@]}" -- run.sbatch
eventually "25 steps" has_done supervised 25
scancel "$job.0"
eventually "50 steps, after a cancelled step" has_done supervised 50
pkill -9 -o -f "^$LIMBECK train .*/supervised" || fail "there was no rank to kill"
eventually "the supervised run" has_ended supervised 1 0
grep -q "attempt 2 failed" "$work/supervised.out" || fail "expected two attempts to fail"
ends_as_undisturbed supervised

# A cache in an array: shares, and a job that closes it.
cat >"$work/cache.textproto" <<CONFIG
teacher { source: "$work/undisturbed" cache_tokens: 8 }
data { sequence_length: 64 held_out_fraction: 0.2 }
CONFIG
queue shares --array=3-7:2 --ntasks=1 -- run.sbatch cache-teacher "$root/examples/tiny_moe.textproto" "$work/cache.textproto" --set data.text="$work/text" --out "$work/cache"
shares=$job
queue closed --dependency="afterany:$shares" --ntasks=2 -- run.sbatch cache-teacher "$root/examples/tiny_moe.textproto" "$work/cache.textproto" --set data.text="$work/text" --out "$work/cache" --verify
eventually "the share 1/3" grep -qs "share 1/3, start .*: exit code 0" "$work/shares.out"
eventually "the end of the cache" has_ended closed 1 0
for share in 0 2; do grep -q "share $share/3, start .*: exit code 0" "$work/shares.out" || fail "share $share was not written"; done
grep -q "of share 2/3 of the text are missing" "$work/shares.out" && grep -q "earlier writers left" "$work/closed.out" &&
  grep -q " 0 positions of the text are missing" "$work/closed.out" || fail "expected the shares to be the cache"
echo "cache: as it should be"
