#include "data/models/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/nn/rope_scaling.h"
#include "core/ops/rope.h"
#include "data/models/families/family.h"
#include "data/models/gguf_names.h"
#include "data/models/layers_behind.h"
#include "data/models/llama3_factors.h"

namespace limbeck::data {

using core::check;
using core::DType;
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

/// Whether two tensors are the same bytes, as far as so many runs of them, evenly spread, say.
bool are_equal(const GgufFile& file, const GgufTensor& a, const GgufTensor& b,
               std::size_t most_runs = std::numeric_limits<std::size_t>::max()) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  const auto bytes = static_cast<std::size_t>(core::bytes_of(a.dtype, a.shape.numel()));
  constexpr std::size_t at_once = std::size_t{1} << 20U;
  const std::size_t num_runs = (bytes + at_once - 1) / at_once, apart = ((num_runs - 1) / most_runs + 1) * at_once;
  bool is_same = true;
  for (std::size_t first = 0; is_same && first < bytes; first += apart) {
    const std::size_t count = std::min(at_once, bytes - first);
    const std::byte *of_a = file.data(a) + first, *of_b = file.data(b) + first;
    is_same = std::memcmp(of_a, of_b, count) == 0;
    release_mapped({of_a, count});
    release_mapped({of_b, count});
  }
  return is_same;
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

/// The family and the config that the metadata describes.
std::pair<const Family*, nn::ModelConfig> read_config(const GgufFile& file) {
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
  return {&family, config};
}

/// Factors of frequencies.
bool is_read_otherwise(const Family& family, const std::string& name) {
  if (family.traits.ropes == FamilyTraits::Ropes::Long) return name == gguf_long_factors || name == gguf_short_factors;
  return name == rope_factors;
}

void store(const std::vector<float>& row, DType dtype, std::byte* at) {
  if (dtype == DType::F64)
    std::copy(row.begin(), row.end(), reinterpret_cast<double*>(at));
  else
    std::transform(row.begin(), row.end(), reinterpret_cast<core::bf16*>(at), [](float x) { return core::bf16(x); });
}

}  // namespace

GgufModel::GgufModel(std::shared_ptr<const GgufFile> file) : file_(std::move(file)) {
  const Family* family = nullptr;
  std::tie(family, config_) = read_config(*file_);
  std::set<const GgufTensor*> used;
  const bool joined_kv = file_->tensors().contains("blk.0.attn_kv_b.weight");
  const auto has = [&](const std::string& stored) { return file_->tensors().contains(stored); };
  std::vector<GgufName> copies;
  for (GgufName& name : gguf_names(config_, *family, joined_kv)) {
    if (name.is_copy) {
      if (has(name.stored)) copies.push_back(name);
      continue;
    }
    if (!name.otherwise.empty() && !has(name.stored)) name.stored = name.otherwise;
    Origin origin = find(name);
    used.insert(origin.tensors.begin(), origin.tensors.end());
    tensors_[name.name] = {name.shape, origin.tensors.front()->dtype};
    origins_[name.name] = std::move(origin);
  }
  for (const GgufName& name : copies) {
    const GgufTensor &copied = *find(name).tensors.front(), &of = *origins_.at(name.name).tensors.front();
    used.insert(&copied);
    constexpr std::size_t most_runs = 4;  // it is not to be read whole to be left alone
    if (copied.dtype == of.dtype && !are_equal(*file_, copied, of, most_runs))
      notices_.push_back(fmt::format("{}: {} differs from what it is a copy of, {}, which is taken", source(),
                                     name.stored, name.name));
  }
  const ArchitectureKeys keys(*file_, file_->text("general.architecture"));
  const std::int64_t num_layers = config_.num_layers + config_.num_predict_layers;
  const std::int64_t end = config_.num_layers + num_layers_behind(keys, *family);
  std::int64_t num_skipped = 0;
  for (const auto& [name, tensor] : file_->tensors()) {
    if (is_of_a_layer_behind(name, "blk.", num_layers) && !is_of_a_layer_behind(name, "blk.", end)) {
      ++num_skipped;
      continue;
    }
    check(used.contains(&tensor) || is_read_otherwise(*family, name) || (config_.tied_head && name == "output.weight"),
          "{}: tensor {} {} has no place in a {} model of {} layers", source(), name, tensor.shape, family->gguf,
          num_layers);
  }
  if (num_skipped > 0) notices_.push_back(notice_of_layers_behind(source(), num_skipped, num_layers));
}

