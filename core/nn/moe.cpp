#include "core/nn/moe.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "core/exchanges_of.h"
#include "core/nn/projected.h"
#include "core/nn/stream.h"
#include "core/ops/add.h"
#include "core/ops/add_grouped_bias.h"
#include "core/ops/aux_losses.h"
#include "core/ops/capacity.h"
#include "core/ops/cast.h"
#include "core/ops/gate_rows.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/jitter.h"
#include "core/ops/linear.h"
#include "core/ops/moe_exchange.h"
#include "core/ops/permute.h"
#include "core/ops/replicas.h"
#include "core/ops/split_rows.h"
#include "core/ops/swiglu.h"
#include "core/slice.h"

namespace limbeck::nn {
namespace {

using core::as_optional_var;
using core::as_var;

Tensor renumbered_by(const std::vector<std::int32_t>& numbers, const Tensor& selection /*[T,K]*/) {
  return core::renumbered(selection, Tensor::from<std::int32_t>(selection.memory(), {std::ssize(numbers)}, numbers));
}

// A choice of an expert of which all ranks have a copy goes nowhere: `elsewhere` has it not, `here` has it alone, by
// the copies' numbers.
struct ReplicatedChoices {
  ReplicatedChoices(const Tensor& selection, std::int64_t num_experts, const std::vector<std::int64_t>& replicated) {
    std::vector<std::int32_t> others(static_cast<std::size_t>(num_experts)), copies(others.size(), -1);
    std::iota(others.begin(), others.end(), 0);
    for (std::size_t i = 0; i < replicated.size(); ++i) {
      const auto expert = static_cast<std::size_t>(replicated[i]);
      others.at(expert) = -1;
      copies.at(expert) = static_cast<std::int32_t>(i);
    }
    elsewhere = renumbered_by(others, selection);
    here = renumbered_by(copies, selection);
  }
  Tensor elsewhere, here;  // [T,K]
};

/// Copies of a layer's experts on their way to all ranks, and what they make of the tokens that choose them.
class Replicas {
 public:
  Replicas(Tape& tape, const Moe& moe, ReplicaComm& comm, const std::vector<std::int64_t>& experts)
      : tape_(tape), moe_(moe), num_experts_(std::ssize(experts)) {
    for (const Parameter* p : {moe.gate, moe.up, moe.down, moe.gate_bias, moe.up_bias, moe.down_bias})
      if (p != nullptr)
        under_way_.emplace(p, core::ReplicasUnderWay(tape, as_var(*p), comm, experts, moe.config.num_experts));
  }

  Var forward(const Var& x /*[T,C]*/, const Var& weights /*[T,K]*/, const Tensor& selection /*[T,K]*/) {
    core::Permutation order = core::make_permutation(selection, num_experts_, core::Drops::Some);
    order.num_rows = 0;
    for (const std::int64_t count : core::host_values<std::int64_t>(order.counts)) order.num_rows += count;
    const Tensor offsets = order.offsets();
    const Var rows = core::permute(tape_, x, order);
    const Var gate = product(rows, moe_.gate, moe_.gate_bias, offsets);
    const Var up = product(rows, moe_.up, moe_.up_bias, offsets);
    const Var hidden = core::swiglu(tape_, gate, up, moe_.activation, moe_.activation_limit);
    return core::unpermute(tape_, product(hidden, moe_.down, moe_.down_bias, offsets), weights, order);
  }

 private:
  Var product(const Var& x, const Parameter* weight, const Parameter* bias, const Tensor& offsets) {
    const Var y = core::grouped_linear(tape_, x, under_way_.at(weight).finish(), offsets);
    return bias == nullptr ? y : core::add_grouped_bias(tape_, y, under_way_.at(bias).finish(), offsets);
  }

