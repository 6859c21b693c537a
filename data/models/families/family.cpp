#include "data/models/families/family.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <vector>

#include "data/models/families/families.h"

namespace limbeck::data {

using Scaling = nn::RopeScaling;

namespace {

const char* name_of(nn::HeadNorm norm) {
  constexpr std::array names{"none", "of each head", "of all heads"};
  return names.at(static_cast<std::size_t>(norm));
}
const char* name_of(nn::NormPlacement placement) {
  constexpr std::array names{"before the blocks", "behind them", "around them"};
  return names.at(static_cast<std::size_t>(placement));
}
const char* name_of(nn::RouterScores scores) {
  return scores == nn::RouterScores::Sigmoid ? "sigmoids" : "a softmax's";
}
const char* name_of(nn::RouterKind router) {
  return router == nn::RouterKind::SparseMixer ? "the sparse mixer" : "the top K";
}
const char* name_of(nn::NormKind kind) { return kind == nn::NormKind::Layer ? "LayerNorm" : "RMSNorm"; }
const char* name_of(nn::Positions positions) {
  constexpr std::array names{"rotary", "learned", "none"};
  return names.at(static_cast<std::size_t>(positions));
}

/// All that a model is beyond a family, in the order of weight.
class Beyond {
 public:
  Beyond(const Family& family, const nn::ModelConfig& config) : traits_(family.traits), config_(config) {
    layers();
    experts();
    if (config.has_attention()) attention();
    biases();
    if (config.has_attention()) rotary();
    if (config.activation != traits_.activation)
      add("activation is {}, expected {}", usual_name(config.activation), usual_name(traits_.activation));
    const double scale = traits_.has_scales         ? config.embedding_scale
                         : traits_.scales_embedding ? std::sqrt(static_cast<double>(config.width))
                                                    : 1;
    if (std::abs(config.embedding_scale - scale) > 1e-9 * scale)
      add("embedding_scale is {}, expected {}", config.embedding_scale, scale);
    if (config.reward_head && *family.reward_architecture == '\0') add("reward_head is {}, expected {}", true, false);
    if (family.beyond != nullptr)
      if (auto more = family.beyond(config)) all_.push_back(std::move(*more));
  }
  const std::vector<std::string>& all() const { return all_; }

