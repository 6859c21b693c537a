#include "core/nn/mamba.h"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/nn/projected.h"
#include "core/nn/stream.h"
#include "core/ops/causal_conv.h"
#include "core/ops/cut_rms_norm.h"
#include "core/ops/gated_rms_norm.h"
#include "core/ops/swiglu.h"
#include "core/random.h"

namespace limbeck::nn {

using core::as_var;

namespace {

// What a cache has of a layer.
enum StateOf : std::size_t { of_inputs, of_writes, of_reads, of_heads };

/// A state of the texts that a pass goes on with; none without a cache.
std::optional<core::SequenceState> state_of(const Pass& pass, std::int64_t layer, StateOf which) {
  if (pass.cache == nullptr) return std::nullopt;
  return core::SequenceState{pass.cache->state(layer, which), pass.slots};
}

const core::SequenceRuns& runs_of(const Pass& pass) {
  const core::SequenceRuns& runs = pass.batch.ring->runs;
  core::check(runs.slots.defined(), "mamba: a cut batch without runs, expected one that was made with them");
  return runs;
}

}  // namespace

Var Mamba::forward(Tape& tape, const Pass& pass, const Var& input, std::int64_t layer) const {
  const core::Sequences sequences{pass.batch.sequence_offsets, pass.batch.document};
  const auto filtered = [&](const Var& of, const Filters& filters, StateOf which) {
    const Var weight = as_var(*filters.weight);
    const std::optional<Var> bias = core::as_optional_var(filters.bias);
    return pass.context != nullptr
               ? core::cut_causal_conv(tape, of, weight, bias, runs_of(pass), *pass.context)
               : core::causal_conv(tape, of, weight, bias, sequences, state_of(pass, layer, which));
  };
  std::vector<Projection> projections = {{x}, {dt}, {z}};
  if (!has_one_group)
    for (const Parameter* weight : {b, c}) projections.push_back({weight});
  std::vector<Var> made = enter_projected(tape, pass, input, projections);
  const auto taken = [&](std::size_t i) { return std::move(made[i]); };
  const auto of_group = [&](const Parameter& weight, std::size_t i) {
    return has_one_group ? enter_stream(tape, pass, projected(tape, pass, input, weight)) : taken(i);
  };
  const Var writes = filtered(of_group(*b, 3), of_b, of_writes), reads = filtered(of_group(*c, 4), of_c, of_reads);
  const Var inputs = filtered(taken(0), of_x, of_inputs), steps = taken(1), gate = taken(2);
  const core::ScanWeights weights{as_var(*dt_bias), as_var(*a_log), as_var(*skip)};
  const Var mixed = pass.context != nullptr
                        ? core::cut_state_scan(tape, inputs, steps, writes, reads, weights, shape, runs_of(pass),
                                               *pass.context)
                        : core::state_scan(tape, inputs, steps, writes, reads, weights, shape, sequences,
                                           state_of(pass, layer, of_heads));
  const bool is_cut = norm->value.shape()[0] < inner_width;
  const Var normed = has_one_group && is_cut
                         ? core::cut_rms_norm(tape, core::swiglu(tape, gate, mixed), as_var(*norm), inner_width,
                                              norm_eps, *pass.comms.tensor)
                         : core::gated_rms_norm(tape, mixed, gate, as_var(*norm), shape.num_groups, norm_eps);
  return exit_projected(tape, pass, normed, *o);
}

CacheLayer Mamba::cached() const {
  const auto before = [](const Filters& filters) {
    const core::Shape& filter = filters.weight->value.shape();
    return CacheLayer::State{{filter[1] - 1, filter[0]}};
  };
  return {.states = {before(of_x),
                     before(of_b),
                     before(of_c),
                     {{shape.num_heads, shape.width, shape.state_width}, /*is_sum=*/true}}};
}

Mamba make_mamba(core::ParameterSet& parameters, const std::string& prefix, const ModelConfig& config,
                 bool sequence_parallel) {
  const MambaConfig& m = config.mamba;
  const bool one_group = m.num_groups == 1;
  const std::int64_t together = one_group ? 1 : m.num_heads / m.num_groups;  // heads that stay on a rank
  const std::int64_t inner = m.inner_width(), states = m.num_groups * m.state_width;
  const core::Cut by_heads{.dimension = 0, .unit = together},
      by_channels{.dimension = 0, .unit = together * m.head_width};
  const core::Cut by_columns{.dimension = 1, .unit = by_channels.unit};
  const core::Cut by_groups{.dimension = 0, .unit = m.state_width};
  // One group's are whole on every rank. What makes them sees the rank's share of the tokens, the filters all tokens,
  // for the rank's share of the heads.
  const core::Cut made = one_group ? core::Cut{.sees_share = sequence_parallel} : by_groups;
  const core::Cut seen = one_group ? core::Cut{.sees_share = true} : by_groups;
  const auto add = [&](const char* name, const core::Shape& shape, const core::Cut& cut, bool decays = true) {
    return &parameters.add(prefix + name, shape, cut, decays);
  };
  const auto filters = [&](const std::string& name, std::int64_t width, const core::Cut& cut) {
    Filters found{add((name + ".weight").c_str(), {width, m.conv_width}, cut, false)};
    if (m.conv_bias) found.bias = add((name + ".bias").c_str(), {width}, cut, false);
    return found;
  };
  Mamba mamba{};
  mamba.z = add("z.weight", {inner, config.width}, by_channels);
  mamba.x = add("x.weight", {inner, config.width}, by_channels);
  mamba.b = add("B.weight", {states, config.width}, made);
  mamba.c = add("C.weight", {states, config.width}, made);
  mamba.dt = add("dt.weight", {m.num_heads, config.width}, by_heads);
  mamba.of_x = filters("conv_x", inner, by_channels);
  mamba.of_b = filters("conv_B", states, seen);
  mamba.of_c = filters("conv_C", states, seen);
  mamba.dt_bias = add("dt_bias", {m.num_heads}, by_heads, false);
  mamba.a_log = add("A_log", {m.num_heads}, by_heads, false);
  mamba.skip = add("D", {m.num_heads}, by_heads, false);
  mamba.norm = add("norm.weight", {inner}, by_channels, false);
  mamba.o = add("o.weight", {config.width, inner}, by_columns);
  mamba.shape = {.num_heads = mamba.dt->value.shape()[0],
                 .width = m.head_width,
                 .num_groups = mamba.b->value.shape()[0] / m.state_width,
                 .state_width = m.state_width,
                 .least_step = m.least_step,
                 .most_step = m.most_step > 0 ? m.most_step : std::numeric_limits<double>::infinity()};
  mamba.inner_width = inner;
  mamba.has_one_group = one_group;
  mamba.norm_eps = config.norm_eps;
  return mamba;
}

bool begin_mamba(Parameter& p, std::uint64_t seed) {
  if (p.name.find(".mamba.") == std::string::npos) return false;
  constexpr double least_decay = 1, most_decay = 16, least_step = 1e-3, most_step = 1e-1;
  const core::RandomStream random(seed, 0, p.name);
  const auto begin = [&](auto&& value_at) {
    core::dispatch_float("init_random", p.value.dtype(), [&]<class T>() {
      std::vector<T> values(static_cast<std::size_t>(p.value.numel()));
      core::for_each_element(p, [&](std::int64_t i, std::int64_t global) {
        values[static_cast<std::size_t>(i)] =
            static_cast<T>(value_at(random.uniform(static_cast<std::uint64_t>(global))));
      });
      p.value.copy_from(core::Tensor::from<T>(p.value.memory()->host(), p.value.shape(), values));
    });
    return true;
  };
  if (p.name.ends_with(".A_log"))
    return begin([](double u) { return std::log(least_decay + u * (most_decay - least_decay)); });
  if (p.name.ends_with(".dt_bias"))
    return begin([](double u) {
      const double step = least_step * std::pow(most_step / least_step, u);
      return step + std::log(-std::expm1(-step));  // whose softplus is the step
    });
  if (p.name.ends_with(".D") || p.name.ends_with(".norm.weight")) return begin([](double) { return 1.0; });
  if (p.global_shape.rank() == 2) {
    const double bound = 1 / std::sqrt(static_cast<double>(p.global_shape[1]));
    return begin([bound](double u) { return bound * (2 * u - 1); });
  }
  return false;
}

}  // namespace limbeck::nn
