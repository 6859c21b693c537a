#include "core/nn/student/activity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace limbeck::nn {
namespace {

/// Calls f(row, values) for each row of [T,N].
template <class F>
void for_each_row(const Tensor& x, const F& f) {
  const Tensor exact = x.to(core::sum_dtype(x.dtype()));
  const auto width = static_cast<std::size_t>(x.shape()[1]);
  core::dispatch_float("activity", exact.dtype(), [&]<class T>() {
    const std::vector<T> values = core::host_values<T>(exact);
    for (std::size_t first = 0; first + width <= values.size() && width > 0; first += width)
      f(std::span<const T>(values).subspan(first, width));
  });
}

std::vector<double> magnitudes(const Tensor& x) {
  std::vector<double> sums(static_cast<std::size_t>(x.shape()[1]), 0.0);
  for_each_row(x, [&](auto row) {
    for (std::size_t i = 0; i < row.size(); ++i) sums[i] += std::abs(static_cast<double>(row[i]));
  });
  return sums;
}

/// Of `count` parts of a row side by side, each part's length.
std::vector<double> lengths(const Tensor& x, std::int64_t count) {
  std::vector<double> sums(static_cast<std::size_t>(count), 0.0);
  for_each_row(x, [&](auto row) {
    const std::size_t width = row.size() / sums.size();
    for (std::size_t n = 0; n < sums.size(); ++n) {
      const auto part = row.subspan(n * width, width);
      sums[n] += std::sqrt(std::inner_product(part.begin(), part.end(), part.begin(), 0.0));
    }
  });
  return sums;
}

void add_channels(const Tensor& stream, std::vector<double>& sums) {
  for_each_row(stream, [&](auto row) {
    const double square = std::inner_product(row.begin(), row.end(), row.begin(), 0.0);
    if (square == 0) return;
    const double rms = std::sqrt(square / static_cast<double>(row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) sums[i] += std::abs(static_cast<double>(row[i])) / rms;
  });
}

std::vector<std::int64_t> greatest(const std::vector<double>& scores, std::int64_t keep) {
  if (scores.empty()) return {};
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(), [&](auto i) { return scores[static_cast<std::size_t>(i)]; });
  order.resize(static_cast<std::size_t>(keep));
  std::ranges::sort(order);
  return order;
}

std::vector<std::vector<std::int64_t>> greatest_by_layer(const std::vector<std::vector<double>>& scores,
                                                         std::int64_t keep) {
  std::vector<std::vector<std::int64_t>> kept;
  if (keep == 0) return kept;
  for (const std::vector<double>& layer : scores) kept.push_back(greatest(layer, keep));
  return kept;
}

}  // namespace

KeptParts Activity::most_active(std::int64_t mlp_width, std::int64_t num_kv_heads, std::int64_t width) const {
  return {.neurons = greatest_by_layer(neurons, mlp_width),
          .kv_heads = greatest_by_layer(kv_heads, num_kv_heads),
          .channels = width > 0 ? greatest(channels, width) : std::vector<std::int64_t>()};
}

Activity activity_of(const Transformer& model, const Batch& batch, BatchComm& ranks,
                     std::span<const std::int64_t> layers) {
  const ModelConfig& config = model.config();
  TensorComm& tensor = *model.comms().tensor;
  const auto summed = [&](Tensor all) {
    ranks.sum(all);
    return core::host_values<double>(all);
  };
  const auto as_tensor = [&](const std::vector<double>& values) {
    return Tensor::from<double>(model.memory(), {std::ssize(values)}, values);
  };
  Tape off(Tape::Mode::Off);
  Pass pass = model.pass(batch);
  pass.sequence_parallel = false;  // every rank of a tensor group then sees all of its tokens
  std::vector<double> neurons, heads;
  const std::int64_t group = config.num_heads / config.num_kv_heads * config.value_width();
  pass.inside = [&](Inside what, const Tensor& x) {
    if (what == Inside::Neurons) neurons = magnitudes(x);
    if (what == Inside::Heads) heads = lengths(x, x.shape()[1] / group);
  };
  Activity activity;
  activity.channels.resize(static_cast<std::size_t>(config.width));
  Var stream = model.embedded(off, pass);
  for (const std::int64_t layer : layers) {
    add_channels(stream.value, activity.channels);
    stream = model.layer(off, pass, layer, stream);
    activity.kv_heads.push_back(summed(tensor.gather(as_tensor(heads), 0, config.num_kv_heads)));
    activity.neurons.push_back(config.is_moe_layer(layer)
                                   ? std::vector<double>()
                                   : summed(tensor.gather(as_tensor(neurons), 0, config.mlp_width)));
  }
  activity.channels = summed(as_tensor(activity.channels));
  return activity;
}

}  // namespace limbeck::nn
