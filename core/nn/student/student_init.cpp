#include "core/nn/student/student_init.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/random.h"

namespace limbeck::nn {
namespace {

using core::fail_usage;
using core::Shape;
using core::StateEntry;

std::string layer_prefix(std::int64_t layer) { return fmt::format("layers.{}.", layer); }

void multiply(core::Tensor& tensor, double factor) {
  core::dispatch_float("upcycle", tensor.dtype(), [&]<class T>() {
    T* values = tensor.mutable_host<T>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<T>(values[i] * factor);
  });
}

void check_layers(const std::vector<std::int64_t>& layers, std::int64_t num_layers) {
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i] < 0 || layers[i] >= num_layers || (i > 0 && layers[i] <= layers[i - 1]))
      fail_usage("student: layer {} at place {}, expected ascending layers below {}", layers[i], i, num_layers);
}

}  // namespace

std::vector<std::int64_t> layers_of_greatest_influence(std::span<const double> influence, std::int64_t keep) {
  const auto n = static_cast<std::int64_t>(influence.size());
  if (keep < 1 || keep > n) fail_usage("student: {} layers of a teacher that has {}", keep, n);
  std::vector<std::int64_t> order(influence.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return influence[static_cast<std::size_t>(a)] > influence[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(keep));
  std::sort(order.begin(), order.end());
  return order;
}

std::vector<std::int64_t> evenly_spaced_layers(std::int64_t num_layers, std::int64_t keep) {
  if (keep < 1 || keep > num_layers) fail_usage("student: {} layers of a teacher that has {}", keep, num_layers);
  std::vector<std::int64_t> layers;
  for (std::int64_t i = 0; i < keep; ++i)
    layers.push_back(
        keep == 1 ? 0 : std::llround(static_cast<double>(i * (num_layers - 1)) / static_cast<double>(keep - 1)));
  return layers;
}

ModelConfig skip_layers(const ModelConfig& config, const std::vector<std::int64_t>& layers) {
  check_layers(layers, config.num_layers);
  ModelConfig kept = config;
  kept.num_layers = static_cast<std::int64_t>(layers.size());
  kept.moe.dense_layers.clear();
  kept.full_layers.clear();
  kept.mamba.attention_layers.clear();
  for (std::int64_t i = 0; i < kept.num_layers; ++i)
    if (std::ranges::binary_search(config.full_layers, layers[static_cast<std::size_t>(i)]))
      kept.full_layers.push_back(i);
  if (config.mamba.num_heads > 0) {
    for (std::int64_t i = 0; i < kept.num_layers; ++i)
      if (!config.is_mamba_layer(layers[static_cast<std::size_t>(i)])) kept.mamba.attention_layers.push_back(i);
    if (std::ssize(kept.mamba.attention_layers) == kept.num_layers) kept.mamba = {};
  }
  if (!layers.empty()) {
    const LayerConfig last = config.layer(layers.back()), former = config.layer(config.num_layers - 1);
    if (last.window != former.window || last.is_moe != former.is_moe) kept.num_predict_layers = 0;
  }
  if (config.moe.num_experts == 0) return kept;
  for (std::int64_t i = 0; i < kept.num_layers; ++i)
    if (!config.is_moe_layer(layers[static_cast<std::size_t>(i)])) kept.moe.dense_layers.push_back(i);
  if (static_cast<std::int64_t>(kept.moe.dense_layers.size()) == kept.num_layers) kept.moe = {};
  return kept;
}

LayerSkip::LayerSkip(const core::StateReader& source, std::int64_t num_layers, std::vector<std::int64_t> layers)
    : source_(source) {
  check_layers(layers, num_layers);
  for (const auto& [name, info] : source.tensors()) {
    if (!name.starts_with("layers.")) {
      origin_[name] = name;
      tensors_[name] = info;
      continue;
    }
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const std::string theirs = layer_prefix(layers[i]);
      if (!name.starts_with(theirs)) continue;
      const std::string ours = layer_prefix(static_cast<std::int64_t>(i)) + name.substr(theirs.size());
      origin_[ours] = name;
      tensors_[ours] = info;
    }
  }
}

void LayerSkip::fill(const std::string& name, const core::StateInfo& /*info*/, StateEntry& entry) const {
  source_.read(origin_.at(name), entry);
}