  Tape& tape_;
  const Moe& moe_;
  std::int64_t num_experts_;
  std::map<const Parameter*, core::ReplicasUnderWay> under_way_;
};

/// A layer's tokens on their way to its experts and back, chunk by chunk: while the experts here compute on one, the
/// next comes, and what they made of the one before goes back. Their steps stand on the tape so that the backward does
/// the same with gradients, from the last chunk to the first. A chunk may have no token.
class TokenChunks {
 public:
  /// Agrees on who gets what. Of the choices [T,K] those that are `elsewhere`, by the experts' places, travel.
  TokenChunks(Tape& tape, const Pass& pass, const Moe& moe, const Var& tokens /*[T,C]*/, const Var& weights /*[T,K]*/,
              const Tensor& selection, const Tensor& elsewhere)
      : tape_(tape), pass_(pass), moe_(moe), experts_(*pass.comms.expert) {
    const bool stay = &experts_ == single_communicators().expert.get();
    const std::int64_t parts = stay ? 1 : pass.expert_chunks;
    const std::vector<Var> tokens_of = core::split_rows(tape, tokens, parts),
                           weights_of = core::split_rows(tape, weights, parts);
    for (std::int64_t i = 0; i < parts; ++i) {
      const core::Slice rows = core::slice_of(selection.shape()[0], i, parts);
      const auto at = static_cast<std::size_t>(i);
      chunks_.push_back({.tokens = tokens_of[at],
                         .weights = weights_of[at],
                         .selection = selection.rows(rows.first, rows.count),
                         .exchange = experts_.prepare(elsewhere.rows(rows.first, rows.count), num_experts())});
    }
  }

  void start_first() { start(chunks_.front()); }

  /// Of each token [T,C] the sum of what its experts made of it.
  Var finish() {
    std::vector<Var> given;
    std::optional<core::CombineUnderWay> before;
    for (std::size_t i = 0; i < chunks_.size(); ++i) {
      if (i + 1 < chunks_.size()) start(chunks_[i + 1]);
      const Var made = made_of(chunks_[i]);
      core::CombineUnderWay back(tape_, made, experts_, chunks_[i].exchange);
      if (before) given.push_back(before->finish());
      before.emplace(std::move(back));
    }
    given.push_back(before->finish());
    return core::join_rows(tape_, given);
  }

 private:
  struct Chunk {
    Var tokens, weights;
    Tensor selection;
    ExchangePtr exchange;
    std::optional<core::DispatchUnderWay> tokens_there = {}, weights_there = {};
  };
  std::int64_t num_experts() const { return moe_.config.num_experts; }

  void start(Chunk& chunk) {
    chunk.tokens_there.emplace(tape_, chunk.tokens, experts_, chunk.exchange);
    chunk.weights_there.emplace(tape_, chunk.weights, experts_, chunk.exchange);
  }

  Var made_of(Chunk& chunk) {
    // So that the tokens' gradients are the first to go back, beside what is done meanwhile.
    const Var weights = chunk.weights_there->finish();
    const Var here = chunk.tokens_there->finish();
    const Exchange& exchange = *chunk.exchange;
    const bool is_alone = exchange.selection.storage() == chunk.selection.storage();  // the tokens stay here
    const auto drops = is_alone && !pass_.router.leaves_out() ? core::Drops::None : core::Drops::Some;
    const std::int64_t num_rows = is_alone && pass_.router.expert_choice
                                      ? pass_.most_chosen(chunk.selection, moe_.config.experts_per_token)
                                      : exchange.num_rows;
    const std::int64_t num_here = core::slice_of(num_experts(), experts_.rank(), experts_.size()).count;
    const core::Permutation permutation = core::make_permutation(exchange.selection, num_here, drops, num_rows);
    const Tensor offsets = permutation.offsets();
    if (pass_.load && !tape_.is_replay())
      pass_.load(moe_.layer,
                 is_alone ? permutation.counts : core::make_permutation(chunk.selection, num_experts(), drops).counts,
                 pass_.router.leaves_out() ? core::count_untaken(chunk.selection) : Tensor());
    const Var rows = core::permute(tape_, here, permutation);
    const Var up = product(rows, *moe_.up, moe_.up_bias, offsets);
    const Var gate = product(rows, *moe_.gate, moe_.gate_bias, offsets);
    const Var hidden = core::swiglu(tape_, gate, up, moe_.activation, moe_.activation_limit);
    const Var out = product(hidden, *moe_.down, moe_.down_bias, offsets);
    if (pass_.experts && !tape_.is_replay())
      pass_.experts(moe_.layer, {out.value, hidden.value, weights.value, permutation});
    return core::unpermute(tape_, out, weights, permutation);
  }

