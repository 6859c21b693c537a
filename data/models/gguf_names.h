// Which GGUF tensor a Limbeck tensor is, dense or with experts in every layer; for the reader and the exporter.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/nn/model_config.h"
#include "core/shape.h"
#include "data/models/families/family.h"
#include "data/models/stored_rows.h"

namespace limbeck::data {

struct GgufName {
  std::string name;    // ours
  std::string stored;  // theirs
  core::Shape shape;
  bool is_permuted = false;    // rows of q and k, all of whose channels turn
  bool is_copy = false;        // of one that is stored elsewhere too; files may be without it
  std::string otherwise = {};  // a tensor that is taken where a file is without it; "": none
  double offset = 0;           // that the file's values are greater by
  bool is_row = false;         // [C] in the file, [1,C] here
  core::Shape as = {};         // the file's shape of the same numbers; a scalar's: ours
  bool is_decay = false;       // A = -exp(A_log) in the file, A_log here
  StoredRows rows = {};        // of the file's matrix
  // Of matrices [H*N,M] here and [H,N,M] there, or [H,M,N] where they are transposed:
  std::int64_t num_heads = 0;  // H
  bool is_transposed = false;

  core::Shape stored_shape() const {
    if (is_row) return {shape[1]};
    if (as.rank() > 0) return as;
    if (!rows.is_all()) {
      core::Shape all = shape;
      all[0] = rows.total;
      return all;
    }
    if (num_heads == 0) return shape;
    const std::int64_t n = shape[0] / num_heads;
    return is_transposed ? core::Shape{num_heads, shape[1], n} : core::Shape{num_heads, n, shape[1]};
  }
};

/// The file's number of a head's decay, and ours of the file's.
inline float gguf_decay(float a_log) { return static_cast<float>(-std::exp(static_cast<double>(a_log))); }
inline float decay_of_gguf(float a) { return static_cast<float>(std::log(-static_cast<double>(a))); }

/// Every tensor of the model in the order of the files that llama.cpp's converter writes. Files of before April 2025
/// have joined_kv: attn_kv_b, for attn_k_b and attn_v_b.
inline std::vector<GgufName> gguf_names(const nn::ModelConfig& c, const Family& family, bool joined_kv = false) {
  std::vector<GgufName> names;
  const auto add = [&](const std::string& name, const std::string& stored, const core::Shape& shape,
                       bool is_permuted = false, const char* kind = ".weight") {
    names.push_back({name + kind, stored + kind, shape, is_permuted});
  };
  const auto norm = [&](bool is_there, const std::string& name, const std::string& stored, std::int64_t width) {
    if (!is_there) return;
    add(name, stored, {width});
    names.back().offset = c.norm_offset;
    if (c.norm_kind == nn::NormKind::Layer) add(name, stored, {width}, false, ".bias");
  };
  const auto bias = [&](bool is_there, const std::string& name, const std::string& stored, std::int64_t width) {
    if (is_there) add(name, stored, {width}, false, ".bias");
  };
  /// The last `count` are one tensor.
  const auto fuse_last = [&](std::ptrdiff_t count) {
    std::int64_t total = 0, first = 0;
    for (auto name = names.end() - count; name != names.end(); ++name) total += name->shape[0];
    for (auto name = names.end() - count; name != names.end(); ++name) {
      name->rows = StoredRows::run(first, name->shape[0], total);
      first += name->shape[0];
    }
  };
  const auto mlp = [&](const std::string& ours, const std::string& theirs, const char* end, std::int64_t width,
                       bool has_biases) {
    const bool is_fused = (family.gguf_fuses || family.gguf_fuses_gate) && c.mlp_gate;
    if (c.mlp_gate) add(ours + "gate", theirs + (is_fused ? "ffn_up" : "ffn_gate") + end, {width, c.width});
    bias(c.mlp_gate && has_biases, ours + "gate", theirs + "ffn_gate" + end, width);
    add(ours + "up", theirs + "ffn_up" + end, {width, c.width});
    if (is_fused) fuse_last(2);
    bias(has_biases, ours + "up", theirs + "ffn_up" + end, width);
    add(ours + "down", theirs + "ffn_down" + end, {c.width, width});
    bias(has_biases, ours + "down", theirs + "ffn_down" + end, c.width);
  };
  const bool before = c.norm_placement != nn::NormPlacement::After;
  const bool after = c.norm_placement != nn::NormPlacement::Before;
  const auto latent_attention = [&](const std::string& ours, const std::string& theirs) {
    const nn::LatentConfig& l = c.latent;
    const std::int64_t h = c.num_heads, d = c.head_width, own = d - l.rope_width, both = own + l.value_width;
    const std::int64_t down = l.rank + l.rope_width;
    const bool is_low = l.query_rank > 0;
    const auto rows = [&](const char* name, const char* stored, const core::Shape& shape, const StoredRows& of) {
      add(ours + name, theirs + stored, shape);
      names.back().rows = of;
    };
    if (is_low) {
      add(ours + "q_a", theirs + "attn_q_a", {l.query_rank, c.width});
      add(ours + "q_a_norm", theirs + "attn_q_a_norm", {l.query_rank});
    }
    rows(is_low ? "q_b" : "q", is_low ? "attn_q_b" : "attn_q", {h * d, is_low ? l.query_rank : c.width},
         {.group = d, .stride = d, .total = h * d, .turning = l.rope_width});
    rows("kv_a", "attn_kv_a_mqa", {l.rank, c.width}, StoredRows::run(0, l.rank, down));
    rows("k_rope", "attn_kv_a_mqa", {l.rope_width, c.width},
         {.group = l.rope_width, .stride = down, .first = l.rank, .total = down, .turning = l.rope_width});
    add(ours + "kv_a_norm", theirs + "attn_kv_a_norm", {l.rank});
    if (joined_kv) {
      rows("k_b", "attn_kv_b", {h * own, l.rank}, {.group = own, .stride = both, .total = h * both});
      rows("v_b", "attn_kv_b", {h * l.value_width, l.rank},
           {.group = l.value_width, .stride = both, .first = own, .total = h * both});
    } else {
      add(ours + "k_b", theirs + "attn_k_b", {h * own, l.rank});
      names.back().num_heads = h;
      names.back().is_transposed = true;
      add(ours + "v_b", theirs + "attn_v_b", {h * l.value_width, l.rank});
      names.back().num_heads = h;
    }
    add(ours + "o", theirs + "attn_output", {c.width, h * l.value_width});
  };
  const auto usual_attention = [&](const std::string& ours, const std::string& theirs) {
    const std::int64_t q_rows = c.num_heads * c.head_width;
    const std::int64_t kv_rows = c.num_kv_heads * c.head_width;
    const bool each = c.head_norm == nn::HeadNorm::EachHead, has_norms = c.head_norm != nn::HeadNorm::None;
    const std::vector<std::pair<const char*, std::int64_t>> inputs = {{"q", q_rows}, {"k", kv_rows}, {"v", kv_rows}};
    if (family.gguf_fuses) {
      for (const auto& [which, rows] : inputs) add(ours + which, theirs + "attn_qkv", {rows, c.width});
      fuse_last(3);
      for (const auto& [which, rows] : inputs) bias(c.attention_bias, ours + which, theirs + "attn_qkv", rows);
      if (c.attention_bias) fuse_last(3);
    }
    for (const auto& [which, rows] : inputs) {
      if (family.gguf_fuses) break;
      const bool has_pairs = (family.names.interleaves || family.gguf_interleaves) && *which != 'v';
      const bool is_permuted = has_pairs && !family.names.interleaves && c.turning_width() == c.head_width;
      const StoredRows order =
          has_pairs && !is_permuted ? StoredRows::in_pairs(c.head_width, c.turning_width(), rows) : StoredRows();
      add(ours + which, theirs + "attn_" + which, {rows, c.width}, is_permuted);
      names.back().rows = order;
      if (!c.attention_bias) continue;
      add(ours + which, theirs + "attn_" + which, {rows}, is_permuted, ".bias");
      names.back().rows = order;
    }
    add(ours + "o", theirs + "attn_output", {c.width, q_rows});
    bias(c.attention_output_bias, ours + "o", theirs + "attn_output", c.width);
    if (c.attention_sinks) names.push_back({ours + "sinks", theirs + "attn_sinks.weight", {c.num_heads}});
    norm(has_norms, ours + "q_norm", theirs + "attn_q_norm", each ? c.head_width : q_rows);
    norm(has_norms, ours + "k_norm", theirs + "attn_k_norm", each ? c.head_width : kv_rows);
  };
  const auto mamba = [&](const std::string& ours, const std::string& theirs) {
    const nn::MambaConfig& m = c.mamba;
    const std::int64_t inner = m.inner_width(), states = m.num_groups * m.state_width;
    const std::vector<std::pair<const char*, std::int64_t>> parts = {
        {"z", inner}, {"x", inner}, {"B", states}, {"C", states}, {"dt", m.num_heads}};
    for (const auto& [name, rows] : parts) add(ours + name, theirs + "ssm_in", {rows, c.width});
    fuse_last(5);
    const auto filters = [&](const char* kind) {
      for (std::size_t i = 1; i + 1 < parts.size(); ++i) {
        const auto& [name, width] = parts[i];
        const bool is_bias = kind == std::string_view(".bias");
        add(ours + "conv_" + name, theirs + "ssm_conv1d",
            is_bias ? core::Shape{width} : core::Shape{width, m.conv_width}, false, kind);
      }
      fuse_last(3);
    };
    filters(".weight");
    if (m.conv_bias) filters(".bias");
    names.push_back({ours + "dt_bias", theirs + "ssm_dt.bias", {m.num_heads}});
    names.push_back({.name = ours + "A_log",
                     .stored = theirs + "ssm_a",
                     .shape = {m.num_heads},
                     .as = {m.num_heads, 1},
                     .is_decay = true});
    names.push_back({.name = ours + "D", .stored = theirs + "ssm_d", .shape = {m.num_heads}, .as = {m.num_heads, 1}});
    add(ours + "norm", theirs + "ssm_norm", {inner});
    names.back().as = {m.num_groups, inner / m.num_groups};
    add(ours + "o", theirs + "ssm_out", {c.width, inner});
  };
  add("embed", "token_embd", {c.vocabulary, c.width});
  if (c.positions == nn::Positions::Learned) add("position_embed", "position_embd", {c.max_positions, c.width});
  const auto one_layer = [&](std::int64_t layer, const std::string& ours, const std::string& theirs) {
    const bool is_mamba = c.is_mamba_layer(layer);
    const std::string mixer = is_mamba ? "mamba" : "attention";
    norm(before, ours + mixer + "_norm", theirs + "attn_norm", c.width);
    if (is_mamba)
      mamba(ours + "mamba.", theirs);
    else if (c.is_latent())
      latent_attention(ours + "attention.", theirs);
    else
      usual_attention(ours + "attention.", theirs);
    norm(after, ours + mixer + "_post_norm", theirs + "post_attention_norm", c.width);
    if (!c.feed_forward) return;
    norm(before, ours + "mlp_norm", theirs + family.gguf_mlp_norm, c.width);
    if (c.is_moe_layer(layer)) {
      const auto& moe = c.moe;
      add(ours + "moe.router", theirs + "ffn_gate_inp", {moe.num_experts, c.width});
      if (moe.selection_bias)
        names.push_back({ours + "moe.router.selection_bias", theirs + "exp_probs_b.bias", {moe.num_experts}});
      if (moe.router_bias) add(ours + "moe.router", theirs + "ffn_gate_inp", {moe.num_experts}, false, ".bias");
      const auto stack = [&](const char* name, const char* stored, const core::Shape& shape) {
        const std::string stacked = ours + "moe.experts." + name;
        names.push_back({stacked, fmt::format("{}{}.weight", theirs, stored), shape});
        if (!moe.expert_bias) return;
        names.push_back({stacked + "_bias", fmt::format("{}{}.bias", theirs, stored), {shape[0], shape[1]}});
      };
      stack("gate", "ffn_gate_exps", {moe.num_experts, moe.expert_width, c.width});
      stack("up", "ffn_up_exps", {moe.num_experts, moe.expert_width, c.width});
      stack("down", "ffn_down_exps", {moe.num_experts, c.width, moe.expert_width});
      if (moe.shared_width > 0) mlp(ours + "moe.shared.", theirs, "_shexp", moe.shared_width, false);
      if (moe.shared_gate) {
        add(ours + "moe.shared_gate", theirs + "ffn_gate_inp_shexp", {1, c.width});
        names.back().is_row = true;
      }
    } else {
      mlp(ours + "mlp.", theirs, "", c.mlp_width, c.mlp_bias);
    }
    norm(after, ours + "mlp_post_norm", theirs + "post_ffw_norm", c.width);
  };
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer)
    one_layer(layer, fmt::format("layers.{}.", layer), fmt::format("blk.{}.", layer));
  const auto copy = [&](const char* name, const std::string& stored) {
    add(name, stored, {c.vocabulary, c.width});
    names.back().is_copy = true;
  };
  for (std::int64_t depth = 0; depth < c.num_predict_layers; ++depth) {
    const std::string ours = fmt::format("predict.{}.", depth);
    const std::string theirs = fmt::format("blk.{}.", c.num_layers + depth);
    one_layer(c.num_layers + depth, ours, theirs);
    add(ours + "project", theirs + "nextn.eh_proj", {c.width, 2 * c.width});
    copy("embed", theirs + "nextn.embed_tokens");
    norm(true, ours + "embed_norm", theirs + "nextn.enorm", c.width);
    norm(true, ours + "hidden_norm", theirs + "nextn.hnorm", c.width);
    copy(c.tied_head ? "embed" : "head", theirs + "nextn.shared_head_head");
    norm(true, ours + "norm", theirs + "nextn.shared_head_norm", c.width);
    names.back().otherwise = "output_norm.weight";
  }
  norm(true, "norm", "output_norm", c.width);
  if (!c.tied_head) add("head", "output", {c.vocabulary, c.width});
  return names;
}

/// Of layers whose frequencies are divided by factors that the file holds: of LongRoPE.
inline constexpr const char *gguf_long_factors = "rope_factors_long.weight",
                            *gguf_short_factors = "rope_factors_short.weight";

/// Where files of before April 2024 have expert `e` of a stack [E,...]: each expert is a tensor of its own.
inline std::string gguf_expert_name(const std::string& stack, std::int64_t e) {
  return fmt::format("{}.{}.weight", stack.substr(0, stack.rfind("_exps.weight")), e);
}

/// A head's row in half-split order (Limbeck's, Hugging Face's) lies in the file, whose order is interleaved, at this
/// row (D: head width): W.reshape(H,2,D/2,C).swapaxes(1,2) in llama.cpp's converter.
inline std::int64_t interleaved_row(std::int64_t row, std::int64_t head_width) {
  const std::int64_t within = row % head_width;
  const std::int64_t half = head_width / 2;
  return row - within + 2 * (within % half) + within / half;
}

}  // namespace limbeck::data