void check_upcyclable(const ModelConfig& dense, const std::string& where) {
  if (dense.moe.num_experts > 0) fail_usage("upcycle: {} has experts already, expected a dense model", where);
  if (!dense.feed_forward) fail_usage("upcycle: {} has no feed-forwards, expected some", where);
  if (!dense.mlp_gate || dense.mlp_bias)
    fail_usage("upcycle: the feed-forwards of {} {}, expected such as experts are, with a gate and without biases",
               where, dense.mlp_gate ? "have biases" : "have no gate");
}

Upcycled::Upcycled(const core::StateReader& source, const ModelConfig& dense, UpcycleShape shape, bool renormalise,
                   std::uint64_t seed)
    : source_(source), dense_(dense), shape_(shape), renormalise_(renormalise), seed_(seed) {
  check_upcyclable(dense, source.source());
  if (shape.slices < 1 || dense.mlp_width % shape.slices != 0)
    fail_usage("upcycle: {} slices, expected a divisor of the feed-forward width {}", shape.slices, dense.mlp_width);
  const std::int64_t routed = shape.routed_slices();
  if (shape.shared_slices < 0 || routed < 1)
    fail_usage("upcycle: {} shared slices, expected 0 to {} of {}", shape.shared_slices, shape.slices - 1,
               shape.slices);
  if (shape.experts < routed || shape.experts % routed != 0)
    fail_usage("upcycle: {} experts, expected a multiple of {} routed slices", shape.experts, routed);
  exact_ = renormalise && shape.experts_per_token % routed == 0;
  const ModelConfig config = model_config();
  validate(config, "upcycle");
  for (const auto& [name, info] : source.tensors())
    if (name.find(".mlp.") == std::string::npos) tensors_[name] = info;
  const MoeConfig& moe = config.moe;
  for (std::int64_t layer = 0; layer < config.num_layers + config.num_predict_layers; ++layer) {
    const std::int64_t depth = layer - config.num_layers;
    const std::string prefix = (depth < 0 ? layer_prefix(layer) : fmt::format("predict.{}.", depth)) + "moe.";
    tensors_[prefix + "router.weight"] = {{moe.num_experts, config.width}, core::DType::F32};
    tensors_[prefix + "experts.gate"] = {{moe.num_experts, moe.expert_width, config.width}, core::DType::F32};
    tensors_[prefix + "experts.up"] = {{moe.num_experts, moe.expert_width, config.width}, core::DType::F32};
    tensors_[prefix + "experts.down"] = {{moe.num_experts, config.width, moe.expert_width}, core::DType::F32};
    if (moe.shared_width == 0) continue;
    tensors_[prefix + "shared.gate.weight"] = {{moe.shared_width, config.width}, core::DType::F32};
    tensors_[prefix + "shared.up.weight"] = {{moe.shared_width, config.width}, core::DType::F32};
    tensors_[prefix + "shared.down.weight"] = {{config.width, moe.shared_width}, core::DType::F32};
    if (moe.shared_gate) tensors_[prefix + "shared_gate.weight"] = {{1, config.width}, core::DType::F32};
  }
}

ModelConfig upcycled_config(const ModelConfig& dense, const UpcycleShape& shape, bool renormalise) {
  ModelConfig config = dense;
  MoeConfig& moe = config.moe;
  moe.num_experts = shape.experts;
  moe.experts_per_token = shape.experts_per_token;
  moe.expert_width = dense.mlp_width / shape.slices;
  moe.renormalise = renormalise;
  moe.shared_width = shape.shared_slices * moe.expert_width;
  moe.shared_gate = shape.shared_gate;
  return config;
}

