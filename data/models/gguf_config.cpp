#include "data/models/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/nn/rope_scaling.h"
#include "core/ops/rope.h"
#include "data/models/gguf_equal.h"
#include "data/models/gguf_names.h"
#include "data/models/llama3_factors.h"

namespace limbeck::data {

using core::check;
using core::Shape;

namespace {

constexpr const char* rope_factors = "rope_freqs.weight";

/// Metadata of the file's architecture: "attention.head_count" is "llama.attention.head_count".
class ArchitectureKeys {
 public:
  ArchitectureKeys(const GgufFile& file, const std::string& architecture) : file_(file), prefix_(architecture + ".") {}

  std::string name(const char* key) const { return prefix_ + key; }
  const std::string& where() const { return file_.path(); }
  bool has(const char* key) const { return file_.has(name(key)); }
  std::int64_t integer(const char* key) const { return file_.integer(name(key)); }
  std::int64_t integer_or(const char* key, std::int64_t otherwise) const {
    return file_.integer_or(name(key), otherwise);
  }
  bool flag_or(const char* key, bool otherwise) const { return has(key) ? file_.boolean(name(key)) : otherwise; }
  const std::vector<std::int64_t>& integers(const char* key) const { return file_.integers(name(key)); }
  double number(const char* key) const { return file_.number(name(key)); }
  double number_or(const char* key, double otherwise) const { return has(key) ? number(key) : otherwise; }
  std::string text_or(const char* key, const char* otherwise) const {
    return has(key) ? file_.text(name(key)) : otherwise;
  }

