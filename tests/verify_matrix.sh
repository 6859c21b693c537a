#!/usr/bin/env bash
# Holds layouts of up to 16 ranks, which are threads, against one rank, by `limbeck verify`: models of every kind, sizes and
# sequences that do not divide, experts without tokens, a teacher beside the student and on ranks of its own; in float32 under the
# reference's routing to 1e-5, and in float64 with free routing to 1e-11. Prints the tables that fail, and at last how many layouts
# passed.
#
#     tests/verify_matrix.sh build/release           # all: half an hour and more on two cores
#     tests/verify_matrix.sh build/release moe       # models whose names begin so
set -euo pipefail

limbeck=$(cd "${1:?a build folder}" && pwd)/bin/limbeck
wanted=${2-}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export OMP_NUM_THREADS=1

mkdir text
for document in 1 2 3 4 5 6 7 8; do
  for word in $(seq 400); do
    printf '%s ' "$((word * (word + document) % 97))"
  done >text/$document.txt
done

# Nothing of it divides by two.
cat >model.textproto <<'END'
model {
  width: 36 num_layers: 3 num_heads: 6 num_kv_heads: 3 head_width: 8 mlp_width: 45 max_positions: 128
}
data { text: "text" tokenizer: "bytes" sequence_length: 31 held_out_fraction: 0.2 }
optimizer { rate: 3e-3 }
batch { sequences_per_step: 7 }
train { steps: 8 eval_tokens: 64 threads: 1 }
END

passed=0 failed=0