GgufModel::Origin GgufModel::find(const GgufName& name) const {
  const auto tensor = [&](const std::string& stored, const Shape& shape) {
    const auto found = file_->tensors().find(stored);
    check(found != file_->tensors().end(), "{}: has no tensor {}, expected one of shape {}", source(), stored, shape);
    check(found->second.shape == shape, "{}: tensor {} has shape {}, expected {}", source(), stored,
          found->second.shape, shape);
    return &found->second;
  };
  Origin origin{.tensors = {},
                .is_permuted = name.is_permuted,
                .offset = static_cast<float>(name.offset),
                .rows = name.rows,
                .is_decay = name.is_decay,
                .transposed_heads = name.is_transposed ? name.num_heads : 0};
  if (name.shape.rank() == 3 && file_->tensors().contains(gguf_expert_name(name.stored, 0)))
    for (std::int64_t e = 0; e < name.shape[0]; ++e)
      origin.tensors.push_back(tensor(gguf_expert_name(name.stored, e), Shape(name.shape.extents().subspan(1))));
  else
    origin.tensors.push_back(tensor(name.stored, name.stored_shape()));
  return origin;
}

std::int64_t GgufModel::transposed_heads(const std::string& name) const { return origins_.at(name).transposed_heads; }

void GgufModel::fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const {
  const Shape& global = info.shape;
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const DType dtype = entry.tensor.dtype();
  check(dtype == DType::F32 || dtype == DType::F64 || dtype == DType::BF16,
        "{}: {}: cannot be read as {}, expected float32, float64 or bfloat16", source(), name, dtype);

  const Origin& origin = origins_.at(name);
  const std::int64_t columns = columns_of(origin, box), row_bytes = core::bytes_of(dtype, columns);
  std::vector<float> row(dtype == DType::F32 ? 0 : static_cast<std::size_t>(columns));
  std::byte* out = entry.tensor.mutable_host_raw();
  if (origin.transposed_heads > 0) return fill_transposed(origin, global, entry);
  const std::byte *begin = nullptr, *end = nullptr;  // of what is read
  std::int64_t read = 0;
  for_each_row(origin, global, entry, [&](std::int64_t i, const GgufTensor& tensor, std::int64_t first) {
    const auto [at, bytes] = blocks_of(tensor, first, columns);
    read += bytes;
    begin = begin == nullptr ? at : std::min(begin, at);
    end = std::max(end, at + bytes);
    std::byte* to = out + i * row_bytes;
    float* const values = dtype == DType::F32 ? reinterpret_cast<float*>(to) : row.data();
    file_->read(tensor, first, columns, values);
    if (origin.offset != 0)
      for (std::int64_t c = 0; c < columns; ++c) values[c] -= origin.offset;
    if (origin.is_decay)
      for (std::int64_t c = 0; c < columns; ++c) {
        check(values[c] < 0, "{}: tensor {} has {}, expected numbers below 0", source(), name, values[c]);
        values[c] = decay_of_gguf(values[c]);
      }
    if (dtype != DType::F32) store(row, dtype, to);
  });
  bytes_read_ += read;
  if (columns == global[rank - 1]) release_mapped({begin, end});
}

std::pair<const std::byte*, std::int64_t> GgufModel::blocks_of(const GgufTensor& tensor, std::int64_t first,
                                                               std::int64_t count) const {
  const std::int64_t elements = core::info(tensor.dtype).block_elements;
  const std::int64_t skipped = first / elements * elements;
  const std::int64_t end = (first + count + elements - 1) / elements * elements;
  return {file_->data(tensor) + core::bytes_of(tensor.dtype, skipped), core::bytes_of(tensor.dtype, end - skipped)};
}

void GgufModel::fill_transposed(const Origin& origin, const Shape& global, core::StateEntry& entry) const {
  const Shape& box = entry.tensor.shape();
  const DType dtype = entry.tensor.dtype();
  const std::int64_t columns = box[1], all_columns = global[1], height = global[0] / origin.transposed_heads;
  std::vector<float> matrix(static_cast<std::size_t>(height * all_columns)), row(static_cast<std::size_t>(columns));
  std::byte* out = entry.tensor.mutable_host_raw();
  std::int64_t head = -1;
  for (std::int64_t i = 0; i < box[0]; ++i, out += core::bytes_of(dtype, columns)) {
    const std::int64_t at = entry.offset[0] + i;
    if (at / height != head) {
      head = at / height;
      file_->read(*origin.tensors.front(), head * std::ssize(matrix), std::ssize(matrix), matrix.data());
      bytes_read_ += blocks_of(*origin.tensors.front(), head * std::ssize(matrix), std::ssize(matrix)).second;
    }
    for (std::int64_t c = 0; c < columns; ++c)
      row[static_cast<std::size_t>(c)] = matrix[static_cast<std::size_t>((entry.offset[1] + c) * height + at % height)];
    if (dtype == DType::F32)
      std::copy(row.begin(), row.end(), reinterpret_cast<float*>(out));
    else
      store(row, dtype, out);
  }
}

