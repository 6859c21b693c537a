// The architecture of a decoder-only transformer, or of a state-space model, as plain numbers. data/ fills it from
// GGUF, Hugging Face and HDF5 files, launch/ from a config; core/nn/transformer.h builds the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation.h"

namespace limbeck::nn {

/// How experts are chosen and weighed.
enum class RouterKind : std::uint8_t {
  TopK,         // the K of the best scores (RouterScores), by these
  SparseMixer,  // two, one after the other, each weighed by a softmax over its near rivals (Phi-3.5-MoE)
};

/// What a router of RouterKind::TopK makes of its logits.
enum class RouterScores : std::uint8_t {
  Softmax,
  Sigmoid,  // of each expert for itself (DeepSeek-V3)
};

/// By what groups of experts are chosen, of which a token's experts are.
enum class GroupScore : std::uint8_t {
  Best,     // the best of its experts' scores (DeepSeek-V2)
  BestTwo,  // the sum of the best two (DeepSeek-V3)
};

struct MoeConfig {
  std::int64_t num_experts = 0;            // E; 0: every layer is dense
  std::int64_t experts_per_token = 0;      // K
  std::int64_t expert_width = 0;           // F of one expert
  bool renormalise = true;                 // the selected weights sum to 1 (Mixtral)
  double weight_scale = 1.0;               // routed_scaling_factor; the experts' outputs times this
  std::int64_t shared_width = 0;           // F of the experts that every token sees, together; 0: none (DeepSeek)
  std::vector<std::int64_t> dense_layers;  // these stay dense (ascending layer indices)
  bool shared_gate = false;                // the shared experts' output times sigmoid(w x) (Qwen2-MoE)
  RouterKind router = RouterKind::TopK;
  double mixer_jitter = 0.01;  // of RouterKind::SparseMixer: logits count that are below the greatest by less than
                               // twice this, of their size
  RouterScores scores = RouterScores::Softmax;
  bool selection_bias = false;  // added to the scores that experts are chosen by, and to nothing else (DeepSeek-V3)
  std::int64_t num_groups = 1;  // of as many experts each, in their order
  std::int64_t groups_per_token = 1;  // a token's experts are of so many groups
  GroupScore group_score = GroupScore::Best;
  bool router_bias = false;  // of the router's logits (gpt-oss)
  bool expert_bias = false;  // of an expert's three matrices (gpt-oss)
  friend bool operator==(const MoeConfig&, const MoeConfig&) = default;
};

/// Over what the balance loss counts the assignments.
enum class BalanceScope : std::uint8_t { Sequence, GlobalBatch };

/// Which queries and keys are normed before they turn.
enum class HeadNorm : std::uint8_t {
  None,
  EachHead,  // by one weight [D] for all heads (Qwen3, Gemma 3)
  AllHeads,  // side by side, as one row (OLMoE, OLMo 2)
};

/// Where a block's norms stand.
enum class NormPlacement : std::uint8_t {
  Before,  // of what it reads
  After,   // of what it gives (OLMo 2)
  Around,  // of both (Gemma 3)
};

/// What norms are of.
enum class NormKind : std::uint8_t {
  Rms,
  Layer,  // with a bias beside the weight (GPT-2)
};

/// How a token's place is told.
enum class Positions : std::uint8_t {
  Rotary,   // queries and keys turn
  Learned,  // a row of a table of max_positions is added to the embedded token (GPT-2)
  None,     // not at all (Granite 4, whose Mamba-2 layers see the order)
};

using kernels::Activation;  // of the gate of a feed-forward, or of one without a gate

/// How rotary frequencies reach positions beyond those that a model was trained on (core/nn/rope_scaling.h).
struct RopeScaling {
  enum class Kind : std::uint8_t { None, Linear, Llama3, Yarn, LongRope };
  Kind kind = Kind::None;
  double factor = 1;
  std::int64_t original_positions = 0;  // context length before (Llama3, Yarn, LongRope)
  double low_frequency_factor = 1;      // Llama3: waves longer than original / low are stretched,
  double high_frequency_factor = 4;     // those shorter than original / high are left
  double beta_fast = 32;                // Yarn: turns within the original context from which nothing is stretched,
  double beta_slow = 1;                 // and up to which all is
  bool truncates = true;                // Yarn: the borders between are whole dimensions
  double attention_factor = 0;          // of cos and sin; 0: Yarn by the following, LongRope that of its paper
  double mscale = 0;                    // Yarn: with m(s) = 0.1 s ln(factor) + 1, m(mscale) / m(mscale_all) where both
  double mscale_all = 0;                // are given, else m(1)
  // LongRope: what each frequency is divided by in documents of at most original_positions, and in longer ones.
  std::vector<double> short_factors = {}, long_factors = {};
  double short_scale = 0, long_scale = 0;  // LongRope: of cos and sin in those; 0: attention_factor (Phi-3.5-MoE)
  friend bool operator==(const RopeScaling&, const RopeScaling&) = default;
};

/// Attention whose keys and values, and maybe queries, are made of narrow latents (DeepSeek-AI 2024, "DeepSeek-V2",
/// section 2.1). A head of queries and keys is head_width channels, of which the last rope_width turn; those of the
/// keys are one for all heads.
struct LatentConfig {
  std::int64_t rank = 0;         // R, of the latent of keys and values; 0: attention is of the usual kind
  std::int64_t query_rank = 0;   // of queries'; 0: they are made of the stream
  std::int64_t rope_width = 0;   // even, less than head_width
  std::int64_t value_width = 0;  // of a head of values
  double norm_eps = 1e-6;        // of the latents' norms
  friend bool operator==(const LatentConfig&, const LatentConfig&) = default;
};

/// Layers that mix tokens by a state of their past in place of attention (Dao and Gu 2024, "Transformers are SSMs",
/// section 7: Mamba-2; core/nn/mamba.h).
struct MambaConfig {
  std::int64_t num_heads = 0;      // H; 0: every layer has attention
  std::int64_t head_width = 64;    // P, channels of a head
  std::int64_t state_width = 128;  // N, numbers that a channel keeps of its past
  std::int64_t num_groups = 1;     // G, of heads that share what is written to states and read from them; divides H
  std::int64_t conv_width = 4;     // K, tokens that a channel's filter sees, the token itself the last
  bool conv_bias = true;           // of the filters
  double least_step = 0;           // what steps are held within (time_step_limit), from this
  double most_step = 0;            // to this; 0: without an end
  std::vector<std::int64_t> attention_layers = {};  // these have attention (ascending layer indices)

