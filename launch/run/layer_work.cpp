#include "launch/run/layer_work.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "core/nn/routing_log.h"
#include "core/nn/transformer.h"
#include "launch/run/run_models.h"

namespace limbeck::launch {
namespace {

/// Bytes of the tensors that one layer makes of a sequence of so many tokens. In a first pass what later ones find is
/// made too; the second is what counts. Weights are not packed, as they are by a CPU when they are used often: what is
/// done once is of no pass.
PassParts given_of(const RunConfig& config, const nn::ModelConfig& alone, std::int64_t num_tokens) {
  const core::MemoryPtr memory = core::Memory::imagined({.has_queue = true});
  nn::ModelOptions options = with_precision({.memory = memory}, config.precision);
  options.with_embedding = options.with_head = false;
  const nn::Transformer layer(alone, options);
  const nn::Batch batch = nn::one_sequence(memory, std::vector<std::int32_t>(static_cast<std::size_t>(num_tokens)), 0);
  std::int64_t before = 0;
  const auto since = [&] {
    const std::int64_t now = memory->given_bytes();
    return static_cast<double>(now - std::exchange(before, now));
  };
  PassParts given;
  for (int i = 0; i < 2; ++i) {
    nn::Pass pass = layer.pass(batch);
    nn::RoutingLog routing;  // a replay makes the same choices
    pass.router = {.capacity_factor = config.routing.capacity_factor, .expert_choice = config.routing.expert_choice};
    pass.recompute = config.train.recompute;
    if (pass.recompute) pass.routing = &routing;
    core::Tape tape;
    tape.set_weight_parts(core::Tape::WeightParts::Queued);
    const core::Var in = core::leaf(layer.empty_stream(pass));
    const core::Tensor gradient = layer.empty_stream(pass);
    since();
    const nn::Transformer::Output out = layer.forward_chunk(tape, pass, 0, &in);
    given.forward = since();
    core::accumulate(out.hidden.slot, gradient);
    tape.run();
    given.input_gradient = since();
    tape.run_weight_parts();
    given.weight_gradient = since();
  }
  return given;
}

}  // namespace

nn::ModelConfig layers_alike(nn::ModelConfig model, std::int64_t layer, std::int64_t count) {
  const nn::LayerConfig own = model.layer(layer);
  if (!own.is_moe) model.moe = {};
  if (!own.is_mamba) model.mamba = {};
  model.window = own.window;
  model.rope_base = own.rope_base;
  model.rope_scaling = own.rope_scaling;
  model.window_rope_base = 0;
  model.moe.dense_layers.clear();  // all its layers are as this one
  model.full_layers.clear();
  model.mamba.attention_layers.clear();
  model.num_predict_layers = 0;
  model.num_layers = count;
  return model;
}

std::vector<LayerWork> work_of_layers(const RunConfig& config, const nn::ModelConfig& model) {
  constexpr std::int64_t enough_tokens = 256;  // of which what is made for each is that of any number
  const std::int64_t length = config.data.sequence_length,
                     tokens = std::max<std::int64_t>(1, std::min({length, model.max_positions, enough_tokens}));
  const auto work_of = [&](std::int64_t index) {
    const nn::ModelConfig one = layers_alike(model, index, 1), two = layers_alike(model, index, 2);
    const nn::ParameterCount of_one = nn::count_parameters(one), of_two = nn::count_parameters(two);
    LayerWork work;
    work.values = static_cast<double>(of_two.total - of_one.total);
    work.used_values = static_cast<double>(of_two.active - of_one.active);
    work.weight_flops = 2 * work.used_values;
    work.other_flops =
        nn::forward_flops_per_token(two, length) - nn::forward_flops_per_token(one, length) - work.weight_flops;
    work.given = given_of(config, one, tokens);
    for (double* bytes : {&work.given.forward, &work.given.input_gradient, &work.given.weight_gradient})
      *bytes /= static_cast<double>(tokens);
    return work;
  };
  std::map<std::tuple<bool, bool, std::int64_t>, LayerWork> known;  // by what tells layers of a model apart
  std::vector<LayerWork> layers;
  for (std::int64_t index = 0; index < model.num_layers + (model.num_predict_layers > 0 ? 1 : 0); ++index) {
    const nn::LayerConfig own = model.layer(index);
    const std::tuple kind(own.is_moe, own.is_mamba, own.window);
    if (!known.contains(kind)) known.emplace(kind, work_of(index));
    layers.push_back(known.at(kind));
  }
  return layers;
}

}  // namespace limbeck::launch