std::int64_t GgufModel::columns_of(const Origin& origin, const Shape& box) {
  return box.rank() == 1 && !origin.rows.is_run() ? 1 : box[box.rank() - 1];
}

template <class F>
void GgufModel::for_each_row(const Origin& origin, const Shape& global, const core::StateEntry& entry, F&& f) const {
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const std::int64_t columns = columns_of(origin, box);
  if (columns < box[rank - 1]) {
    for (std::int64_t i = 0; i < box[0]; ++i) f(i, *origin.tensors.front(), origin.rows.of(entry.offset[0] + i));
    return;
  }
  const std::int64_t rows_a_tensor =
      global.numel() / global[rank - 1] / static_cast<std::int64_t>(origin.tensors.size());
  for (std::int64_t i = 0; i < box.numel() / columns; ++i) {
    std::int64_t file_row = 0;  // the row's index in the stack, from the box's row i, innermost leading dimension first
    std::int64_t stride = 1;
    std::int64_t rest = i;
    for (int d = rank - 2; d >= 0; --d) {
      file_row += (entry.offset[d] + rest % box[d]) * stride;
      rest /= box[d];
      stride *= global[d];
    }
    if (origin.is_permuted) file_row = interleaved_row(file_row, config_.head_width);
    const std::int64_t first =
        rank == 1 ? origin.rows.of(entry.offset[0])
                  : origin.rows.of(file_row % rows_a_tensor) * global[rank - 1] + entry.offset[rank - 1];
    f(i, *origin.tensors[static_cast<std::size_t>(file_row / rows_a_tensor)], first);
  }
}

std::optional<core::Tensor> GgufModel::lend_box(const std::string& name, const core::StateInfo& info,
                                                const core::StateEntry& entry, const core::MemoryPtr& memory) const {
  const Origin& origin = origins_.at(name);
  const Shape& global = info.shape;
  const Shape& box = entry.tensor.shape();
  const int last = global.rank() - 1;
  const DType dtype = origin.tensors.front()->dtype;
  if (origin.offset != 0 || origin.is_decay || origin.transposed_heads > 0) return std::nullopt;
  if (std::ranges::any_of(origin.tensors, [&](const GgufTensor* t) { return t->dtype != dtype; })) return std::nullopt;
  const std::int64_t elements = core::info(dtype).block_elements;
  if (box[last] % elements != 0 || entry.offset[last] % elements != 0 || global[last] % elements != 0)
    return std::nullopt;

  bytes_read_ += core::bytes_of(dtype, box.numel());
  bool lies_there = origin.tensors.size() == 1 && !origin.is_permuted && origin.rows.is_run();
  for (int d = 1; d <= last; ++d) lies_there = lies_there && box[d] == global[d];
  const auto at = [&](const GgufTensor& tensor, std::int64_t first) {
    return file_->data(tensor) + core::bytes_of(dtype, first);
  };
  if (lies_there) {
    const std::byte* first =
        at(*origin.tensors.front(), origin.rows.of(entry.offset[0]) * (global.numel() / global[0]));
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(first) % alignof(float) == 0;
    if (is_aligned || core::block_format(dtype))
      return core::Tensor(std::make_shared<core::Storage>(memory, core::bytes_of(dtype, box.numel()),
                                                          const_cast<std::byte*>(first), file_),
                          0, dtype, box);
  }
  core::Tensor copy = core::Tensor::empty(memory, dtype, box);
  const std::int64_t row_bytes = core::bytes_of(dtype, columns_of(origin, box));
  std::byte* out = copy.mutable_host_raw();
  for_each_row(origin, global, entry, [&](std::int64_t i, const GgufTensor& tensor, std::int64_t first) {
    std::memcpy(out + i * row_bytes, at(tensor, first), static_cast<std::size_t>(row_bytes));
  });
  return copy;
}

}  // namespace limbeck::data
