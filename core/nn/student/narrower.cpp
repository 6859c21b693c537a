#include "core/nn/student/narrower.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace limbeck::nn {
namespace {

using core::fail_usage;
using core::Shape;
using core::StateEntry;

/// "layers.3.mlp.up.weight": 3 and "mlp.up.weight"; of what is in no layer -1 and the name.
std::pair<std::int64_t, std::string> in_layer(const std::string& name) {
  constexpr std::string_view layers = "layers.";
  if (!name.starts_with(layers)) return {-1, name};
  const std::size_t dot = name.find('.', layers.size());
  return {std::stoll(name.substr(layers.size())), name.substr(dot + 1)};
}

std::int64_t check_size(const char* field, std::int64_t wanted, std::int64_t there, const std::string& where) {
  if (wanted > there)
    fail_usage("student_init.width.{} is {}, expected at most the {} of {}", field, wanted, there, where);
  return wanted > 0 ? wanted : there;
}

bool is_norm(const std::string& part) {
  return part.ends_with("attention_norm.weight") || part.ends_with("attention_post_norm.weight") ||
         part.ends_with("mlp_norm.weight") || part.ends_with("mlp_post_norm.weight") || part == "norm.weight";
}

/// The size of what is kept of each layer; `all` where nothing is cut.
std::int64_t size_of(const std::vector<std::vector<std::int64_t>>& kept, std::int64_t all) {
  for (const auto& layer : kept)
    if (!layer.empty()) return std::ssize(layer);
  return all;
}

}  // namespace

ModelConfig narrower_config(const ModelConfig& config, std::int64_t mlp_width, std::int64_t num_kv_heads,
                            std::int64_t width, const std::string& where) {
  ModelConfig narrower = config;
  narrower.num_predict_layers = 0;
  if (config.is_latent())
    fail_usage("student_init.width: the attention of {} is of latents, expected heads of the usual kind", where);
  if (config.num_mamba_layers() > 0)
    fail_usage("student_init.width: {} of {} layers of {} are Mamba-2's, expected attention in all",
               config.num_mamba_layers(), config.num_layers, where);
  if (mlp_width > 0 && std::ssize(config.moe.dense_layers) == 0 && config.moe.num_experts > 0)
    fail_usage("student_init.width.mlp_width is {}, but {} has no dense feed-forwards", mlp_width, where);
  narrower.mlp_width = check_size("mlp_width", mlp_width, config.mlp_width, where);
  narrower.num_kv_heads = check_size("num_kv_heads", num_kv_heads, config.num_kv_heads, where);
  narrower.num_heads = config.num_heads / config.num_kv_heads * narrower.num_kv_heads;
  narrower.width = check_size("width", width, config.width, where);
  if (narrower.width == config.width) return narrower;
  if (config.norm_kind != NormKind::Rms)
    fail_usage("student_init.width.width is {}, expected 0: the norms of {} take a mean over all channels", width,
               where);
  narrower.norm_eps = config.norm_eps * static_cast<double>(config.width) / static_cast<double>(narrower.width);
  return narrower;
}

Narrower::Narrower(const core::StateReader& source, const ModelConfig& config, KeptParts kept)
    : source_(source),
      config_(config),
      narrower_(narrower_config(config, size_of(kept.neurons, 0), size_of(kept.kv_heads, 0), std::ssize(kept.channels),
                                source.source())),
      kept_(std::move(kept)) {
  for (const auto& [name, info] : source.tensors()) {
    if (name.starts_with("predict.")) continue;
    const Selection selection = selection_of(name, info);
    core::StateInfo ours = info;
    for (int d = 0; d < info.shape.rank(); ++d)
      if (const Dimension& cut = selection.dimensions[static_cast<std::size_t>(d)]; cut.kept != nullptr)
        ours.shape[d] = std::ssize(*cut.kept) * cut.unit;
    tensors_[name] = ours;
  }
}