  Var product(const Var& rows, const Parameter& weight, const Parameter* bias, const Tensor& offsets) const {
    const Var y = projected_by_experts(tape_, rows, weight, offsets);
    if (bias == nullptr) return y;
    // Of `gate` and `up` the rows here are all that the bias is of.
    const std::int64_t first = bias == moe_.down_bias ? bias->offset()[1] : 0;
    return core::add_grouped_bias(tape_, y, as_var(*bias), offsets, first);
  }

  Tape& tape_;
  const Pass& pass_;
  const Moe& moe_;
  ExpertComm& experts_;
  std::vector<Chunk> chunks_;
};

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
  core::RoutingRule rule{
      .is_sigmoid = config.scores == RouterScores::Sigmoid,
      .groups = {config.num_groups, config.groups_per_token, config.group_score == GroupScore::BestTwo},
      .bias = selection_bias != nullptr ? selection_bias->value : Tensor()};
  core::check(!training.expert_choice || config.router == RouterKind::TopK,
              "{}: experts choose tokens, expected no sparse mixer", name);
  if (training.expert_choice)
    rule.choice = [&](const Tensor& scores) { return pass.choose_tokens(scores, config.experts_per_token); };
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
                                      training.balance / (batch.global_sequences * layers), pass.balance_square)
                 : core::batch_balance_loss(tape, routing.probabilities, routing.selection, *pass.comms.batch,
                                            training.balance / (batch.global_tokens * layers), pass.balance_square));
  if (training.z > 0)
    add_term(tape, losses.z, core::z_loss(tape, logits, training.z / (batch.global_tokens * layers), pass.z_square));
  if (pass.match_routing) add_term(tape, losses.routing, pass.match_routing(tape, layer, routing));
  if (training.capacity_factor > 0 && !training.expert_choice)
    routing.selection = pass.limit_capacity(routing.selection, config.num_experts);
  return routing;
}

Var Moe::forward(Tape& tape, const Pass& pass, const Var& x, AuxiliaryLosses& losses) const {
  const core::ExchangesOf scope("experts of layer", layer);
  const core::Routing routing = route(tape, pass, x, losses);
  TensorComm& ranks = *pass.comms.tensor;
  const Var mine = share_of_stream(tape, pass, x);
  const Tensor selection = core::scatter(routing.selection, ranks);
  const Var own_weights = core::scatter(tape, routing.weights, ranks);
  const Tensor placed = places.empty() ? selection : renumbered_by(places, selection);
  std::vector<std::int64_t> replicated = pass.comms.replicas && layer < std::ssize(pass.replicated)
                                             ? pass.replicated[static_cast<std::size_t>(layer)]
                                             : std::vector<std::int64_t>();
  if (!places.empty()) {
    for (std::int64_t& expert : replicated) expert = places.at(static_cast<std::size_t>(expert));
    std::ranges::sort(replicated);
  }
  std::optional<ReplicatedChoices> choices;
  std::optional<Replicas> copies;
  if (!replicated.empty()) choices.emplace(placed, config.num_experts, replicated);
  TokenChunks tokens(tape, pass, *this, mine, own_weights, selection, choices ? choices->elsewhere : placed);
  if (choices) copies.emplace(tape, *this, *pass.comms.replicas, replicated);
  tokens.start_first();
  Var of_copies;
  if (copies) of_copies = copies->forward(mine, own_weights, choices->here);
  Var beside = shared ? shared->forward(tape, pass, x) : Var();
  if (shared_gate != nullptr) beside = core::gate_rows(tape, core::linear(tape, x, as_var(*shared_gate)), beside);
  Var given = tokens.finish();
  if (copies) given = core::add(tape, given, of_copies);
  const Var routed = stream_of_shares(tape, pass, given);
  return shared ? core::add(tape, routed, beside) : routed;
}

}  // namespace limbeck::nn