  std::int64_t inner_width() const { return num_heads * head_width; }
  /// That the heads may be cut into: whole groups of them, of one group single heads.
  std::int64_t most_parts() const { return num_groups == 1 ? num_heads : num_groups; }
  friend bool operator==(const MambaConfig&, const MambaConfig&) = default;
};

/// What one layer is, where layers differ.
struct LayerConfig {
  std::int64_t window = 0;  // keys that a query sees at most, its own among them; 0: all before it
  double rope_base = 10000.0;
  RopeScaling rope_scaling = {};
  bool is_moe = false;
  bool is_mamba = false;
};

struct ModelConfig {
  std::int64_t vocabulary = 0;     // V
  std::int64_t width = 0;          // C
  std::int64_t num_layers = 0;     // L
  std::int64_t num_heads = 0;      // H
  std::int64_t num_kv_heads = 0;   // G, divides H
  std::int64_t head_width = 0;     // D
  std::int64_t mlp_width = 0;      // F of a dense feed-forward
  std::int64_t max_positions = 0;  // context length
  double norm_eps = 1e-5;
  double rope_base = 10000.0;
  bool tied_head = false;  // head.weight is embed.weight
  MoeConfig moe;

  HeadNorm head_norm = HeadNorm::None;
  bool attention_bias = false;   // q, k and v have biases
  double attention_scale = 0;    // of scores; 0: 1 / sqrt(D)
  bool attention_sinks = false;  // a learned logit a head, which has no value (gpt-oss)
  RopeScaling rope_scaling = {};
  std::int64_t window = 0;                     // LayerConfig's, of all layers but
  std::vector<std::int64_t> full_layers = {};  // these (ascending); without meaning where there is no window
  double window_rope_base = 0;  // of layers with a window, whose frequencies are not scaled; 0: as the others
  NormPlacement norm_placement = NormPlacement::Before;
  double norm_offset = 0;      // added to the weights of norms (Gemma: 1)
  double embedding_scale = 1;  // of embedded tokens (Gemma: sqrt(C))
  Activation activation = Activation::Silu;
  LatentConfig latent = {};
  double activation_limit = 0;  // of ClampedSwish: gate at most this, up within it (gpt-oss: 7)

