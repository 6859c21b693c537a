#include "core/nn/student/expert_start.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <optional>
#include <utility>

namespace limbeck::nn {
namespace {

using core::fail_usage;
using core::Shape;
using core::StateEntry;

constexpr std::string_view layers_are = "layers.";

/// "layers.3.moe.experts.gate": 3 and "experts.gate"; nothing for what is no tensor of a mixture in a layer.
struct MoeName {
  std::size_t layer;
  std::string prefix;  // "layers.3."
  std::string part;
};
std::optional<MoeName> moe_name(const std::string& name, std::string_view block = "moe.") {
  if (!name.starts_with(layers_are)) return std::nullopt;
  const std::size_t dot = name.find('.', layers_are.size());
  if (dot == std::string::npos || name.compare(dot + 1, block.size(), block) != 0) return std::nullopt;
  return MoeName{std::stoul(name.substr(layers_are.size())), name.substr(0, dot + 1),
                 name.substr(dot + 1 + block.size())};
}

bool is_of_predictor(const std::string& name) { return name.starts_with("predict."); }

void multiply(core::Tensor& tensor, double factor) {
  if (factor == 1) return;
  core::dispatch_float("experts", tensor.dtype(), [&]<class T>() {
    T* values = tensor.mutable_host<T>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<T>(values[i] * factor);
  });
}

void add(core::Tensor& sum, const core::Tensor& values, double factor) {
  core::dispatch_float("experts", sum.dtype(), [&]<class T>() {
    T* to = sum.mutable_host<T>();
    const T* from = values.host<T>();
    for (std::int64_t i = 0; i < sum.numel(); ++i) to[i] = static_cast<T>(to[i] + from[i] * factor);
  });
}

void check_keep(const ModelConfig& config, std::int64_t keep, const char* field, const std::string& where) {
  if (config.moe.num_experts == 0) fail_usage("{}: {} has no experts", field, where);
  if (keep < 1 || keep > config.moe.num_experts)
    fail_usage("{} is {}, expected 1 to the {} experts of {}", field, keep, config.moe.num_experts, where);
}

}  // namespace

std::vector<std::int64_t> best_experts(std::span<const double> scores, std::int64_t keep) {
  std::vector<std::int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(), [&](auto e) { return scores[static_cast<std::size_t>(e)]; });
  order.resize(static_cast<std::size_t>(keep));
  std::ranges::sort(order);
  return order;
}

std::vector<ExpertGroup> pruned_experts(std::span<const double> scores, std::int64_t keep) {
  std::vector<ExpertGroup> groups;
  for (const std::int64_t expert : best_experts(scores, keep)) groups.push_back({{.expert = expert}});
  return groups;
}

std::vector<ExpertGroup> merged_experts(const ExpertUse& use, std::int64_t keep) {
  const std::vector<std::int64_t> leaders = best_experts(use.load, keep);
  std::vector<ExpertGroup> groups;
  for (const std::int64_t leader : leaders) groups.push_back({{.expert = leader}});
  for (std::int64_t e = 0; e < use.num_experts(); ++e) {
    if (std::ranges::binary_search(leaders, e)) continue;
    const auto nearest = std::ranges::max_element(leaders, {}, [&](auto leader) { return use.similarity(e, leader); });
    groups[static_cast<std::size_t>(nearest - leaders.begin())].push_back({.expert = e});
  }
  for (ExpertGroup& group : groups) {
    double load = 0;
    for (const ExpertShare& member : group) load += use.load[static_cast<std::size_t>(member.expert)];
    for (ExpertShare& member : group)
      member.share = load > 0 ? use.load[static_cast<std::size_t>(member.expert)] / load
                              : static_cast<double>(member.expert == group.front().expert);
  }
  return groups;
}