 private:
  const GgufFile& file_;
  std::string prefix_;
};

/// The tensor's values.
std::vector<double> factors_of(const GgufFile& file, const char* name, std::int64_t count) {
  const auto found = file.tensors().find(name);
  check(found != file.tensors().end(), "{}: has no tensor {}, expected one of shape [{}]", file.path(), name, count);
  check(found->second.shape == Shape{count}, "{}: tensor {} has shape {}, expected [{}]", file.path(), name,
        found->second.shape, count);
  std::vector<float> values(static_cast<std::size_t>(count));
  file.read(found->second, 0, count, values.data());
  return {values.begin(), values.end()};
}

/// Factors that frequencies are divided by, of which the file does not say where they are from: those of Llama 3's
/// scaling, or any, which are then LongRoPE's of every length.
nn::RopeScaling scaling_of_factors(const GgufFile& file, const nn::ModelConfig& config) {
  const std::vector<double> factors = factors_of(file, rope_factors, config.turning_width() / 2);
  for (std::size_t i = 0; i < factors.size(); ++i)
    check(factors[i] > 0 && std::isfinite(factors[i]), "{}: value {} of {} is {}, expected a positive number",
          file.path(), i, rope_factors, factors[i]);
  if (std::ranges::all_of(factors, [](double x) { return x == 1; })) return {};
  const std::vector<double> plain = core::rope_frequencies(config.turning_width(), config.rope_base);
  if (const auto scaling = fit_llama3(plain, std::vector<float>(factors.begin(), factors.end()))) return *scaling;
  return {.kind = nn::RopeScaling::Kind::LongRope,
          .original_positions = config.max_positions,
          .short_factors = factors,
          .long_factors = factors};
}

/// Of files that hold what LongRoPE divides frequencies by.
nn::RopeScaling read_long_scaling(const GgufFile& file, const ArchitectureKeys& keys, const nn::ModelConfig& config) {
  if (!file.tensors().contains(gguf_long_factors) && !file.tensors().contains(gguf_short_factors)) return {};
  nn::RopeScaling scaling{.kind = nn::RopeScaling::Kind::LongRope};
  scaling.original_positions = keys.integer_or("rope.scaling.original_context_length", config.max_positions);
  check(scaling.original_positions > 0, "{}: {} is {}, expected a positive number", file.path(),
        keys.name("rope.scaling.original_context_length"), scaling.original_positions);
  scaling.factor = static_cast<double>(config.max_positions) / static_cast<double>(scaling.original_positions);
  scaling.short_factors = factors_of(file, gguf_short_factors, config.turning_width() / 2);
  scaling.long_factors = factors_of(file, gguf_long_factors, config.turning_width() / 2);
  // The key is float32: where it is the usual one, that is meant.
  const double factor = keys.number_or("rope.scaling.attn_factor", 1);
  const double usual = nn::rope_angles(config.turning_width(), config.rope_base, scaling).factor;
  if (std::abs(factor - usual) > 1e-6 * usual) scaling.attention_factor = factor;
  return scaling;
}

/// Whether the head is the embedding: there is none, or the same once more.
bool has_tied_head(const GgufFile& file) {
  const auto head = file.tensors().find("output.weight"), table = file.tensors().find("token_embd.weight");
  if (head == file.tensors().end()) return true;
  return table != file.tensors().end() && are_equal(file, table->second, head->second);
}

nn::RopeScaling read_scaling(const GgufFile& file, const ArchitectureKeys& keys, const Family& family,
                             const nn::ModelConfig& config) {
  const std::string kind = keys.text_or("rope.scaling.type", "none");
  check(kind == "none" || kind == "linear" || kind == "yarn",
        "{}: {} is {}, which is not supported: expected none, linear or yarn", file.path(),
        keys.name("rope.scaling.type"), kind);
  const double factor =
      keys.has("rope.scaling.factor") ? keys.number("rope.scaling.factor") : keys.number_or("rope.scale_linear", 1);
  const bool is_scaled = kind != "none" && factor != 1;
  if (file.tensors().contains(rope_factors)) {
    const nn::RopeScaling scaling = scaling_of_factors(file, config);
    check(scaling.kind == nn::RopeScaling::Kind::None || !is_scaled, "{}: {} is {} beside {}, expected one of them",
          file.path(), keys.name("rope.scaling.type"), kind, rope_factors);
    if (!is_scaled) return scaling;
  }
  if (!is_scaled) return {};
  nn::RopeScaling scaling{.kind = kind == "linear" ? nn::RopeScaling::Kind::Linear : nn::RopeScaling::Kind::Yarn,
                          .factor = factor};
  if (kind == "yarn") {
    scaling.original_positions = keys.integer_or("rope.scaling.original_context_length", config.max_positions);
    scaling.beta_fast = keys.number_or("rope.scaling.yarn_beta_fast", 32);
    scaling.truncates = family.gguf_rope_truncates;
    scaling.beta_slow = keys.number_or("rope.scaling.yarn_beta_slow", 1);
  }
  if (kind == "yarn" && config.is_latent()) {  // llama.cpp takes mscale to be mscale_all
    const char* const key = "rope.scaling.yarn_log_multiplier";
    check(keys.has(key) && keys.number(key) > 0, "{}: has no {} above 0, expected it beside {} = yarn", file.path(),
          keys.name(key), keys.name("rope.scaling.type"));
    scaling.mscale = scaling.mscale_all = keys.number(key) / 0.1;
  }
  return scaling;
}

/// Of DeepSeek's mixtures, and those that are like them.
void read_grouped_experts(const ArchitectureKeys& keys, const Family& family, nn::MoeConfig& moe) {
  const std::int64_t shared = keys.integer("expert_shared_count");
  check(shared > 0 && shared <= nn::ModelLimits::num_experts && moe.expert_width <= nn::ModelLimits::width,
        "{}: {} is {}, expected 1 to {}", keys.where(), keys.name("expert_shared_count"), shared,
        nn::ModelLimits::num_experts);
  moe.shared_width = shared * moe.expert_width;
  moe.weight_scale = keys.number_or("expert_weights_scale", 1);
  moe.scores = family.traits.scores;
  moe.selection_bias = family.traits.selection_bias;
  const bool is_renormalised = keys.flag_or("expert_weights_norm", false);
  check(!is_renormalised || family.traits.may_renormalise, "{}: {} is true, expected false", keys.where(),
        keys.name("expert_weights_norm"));
  moe.renormalise = is_renormalised;
  moe.group_score = moe.scores == nn::RouterScores::Sigmoid ? nn::GroupScore::BestTwo : nn::GroupScore::Best;
  moe.num_groups = keys.integer_or("expert_group_count", 1);
  moe.groups_per_token = keys.integer_or("expert_group_used_count", moe.num_groups);
}

/// Widths of attention of latents: of files with attn_kv_b those of its heads, of others those of the latents, and
/// beside them those of the heads.
void read_latents(const ArchitectureKeys& keys, nn::ModelConfig& config) {
  nn::LatentConfig& latent = config.latent;
  latent.rank = keys.integer("attention.kv_lora_rank");
  latent.query_rank = keys.integer_or("attention.q_lora_rank", 0);
  latent.rope_width = keys.integer("rope.dimension_count");
  latent.norm_eps = config.norm_eps;
  const bool is_split = keys.has("attention.key_length_mla");
  config.head_width = keys.integer(is_split ? "attention.key_length_mla" : "attention.key_length");
  latent.value_width = keys.integer(is_split ? "attention.value_length_mla" : "attention.value_length");
  config.num_kv_heads = config.num_heads;
}

void read_leading_dense_layers(const ArchitectureKeys& keys, nn::ModelConfig& config) {
  const std::int64_t dense = keys.integer_or("leading_dense_block_count", 0);
  check(dense >= 0 && dense < config.num_layers, "{}: {} is {}, expected 0 to below the model's {} layers",
        keys.where(), keys.name("leading_dense_block_count"), dense, config.num_layers);
  for (std::int64_t layer = 0; layer < dense; ++layer) config.moe.dense_layers.push_back(layer);
}

void read_experts(const ArchitectureKeys& keys, const Family& family, std::int64_t feed_forward, nn::MoeConfig& moe) {
  moe.experts_per_token = keys.integer("expert_used_count");
  moe.expert_width = keys.integer_or("expert_feed_forward_length", feed_forward);
  moe.renormalise = family.gguf_renormalises.value_or(true);
  moe.router_bias = family.traits.router_bias;
  moe.expert_bias = family.traits.expert_bias;
  if (family.traits.has_groups) return read_grouped_experts(keys, family, moe);
  if (!family.traits.has_shared_experts) return;
  moe.shared_width = keys.integer("expert_shared_feed_forward_length");
  moe.shared_gate = family.traits.shared_gate;
}

void read_windows(const ArchitectureKeys& keys, const Family& family, nn::ModelConfig& config) {
  if (!family.gguf_says_window) return;
  config.window = keys.integer_or("attention.sliding_window", 0);
  if (config.window == 0) return;
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer)
    if (family.gguf_is_full != nullptr && family.gguf_is_full(layer)) config.full_layers.push_back(layer);
  config.window_rope_base = keys.number_or("rope.freq_base_swa", family.gguf_window_rope_base);
}

/// What the architecture may have or lack, and no key says.
void read_what_tensors_say(const GgufFile& file, const FamilyTraits& traits, nn::ModelConfig& config) {
  if (traits.may_lack_attention_bias) config.attention_bias = file.tensors().contains("blk.0.attn_q.bias");
  if (traits.may_lack_head_norm && !file.tensors().contains("blk.0.attn_q_norm.weight"))
    config.head_norm = nn::HeadNorm::None;
}

/// Whether models of the architecture may, of any family.
bool may_turn_partly(const Family& family) {
  return std::ranges::any_of(families(), [&](const Family* other) {
    return other->gguf == std::string_view(family.gguf) && other->traits.may_turn_partly;
  });
}

void read_heads(const ArchitectureKeys& keys, const Family& family, nn::ModelConfig& config) {
  const std::string& where = keys.where();
  config.head_width = keys.integer_or("attention.key_length", config.width / config.num_heads);
  check(config.head_width > 0 && config.head_width <= nn::ModelLimits::head_width && config.head_width % 2 == 0,
        "{}: the head width is {}, expected an even number up to {}", where, config.head_width,
        nn::ModelLimits::head_width);
  const std::int64_t values = keys.integer_or("attention.value_length", config.head_width);
  check(values == config.head_width, "{}: {} is {}, expected the head width {}", where,
        keys.name("attention.value_length"), values, config.head_width);
  const std::int64_t turning = keys.integer_or("rope.dimension_count", config.head_width);
  if (turning == config.head_width) return;
  check(may_turn_partly(family), "{}: {} is {}, expected the head width {}", where, keys.name("rope.dimension_count"),
        turning, config.head_width);
  check(turning > 0 && turning < config.head_width && turning % 2 == 0,
        "{}: {} is {}, expected an even number up to the head width {}", where, keys.name("rope.dimension_count"),
        turning, config.head_width);
  config.rotary_width = turning;
}

/// Of Mamba-2's layers; heads go by the name of a rank of steps.
void read_mamba(const GgufFile& file, const ArchitectureKeys& keys, nn::MambaConfig& mamba) {
  mamba.num_heads = keys.integer("ssm.time_step_rank");
  const std::int64_t inner = keys.integer("ssm.inner_size");
  check(mamba.num_heads > 0 && inner > 0 && inner % mamba.num_heads == 0,
        "{}: {} is {}, expected a multiple of {} = {}", keys.where(), keys.name("ssm.inner_size"), inner,
        keys.name("ssm.time_step_rank"), mamba.num_heads);
  mamba.head_width = inner / mamba.num_heads;
  mamba.state_width = keys.integer("ssm.state_size");
  mamba.num_groups = keys.integer_or("ssm.group_count", 1);
  mamba.conv_width = keys.integer("ssm.conv_kernel");
  mamba.conv_bias =
      std::ranges::any_of(file.tensors(), [](const auto& t) { return t.first.ends_with("ssm_conv1d.bias"); });
}

/// Layers behind the model's last that predict further tokens, and count in block_count.
std::int64_t num_layers_behind(const ArchitectureKeys& keys, const Family& family) {
  return family.traits.predicts ? keys.integer_or("nextn_predict_layers", 0) : 0;
}

/// Of each layer; those without are Mamba-2's.
void read_kv_heads_by_layer(const ArchitectureKeys& keys, nn::ModelConfig& config) {
  const char* const key = "attention.head_count_kv";
  const std::vector<std::int64_t>& heads = keys.integers(key);
  check(std::ssize(heads) == config.num_layers, "{}: {} has {} numbers, expected one for each of {} layers",
        keys.where(), keys.name(key), heads.size(), config.num_layers);
  config.num_kv_heads = config.num_heads;
  for (std::size_t i = 0; i < heads.size(); ++i) {
    if (heads[i] == 0) continue;
    check(config.mamba.attention_layers.empty() || heads[i] == config.num_kv_heads,
          "{}: {} has {} for layer {}, expected 0 or {}", keys.where(), keys.name(key), heads[i], i,
          config.num_kv_heads);
    config.num_kv_heads = heads[i];
    config.mamba.attention_layers.push_back(static_cast<std::int64_t>(i));
  }
}

void read_attention(const ArchitectureKeys& keys, const Family& family, nn::ModelConfig& config) {
  const std::string& where = keys.where();
  const FamilyTraits& traits = family.traits;
  config.num_heads = keys.integer("attention.head_count");
  if (traits.mamba == FamilyTraits::Mamba::Some)
    read_kv_heads_by_layer(keys, config);
  else
    config.num_kv_heads = keys.integer_or("attention.head_count_kv", config.num_heads);
  config.max_positions = keys.integer("context_length");
  config.rope_base = keys.number_or("rope.freq_base", 10000.0);
  check(config.num_heads > 0 && config.width > 0 &&
            (keys.has("attention.key_length") || config.width % config.num_heads == 0),
        "{}: {} is {}, expected a multiple of {} = {} (there is no {})", where, keys.name("embedding_length"),
        config.width, keys.name("attention.head_count"), config.num_heads, keys.name("attention.key_length"));
  if (traits.has_latents)
    read_latents(keys, config);
  else
    read_heads(keys, family, config);
}

}  // namespace