 private:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    all_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  void layers() {
    using Mamba = FamilyTraits::Mamba;
    const std::int64_t num_mamba = config_.num_mamba_layers();
    if (num_mamba > 0 && traits_.mamba == Mamba::None)
      add("mamba.num_heads is {}, expected 0: {} of {} layers are Mamba-2's", config_.mamba.num_heads, num_mamba,
          config_.num_layers);
    if (num_mamba == 0 && traits_.mamba != Mamba::None) add("no layer is Mamba-2's, expected some");
    if (num_mamba < config_.num_layers && traits_.mamba == Mamba::All)
      add("mamba.attention_layers has {} layers, expected none", config_.num_layers - num_mamba);
    if (config_.feed_forward != (traits_.mamba != Mamba::All))
      add("feed_forward is {}, expected {}", config_.feed_forward, !config_.feed_forward);
    for (const auto& [name, scale] :
         {std::pair("residual_scale", config_.residual_scale), std::pair("logits_scale", config_.logits_scale)})
      if (scale != 1 && !traits_.has_scales) add("{} is {}, expected 1", name, scale);
    const bool may_lack = traits_.may_lack_positions && config_.positions == nn::Positions::None;
    if (!config_.has_attention() || may_lack) return norms();
    if (config_.positions != traits_.positions)
      add("positions are {}, expected {}", name_of(config_.positions), name_of(traits_.positions));
    norms();
  }
  void norms() {
    if (config_.norm_kind != traits_.norm_kind)
      add("norms are {}, expected {}", name_of(config_.norm_kind), name_of(traits_.norm_kind));
    if (config_.feed_forward && config_.num_moe_layers() < config_.num_layers && config_.mlp_gate != traits_.mlp_gate)
      add("mlp_gate is {}, expected {}", config_.mlp_gate, traits_.mlp_gate);
    if (config_.norm_placement != traits_.norm_placement)
      add("norms stand {}, expected {}", name_of(config_.norm_placement), name_of(traits_.norm_placement));
    if (config_.norm_offset != traits_.norm_offset)
      add("norm_offset is {}, expected {}", config_.norm_offset, traits_.norm_offset);
  }
  void experts() {
    using Experts = FamilyTraits::Experts;
    const std::int64_t count = config_.num_moe_layers();
    const nn::MoeConfig& moe = config_.moe;
    if (traits_.experts == Experts::None && count > 0)
      add("{} of {} layers have experts, expected none", count, config_.num_layers);
    if (count == 0 && traits_.may_lack_experts) return;
    if (traits_.experts == Experts::All && count < config_.num_layers)
      add("moe.dense_layers: {} of {} layers have experts, expected all", count, config_.num_layers);
    if (traits_.experts == Experts::Some && count == 0) add("no layer has experts, expected some");
    if (count == 0 || traits_.experts == Experts::None) return;
    if (moe.router != traits_.router)
      add("moe.router is {}, expected {}", name_of(moe.router), name_of(traits_.router));
    if (!(moe.renormalise ? traits_.may_renormalise : traits_.may_not_renormalise))
      add("moe.renormalise is {}, expected {}", moe.renormalise, !moe.renormalise);
    if (moe.weight_scale != 1 && !traits_.has_weight_scale) add("moe.weight_scale is {}, expected 1", moe.weight_scale);
    if (moe.shared_width > 0 && !traits_.has_shared_experts)
      add("moe.shared_width is {}, expected 0: there are no shared experts", moe.shared_width);
    if (traits_.has_shared_experts && moe.shared_width == 0) add("moe.shared_width is 0, expected shared experts");
    if (traits_.has_shared_experts && moe.shared_width > 0 && moe.shared_gate != traits_.shared_gate)
      add("moe.shared_gate is {}, expected {}", moe.shared_gate, traits_.shared_gate);
    if (moe.scores != traits_.scores)
      add("moe.scores are {}, expected {}", name_of(moe.scores), name_of(traits_.scores));
    if (moe.selection_bias != traits_.selection_bias)
      add("moe.selection_bias is {}, expected {}", moe.selection_bias, traits_.selection_bias);
    if (moe.groups_per_token < moe.num_groups && !traits_.has_groups)
      add("moe.groups_per_token is {}, expected all of {} groups", moe.groups_per_token, moe.num_groups);
    for (std::size_t i = 0; traits_.leads_with_dense && i < moe.dense_layers.size(); ++i)
      if (moe.dense_layers[i] != static_cast<std::int64_t>(i)) {
        add("moe.dense_layers has {}, expected the first layers", moe.dense_layers[i]);
        break;
      }
    for (const auto& [name, has, expected] : {std::tuple("router_bias", moe.router_bias, traits_.router_bias),
                                              {"expert_bias", moe.expert_bias, traits_.expert_bias}})
      if (has != expected) add("moe.{} is {}, expected {}", name, has, expected);
  }
  void attention() {
    using Windows = FamilyTraits::Windows;
    const bool may_lack_norm = traits_.may_lack_head_norm && config_.head_norm == nn::HeadNorm::None;
    if (config_.head_norm != traits_.head_norm && !may_lack_norm)
      add("norms of queries and keys are {}, expected {}", name_of(config_.head_norm), name_of(traits_.head_norm));
    const bool may_lack_bias = traits_.may_lack_attention_bias && !config_.attention_bias;
    if (config_.attention_bias != traits_.attention_bias && !may_lack_bias)
      add("attention_bias is {}, expected {}", config_.attention_bias, traits_.attention_bias);
    if (traits_.has_usual_head_width && config_.head_width * config_.num_heads != config_.width)
      add("head_width is {}, expected width / num_heads = {}", config_.head_width, config_.width / config_.num_heads);
    if (!traits_.has_grouped_heads && config_.num_kv_heads != config_.num_heads)
      add("num_kv_heads is {}, expected as num_heads = {}", config_.num_kv_heads, config_.num_heads);
    if (config_.is_latent() != traits_.has_latents)
      add("latent.rank is {}, expected {}", config_.latent.rank, traits_.has_latents ? "1 or more" : "0");
    if (config_.attention_sinks != traits_.attention_sinks)
      add("attention_sinks is {}, expected {}", config_.attention_sinks, traits_.attention_sinks);
    const double usual = 1 / std::sqrt(static_cast<double>(config_.head_width));
    if (!traits_.has_attention_scale && config_.attention_scale != 0 &&
        std::abs(config_.attention_scale - usual) > 1e-9 * usual)
      add("attention_scale is {}, expected that of the head width, {}", config_.attention_scale, usual);
    const std::size_t full = config_.window > 0 ? config_.full_layers.size() : 0;
    if (config_.window > 0 && traits_.windows == Windows::None) add("window is {}, expected 0", config_.window);
    if (full > 0 && traits_.windows != Windows::Some) add("full_layers has {} layers, expected none", full);
    if (config_.window > 0 && config_.window_rope_base != 0 && !traits_.has_window_rope)
      add("window_rope_base is {}, expected 0", config_.window_rope_base);
    if (config_.window > 0 && config_.window_rope_base == 0 && config_.rope_scaling.kind != Scaling::Kind::None &&
        traits_.has_window_rope)
      add("window_rope_base is 0 beside rope_scaling, expected above 0");
  }

