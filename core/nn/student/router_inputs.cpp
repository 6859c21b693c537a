#include "core/nn/student/router_inputs.h"

namespace limbeck::nn {

std::vector<std::vector<double>> mean_router_inputs(const Transformer& model, const Batch& batch, BatchComm& ranks) {
  const std::int64_t width = model.config().width;
  std::vector<double> sums(static_cast<std::size_t>(model.config().num_layers * width + 1), 0.0);
  Tape off(Tape::Mode::Off);
  Pass pass = model.pass(batch);
  pass.sequence_parallel = false;  // every rank of a tensor group then sees all of its tokens
  pass.routed = [&](std::int64_t layer, const Tensor& x) {
    const Tensor exact = x.to(core::sum_dtype(x.dtype()));
    core::dispatch_float("mean_router_inputs", exact.dtype(), [&]<class T>() {
      const std::vector<T> values = core::host_values<T>(exact);
      double* sum = sums.data() + layer * width;
      for (std::size_t i = 0; i < values.size(); ++i) sum[i % static_cast<std::size_t>(width)] += values[i];
    });
  };
  model.forward(off, pass);
  sums.back() = static_cast<double>(batch.num_tokens());

  Tensor total = Tensor::from<double>(model.memory(), {static_cast<std::int64_t>(sums.size())}, sums);
  ranks.sum(total);
  model.pipeline().sum(total);  // each stage has inputs of its own layers, and counts the same tokens
  sums = core::host_values<double>(total);
  const double tokens = sums.back() / static_cast<double>(model.pipeline().size());
  core::check(tokens > 0, "mean router inputs: the calibration sample has no tokens");
  std::vector<std::vector<double>> means(static_cast<std::size_t>(model.config().num_layers));
  for (std::int64_t layer = 0; layer < model.config().num_layers; ++layer)
    if (model.config().is_moe_layer(layer))
      for (std::int64_t i = 0; i < width; ++i)
        means[static_cast<std::size_t>(layer)].push_back(sums[static_cast<std::size_t>(layer * width + i)] / tokens);
  return means;
}

}  // namespace limbeck::nn