ModelConfig fewer_experts_config(const ModelConfig& config, std::int64_t keep, std::int64_t experts_per_token,
                                 const std::string& where) {
  check_keep(config, keep, "student_init.experts.keep", where);
  if (config.moe.num_groups > 1)
    fail_usage("student_init.experts: the experts of {} are of {} groups, which fewer would not fill", where,
               config.moe.num_groups);
  ModelConfig fewer = config;
  fewer.moe.num_experts = keep;
  fewer.moe.experts_per_token =
      experts_per_token > 0 ? experts_per_token : std::min(config.moe.experts_per_token, keep);
  if (fewer.moe.experts_per_token > keep)
    fail_usage("student_init.experts.experts_per_token is {}, expected 1 to keep = {}", experts_per_token, keep);
  if (config.moe.router == RouterKind::SparseMixer && fewer.moe.experts_per_token != config.moe.experts_per_token)
    fail_usage("student_init.experts.experts_per_token is {}, expected {}, by which the router of {} chooses",
               fewer.moe.experts_per_token, config.moe.experts_per_token, where);
  fewer.num_predict_layers = 0;
  return fewer;
}

FewerExperts::FewerExperts(const core::StateReader& source, std::vector<std::vector<ExpertGroup>> groups)
    : source_(source), groups_(std::move(groups)) {
  for (const auto& [name, info] : source.tensors()) {
    if (is_of_predictor(name)) continue;
    core::StateInfo ours = info;
    const auto moe = moe_name(name);
    if (moe && (moe->part.starts_with("experts.") || moe->part.starts_with("router.")))
      ours.shape[0] = std::ssize(groups_.at(moe->layer));
    tensors_[name] = ours;
  }
}

void FewerExperts::fill(const std::string& name, const core::StateInfo& /*info*/, StateEntry& entry) const {
  const core::StateInfo& stored = source_.tensors().at(name);
  const auto moe = moe_name(name);
  const bool is_expert = moe && moe->part.starts_with("experts.");
  if (!is_expert && !(moe && moe->part.starts_with("router."))) return source_.read(name, entry);
  const Shape box = entry.tensor.shape();
  std::vector<std::int64_t> offset = entry.offset;
  for (std::int64_t i = 0; i < box[0]; ++i) {
    const ExpertGroup& group = groups_[moe->layer][static_cast<std::size_t>(entry.offset[0] + i)];
    core::Tensor ours = entry.tensor.rows(i, 1);
    const auto read = [&](const ExpertShare& member, const core::Tensor& to) {
      offset[0] = member.expert;
      StateEntry part{stored.shape, offset, to};
      source_.read(name, part);
    };
    read(group.front(), ours);
    if (!is_expert) continue;
    multiply(ours, group.front().share);
    for (const ExpertShare& member : std::span(group).subspan(1)) {
      if (member.share == 0) continue;
      const core::Tensor theirs = core::Tensor::empty(ours.memory(), ours.dtype(), ours.shape());
      read(member, theirs);
      add(ours, theirs, member.share);
    }
  }
}

DenseMixture dense_mixture(const ExpertUse& use, std::int64_t keep, bool has_shared_gate) {
  DenseMixture mixture;
  if (has_shared_gate) mixture.shared = use.shared_gate / use.tokens;
  double kept = 0, all = 0;
  for (const double weight : use.weight) all += weight;
  for (const std::int64_t e : best_experts(use.weight, keep)) {
    mixture.experts.push_back({e, use.weight[static_cast<std::size_t>(e)]});
    kept += mixture.experts.back().share;
  }
  core::check(kept > 0, "dense start: the experts have no weight on the calibration sample");
  for (ExpertShare& expert : mixture.experts) expert.share *= all / kept / use.tokens;
  return mixture;
}

ModelConfig dense_from_experts_config(const ModelConfig& config, std::int64_t keep, const std::string& where) {
  check_keep(config, keep, "student_init.dense.experts", where);
  if (config.moe.expert_bias) fail_usage("student_init.dense: the experts of {} have biases, expected none", where);
  if (!config.mlp_gate || config.mlp_bias)
    fail_usage("student_init.dense: dense feed-forwards of {} {}, expected such as experts are", where,
               config.mlp_gate ? "have biases" : "have no gate");
  ModelConfig dense = config;
  dense.mlp_width = config.moe.shared_width + keep * config.moe.expert_width;
  if (!config.moe.dense_layers.empty() && dense.mlp_width != config.mlp_width)
    fail_usage(
        "student_init.dense.experts: {} of width {}{} make feed-forwards of width {}, expected {}, as the dense layers "
        "of {} have",
        keep, config.moe.expert_width,
        config.moe.shared_width > 0 ? fmt::format(" and shared ones of {}", config.moe.shared_width) : "",
        dense.mlp_width, config.mlp_width, where);
  dense.moe = {};
  dense.num_predict_layers = 0;
  return dense;
}