GgufConfig read_gguf_config(const GgufFile& file) {
  const std::string& where = file.path();
  const std::string& architecture = file.text("general.architecture");
  const ArchitectureKeys keys(file, architecture);
  nn::ModelConfig config;
  config.moe.num_experts = keys.integer_or("expert_count", 0);
  constexpr std::int64_t unsaid = 0, softmax = 1, sigmoid = 2;  // llama_expert_gating_func_type
  const std::int64_t scores = keys.integer_or("expert_gating_func", unsaid);
  check(scores == unsaid || scores == softmax || scores == sigmoid, "{}: {} is {}, expected {} or {}", where,
        keys.name("expert_gating_func"), scores, softmax, sigmoid);
  std::optional<nn::RouterScores> said;
  if (scores != unsaid) said = scores == sigmoid ? nn::RouterScores::Sigmoid : nn::RouterScores::Softmax;
  const Family& family = family_of_gguf(architecture, config.moe.num_experts > 0, where, said);
  const FamilyTraits& traits = family.traits;

  const auto table = file.tensors().find("token_embd.weight");
  check(table != file.tensors().end(), "{}: has no tensor token_embd.weight", where);
  config.vocabulary = table->second.shape[0];
  check(keys.integer_or("vocab_size", config.vocabulary) == config.vocabulary,
        "{}: {} is {}, but token_embd.weight is {}", where, keys.name("vocab_size"), keys.integer_or("vocab_size", 0),
        table->second.shape);
  config.width = keys.integer("embedding_length");
  config.num_layers = keys.integer("block_count");
  check(config.num_layers > 0 && config.num_layers <= nn::ModelLimits::num_layers, "{}: {} is {}, expected 1 to {}",
        where, keys.name("block_count"), config.num_layers, nn::ModelLimits::num_layers);
  const std::int64_t behind = num_layers_behind(keys, family);
  check(behind >= 0 && behind < config.num_layers, "{}: {} is {}, expected 0 to below {} = {}", where,
        keys.name("nextn_predict_layers"), behind, keys.name("block_count"), config.num_layers);
  config.num_layers -= behind;
  const bool is_whole = file.tensors().contains(fmt::format("blk.{}.nextn.eh_proj.weight", config.num_layers));
  if (is_whole) config.num_predict_layers = behind;
  const bool is_rms = traits.norm_kind == nn::NormKind::Rms;
  config.norm_eps = keys.number(is_rms ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon");
  config.tied_head = has_tied_head(file);
  if (traits.mamba == FamilyTraits::Mamba::All) {
    set_no_attention(config);
    config.max_positions = keys.integer("context_length");
  } else {
    read_attention(keys, family, config);
  }
  if (traits.mamba != FamilyTraits::Mamba::None) read_mamba(file, keys, config.mamba);
  set_traits(traits, config);
  read_what_tensors_say(file, traits, config);
  config.activation_limit = family.gguf_activation_limit;
  if (traits.may_lack_positions && !keys.flag_or("rope.scaling.finetuned", true))
    config.positions = nn::Positions::None;
  if (traits.has_scales) {
    config.embedding_scale = keys.number_or("embedding_scale", 1);
    config.residual_scale = keys.number_or("residual_scale", 1);
    config.logits_scale = 1 / keys.number_or("logit_scale", 1);
    config.attention_scale = keys.number_or("attention.scale", 0);
  }
  if (traits.scales_embedding) config.embedding_scale = std::sqrt(static_cast<double>(config.width));
  config.rope_scaling = traits.ropes == FamilyTraits::Ropes::Long ? read_long_scaling(file, keys, config)
                                                                  : read_scaling(file, keys, family, config);
  if (family.gguf_attention_scale != nullptr) config.attention_scale = family.gguf_attention_scale(config);
  const std::int64_t feed_forward = keys.integer_or("feed_forward_length", 0);
  if (config.moe.num_experts > 0) read_experts(keys, family, feed_forward, config.moe);
  if (config.moe.num_experts == 0 || traits.leads_with_dense) config.mlp_width = feed_forward;
  if (traits.leads_with_dense) read_leading_dense_layers(keys, config);
  read_windows(keys, family, config);
  nn::validate(config, where);
  return {&family, config, behind};
}

bool is_of_config(const Family& family, const std::string& name) {
  if (family.traits.ropes == FamilyTraits::Ropes::Long) return name == gguf_long_factors || name == gguf_short_factors;
  return name == rope_factors;
}

}  // namespace limbeck::data
