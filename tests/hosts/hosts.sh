#!/usr/bin/env bash
# Two hosts on one machine: network namespaces, joined by a veth pair whose two ends send no faster than RATE, each with
# a host name of its own, and mpirun over both. Skipped (77) where no namespaces may be made.
#
#     tests/hosts/hosts.sh build/release
#
# Checked: bytes and seconds of tokens on their way to experts by two levels, of what flat takes (experts_over_hosts);
# and the hidden part of a data-parallel step's reduction: of what a step waits for it where it is one bucket, which
# starts when the backward is done, the part that buckets beside the backward save. And that limbeck launch goes on without
# a host that ssh does not reach.
set -euo pipefail

build=$(realpath "${1:?the build}")
rate=${RATE:-200mbit}            # of tokens: so slow that the wire is what is waited for, on slow cores too
slow_rate=${SLOW_RATE:-300mbit}  # of gradients, of a model that 2 cores train
least_hidden=0.60
here=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
name=limbeck$$

skip() {
  echo "hosts: skipped: $1"
  [[ -z ${work-} ]] || rm -rf "$work"
  exit 77
}
for tool in ip tc unshare mpirun; do command -v "$tool" >/dev/null || skip "there is no $tool"; done
work=$(mktemp -d)
ip netns add "${name}a" 2>/dev/null || skip "network namespaces may not be made here"
clean() {
  ip netns del "${name}a" || true
  ip netns del "${name}b" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT
ip netns add "${name}b"
ip link add wire netns "${name}a" type veth peer name wire netns "${name}b" 2>/dev/null || skip "there is no veth"

# limit RATE: of both ends.
limit() {
  for host in a b; do
    ip netns exec "$name$host" tc qdisc replace dev wire root tbf rate "$1" burst 256kb latency 100ms ||
      skip "there is no tc tbf"
  done
}
for host in a:1 b:2; do
  in=(ip netns exec "$name${host%:*}" ip)
  "${in[@]}" addr add "10.201.7.${host#*:}/24" dev wire
  "${in[@]}" link set wire up
  "${in[@]}" link set lo up
done

# Where mpirun would use ssh, which does not reach the other host once there is a file "down".
cat >"$work/agent" <<END
#!/bin/sh
if [ -e '$work/down' ]; then
  echo "ssh: connect to host \$1 port 22: No route to host" >&2
  exit 255
fi
shift
exec ip netns exec ${name}b unshare --uts sh -c "hostname ${name}b; cd '$work'; \$*"
END
chmod +x "$work/agent"

# on_first COMMAND...: on the first host.
on_first() { ip netns exec "${name}a" unshare --uts sh -c "hostname ${name}a; cd '$work'; exec \"\$@\"" sh "$@"; }
over_both=(--oversubscribe --bind-to none --mca plm_rsh_agent "$work/agent" --mca btl "tcp,vader,self"
  --mca btl_tcp_if_include wire --mca oob_tcp_if_include wire -x OMP_NUM_THREADS=1)
# on_hosts RANKS_A_HOST PROGRAM...
on_hosts() {
  local a_host=$1
  shift
  on_first mpirun "${over_both[@]}" -n $((2 * a_host)) --host "${name}a:$a_host,10.201.7.2:$a_host" "$@"
}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

limit "$rate"
on_hosts 2 "$build/bin/experts_over_hosts" wire

# waited RUN [AXIS]: the least of the seconds that a step waited along it [dp], of those behind the first, which makes
# memory: what a rank waits for another that comes late is in it too, and is least then.
waited() {
  sed -n 's/.*"exposed_s":{[^}]*"'"${2-dp}"'":\([0-9.e-]*\).*/\1/p' "$1/metrics.jsonl" | tail -n +2 | sort -g | head -n 1
}
limit "$slow_rate"
cp "$here/dense.textproto" "$work"
for _ in $(seq 400); do echo "The quick brown fox jumps over the lazy dog, and $RANDOM more of them follow."; done >"$work/text"
for bucket in 1 4096; do
  on_hosts 1 "$build/bin/limbeck" train dense.textproto --quiet --out "b$bucket" \
    --set parallel.bucket_mib="$bucket" >/dev/null
done
whole=$(waited "$work/b4096")
left=$(waited "$work/b1")
awk -v whole="$whole" -v left="$left" -v least="$least_hidden" 'BEGIN {
  printf "reduction of gradients, seconds waited a step: one bucket %.3f, buckets of 1 MiB %.3f, hidden %.2f of it, at least %.2f\n",
    whole, left, 1 - left / whole, least
  exit !(1 - left / whole >= least)
}'

# in_chunks AXIS FIELD NUMBERS SETTING...: what a step waits along the axis, by the runs in which products and exchanges are made.
# TENSOR_CHUNKS="1 2 4 8" and EXPERT_CHUNKS="1 2 4" say of which.
in_chunks() {
  local axis=$1 field=$2 numbers=$3 chunks settings=()
  shift 3
  for setting in "$@"; do settings+=(--set "$setting"); done
  for chunks in $numbers; do
    on_hosts 1 "$build/bin/limbeck" train dense.textproto --quiet --out "$axis$chunks" --set "parallel.layout=${axis}2" "${settings[@]}" \
      --set "parallel.$field=$chunks" --set batch.sequences_per_step=12 >/dev/null
    sed -n 's/.*"seconds":\([0-9.e-]*\).*/\1/p' "$work/$axis$chunks/metrics.jsonl" | tail -n +2 | sort -g | head -n 1 >"$work/seconds"
    echo "${axis}2, $field $chunks: $(waited "$work/$axis$chunks" "$axis") s waited of a step of $(cat "$work/seconds") s"
  done
}
in_chunks tp tensor_chunks "${TENSOR_CHUNKS-}" parallel.sequence_parallel=true
in_chunks ep expert_chunks "${EXPERT_CHUNKS-}" model.moe.num_experts=8 model.moe.experts_per_token=2 model.moe.expert_width=1024

# By the one host that is left, with half the ranks.
touch "$work/down"
on_first "$build/bin/limbeck" launch -n 2 --min-ranks 1 "${over_both[@]}" --host "${name}a:1,10.201.7.2:1" -- train dense.textproto --quiet \
  --out lost --steps 1 --set batch.sequences_per_step=2 >"$work/lost.log" 2>&1 || { cat "$work/lost.log" && exit 1; }
grep -q "going on with 1 rank without 10.201.7.2, for 10.201.7.2 was lost" "$work/lost.log" || { cat "$work/lost.log" && exit 1; }
echo "launch: the host that was not reached is left out"