Narrower::Selection Narrower::selection_of(const std::string& name, const core::StateInfo& info) const {
  const auto [layer, part] = in_layer(name);
  Selection selection{.dimensions = std::vector<Dimension>(static_cast<std::size_t>(info.shape.rank()))};
  const Dimension channels{kept_.channels.empty() ? nullptr : &kept_.channels, 1};
  const auto of_layer = [&, at = layer](const std::vector<std::vector<std::int64_t>>& parts, std::int64_t unit) {
    const bool is_cut = at >= 0 && !parts.empty() && !parts.at(static_cast<std::size_t>(at)).empty();
    return Dimension{is_cut ? &parts[static_cast<std::size_t>(at)] : nullptr, unit};
  };
  const std::int64_t queries = config_.num_heads / config_.num_kv_heads;
  const Dimension neurons = of_layer(kept_.neurons, 1);
  const Dimension by_query = of_layer(kept_.kv_heads, queries * config_.head_width);
  const Dimension by_key = of_layer(kept_.kv_heads, config_.head_width);
  const Dimension head = of_layer(kept_.kv_heads, queries);
  const auto set = [&](std::initializer_list<Dimension> all) { selection.dimensions = all; };
  const auto share = [](std::int64_t kept, std::int64_t all) {
    return std::sqrt(static_cast<double>(all) / static_cast<double>(kept));
  };
  const bool cuts_channels = channels.kept != nullptr, cuts_heads = by_query.kept != nullptr;

  if (part == "attention.q.weight") return set({by_query, channels}), selection;
  if (part == "attention.k.weight" || part == "attention.v.weight") return set({by_key, channels}), selection;
  if (part == "attention.o.weight") return set({channels, by_query}), selection;
  if (part == "attention.q.bias") return set({by_query}), selection;
  if (part == "attention.k.bias" || part == "attention.v.bias") return set({by_key}), selection;
  if (part == "attention.sinks") return set({head}), selection;
  if (part == "attention.q_norm.weight" || part == "attention.k_norm.weight") {
    if (config_.head_norm != HeadNorm::AllHeads || !cuts_heads) return selection;
    set({part == "attention.q_norm.weight" ? by_query : by_key});
    selection.scale = share(narrower_.num_kv_heads, config_.num_kv_heads);
    selection.offset = config_.norm_offset;
    return selection;
  }
  if (part == "mlp.gate.weight" || part == "mlp.up.weight") return set({neurons, channels}), selection;
  if (part == "mlp.down.weight") return set({channels, neurons}), selection;
  if (part == "mlp.gate.bias" || part == "mlp.up.bias") return set({neurons}), selection;
  if (is_norm(part)) {
    set({channels});
    if (cuts_channels) selection.scale = share(narrower_.width, config_.width), selection.offset = config_.norm_offset;
    return selection;
  }
  // What reads or writes the stream otherwise.
  if (part == "embed.weight" || part == "position_embed.weight" || part == "head.weight" ||
      part == "moe.router.weight" || part == "moe.shared_gate.weight" || part == "moe.shared.gate.weight" ||
      part == "moe.shared.up.weight")
    return set({{}, channels}), selection;
  if (part == "moe.shared.down.weight") return set({channels, {}}), selection;
  if (part == "moe.experts.gate" || part == "moe.experts.up") return set({{}, {}, channels}), selection;
  if (part == "moe.experts.down") return set({{}, channels, {}}), selection;
  if (part == "moe.experts.down_bias") return set({{}, channels}), selection;
  if (part == "attention.o.bias" || part == "mlp.down.bias") return set({channels}), selection;
  return selection;
}

void Narrower::fill(const std::string& name, const core::StateInfo& /*info*/, StateEntry& entry) const {
  const core::StateInfo& stored = source_.tensors().at(name);
  const Selection selection = selection_of(name, stored);
  const Shape box = entry.tensor.shape();
  const auto rank = static_cast<std::size_t>(box.rank());
  // The least box of the source that has what is wanted, and where in it each index lies.
  std::vector<std::int64_t> offset(rank), sizes(rank);
  std::vector<std::vector<std::int64_t>> places(rank);
  for (std::size_t d = 0; d < rank; ++d) {
    const Dimension& cut = selection.dimensions[d];
    for (std::int64_t i = 0; i < box[static_cast<int>(d)]; ++i) {
      const std::int64_t ours = entry.offset[d] + i;
      places[d].push_back(cut.kept == nullptr
                              ? ours
                              : (*cut.kept)[static_cast<std::size_t>(ours / cut.unit)] * cut.unit + ours % cut.unit);
    }
    offset[d] = places[d].front();
    sizes[d] = places[d].back() + 1 - offset[d];
    for (std::int64_t& place : places[d]) place -= offset[d];
  }
  StateEntry there{stored.shape, offset,
                   core::Tensor::empty(entry.tensor.memory(), entry.tensor.dtype(), Shape(sizes))};
  source_.read(name, there);
  core::dispatch_float("narrower", entry.tensor.dtype(), [&]<class T>() {
    const T* from = there.tensor.host<T>();
    T* to = entry.tensor.mutable_host<T>();
    const std::vector<std::int64_t>& columns = places.back();
    const std::int64_t width = sizes.back();
    std::vector<std::size_t> at(rank - 1, 0);  // of all dimensions but the last
    for (std::int64_t row = 0; row < entry.tensor.numel() / std::ssize(columns); ++row) {
      std::int64_t begin = 0;
      for (std::size_t d = 0; d + 1 < rank; ++d) begin = begin * sizes[d] + places[d][at[d]];
      for (const std::int64_t column : columns) {
        const T value = from[begin * width + column];
        *to++ = selection.scale == 1 ? value
                                     : static_cast<T>((value + selection.offset) * selection.scale - selection.offset);
      }
      for (std::size_t d = rank - 1; d-- > 0;) {
        if (++at[d] < places[d].size()) break;
        at[d] = 0;
      }
    }
  });
}

}  // namespace limbeck::nn
