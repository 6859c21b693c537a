#include "core/nn/student/influence.h"

#include "core/ops/cosine.h"

namespace limbeck::nn {

std::vector<double> block_influence(const Transformer& model, const Batch& batch, BatchComm& ranks) {
  std::vector<double> sums;
  Tape off(Tape::Mode::Off);
  Pass pass = model.pass(batch);
  pass.tap = [&](std::int64_t, const Tensor& in, const Tensor& out) { sums.push_back(core::cosine_distance(in, out)); };
  model.forward(off, pass);
  sums.push_back(static_cast<double>(batch.num_tokens()));

  Tensor total = Tensor::from<double>(model.memory(), {static_cast<std::int64_t>(sums.size())}, sums);
  ranks.sum(total);
  std::vector<double> influence = core::host_values<double>(total);
  const double tokens = influence.back();
  influence.pop_back();
  core::check(tokens > 0, "block influence: the calibration sample has no tokens");
  for (double& value : influence) value /= tokens;
  return influence;
}

}  // namespace limbeck::nn
