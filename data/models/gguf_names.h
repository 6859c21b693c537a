// Which GGUF tensor a Limbeck tensor is, dense or with experts in every layer; for the reader and the exporter.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/model_config.h"
#include "core/shape.h"
#include "data/models/families/family.h"

namespace limbeck::data {

struct GgufName {
  std::string name;    // ours
  std::string stored;  // theirs
  core::Shape shape;
  bool is_permuted = false;  // rows of q and k
  double offset = 0;         // that the file's values are greater by
  bool is_row = false;       // [C] in the file, [1,C] here

  core::Shape stored_shape() const { return is_row ? core::Shape{shape[1]} : shape; }
};

/// Every tensor of the model in the order of the files that llama.cpp's converter writes.
inline std::vector<GgufName> gguf_names(const nn::ModelConfig& c, const Family& family) {
  std::vector<GgufName> names;
  const auto add = [&](const std::string& name, const std::string& stored, const core::Shape& shape,
                       bool is_permuted = false, const char* kind = ".weight") {
    names.push_back({name + kind, stored + kind, shape, is_permuted});
  };
  const auto norm = [&](bool is_there, const std::string& name, const std::string& stored, std::int64_t width) {
    if (!is_there) return;
    add(name, stored, {width});
    names.back().offset = c.norm_offset;
  };
  const auto mlp = [&](const std::string& ours, const std::string& theirs, const char* end, std::int64_t width) {
    add(ours + "gate", theirs + "ffn_gate" + end, {width, c.width});
    add(ours + "up", theirs + "ffn_up" + end, {width, c.width});
    add(ours + "down", theirs + "ffn_down" + end, {c.width, width});
  };
  const std::int64_t q_rows = c.num_heads * c.head_width;
  const std::int64_t kv_rows = c.num_kv_heads * c.head_width;
  const bool before = c.norm_placement != nn::NormPlacement::After;
  const bool after = c.norm_placement != nn::NormPlacement::Before;
  const bool each = c.head_norm == nn::HeadNorm::EachHead, has_norms = c.head_norm != nn::HeadNorm::None;
  add("embed", "token_embd", {c.vocabulary, c.width});
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string ours = fmt::format("layers.{}.", layer);
    const std::string theirs = fmt::format("blk.{}.", layer);
    norm(before, ours + "attention_norm", theirs + "attn_norm", c.width);
    for (const auto& [which, rows] : {std::pair("q", q_rows), std::pair("k", kv_rows), std::pair("v", kv_rows)}) {
      const bool is_permuted = family.gguf_interleaves && *which != 'v';
      add(ours + "attention." + which, theirs + "attn_" + which, {rows, c.width}, is_permuted);
      if (c.attention_bias) add(ours + "attention." + which, theirs + "attn_" + which, {rows}, is_permuted, ".bias");
    }
    add(ours + "attention.o", theirs + "attn_output", {c.width, q_rows});
    if (c.attention_output_bias) add(ours + "attention.o", theirs + "attn_output", {c.width}, false, ".bias");
    if (c.attention_sinks) {
      add(ours + "attention.sinks", theirs + "attn_sinks", {c.num_heads});
      names.back().name = ours + "attention.sinks";
    }
    norm(has_norms, ours + "attention.q_norm", theirs + "attn_q_norm", each ? c.head_width : q_rows);
    norm(has_norms, ours + "attention.k_norm", theirs + "attn_k_norm", each ? c.head_width : kv_rows);
    norm(after, ours + "attention_post_norm", theirs + "post_attention_norm", c.width);
    norm(before, ours + "mlp_norm", theirs + family.gguf_mlp_norm, c.width);
    if (c.is_moe_layer(layer)) {
      const auto& moe = c.moe;
      add(ours + "moe.router", theirs + "ffn_gate_inp", {moe.num_experts, c.width});
      if (moe.router_bias) add(ours + "moe.router", theirs + "ffn_gate_inp", {moe.num_experts}, false, ".bias");
      const auto stack = [&](const char* name, const char* stored, const core::Shape& shape) {
        add(ours + "moe.experts." + name, theirs + stored, shape);
        names.back().name = ours + "moe.experts." + name;
        if (!moe.expert_bias) return;
        add(ours, theirs + stored, {shape[0], shape[1]}, false, ".bias");
        names.back().name = ours + "moe.experts." + name + "_bias";
      };
      stack("gate", "ffn_gate_exps", {moe.num_experts, moe.expert_width, c.width});
      stack("up", "ffn_up_exps", {moe.num_experts, moe.expert_width, c.width});
      stack("down", "ffn_down_exps", {moe.num_experts, c.width, moe.expert_width});
      if (moe.shared_width > 0) mlp(ours + "moe.shared.", theirs, "_shexp", moe.shared_width);
      if (moe.shared_gate) {
        add(ours + "moe.shared_gate", theirs + "ffn_gate_inp_shexp", {1, c.width});
        names.back().is_row = true;
      }
    } else {
      mlp(ours + "mlp.", theirs, "", c.mlp_width);
    }
    norm(after, ours + "mlp_post_norm", theirs + "post_ffw_norm", c.width);
  }
  norm(true, "norm", "output_norm", c.width);
  if (!c.tied_head) add("head", "output", {c.vocabulary, c.width});
  return names;
}

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
