#include "launch/run/stage_costs.h"

#include <algorithm>
#include <string>

#include "parallel/axes/mesh.h"

namespace limbeck::launch {
namespace {

constexpr double uses = 2;                  // of a tensor where it is made: written and read
constexpr double attention_backward = 2.5;  // five products of each pair of a query and a key to two

double bytes_of_value(core::DType dtype) { return static_cast<double>(core::bytes_of(dtype, 1)); }

void add(PassParts& to, const PassParts& more, double times = 1) {
  to.forward += times * more.forward;
  to.input_gradient += times * more.input_gradient;
  to.weight_gradient += times * more.weight_gradient;
}

/// Of a matrix' gradient that a micro-batch's products are added to, for each of its tokens.
double gradient_bytes(const RunConfig& config, double values, double tokens) {
  return config.adapters ? 0 : uses * values * bytes_of_value(config.precision.gradient) / tokens;
}

}  // namespace

double flops_a_byte(core::DType compute, bool on_gpu) {
  if (compute == core::DType::BF16) return on_gpu ? 190 : 33;
  if (compute == core::DType::F64) return 5;
  return on_gpu ? 12.5 : 10;
}

PassParts costs_of_layer(const LayerWork& work, const RunConfig& config, double tokens, double a_byte) {
  const double again = config.train.recompute ? work.weight_flops + work.other_flops : 0;
  const std::string& layout = config.parallel.layout;
  const double expert_ranks = layout.empty() ? 1 : std::max(parallel::parse_layout(layout).ep, 1);
  const double values = work.used_values + (work.values - work.used_values) / expert_ranks;
  return {.forward = work.weight_flops + work.other_flops + a_byte * uses * work.given.forward,
          .input_gradient = work.weight_flops + attention_backward * work.other_flops + again +
                            a_byte * (work.given.forward + uses * work.given.input_gradient),
          .weight_gradient = (config.adapters ? 0 : work.weight_flops) +
                             a_byte * (uses * work.given.weight_gradient + gradient_bytes(config, values, tokens))};
}

parallel::PipelineCosts costs_of_stages(const RunConfig& config, const nn::ModelConfig& model,
                                        const std::vector<core::Slice>& parts, const StagePasses& passes) {
  const PrecisionConfig& precision = config.precision;
  const auto of_step = static_cast<double>(config.batch.sequences_per_step * config.data.sequence_length);
  const double a_byte = flops_a_byte(precision.compute, passes.on_gpu),
               tokens = std::max(1.0, of_step / static_cast<double>(passes.readers * config.batch.micro_batches));
  std::vector<PassParts> layers;
  double forward = 0, forward_flops = 0;
  for (const LayerWork& work : work_of_layers(config, model)) {
    layers.push_back(costs_of_layer(work, config, tokens, a_byte));
    forward += layers.back().forward;
    forward_flops += work.weight_flops + work.other_flops;
  }
  const auto width = static_cast<double>(model.width),
             rows = static_cast<double>(model.reward_head ? 1 : model.vocabulary);
  // Logits and their gradients are of the dtype of sums; products of a frozen head give no gradient of it.
  const double logits = 2 * uses * rows * bytes_of_value(core::sum_dtype(precision.compute)),
               of_head = (config.adapters ? 2 : 3) * 2 * rows * width +
                         a_byte * (logits + gradient_bytes(config, rows * width, tokens));
  const double row = a_byte * uses * width * bytes_of_value(precision.master);
  parallel::PipelineCosts costs;
  for (const core::Slice& part : parts) {
    PassParts sum;
    for (std::int64_t layer = part.first; layer < part.first + part.count; ++layer)
      add(sum, layers[static_cast<std::size_t>(layer)]);
    if (&part == &parts.front()) add(sum, {.forward = row, .weight_gradient = config.adapters ? 0 : row});
    if (&part == &parts.back()) {
      // Each layer that predicts reads the stream beside an embedding, by a product of its own.
      const double reads = 4 * width * width;
      const auto further = static_cast<double>(model.num_predict_layers);
      if (further > 0) add(sum, layers.back(), further);
      add(sum, {.forward = reads, .input_gradient = reads, .weight_gradient = reads}, further);
      sum.forward += (1 + further) * of_head + passes.beside_head * forward / forward_flops;
    }
    costs.forward.push_back(sum.forward);
    costs.input_gradient.push_back(sum.input_gradient);
    costs.weight_gradient.push_back(sum.weight_gradient);
  }
  return costs;
}

}  // namespace limbeck::launch