# of NAME "SETTING..." LAYOUT...: each in float32, and in float64.
of() {
  local name=$1 settings=() setting layouts precision table code
  [[ $name == "$wanted"* ]] || return 0
  for setting in $2; do settings+=(--set "$setting"); done
  shift 2
  layouts=$(IFS=, && echo "$*")
  for precision in float32 float64; do
    code=0
    table=$("$limbeck" verify model.textproto "${settings[@]}" --layouts "$layouts" --precision $precision --quiet) || code=$?
    if [[ $code == 0 ]]; then
      passed=$((passed + $#))
    else
      failed=$((failed + 1))
      printf '%s\n' "== $name, $precision: code $code" "$table"
    fi
  done
  echo "== $name: $# layouts after $SECONDS s"
}

divided=parallel.sequence_parallel=true
mamba="model.mamba.num_heads=6 model.mamba.head_width=5 model.mamba.state_width=7 model.mamba.attention_layers=[1]"
sharded=parallel.shard
neighbours=parallel.shard_ranks
copied=parallel.expert_replicas
chunked=parallel.expert_chunks
summed=parallel.tensor_chunks
dealt=parallel.deal_experts_every_steps=1
experts="model.moe.num_experts=8 model.moe.expert_width=18"

of dense "" dp2 dp5 dp16 tp2 tp3 tp7 dp2tp2 dp5tp3 dp4tp4 tp3+$divided dp2tp2+$divided dp3+batch.micro_batches=3 \
  tp2+train.recompute=true tp3+$divided+train.recompute=true+batch.micro_batches=2 dp2+parallel.bucket_mib=0.001 \
  cp2 cp3 cp4 cp2tp2 dp2cp2 dp3+$sharded=OPTIMIZER dp3+$sharded=PARAMETERS \
  tp2+$summed=3 tp2+$summed=4+train.recompute=true tp7+$summed=2 tp3+$divided+$summed=4+train.recompute=true dp2tp2+$divided+$summed=1024+batch.micro_batches=3
of moe "$experts model.moe.dense_layers=[0]" dp3 ep2 ep4 ep8 tp2ep2 dp2tp2 tp2ep4 dp2ep4 ep2etp2 etp2 etp3 tp2ep2etp2 \
  tp4ep4 dp8ep2 tp2ep2+$divided tp3+$divided+train.recompute=true ep4+batch.micro_batches=3 \
  cp2ep2 cp2tp2ep2+$divided dp2ep2+$sharded=PARAMETERS ep4+$copied=2 tp2ep2+$divided+$copied=3+train.recompute=true \
  dp2ep2+$copied=1+$sharded=PARAMETERS+batch.micro_batches=2 ep4+$copied=2+parallel.expert_exchange=TWO_LEVEL \
  ep4+$chunked=3 tp2ep2+$divided+$chunked=4+train.recompute=true ep2etp2+$chunked=2+batch.micro_batches=2 \
  ep4+$chunked=2+$copied=2+parallel.expert_exchange=TWO_LEVEL ep2+$dealt ep4+$dealt+$copied=2+$chunked=2 ep2etp2+$dealt \
  dp2ep2+$dealt+$sharded=OPTIMIZER dp4ep2+$dealt+$sharded=GRADIENTS+$neighbours=4+batch.micro_batches=2 \
  dp2ep8+$dealt+$sharded=PARAMETERS+train.recompute=true
# As many on each rank, one more on some, and fewer than ranks.
uneven="model.moe.expert_width=18 optimizer.kind=MUON"
of uneven_six "$uneven model.moe.num_experts=6" ep4 ep5 dp2ep4 tp2ep4 tp2ep4+$divided cp2ep4 ep4etp2 pp2ep4+batch.micro_batches=2 \
  ep4+$chunked=3+$copied=2+parallel.expert_exchange=TWO_LEVEL dp2ep4+$sharded=OPTIMIZER dp2ep4+$sharded=GRADIENTS+batch.micro_batches=2 \
  dp2ep4+$sharded=PARAMETERS+train.recompute=true dp4ep4+$sharded=GRADIENTS+$neighbours=8 ep3+$dealt \
  ep4+$dealt+$copied=2+$chunked=3 ep4etp2+$dealt dp2ep4+$dealt+$sharded=OPTIMIZER dp4ep4+$dealt+$sharded=GRADIENTS+$neighbours=8 \
  dp2ep4+$dealt+$sharded=PARAMETERS+train.recompute=true pp2ep4+$dealt+batch.micro_batches=2
of uneven_three "$uneven model.moe.num_experts=3" ep2 ep4 ep8 dp2ep4 tp2ep4+$divided ep4etp2 pp2ep4+parallel.schedule=ZERO_BUBBLE+batch.micro_batches=4 \
  ep4+$chunked=3+$copied=2+parallel.expert_exchange=TWO_LEVEL dp2ep4+$sharded=OPTIMIZER dp2ep4+$sharded=GRADIENTS+batch.micro_batches=2 \
  dp2ep4+$sharded=PARAMETERS+train.recompute=true ep2+$dealt dp3ep2+$dealt+$sharded=PARAMETERS dp2ep4+$dealt+$sharded=OPTIMIZER
# More experts than tokens of a rank: most have none.
of idle "model.moe.num_experts=64 model.moe.experts_per_token=1 model.moe.expert_width=6 batch.sequences_per_step=2 data.sequence_length=5" \
  dp2 ep4 ep16 tp2ep2 ep2etp2 dp4+$divided ep16+$chunked=5
of shared "$experts model.moe.shared_width=15 model.moe.shared_gate=true routing.capacity_factor=1.2 routing.jitter=0.05" \
  dp2 ep2 tp2ep2 tp3+$divided tp2etp2 dp2ep2+batch.micro_batches=2 cp2 ep4+$copied=2 \
  tp2ep2+$summed=3+$chunked=2 tp3+$divided+$summed=2
of choice "$experts routing.expert_choice=true routing.capacity_factor=0.9 routing.jitter=0.05 model.moe.shared_width=15 model.moe.renormalise=false batch.micro_batches=2" \
  dp2 ep2 ep4 etp2 pp2 tp2ep2 tp3+$divided cp2 cp3ep3 ep4+train.recompute=true ep4+$chunked=3 pp2ep2+train.recompute=true
of sigmoid "$experts model.moe.scores=SIGMOID model.moe.selection_bias=true model.moe.num_groups=4 model.moe.groups_per_token=2 model.moe.group_score=BEST_TWO" \
  dp2 ep4 tp2ep2 tp2ep2+$divided
of balance "$experts moe_loss.balance_scope=GLOBAL_BATCH" dp3 ep2 tp2ep2 tp2+$divided cp2
latents="model.latent.rank=12 model.latent.query_rank=10 model.latent.rope_width=4 model.latent.value_width=6 model.num_kv_heads=6"
of latent "$experts $latents" dp2 tp2 tp4 tp2ep2 tp3+$divided cp2 tp3+$divided+$summed=3 cp4 cp4tp2+$divided pp2+batch.micro_batches=2 \
  pp3+parallel.schedule=ZERO_BUBBLE+batch.micro_batches=4+train.recompute=true pp2cp4+batch.micro_batches=2 pp3tp2+batch.micro_batches=3
of mamba "$experts $mamba model.positions=NONE model.residual_scale=0.7 model.logits_scale=0.5" \
  dp2 tp2 tp4 ep2 tp2ep2 pp2 pp3dp2 tp3+$divided tp2+train.recompute=true+batch.micro_batches=2 dp2+$sharded=PARAMETERS \
  tp3+$divided+$summed=2+train.recompute=true cp2 cp4 cp5 cp2tp2 cp2tp3+$divided cp2ep2+train.recompute=true pp2cp2+batch.micro_batches=2 \
  pp3cp2+parallel.schedule=ZERO_BUBBLE+batch.micro_batches=3 dp2cp2+$sharded=PARAMETERS
of mamba_groups "$mamba model.mamba.num_groups=3 model.mamba.conv_bias=false model.mamba.least_step=0.01 model.mamba.most_step=0.9" \
  dp2 tp2 tp3 pp2 tp2+$divided dp2+$sharded=PARAMETERS tp2+$divided+$summed=4 cp2 cp4 cp2tp3 cp3tp2+$divided+train.recompute=true
of mamba_alone "$mamba model.mamba.attention_layers= model.feed_forward=false" dp2 tp2 pp2 dp2tp2+$divided cp4 cp2tp2+$divided
# Runs of fewer tokens than filters see.
of mamba_short "$mamba model.mamba.conv_width=8 data.sequence_length=9" cp2 cp4 cp2tp2 pp2cp2
windows="model.window=9 model.full_layers=[1] model.window_rope_base=5000"
of windows "$windows model.head_norm=EACH_HEAD model.attention_sinks=true" \
  dp3 tp2 tp5 tp2+$divided cp2 cp4 cp4tp2+$divided pp2+batch.micro_batches=2 pp3+parallel.schedule=ZERO_BUBBLE+batch.micro_batches=4+train.recompute=true \
  pp2cp4+batch.micro_batches=2 pp3tp2+batch.micro_batches=3
of windows_latent "$experts $latents $windows" dp2 tp3 tp2ep2+$divided cp2 cp4 cp4tp2 pp2+batch.micro_batches=2 pp3cp4+batch.micro_batches=3 \
  pp2cp4+parallel.schedule=ZERO_BUBBLE+batch.micro_batches=4+train.recompute=true pp2dp2+$sharded=PARAMETERS+batch.micro_batches=2
of biases "model.attention_bias=true model.mlp_bias=true model.norm_kind=LAYER model.positions=LEARNED model.tied_head=true model.num_kv_heads=6" \
  dp2 tp2 tp3+$divided tp3+$divided+$summed=2 dp3+$sharded=PARAMETERS dp2tp2+$divided+$sharded=PARAMETERS
of ahead "$experts model.num_predict_layers=2" dp2 tp2ep2 tp2+$divided cp2 tp2ep2+$dealt dp3+$sharded=PARAMETERS \
  tp2ep2+$divided+$sharded=PARAMETERS+train.recompute=true
of ahead_stages "$experts model.num_layers=5 model.num_predict_layers=2 batch.micro_batches=4" pp2 pp3 pp2tp2+$divided pp2ep2 pp2cp2 \
  pp2+parallel.schedule=ZERO_BUBBLE pp3+parallel.schedule=ZERO_BUBBLE+train.recompute=true pp2dp2+$sharded=PARAMETERS \
  pp2tp2+parallel.schedule=ZERO_BUBBLE+$summed=2 pp2tp2+parallel.schedule=ZERO_BUBBLE+$divided+$summed=3 \
  pp2+parallel.schedule=INTERLEAVED+parallel.chunks=2 pp2dp4+$sharded=GRADIENTS+$neighbours=2
of ahead_tied "$experts model.num_predict_layers=2 model.tied_head=true batch.micro_batches=2" dp2 pp2 pp2tp2 pp2dp2+$sharded=OPTIMIZER \
  dp3+$sharded=PARAMETERS pp2dp2+$sharded=PARAMETERS
of muon "$experts optimizer.kind=MUON optimizer.clip_norm=0.01" dp2 tp2 ep2etp2 tp2ep2+$divided dp3+$sharded=PARAMETERS \
  ep4+$dealt dp2ep2+$dealt+$sharded=PARAMETERS

of stages "$experts model.num_layers=5 model.tied_head=true moe_loss.z_weight=0.01 batch.micro_batches=4" \
  pp2 pp4 pp5 pp2dp2 pp2tp2+$divided pp2ep2+train.recompute=true pp2tp2ep2dp2 pp2cp2 pp2dp2+parallel.shard=OPTIMIZER \
  pp2+parallel.schedule=ZERO_BUBBLE pp4tp2+parallel.schedule=ZERO_BUBBLE pp2+parallel.schedule=INTERLEAVED+parallel.chunks=2 \
  pp2ep2+parallel.schedule=ZERO_BUBBLE+parallel.chunks=2 pp2+parallel.stages+=1+parallel.stages+=4 pp2dp2+$sharded=GRADIENTS \
  pp2ep2dp2+$sharded=PARAMETERS+train.recompute=true pp2dp2+$sharded=PARAMETERS+parallel.schedule=ZERO_BUBBLE+parallel.chunks=2 \
  pp2dp4+$sharded=OPTIMIZER+$neighbours=2 pp2dp4+$sharded=GRADIENTS+$neighbours=4 pp2dp2+$sharded=GRADIENTS+$neighbours=4 \
  pp2ep2dp4+$sharded=PARAMETERS+$neighbours=2 pp2ep2+$dealt pp4dp2+$sharded=PARAMETERS+$neighbours=4+parallel.schedule=ZERO_BUBBLE

if [[ teacher == "$wanted"* || $wanted == teacher* || adapters == "$wanted"* ]]; then
  "$limbeck" train model.textproto --set model.moe.num_experts=4 --set model.moe.expert_width=20 --steps 2 --out teacher --quiet >/dev/null
fi
elsewhere=parallel.teacher_ranks relaid=parallel.teacher_layout
of teacher "$experts teacher.source=teacher objective.hidden_states.weight=0.5 objective.temperature=1.5" \
  dp2 tp2ep2 tp3+$divided ep4 tp2+precision.sharded_teacher=true ep3+precision.sharded_teacher=true ep5+precision.sharded_teacher=true \
  dp2+$elsewhere=1 tp2+$elsewhere=2+parallel.teacher_layout=tp2 tp2ep2+$elsewhere=3 dp3+$elsewhere=2+batch.micro_batches=2 cp2 dp2+$sharded=GRADIENTS \
  dp3+$elsewhere=4+parallel.teacher_layout=pp2+batch.micro_batches=2 ep2+$elsewhere=4+parallel.teacher_layout=pp2ep2+precision.sharded_teacher=true \
  cp2+$elsewhere=1 cp2tp2+$elsewhere=4+parallel.teacher_layout=pp2tp2 \
  dp2+$relaid=tp2 tp2+$relaid=dp2 dp4+$relaid=pp2tp2 ep4+$relaid=pp2+batch.micro_batches=2 cp2+$relaid=pp2 tp2+$relaid=cp2 \
  dp4+$sharded=GRADIENTS+$relaid=pp2ep2+precision.sharded_teacher=true

of teacher_stages "$experts teacher.source=teacher objective.temperature=1.5 batch.micro_batches=3" \
  pp2 pp3 pp2tp2+$divided pp2ep2dp2 pp2tp2ep2dp2+$sharded=OPTIMIZER pp2cp2 pp2ep2+precision.sharded_teacher=true \
  pp2+parallel.schedule=ZERO_BUBBLE pp2dp2+$sharded=PARAMETERS \
  pp2dp2+$elsewhere=1 pp3+$elsewhere=2+parallel.schedule=ZERO_BUBBLE pp2tp2+$divided+$elsewhere=2+parallel.teacher_layout=tp2 \
  pp2+$elsewhere=3+parallel.teacher_layout=pp3 pp2cp2+$elsewhere=2+parallel.teacher_layout=pp2

# What stages before the last are held to comes from there: hidden states, what blocks add, routing.
of teacher_matches "model.moe.num_experts=4 model.moe.expert_width=18 model.num_layers=5 teacher.source=teacher batch.micro_batches=4 \
  objective.hidden_states.weight=0.5 objective.hidden_states.projector=true objective.hidden_states.layers=[0,0,2,1,2] \
  objective.attention.weight=0.4 objective.feed_forward.weight=0.3 objective.routers.weight=0.2 \
  objective.attention.layers=[0,0,1,-1,2] objective.feed_forward.layers=[2,-1,1,0,2] objective.routers.layers=[0,1,-1,2,2]" \
  dp2 pp2 pp5 pp2dp2 pp2tp2 pp2tp2+$divided pp2ep2+train.recompute=true pp2ep2+precision.sharded_teacher=true pp2cp2 \
  pp2+parallel.schedule=ZERO_BUBBLE pp2+parallel.schedule=INTERLEAVED+parallel.chunks=2 \
  pp2ep2+parallel.schedule=ZERO_BUBBLE+parallel.chunks=2+train.recompute=true pp3dp2+$sharded=PARAMETERS pp2dp4+$sharded=GRADIENTS+$neighbours=2 \
  pp3+parallel.stages+=1+parallel.stages+=4+parallel.stages+=0 pp4tp2ep2+$divided+parallel.schedule=ZERO_BUBBLE
of teacher_hidden "$experts model.num_layers=5 teacher.source=teacher objective.hidden_states.weight=0.5 objective.temperature=1.5 batch.micro_batches=3" \
  pp2 pp2dp2+$elsewhere=1 pp3+$elsewhere=2+parallel.schedule=ZERO_BUBBLE pp2tp2+$divided+$elsewhere=2+parallel.teacher_layout=tp2 \
  pp2ep2+$elsewhere=1+parallel.schedule=INTERLEAVED+parallel.chunks=2 \
  pp2+$elsewhere=3+parallel.teacher_layout=pp3 pp2cp2+$elsewhere=2+parallel.teacher_layout=pp2 \
  pp2+$relaid=tp2 pp2dp2+$relaid=dp4+parallel.schedule=ZERO_BUBBLE pp2cp2+$relaid=pp2tp2
of teacher_ahead "$experts model.num_predict_layers=2 teacher.source=teacher objective.hidden_states.weight=0.5 batch.micro_batches=3" \
  dp2 pp2 pp2ep2+parallel.schedule=ZERO_BUBBLE pp2tp2+$divided
of adapters "model= model.source=teacher adapters.rank=3 adapters.targets=[*.attention.*,*.experts.*] batch.micro_batches=2" \
  dp2 tp3 ep2 pp2 pp3dp2 pp2tp2ep2 pp2dp2+$sharded=GRADIENTS

echo "$passed layouts passed, $failed tables have one that did not"
[[ $failed == 0 && $passed -gt 0 ]]
