#include "core/nn/moe.h"

#include "core/nn/projected.h"
#include "core/nn/stream.h"
#include "core/ops/add.h"
#include "core/ops/add_grouped_bias.h"
#include "core/ops/aux_losses.h"
#include "core/ops/cast.h"
#include "core/ops/gate_rows.h"
#include "core/ops/jitter.h"
#include "core/ops/linear.h"
#include "core/ops/moe_exchange.h"
#include "core/ops/permute.h"
#include "core/ops/swiglu.h"

namespace limbeck::nn {
namespace {

using core::as_optional_var;
using core::as_var;

}  // namespace

void add_term(Tape& tape, Var& sum, const Var& term) {
  if (term.value.defined()) sum = sum.value.defined() ? core::add(tape, sum, term) : term;
}

Moe make_moe(core::ParameterSet& parameters, const std::string& name, std::int64_t width, const MoeConfig& config,
             const core::Cut& router) {
  const std::int64_t e = config.num_experts, f = config.expert_width;
  Moe moe;
  moe.name = name;
  moe.config = config;
  moe.router = &parameters.add(name + ".router.weight", {e, width}, router);
  if (config.selection_bias)
    moe.selection_bias =
        &parameters.add_frozen(name + ".router.selection_bias", {e}, {.sees_share = router.sees_share});
  moe.gate = &parameters.add(name + ".experts.gate", {e, f, width}, {.dimension = 1, .is_expert = true});
  moe.up = &parameters.add(name + ".experts.up", {e, f, width}, {.dimension = 1, .is_expert = true});
  moe.down = &parameters.add(name + ".experts.down", {e, width, f}, {.dimension = 2, .is_expert = true});
  if (config.router_bias) moe.router_bias = &parameters.add(name + ".router.bias", {e}, router, false);
  if (!config.expert_bias) return moe;
  const auto bias = [&](const char* matrix, std::int64_t rows) {
    return &parameters.add(name + ".experts." + matrix + "_bias", {e, rows}, {.dimension = 1, .is_expert = true},
                           false);
  };
  moe.gate_bias = bias("gate", f);
  moe.up_bias = bias("up", f);
  moe.down_bias = bias("down", width);
  return moe;
}

core::Routing Moe::route(Tape& tape, const Pass& pass, const Var& x, AuxiliaryLosses& losses) const {
  const Batch& batch = pass.batch;
  const RouterTraining& training = pass.router;
  if (pass.routed && !tape.is_replay()) pass.routed(layer, x.value);
  const Var seen = training.jitter > 0 ? core::jitter(tape, x, rows_of_stream(pass, batch.global_index),
                                                      training.jitter, {training.seed, training.step, name + ".jitter"})
                                       : x;
  const Var exact = core::cast(tape, seen, core::sum_dtype(seen.value.dtype()));
  const Var logits = whole_sequences(
      tape, pass,
      core::linear(tape, exact, as_var(*router), core::Products::AsActivations, as_optional_var(router_bias)));
  const std::optional<Tensor> replay = pass.routing ? pass.routing->find(name, batch.global_index) : std::nullopt;
  const Tensor* const chosen = replay ? &*replay : nullptr;
  const core::RoutingRule rule{
      .is_sigmoid = config.scores == RouterScores::Sigmoid,
      .groups = {config.num_groups, config.groups_per_token, config.group_score == GroupScore::BestTwo},
      .bias = selection_bias != nullptr ? selection_bias->value : Tensor()};
  const auto routed = [&](Tape& on, const Tensor* selection) {
    return config.router == RouterKind::SparseMixer
               ? core::route_sparse_mixer(on, logits, config.mixer_jitter, config.weight_scale, selection)
               : core::route(on, logits, config.experts_per_token, config.renormalise, config.weight_scale, selection,
                             rule);
  };
  core::Routing routing = routed(tape, chosen);
  if (replay && pass.own_choice && !tape.is_replay()) {
    Tape off(Tape::Mode::Off);
    pass.own_choice(layer, routing.selection, routed(off, nullptr).selection);
  }
  if (pass.routing && !replay) pass.routing->record(name, batch.global_index, routing.selection);

  const auto layers = static_cast<double>(num_moe_layers);
  if (training.balance > 0)
    add_term(tape, losses.balance,
             training.balance_scope == BalanceScope::Sequence
                 ? core::balance_loss(tape, routing.probabilities,
                                      pass.sequence_counts(routing.selection, config.num_experts, logits.value.dtype()),
                                      batch.sequence, routing.selection.shape()[1],
                                      training.balance / (batch.global_sequences * layers))
                 : core::batch_balance_loss(tape, routing.probabilities, routing.selection, *pass.comms.batch,
                                            training.balance / (batch.global_tokens * layers)));
  if (training.z > 0) add_term(tape, losses.z, core::z_loss(tape, logits, training.z / (batch.global_tokens * layers)));
  if (pass.match_routing) add_term(tape, losses.routing, pass.match_routing(tape, layer, routing));
  if (training.capacity_factor > 0) routing.selection = pass.limit_capacity(routing.selection, config.num_experts);
  return routing;
}

Var Moe::product(Tape& tape, const Var& rows, const Parameter& weight, const Parameter* bias,
                 const Tensor& offsets) const {
  const Var y = projected_by_experts(tape, rows, weight, offsets);
  if (bias == nullptr) return y;
  // Of `gate` and `up` the rows here are all that the bias is of.
  const std::int64_t first = bias == down_bias ? bias->offset()[1] : 0;
  return core::add_grouped_bias(tape, y, as_var(*bias), offsets, first);
}

Var Moe::forward(Tape& tape, const Pass& pass, const Var& x, AuxiliaryLosses& losses) const {
  const std::int64_t num_experts = config.num_experts;
  const core::Routing routing = route(tape, pass, x, losses);
  TensorComm& tokens = *pass.comms.tensor;
  const Var mine = share_of_stream(tape, pass, x);
  const Tensor selection = core::scatter(routing.selection, tokens);
  ExpertComm& experts = *pass.comms.expert;
  const ExchangePtr exchange = experts.prepare(selection, num_experts);
  core::DispatchUnderWay tokens_there(tape, mine, experts, exchange);
  core::DispatchUnderWay weights_there(tape, core::scatter(tape, routing.weights, tokens), experts, exchange);
  Var beside = shared ? shared->forward(tape, pass, x) : Var();
  if (shared_gate != nullptr) beside = core::gate_rows(tape, core::linear(tape, x, as_var(*shared_gate)), beside);
  const Var here = tokens_there.finish();
  const Var weights = weights_there.finish();
  const bool is_alone = exchange->selection.storage() == selection.storage();  // the tokens stay here
  const auto drops = is_alone && pass.router.capacity_factor == 0 ? core::Drops::None : core::Drops::Some;
  const core::Permutation permutation =
      core::make_permutation(exchange->selection, num_experts / experts.size(), drops, exchange->num_rows);
  const Tensor offsets = permutation.offsets();
  if (pass.load && !tape.is_replay())
    pass.load(layer, is_alone ? permutation.counts : core::make_permutation(selection, num_experts, drops).counts);
  const Var rows = core::permute(tape, here, permutation);
  const Var hidden = core::swiglu(tape, product(tape, rows, *gate, gate_bias, offsets),
                                  product(tape, rows, *up, up_bias, offsets), activation, activation_limit);
  const Var out = product(tape, hidden, *down, down_bias, offsets);
  if (pass.experts && !tape.is_replay()) pass.experts(layer, {out.value, hidden.value, weights.value, permutation});
  const Var given = core::combine(tape, core::unpermute(tape, out, weights, permutation), experts, exchange);
  const Var routed = stream_of_shares(tape, pass, given);
  return shared ? core::add(tape, routed, beside) : routed;
}

}  // namespace limbeck::nn
