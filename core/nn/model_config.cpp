#include "core/nn/model_config.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "core/error.h"

namespace limbeck::nn {

using core::fail_usage;

bool ModelConfig::is_moe_layer(std::int64_t layer) const {
  layer = std::min(layer, num_layers - 1);
  return moe.num_experts > 0 &&
         std::find(moe.dense_layers.begin(), moe.dense_layers.end(), layer) == moe.dense_layers.end();
}

std::int64_t ModelConfig::num_moe_layers() const {
  std::int64_t count = 0;
  for (std::int64_t layer = 0; layer < num_layers; ++layer) count += is_moe_layer(layer) ? 1 : 0;
  return count;
}

bool ModelConfig::is_mamba_layer(std::int64_t layer) const {
  layer = std::min(layer, num_layers - 1);
  return mamba.num_heads > 0 && std::ranges::find(mamba.attention_layers, layer) == mamba.attention_layers.end();
}

std::int64_t ModelConfig::num_mamba_layers() const {
  return mamba.num_heads > 0 ? num_layers - std::ssize(mamba.attention_layers) : 0;
}

LayerConfig ModelConfig::layer(std::int64_t index) const {
  index = std::min(index, num_layers - 1);
  const bool has_window = window > 0 && std::find(full_layers.begin(), full_layers.end(), index) == full_layers.end();
  LayerConfig layer{.window = has_window ? window : 0,
                    .rope_base = rope_base,
                    .rope_scaling = rope_scaling,
                    .is_moe = is_moe_layer(index),
                    .is_mamba = is_mamba_layer(index)};
  if (has_window && window_rope_base > 0) layer.rope_base = window_rope_base, layer.rope_scaling = {};
  return layer;
}

namespace {

template <class Number>
Number latent_attention(const ModelConfig& c) {
  const auto n = [](std::int64_t value) { return static_cast<Number>(value); };
  const LatentConfig& l = c.latent;
  const Number queries = n(c.num_heads) * n(c.head_width), values = n(c.num_heads) * n(l.value_width);
  const Number of_queries = l.query_rank > 0 ? n(l.query_rank) * (n(c.width) + 1 + queries) : n(c.width) * queries;
  const Number keys = n(c.num_heads) * n(c.head_width - l.rope_width);
  return of_queries + n(c.width) * n(l.rank + l.rope_width) + n(l.rank) * (1 + keys + values) + values * n(c.width);
}

template <class Number>
Number mamba_layer(const ModelConfig& c) {
  const auto n = [](std::int64_t value) { return static_cast<Number>(value); };
  const MambaConfig& m = c.mamba;
  const Number inner = n(m.num_heads) * n(m.head_width), states = 2 * n(m.num_groups) * n(m.state_width);
  const Number filters = (inner + states) * n(m.conv_width + (m.conv_bias ? 1 : 0));
  return n(c.width) * (3 * inner + states + n(m.num_heads)) + filters + 3 * n(m.num_heads) + inner;
}

/// As count_parameters, in any type of number: in double it cannot overflow.
template <class Number>
struct Counts {
  Number total, active;
  Number predicts;  // active of a layer that predicts, without the head
};
template <class Number>
Counts<Number> counts_of(const ModelConfig& c) {
  const auto n = [](std::int64_t value) { return static_cast<Number>(value); };
  const auto num_dense = n(c.moe.num_experts > 0 ? static_cast<std::int64_t>(c.moe.dense_layers.size()) : c.num_layers);
  const Number num_moe = n(c.num_layers) - num_dense;
  const Number table = n(c.vocabulary) * n(c.width);
  const Number biases = (c.attention_bias ? n(c.head_width) * n(c.num_heads + 2 * c.num_kv_heads) : n(0)) +
                        n(c.attention_output_bias ? c.width : 0) + n(c.attention_sinks ? c.num_heads : 0);
  const Number head_norms = c.head_norm == HeadNorm::EachHead   ? 2 * n(c.head_width)
                            : c.head_norm == HeadNorm::AllHeads ? n(c.head_width) * n(c.num_heads + c.num_kv_heads)
                                                                : n(0);
  const Number usual = 2 * n(c.width) * n(c.head_width) * n(c.num_heads + c.num_kv_heads) + biases + head_norms;
  const Number attention = c.is_latent() ? latent_attention<Number>(c) : usual;
  const Number num_mamba = n(c.num_mamba_layers());
  const Number mixers = (n(c.num_layers) - num_mamba) * attention + num_mamba * mamba_layer<Number>(c);
  const Number norm = (c.norm_kind == NormKind::Layer ? 2 : 1) * n(c.width);
  const Number blocks = c.feed_forward ? 2 : 1;
  const Number norms = (c.norm_placement == NormPlacement::Around ? 2 : 1) * blocks * norm;
  const Number mlp_inner = c.mlp_gate ? 2 : 1;
  const Number wide =
      (mlp_inner + 1) * n(c.width) * n(c.mlp_width) + (c.mlp_bias ? mlp_inner * n(c.mlp_width) + n(c.width) : n(0));
  const Number mlp = c.feed_forward ? wide : n(0);
  const Number positions = c.positions == Positions::Learned ? n(c.max_positions) * n(c.width) : n(0);
  const Number expert =
      3 * n(c.width) * n(c.moe.expert_width) + (c.moe.expert_bias ? 2 * n(c.moe.expert_width) + n(c.width) : n(0));
  const Number shared = 3 * n(c.width) * n(c.moe.shared_width) + n(c.moe.shared_gate ? c.width : 0);
  const Number router =
      n(c.moe.num_experts) * (n(c.width) + n(c.moe.selection_bias ? 1 : 0) + n(c.moe.router_bias ? 1 : 0));
  const Number common = norm + n(c.head_bias ? c.vocabulary : 0) + mixers + n(c.num_layers) * norms + num_dense * mlp;
  const Number all_experts = n(c.moe.num_experts) * expert + shared + router;
  const Number used_experts = n(c.moe.experts_per_token) * expert + shared + router;
  const bool is_moe = c.is_moe_layer(c.num_layers);
  const Number predicts = 3 * norm + 2 * n(c.width) * n(c.width) + attention + norms;
  const Number head = c.reward_head ? n(c.width) : table;
  return {common + positions + table + (c.tied_head ? n(0) : head) + num_moe * all_experts +
              n(c.num_predict_layers) * (predicts + (is_moe ? all_experts : mlp)),
          common + head + num_moe * used_experts, predicts + (is_moe ? used_experts : mlp)};
}

}  // namespace

ModelConfig with_reward_head(ModelConfig config) {
  config.reward_head = true;
  config.tied_head = config.head_bias = false;
  config.num_predict_layers = 0;
  return config;
}

void validate(const ModelConfig& config, const std::string& where) {
  const auto positive = [&](const char* field, std::int64_t value, std::int64_t limit) {
    if (value <= 0) fail_usage("{}.{} is {}, expected a positive number", where, field, value);
    if (value > limit) fail_usage("{}.{} is {}, expected at most {}", where, field, value, limit);
  };
  const auto positive_real = [&](const char* field, double value, double limit) {  // fits a float, also when scaled
    if (!(value > 0)) fail_usage("{}.{} is {}, expected a positive number", where, field, value);
    if (value < std::numeric_limits<float>::min() || value > limit)
      fail_usage("{}.{} is {}, expected {} to {}", where, field, value, std::numeric_limits<float>::min(), limit);
  };
  const auto ascending_layers = [&](const char* field, const std::vector<std::int64_t>& layers) {
    std::int64_t last = -1;
    for (const auto layer : layers) {
      if (layer < 0 || layer >= config.num_layers)
        fail_usage("{}.{} names layer {}, expected 0 to {}", where, field, layer, config.num_layers - 1);
      if (layer <= last) fail_usage("{}.{} has {} after {}, expected ascending layers", where, field, layer, last);
      last = layer;
    }
  };
  const auto validate_variants = [&] {
    if (config.window < 0) fail_usage("{}.window is {}, expected 0 or more", where, config.window);
    ascending_layers("full_layers", config.full_layers);
    if (config.attention_scale != 0) positive_real("attention_scale", config.attention_scale, 1e6);
    if (config.window_rope_base != 0) positive_real("window_rope_base", config.window_rope_base, 1e15);
    positive_real("embedding_scale", config.embedding_scale, 1e6);
    positive_real("residual_scale", config.residual_scale, 1e6);
    positive_real("logits_scale", config.logits_scale, 1e6);
    if (config.norm_offset != 0 && config.norm_offset != 1)
      fail_usage("{}.norm_offset is {}, expected 0 or 1", where, config.norm_offset);
    const RopeScaling& scaling = config.rope_scaling;
    if (config.head_norm > HeadNorm::AllHeads || config.norm_placement > NormPlacement::Around ||
        config.activation > Activation::ClampedSwish || scaling.kind > RopeScaling::Kind::LongRope ||
        config.norm_kind > NormKind::Layer || config.positions > Positions::None)
      fail_usage("{}: a kind of norms, activations, positions or scaling that is not known", where);
    if (config.norm_kind == NormKind::Layer && config.head_norm != HeadNorm::None)
      fail_usage("{}.head_norm: there are norms of queries and keys, expected none beside norm_kind LAYER", where);
    if (config.norm_kind == NormKind::Layer && config.norm_offset != 0)
      fail_usage("{}.norm_offset is {}, expected 0 beside norm_kind LAYER", where, config.norm_offset);
    if (config.reward_head && config != with_reward_head(config))
      fail_usage("{}.reward_head is true, expected neither tied_head, head_bias nor num_predict_layers beside it",
                 where);
    if (config.moe.num_experts > 0 && !config.mlp_gate)
      fail_usage("{}.mlp_gate is false, expected true beside experts", where);
    if (config.positions != Positions::Rotary && scaling.kind != RopeScaling::Kind::None)
      fail_usage("{}.rope_scaling: frequencies are scaled, expected none beside positions that are not rotary", where);
    if (config.rotary_width < 0 || config.rotary_width > config.head_width || config.rotary_width % 2 != 0)
      fail_usage("{}.rotary_width is {}, expected an even number up to head_width = {}", where, config.rotary_width,
                 config.head_width);
    if (config.activation == Activation::ClampedSwish)
      positive_real("activation_limit", config.activation_limit, 1e6);
    else if (config.activation_limit != 0)
      fail_usage("{}.activation_limit is {}, expected 0 but for CLAMPED_SWISH (activation)", where,
                 config.activation_limit);
    if (scaling.kind == RopeScaling::Kind::None) return;
    positive_real("rope_scaling.factor", scaling.factor, 1e6);
    if (scaling.kind == RopeScaling::Kind::Linear) return;
    positive("rope_scaling.original_positions", scaling.original_positions, ModelLimits::max_positions);
    for (const auto& [field, value] :
         {std::pair("low_frequency_factor", scaling.low_frequency_factor),
          std::pair("high_frequency_factor", scaling.high_frequency_factor), std::pair("beta_fast", scaling.beta_fast),
          std::pair("beta_slow", scaling.beta_slow)})
      positive_real(fmt::format("rope_scaling.{}", field).c_str(), value, 1e6);
    if (scaling.high_frequency_factor <= scaling.low_frequency_factor)
      fail_usage("{}.rope_scaling.high_frequency_factor is {}, expected more than low_frequency_factor = {}", where,
                 scaling.high_frequency_factor, scaling.low_frequency_factor);
    for (const auto& [field, value] :
         {std::pair("attention_factor", scaling.attention_factor), std::pair("mscale", scaling.mscale),
          std::pair("mscale_all", scaling.mscale_all), std::pair("short_scale", scaling.short_scale),
          std::pair("long_scale", scaling.long_scale)})
      if (value != 0) positive_real(fmt::format("rope_scaling.{}", field).c_str(), value, 1e6);
    if (scaling.kind != RopeScaling::Kind::LongRope) return;
    for (const auto& [field, factors] :
         {std::pair("short_factors", &scaling.short_factors), std::pair("long_factors", &scaling.long_factors)}) {
      if (std::ssize(*factors) != config.turning_width() / 2)
        fail_usage("{}.rope_scaling.{} are {}, expected half of the {} channels that turn", where, field,
                   factors->size(), config.turning_width());
      for (const double factor : *factors) positive_real(fmt::format("rope_scaling.{}", field).c_str(), factor, 1e6);
    }
  };
  const auto validate_groups = [&] {
    const MoeConfig& moe = config.moe;
    if (moe.scores > RouterScores::Sigmoid || moe.group_score > GroupScore::BestTwo)
      fail_usage("{}.moe: a kind of scores that is not known", where);
    if (moe.num_groups < 1 || moe.num_experts % moe.num_groups != 0)
      fail_usage("{}.moe.num_groups is {}, expected a divisor of num_experts = {}", where, moe.num_groups,
                 moe.num_experts);
    const std::int64_t size = moe.num_experts / moe.num_groups;
    if (moe.num_groups > 1 && moe.group_score == GroupScore::BestTwo && size < 2)
      fail_usage("{}.moe.num_groups is {}, expected groups of two experts or more", where, moe.num_groups);
    if (moe.groups_per_token < 1 || moe.groups_per_token > moe.num_groups)
      fail_usage("{}.moe.groups_per_token is {}, expected 1 to num_groups = {}", where, moe.groups_per_token,
                 moe.num_groups);
    if (moe.experts_per_token > moe.groups_per_token * size)
      fail_usage("{}.moe.experts_per_token is {}, expected at most {}, the experts of groups_per_token = {} groups",
                 where, moe.experts_per_token, moe.groups_per_token * size, moe.groups_per_token);
  };
  const auto validate_latents = [&] {
    const LatentConfig& latent = config.latent;
    const auto expect = [&](const char* field, bool is_so, const char* expected) {
      if (!is_so) fail_usage("{}.{}, expected {} with latents (latent.rank)", where, field, expected);
    };
    if (latent.rank < 0 || latent.rank > ModelLimits::width)
      fail_usage("{}.latent.rank is {}, expected 0 to {}", where, latent.rank, ModelLimits::width);
    if (latent.rank == 0) {
      if (latent != LatentConfig()) fail_usage("{}.latent.rank is 0, expected more beside its other fields", where);
      return;
    }
    if (latent.query_rank < 0 || latent.query_rank > ModelLimits::width)
      fail_usage("{}.latent.query_rank is {}, expected 0 to {}", where, latent.query_rank, ModelLimits::width);
    positive_real("latent.norm_eps", latent.norm_eps, 1);
    positive("latent.value_width", latent.value_width, ModelLimits::head_width);
    if (latent.rope_width < 2 || latent.rope_width % 2 != 0 || latent.rope_width >= config.head_width)
      fail_usage("{}.latent.rope_width is {}, expected an even number, 2 to below head_width = {}", where,
                 latent.rope_width, config.head_width);
    if (config.num_kv_heads != config.num_heads)
      fail_usage("{}.num_kv_heads is {}, expected num_heads = {} with latents (latent.rank)", where,
                 config.num_kv_heads, config.num_heads);
    expect("attention_bias is true", !config.attention_bias, "false");
    expect("attention_output_bias is true", !config.attention_output_bias, "false");
    expect("attention_sinks is true", !config.attention_sinks, "false");
    expect("head_norm is given", config.head_norm == HeadNorm::None, "none");
    expect("norm_kind is LAYER", config.norm_kind == NormKind::Rms, "RMS");
    expect(config.positions == Positions::Learned ? "positions is LEARNED" : "positions is NONE",
           config.positions == Positions::Rotary, "ROTARY");
    expect("rotary_width is given", config.rotary_width == 0, "latent.rope_width alone");
  };
  const auto validate_mamba = [&] {
    const MambaConfig& mamba = config.mamba;
    if (!config.feed_forward && config.moe.num_experts > 0)
      fail_usage("{}.feed_forward is false, expected true beside experts (moe.num_experts)", where);
    if (mamba.num_heads == 0 && !mamba.attention_layers.empty())
      fail_usage("{}.mamba.attention_layers has {} layers, expected none without mamba.num_heads", where,
                 mamba.attention_layers.size());
    if (mamba.num_heads == 0) return;
    positive("mamba.num_heads", mamba.num_heads, ModelLimits::num_heads);
    positive("mamba.head_width", mamba.head_width, ModelLimits::head_width);
    positive("mamba.state_width", mamba.state_width, ModelLimits::head_width);
    positive("mamba.num_groups", mamba.num_groups, ModelLimits::num_heads);
    positive("mamba.conv_width", mamba.conv_width, ModelLimits::conv_width);
    if (mamba.num_heads % mamba.num_groups != 0)
      fail_usage("{}.mamba.num_groups is {}, expected a divisor of mamba.num_heads = {}", where, mamba.num_groups,
                 mamba.num_heads);
    if (mamba.least_step != 0) positive_real("mamba.least_step", mamba.least_step, 1e6);
    if (mamba.most_step != 0) positive_real("mamba.most_step", mamba.most_step, 1e6);
    if (mamba.most_step != 0 && mamba.most_step <= mamba.least_step)
      fail_usage("{}.mamba.most_step is {}, expected above least_step = {}, or 0", where, mamba.most_step,
                 mamba.least_step);
    ascending_layers("mamba.attention_layers", mamba.attention_layers);
    if (std::ssize(mamba.attention_layers) == config.num_layers)
      fail_usage("{}.mamba.attention_layers has all {} layers, expected fewer", where, config.num_layers);
    if (config.num_predict_layers > 0)
      fail_usage("{}.num_predict_layers is {}, expected 0 beside Mamba-2 layers (mamba.num_heads)", where,
                 config.num_predict_layers);
  };
  using Limits = ModelLimits;
  positive("vocabulary", config.vocabulary, Limits::vocabulary);
  positive("width", config.width, Limits::width);
  positive("num_layers", config.num_layers, Limits::num_layers);
  positive("num_heads", config.num_heads, Limits::num_heads);
  positive("num_kv_heads", config.num_kv_heads, Limits::num_heads);
  positive("head_width", config.head_width, Limits::head_width);
  positive("max_positions", config.max_positions, Limits::max_positions);
  if (config.num_heads % config.num_kv_heads != 0)
    fail_usage("{}.num_kv_heads is {}, expected a divisor of num_heads = {}", where, config.num_kv_heads,
               config.num_heads);
  validate_latents();
  if (!config.is_latent() && config.head_width % 2 != 0)
    fail_usage("{}.head_width is {}, expected an even number", where, config.head_width);
  positive_real("norm_eps", config.norm_eps, 1);
  positive_real("rope_base", config.rope_base, 1e15);

  const MoeConfig& moe = config.moe;
  if (moe.num_experts < 0) fail_usage("{}.moe.num_experts is {}, expected 0 or more", where, moe.num_experts);
  if (moe.num_experts > 0) {
    positive("moe.num_experts", moe.num_experts, Limits::num_experts);
    positive("moe.expert_width", moe.expert_width, Limits::width);
    if (moe.shared_width < 0 || moe.shared_width > Limits::width)
      fail_usage("{}.moe.shared_width is {}, expected 0 to {}", where, moe.shared_width, Limits::width);
    positive_real("moe.weight_scale", moe.weight_scale, 1e6);
    if (moe.experts_per_token < 1 || moe.experts_per_token > moe.num_experts)
      fail_usage("{}.moe.experts_per_token is {}, expected 1 to num_experts = {}", where, moe.experts_per_token,
                 moe.num_experts);
    ascending_layers("moe.dense_layers", moe.dense_layers);
    if (moe.router > RouterKind::SparseMixer) fail_usage("{}.moe.router: a kind that is not known", where);
    if (moe.router == RouterKind::SparseMixer) {
      if (moe.experts_per_token != 2 || moe.renormalise)
        fail_usage("{}.moe.router is SPARSE_MIXER with {} experts a token{}, expected 2 that are not renormalised",
                   where, moe.experts_per_token, moe.renormalise ? ", renormalised" : "");
      positive_real("moe.mixer_jitter", moe.mixer_jitter, 1);
      if (moe.scores != RouterScores::Softmax || moe.selection_bias || moe.groups_per_token < moe.num_groups)
        fail_usage("{}.moe.router is SPARSE_MIXER, expected TOP_K beside scores, selection_bias or groups", where);
    }
    if (moe.shared_gate && moe.shared_width == 0)
      fail_usage("{}.moe.shared_gate is true, expected false without shared experts (moe.shared_width)", where);
    validate_groups();
  }
  validate_variants();
  validate_mamba();
  if (config.num_predict_layers < 0 || config.num_predict_layers > Limits::num_predict_layers)
    fail_usage("{}.num_predict_layers is {}, expected 0 to {}", where, config.num_predict_layers,
               Limits::num_predict_layers);
  if (config.feed_forward && (moe.num_experts == 0 || !moe.dense_layers.empty()))
    positive("mlp_width", config.mlp_width, Limits::width);
  if (config.mlp_width < 0 || config.mlp_width > Limits::width)  // without meaning, but counted with
    fail_usage("{}.mlp_width is {}, expected 0 to {}", where, config.mlp_width, Limits::width);
  if (const double total = counts_of<double>(config).total; total > Limits::parameters)
    fail_usage("{}: {:.3g} parameters, expected at most {:.3g}", where, total, Limits::parameters);
}

ParameterCount count_parameters(const ModelConfig& config) {
  const auto counts = counts_of<std::int64_t>(config);
  return {counts.total, counts.active};
}

namespace {

/// Of scores and what they weigh, in one layer.
double attention_flops(const ModelConfig& c, std::int64_t sequence_length) {
  const double keys = static_cast<double>(sequence_length + 1) / 2;
  return 2 * static_cast<double>(c.num_heads * (c.head_width + c.value_width())) * keys;
}

/// Of a layer's states.
double state_flops(const ModelConfig& c) {
  return 6 * static_cast<double>(c.mamba.inner_width() * c.mamba.state_width);
}

}  // namespace

double forward_flops_per_token(const ModelConfig& c, std::int64_t sequence_length) {
  const auto num_mamba = static_cast<double>(c.num_mamba_layers());
  return 2 * static_cast<double>(count_parameters(c).active) + num_mamba * state_flops(c) +
         (static_cast<double>(c.num_layers) - num_mamba) * attention_flops(c, sequence_length);
}

double forward_flops_per_expert(const ModelConfig& c) {
  return 6.0 * static_cast<double>(c.num_moe_layers() + c.num_moe_predict_layers()) *
         static_cast<double>(c.width * c.moe.expert_width);
}

double training_flops_per_token(const ModelConfig& config, std::int64_t sequence_length) {
  const double weights =
      static_cast<double>(counts_of<std::int64_t>(config).predicts + config.vocabulary * config.width);
  const double predicts = 2 * weights + attention_flops(config, sequence_length);
  return 3 *
         (forward_flops_per_token(config, sequence_length) + static_cast<double>(config.num_predict_layers) * predicts);
}

}  // namespace limbeck::nn