DenseFromExperts::DenseFromExperts(const core::StateReader& source, const ModelConfig& config,
                                   std::vector<DenseMixture> mixtures)
    : source_(source), config_(config), mixtures_(std::move(mixtures)) {
  for (const auto& [name, info] : source.tensors())
    if (!is_of_predictor(name) && !moe_name(name)) tensors_[name] = info;
  for (std::size_t layer = 0; layer < mixtures_.size(); ++layer) {
    if (mixtures_[layer].experts.empty()) continue;
    const std::int64_t width = config.moe.shared_width + std::ssize(mixtures_[layer].experts) * config.moe.expert_width;
    const std::string prefix = fmt::format("layers.{}.mlp.", layer);
    tensors_[prefix + "gate.weight"] = {{width, config.width}, core::DType::F32};
    tensors_[prefix + "up.weight"] = {{width, config.width}, core::DType::F32};
    tensors_[prefix + "down.weight"] = {{config.width, width}, core::DType::F32};
  }
}

void DenseFromExperts::fill(const std::string& name, const core::StateInfo& /*info*/, StateEntry& entry) const {
  const auto mlp = moe_name(name, "mlp.");
  if (!mlp || mixtures_.at(mlp->layer).experts.empty()) return source_.read(name, entry);
  const DenseMixture& mixture = mixtures_[mlp->layer];
  const std::string matrix = mlp->part.substr(0, mlp->part.find('.'));  // gate, up or down
  const bool is_down = matrix == "down";
  const int inner = is_down ? 1 : 0;
  const Shape box = entry.tensor.shape();
  const std::int64_t first = entry.offset[inner], last = first + box[inner];
  const std::int64_t f = config_.moe.expert_width, shared = config_.moe.shared_width;
  // Some neurons [begin, end) of what is here, those of an expert or of the shared ones, from `from` on.
  const auto read = [&](const std::string& theirs, std::int64_t expert, std::int64_t begin, std::int64_t end,
                        double share) {
    const std::int64_t low = std::max(begin, first), high = std::min(end, last);
    if (low >= high) return;
    std::vector<std::int64_t> sizes = {box[0], box[1]}, offset = entry.offset;
    sizes[inner] = high - low;
    offset[inner] = low - begin;
    core::Tensor part = core::Tensor::empty(entry.tensor.memory(), entry.tensor.dtype(), Shape(sizes));
    if (expert >= 0) {
      offset.insert(offset.begin(), expert);
      part = part.reshape({1, sizes[0], sizes[1]});
    }
    StateEntry their{source_.tensors().at(theirs).shape, offset, part};
    source_.read(theirs, their);
    if (is_down) multiply(part, share);
    core::dispatch_float("dense start", part.dtype(), [&]<class T>() {
      const T* from = part.host<T>();
      T* to = entry.tensor.mutable_host<T>();
      const std::int64_t rows = sizes[0], columns = sizes[1];
      const std::int64_t row = is_down ? 0 : low - first, column = is_down ? low - first : 0;
      for (std::int64_t i = 0; i < rows; ++i)
        std::copy_n(from + i * columns, columns, to + (row + i) * box[1] + column);
    });
  };
  const std::string prefix = mlp->prefix + "moe.";
  if (shared > 0) read(prefix + "shared." + matrix + ".weight", -1, 0, shared, mixture.shared);
  for (std::size_t n = 0; n < mixture.experts.size(); ++n) {
    const std::int64_t begin = shared + static_cast<std::int64_t>(n) * f;
    read(prefix + "experts." + matrix, mixture.experts[n].expert, begin, begin + f, mixture.experts[n].share);
  }
}

}  // namespace limbeck::nn