  bool attention_output_bias = false;  // o has a bias
  bool mlp_bias = false;               // the matrices of dense feed-forwards have biases
  bool head_bias = false;              // logits have a bias
  bool reward_head = false;  // in place of the vocabulary's: a number of a text, of its last token's hidden state
  bool mlp_gate = true;      // dense feed-forwards are down(activation(gate x) * up x), or down(activation(up x))
  NormKind norm_kind = NormKind::Rms;
  Positions positions = Positions::Rotary;
  std::int64_t rotary_width = 0;  // channels of a head that turn, its first ones; 0: all
  /// Layers behind the last that predict further tokens, a token each (core/nn/predictor.h); each is as the last layer.
  std::int64_t num_predict_layers = 0;
  double residual_scale = 1;  // of what blocks add to the stream (Granite)
  double logits_scale = 1;    // of the vocabulary's logits (Granite: 1 / logits_scaling)
  MambaConfig mamba = {};
  bool feed_forward = true;  // false: a layer is what mixes tokens, and nothing behind it (Mamba-2)

  bool is_latent() const { return latent.rank > 0; }
  /// Channels of a head of queries and keys that turn: the first, or of latent attention the last.
  std::int64_t turning_width() const {
    if (is_latent()) return latent.rope_width;
    return rotary_width > 0 ? rotary_width : head_width;
  }
  /// Of a head of values.
  std::int64_t value_width() const { return is_latent() ? latent.value_width : head_width; }
  /// Positions of a document above which other frequencies turn its tokens (LongRope), from the first on; 0: none.
  std::int64_t long_context_from() const {
    return rope_scaling.kind == RopeScaling::Kind::LongRope ? rope_scaling.original_positions : 0;
  }
  /// From num_layers on, of those that predict.
  LayerConfig layer(std::int64_t index) const;
  bool is_moe_layer(std::int64_t layer) const;
  bool is_mamba_layer(std::int64_t layer) const;
  std::int64_t num_mamba_layers() const;
  /// Of attention alone; the numbers of its heads are without meaning where no layer has it.
  bool has_attention() const { return num_mamba_layers() < num_layers; }
  std::int64_t num_moe_layers() const;  // without those that predict
  std::int64_t num_moe_predict_layers() const { return is_moe_layer(num_layers) ? num_predict_layers : 0; }
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

/// The same model with a reward head in place of the vocabulary's, and of what reads that.
ModelConfig with_reward_head(ModelConfig config);

/// What a model may have at most: far above any that is trained, and low enough that the products of sizes fit.
struct ModelLimits {
  static constexpr std::int64_t vocabulary = std::int64_t{1} << 28U;
  static constexpr std::int64_t width = std::int64_t{1} << 24U;  // of the residual stream and of feed-forwards
  static constexpr std::int64_t num_layers = 10000;
  static constexpr std::int64_t num_predict_layers = 64;
  static constexpr std::int64_t num_heads = std::int64_t{1} << 16U;
  static constexpr std::int64_t head_width = std::int64_t{1} << 16U;
  static constexpr std::int64_t num_experts = std::int64_t{1} << 16U;
  static constexpr std::int64_t conv_width = 8;
  static constexpr std::int64_t max_positions = std::int64_t{1} << 31U;
  static constexpr double parameters = 0x1p56;
};

/// Throws a UsageError that names the field (prefixed with `where`) unless every number is positive, finite and within
/// ModelLimits, G divides H, D is even, 1 <= K <= E, lists of layers ascend and exist, and latents and groups fit. Its
/// time does not depend on the numbers.
void validate(const ModelConfig& config, const std::string& where);

/// Parameters in all, and those that one token uses (K of E experts, and the shared ones; the embedding table is not
/// counted unless tied, nor are layers that predict further tokens).
struct ParameterCount {
  std::int64_t total = 0;
  std::int64_t active = 0;
};
ParameterCount count_parameters(const ModelConfig& config);

/// Floating-point operations of one token's forward pass: 2 for each active weight, attention over the visible keys, on
/// average (S + 1) / 2 of a sequence of S, and of a Mamba-2 layer 6 for each number of its state, which is decayed,
/// written and read, however chunks are computed. Norms, softmax and activations are not counted.
double forward_flops_per_token(const ModelConfig& config, std::int64_t sequence_length);
/// Likewise of one expert in each MoE layer, those that predict further tokens too.
double forward_flops_per_expert(const ModelConfig& config);
/// Forward and backward: three times the forward, with the layers that predict further tokens, each with the head;
/// recomputation is not counted.
double training_flops_per_token(const ModelConfig& config, std::int64_t sequence_length);

}  // namespace limbeck::nn