void Upcycled::fill(const std::string& name, const core::StateInfo& /*info*/, StateEntry& entry) const {
  const auto moe = name.find("moe.");
  if (moe == std::string::npos) return source_.read(name, entry);
  const std::string dense_prefix = name.substr(0, moe) + "mlp.";
  const std::string part = name.substr(moe);
  if (part == "moe.router.weight") return read_router(name, entry);
  if (part == "moe.experts.gate") return read_experts(dense_prefix + "gate.weight", Matrix::Gate, entry);
  if (part == "moe.experts.up") return read_experts(dense_prefix + "up.weight", Matrix::Up, entry);
  if (part == "moe.experts.down") return read_experts(dense_prefix + "down.weight", Matrix::Down, entry);
  if (part == "moe.shared.gate.weight") return read_shared(dense_prefix + "gate.weight", Matrix::Gate, entry);
  if (part == "moe.shared.up.weight") return read_shared(dense_prefix + "up.weight", Matrix::Up, entry);
  if (part == "moe.shared.down.weight") return read_shared(dense_prefix + "down.weight", Matrix::Down, entry);
  if (part == "moe.shared_gate.weight") return entry.tensor.fill_zero();
  source_.read(name, entry);
}

void Upcycled::read_shared(const std::string& dense_name, Matrix matrix, StateEntry& entry) const {
  const bool is_down = matrix == Matrix::Down;
  StateEntry part{is_down ? Shape{dense_.width, dense_.mlp_width} : Shape{dense_.mlp_width, dense_.width}, entry.offset,
                  entry.tensor};
  source_.read(dense_name, part);
  if (is_down && shape_.shared_gate) multiply(entry.tensor, 2);
}

void Upcycled::read_experts(const std::string& dense_name, Matrix matrix, StateEntry& entry) const {
  const std::int64_t width = dense_.mlp_width / shape_.slices;
  const std::int64_t copies = shape_.experts / shape_.routed_slices();
  const bool is_down = matrix == Matrix::Down;
  const Shape dense_shape = is_down ? Shape{dense_.width, dense_.mlp_width} : Shape{dense_.mlp_width, dense_.width};
  const Shape& box = entry.tensor.shape();
  for (std::int64_t i = 0; i < box[0]; ++i) {
    const std::int64_t slice = shape_.shared_slices + (entry.offset[0] + i) / copies;
    StateEntry part{dense_shape, {entry.offset[1], entry.offset[2]}, entry.tensor.rows(i, 1).reshape({box[1], box[2]})};
    part.offset[is_down ? 1 : 0] += slice * width;  // the inner dimension of the feed-forward
    source_.read(dense_name, part);
  }
  const auto slices = static_cast<double>(shape_.routed_slices());
  if (exact_) {
    if (is_down) multiply(entry.tensor, slices);
    return;
  }
  const double a = renormalise_
                       ? slices
                       : slices * static_cast<double>(shape_.experts) / static_cast<double>(shape_.experts_per_token);
  multiply(entry.tensor, std::cbrt(a));
}

std::vector<double> Upcycled::router_row(const std::string& name, std::int64_t copy) const {
  const core::RandomStream random(seed_, 0, name);
  std::vector<double> row(static_cast<std::size_t>(dense_.width));
  for (std::int64_t j = 0; j < dense_.width; ++j)
    row[static_cast<std::size_t>(j)] =
        shape_.router_deviation * random.normal(static_cast<std::uint64_t>(copy * dense_.width + j));
  if (means_.empty() || !name.starts_with("layers.")) return row;
  const std::vector<double>& mean = means_.at(std::stoul(name.substr(std::string("layers.").size())));
  const double square = std::inner_product(mean.begin(), mean.end(), mean.begin(), 0.0);
  const double along = square > 0 ? std::inner_product(row.begin(), row.end(), mean.begin(), 0.0) / square : 0;
  for (std::size_t j = 0; j < row.size(); ++j) row[j] -= along * mean[j];
  return row;
}

void Upcycled::read_router(const std::string& name, StateEntry& entry) const {
  const std::int64_t copies = shape_.experts / shape_.routed_slices();
  const Shape& box = entry.tensor.shape();
  core::dispatch_float("upcycle", entry.tensor.dtype(), [&]<class T>() {
    T* values = entry.tensor.mutable_host<T>();
    for (std::int64_t i = 0; i < box[0]; ++i) {
      const std::vector<double> row = router_row(name, (entry.offset[0] + i) % copies);
      for (std::int64_t j = 0; j < box[1]; ++j)
        values[i * box[1] + j] = static_cast<T>(row[static_cast<std::size_t>(entry.offset[1] + j)]);
    }
  });
}

}  // namespace limbeck::nn