  void rotary() {
    using Ropes = FamilyTraits::Ropes;
    const Scaling& scaling = config_.rope_scaling;
    const bool is_long = scaling.kind == Scaling::Kind::LongRope;
    if (is_long && traits_.ropes != Ropes::Long) add("rope_scaling is LongRoPE, expected another");
    if (!is_long && scaling.kind != Scaling::Kind::None && traits_.ropes == Ropes::Long)
      add("rope_scaling is another than LongRoPE, expected that");
    if (is_long && (scaling.short_scale > 0 || scaling.long_scale > 0) && !traits_.has_long_scales)
      add("rope_scaling.short_scale and long_scale are {} and {}, expected 0", scaling.short_scale, scaling.long_scale);
    if (is_long && !(scaling.short_scale > 0 && scaling.long_scale > 0) && traits_.has_long_scales)
      add("rope_scaling.short_scale and long_scale are {} and {}, expected above 0", scaling.short_scale,
          scaling.long_scale);
    if (!config_.is_latent() && config_.turning_width() != config_.head_width && !traits_.may_turn_partly)
      add("rotary_width is {}, expected that of a head, {}", config_.rotary_width, config_.head_width);
  }
  void biases() {
    const auto compare = [&](const char* name, bool is_there, bool expected) {
      if (is_there != expected) add("{} is {}, expected {}", name, is_there, expected);
    };
    if (config_.has_attention())
      compare("attention_output_bias", config_.attention_output_bias, traits_.attention_output_bias);
    if (config_.feed_forward && config_.num_moe_layers() < config_.num_layers)
      compare("mlp_bias", config_.mlp_bias, traits_.mlp_bias);
    if (!config_.reward_head) compare("head_bias", config_.head_bias, traits_.head_bias);
  }

