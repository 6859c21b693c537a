// Which GGUF tensor a Limbeck tensor is, dense or with experts in every layer; for the reader and the exporter.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/model_config.h"
#include "core/shape.h"

namespace limbeck::data {

struct GgufName {
  std::string name;    // ours
  std::string stored;  // theirs
  core::Shape shape;
  bool is_permuted = false;  // rows of q and k
  double offset = 0;         // that the file's values are greater by
  bool is_row = false;       // [C] in the file, [1,C] here
  // Of one that is stored as one with those beside it, from this row on (of a bias: element) of so many; 0: alone.
  std::int64_t first_row = 0, stored_rows = 0;

  core::Shape stored_shape() const {
    if (is_row) return {shape[1]};
    core::Shape all = shape;
    if (stored_rows > 0) all[0] = stored_rows;
    return all;
  }
};

/// Every tensor of the model in the order of the files that llama.cpp's converter writes.
inline std::vector<GgufName> gguf_names(const nn::ModelConfig& c, bool interleaves, bool fuses = false) {
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
    std::int64_t rows = 0;
    for (auto name = names.end() - count; name != names.end(); ++name) {
      name->first_row = rows;
      rows += name->shape[0];
    }
    for (auto name = names.end() - count; name != names.end(); ++name) name->stored_rows = rows;
  };
  const auto mlp = [&](const std::string& ours, const std::string& theirs, const char* end, std::int64_t width,
                       bool has_biases) {
    const bool is_fused = fuses && c.mlp_gate;
    if (c.mlp_gate) add(ours + "gate", theirs + (is_fused ? "ffn_up" : "ffn_gate") + end, {width, c.width});
    bias(c.mlp_gate && has_biases, ours + "gate", theirs + "ffn_gate" + end, width);
    add(ours + "up", theirs + "ffn_up" + end, {width, c.width});
    if (is_fused) fuse_last(2);
    bias(has_biases, ours + "up", theirs + "ffn_up" + end, width);
    add(ours + "down", theirs + "ffn_down" + end, {c.width, width});
    bias(has_biases, ours + "down", theirs + "ffn_down" + end, c.width);
  };
  const std::int64_t q_rows = c.num_heads * c.head_width;
  const std::int64_t kv_rows = c.num_kv_heads * c.head_width;
  const bool before = c.norm_placement != nn::NormPlacement::After;
  const bool after = c.norm_placement != nn::NormPlacement::Before;
  const bool each = c.head_norm == nn::HeadNorm::EachHead, has_norms = c.head_norm != nn::HeadNorm::None;
  add("embed", "token_embd", {c.vocabulary, c.width});
  if (c.positions == nn::Positions::Learned) add("position_embed", "position_embd", {c.max_positions, c.width});
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string ours = fmt::format("layers.{}.", layer);
    const std::string theirs = fmt::format("blk.{}.", layer);
    norm(before, ours + "attention_norm", theirs + "attn_norm", c.width);
    const std::vector<std::pair<const char*, std::int64_t>> inputs = {{"q", q_rows}, {"k", kv_rows}, {"v", kv_rows}};
    if (fuses) {
      for (const auto& [which, rows] : inputs) add(ours + "attention." + which, theirs + "attn_qkv", {rows, c.width});
      fuse_last(3);
      for (const auto& [which, rows] : inputs)
        bias(c.attention_bias, ours + "attention." + which, theirs + "attn_qkv", rows);
      if (c.attention_bias) fuse_last(3);
    }
    for (const auto& [which, rows] : inputs) {
      if (fuses) break;
      const bool is_permuted = interleaves && *which != 'v';
      add(ours + "attention." + which, theirs + "attn_" + which, {rows, c.width}, is_permuted);
      if (c.attention_bias) add(ours + "attention." + which, theirs + "attn_" + which, {rows}, is_permuted, ".bias");
    }
    add(ours + "attention.o", theirs + "attn_output", {c.width, q_rows});
    bias(c.attention_output_bias, ours + "attention.o", theirs + "attn_output", c.width);
    norm(has_norms, ours + "attention.q_norm", theirs + "attn_q_norm", each ? c.head_width : q_rows);
    norm(has_norms, ours + "attention.k_norm", theirs + "attn_k_norm", each ? c.head_width : kv_rows);
    norm(after, ours + "attention_post_norm", theirs + "post_attention_norm", c.width);
    norm(before, ours + "mlp_norm", theirs + "ffn_norm", c.width);
    if (c.is_moe_layer(layer)) {
      const auto& moe = c.moe;
      add(ours + "moe.router", theirs + "ffn_gate_inp", {moe.num_experts, c.width});
      const auto stack = [&](const char* name, const char* stored, const core::Shape& shape) {
        add(ours + "moe.experts." + name, theirs + stored, shape);
        names.back().name = ours + "moe.experts." + name;
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