  const FamilyTraits& traits_;
  const nn::ModelConfig& config_;
  std::vector<std::string> all_;
};

}  // namespace

std::span<const Family* const> families() {
  static const std::array all{
      &llama_family(),   &mistral_family(),   &mixtral_family(),  &qwen2_family(),       &qwen2_moe_family(),
      &qwen3_family(),   &qwen3_moe_family(), &olmo2_family(),    &olmoe_family(),       &gemma3_family(),
      &phi3_family(),    &phimoe_family(),    &gpt2_family(),     &deepseek_v2_family(), &deepseek_v3_family(),
      &gpt_oss_family(), &glm4_family(),      &glm4_moe_family(), &mamba2_family(),      &granite_hybrid_family(),
      &bamba_family()};
  return all;
}

const Family& family_of(const std::string& architecture, const std::string& where) {
  std::vector<std::string> names;
  for (const Family* family : families()) {
    const bool is_other = architecture == family->other_architecture || architecture == family->reward_architecture;
    if (architecture == family->architecture || (!architecture.empty() && is_other)) return *family;
    names.emplace_back(family->architecture);
  }
  core::fail("{}: architectures is {}, expected one of {}", where, architecture, fmt::join(names, ", "));
}

const Family& family_of_gguf(const std::string& architecture, bool is_mixture, const std::string& where,
                             std::optional<nn::RouterScores> scores) {
  std::vector<std::string> names;
  for (const Family* family : families()) {
    const bool has_experts = family->traits.experts != FamilyTraits::Experts::None;
    const bool is_either = family->traits.may_lack_experts;
    if (architecture == family->gguf && (is_either || has_experts == is_mixture) &&
        (!scores || *scores == family->traits.scores))
      return *family;
    if (*family->gguf != '\0' && std::ranges::find(names, family->gguf) == names.end())
      names.emplace_back(family->gguf);
  }
  core::fail("{}: general.architecture is {}{}, expected one of {}", where, architecture,
             is_mixture ? " with experts" : "", fmt::join(names, ", "));
}

std::optional<std::string> beyond(const Family& family, const nn::ModelConfig& config) {
  const Beyond found(family, config);
  if (found.all().empty()) return std::nullopt;
  return found.all().front();
}

namespace {

/// llama.cpp has one epsilon, takes the sum of the best two scores of a group whatever the scores are, and one mscale.
std::optional<std::string> beyond_gguf_latents(const nn::ModelConfig& config) {
  if (!config.is_latent()) return std::nullopt;
  if (config.latent.norm_eps != config.norm_eps)
    return fmt::format("latent.norm_eps is {}, expected norm_eps = {}", config.latent.norm_eps, config.norm_eps);
  const nn::MoeConfig& moe = config.moe;
  if (moe.groups_per_token < moe.num_groups && moe.group_score == nn::GroupScore::Best)
    return "moe.group_score is the best of a group, expected the best two";
  const Scaling& scaling = config.rope_scaling;
  if (scaling.kind == Scaling::Kind::Yarn && (scaling.mscale_all == 0 || scaling.mscale != scaling.mscale_all))
    return fmt::format("rope_scaling.mscale is {}, expected mscale_all = {}, above 0", scaling.mscale,
                       scaling.mscale_all);
  return std::nullopt;
}

}  // namespace

std::optional<std::string> beyond_gguf(const Family& family, const nn::ModelConfig& config) {
  if (const auto more = beyond(family, config)) return more;
  if (config.num_mamba_layers() > 0 && (config.mamba.least_step > 0 || config.mamba.most_step > 0))
    return fmt::format("mamba.least_step and most_step are {} and {}, expected 0: steps are held within nothing",
                       config.mamba.least_step, config.mamba.most_step);
  if (family.traits.mamba == FamilyTraits::Mamba::All && !config.mamba.conv_bias)
    return "mamba.conv_bias is false, expected true";
  if (config.reward_head) return "reward_head is true, expected false: a GGUF file is of a model that predicts tokens";
  if (*family.gguf == '\0') return fmt::format("{} has no general.architecture", family.name);
  const std::int64_t num_moe = config.num_moe_layers();
  if (num_moe > 0 && num_moe < config.num_layers && !family.traits.leads_with_dense)
    return fmt::format("moe.dense_layers: {} of {} layers have experts, expected all", num_moe, config.num_layers);
  if (num_moe > 0 && family.gguf_renormalises && config.moe.renormalise != *family.gguf_renormalises)
    return fmt::format("moe.renormalise is {}, expected {}", config.moe.renormalise, *family.gguf_renormalises);
  if (config.activation_limit != family.gguf_activation_limit)
    return fmt::format("activation_limit is {}, expected {}", config.activation_limit, family.gguf_activation_limit);
  if (config.window > 0 && !family.gguf_says_window) return fmt::format("window is {}, expected 0", config.window);
  for (std::int64_t layer = 0; config.window > 0 && layer < config.num_layers; ++layer)
    if (const bool full = config.layer(layer).window == 0; full != (family.gguf_is_full && family.gguf_is_full(layer)))
      return fmt::format("layer {} {} window, expected {}", layer, full ? "has no" : "has a", full ? "one" : "none");
  if (config.window > 0 && config.window_rope_base != family.gguf_window_rope_base)
    return fmt::format("window_rope_base is {}, expected {}", config.window_rope_base, family.gguf_window_rope_base);
  if (config.num_mamba_layers() > 0 && !config.has_attention()) return std::nullopt;
  const double usual = 1 / std::sqrt(static_cast<double>(config.head_width));
  const double scale = config.attention_scale > 0 ? config.attention_scale : usual;
  if (const auto more = beyond_gguf_latents(config)) return more;
  const double taken = family.gguf_attention_scale != nullptr ? family.gguf_attention_scale(config) : usual;
  if (std::abs(scale - taken) > 1e-9 * taken && !family.traits.has_scales)
    return fmt::format("attention_scale is {}, expected {}", scale, taken);
  if (const Scaling& scaling = config.rope_scaling; scaling.kind == Scaling::Kind::Yarn) {
    if (scaling.truncates != family.gguf_rope_truncates)
      return fmt::format("rope_scaling.truncates is {}, expected {}", scaling.truncates, family.gguf_rope_truncates);
    if (scaling.attention_factor > 0)
      return fmt::format("rope_scaling.attention_factor is {}, expected 0", scaling.attention_factor);
    if (!config.is_latent() && scaling.mscale > 0 && scaling.mscale_all > 0)
      return fmt::format("rope_scaling.mscale is {}, expected 0", scaling.mscale);
  }
  return std::nullopt;
}

std::optional<std::string> beyond_all_families(const nn::ModelConfig& config, BeyondFormat format) {
  const Family* nearest = nullptr;
  std::size_t fewest = 0;
  for (const Family* family : families()) {
    if (!format(*family, config)) return std::nullopt;
    std::size_t count = Beyond(*family, config).all().size();
    const bool is_mixture = family->traits.experts != FamilyTraits::Experts::None;
    if (is_mixture != (config.moe.num_experts > 0)) count += 100;  // far from it
    if (nearest == nullptr || count < fewest) nearest = family, fewest = count;
  }
  return fmt::format("{} ({})", *format(*nearest, config), nearest->name);
}

const Family& family_for(const nn::ModelConfig& config, std::string_view what, BeyondFormat format) {
  for (const Family* family : families())
    if (!format(*family, config)) return *family;
  core::fail("{}: {}", what, *beyond_all_families(config, format));
}

nn::ModelConfig in_family(const Family& family, nn::ModelConfig config) {
  if (!family.traits.predicts) config.num_predict_layers = 0;
  return config;
}

}  // namespace limbeck::data
