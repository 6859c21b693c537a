// Which GGUF tensor a Limbeck tensor is in a file of the `llama` architecture, dense or with experts in every layer;
// for the reader and the exporter.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/nn/model_config.h"
#include "core/shape.h"

namespace limbeck::data {

struct GgufName {
  std::string name;    // ours
  std::string stored;  // theirs
  core::Shape shape;
  bool is_permuted = false;  // rows of q and k
};

/// Every tensor of the model in the order of the files that llama.cpp's converter writes.
inline std::vector<GgufName> gguf_names(const nn::ModelConfig& c) {
  std::vector<GgufName> names;
  const auto add = [&](const std::string& name, const std::string& stored, const core::Shape& shape,
                       bool is_permuted = false) {
    names.push_back({name, stored + ".weight", shape, is_permuted});
  };
  const std::int64_t q_rows = c.num_heads * c.head_width;
  const std::int64_t kv_rows = c.num_kv_heads * c.head_width;
  add("embed.weight", "token_embd", {c.vocabulary, c.width});
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string ours = fmt::format("layers.{}.", layer);
    const std::string theirs = fmt::format("blk.{}.", layer);
    add(ours + "attention_norm.weight", theirs + "attn_norm", {c.width});
    add(ours + "attention.q.weight", theirs + "attn_q", {q_rows, c.width}, true);
    add(ours + "attention.k.weight", theirs + "attn_k", {kv_rows, c.width}, true);
    add(ours + "attention.v.weight", theirs + "attn_v", {kv_rows, c.width});
    add(ours + "attention.o.weight", theirs + "attn_output", {c.width, q_rows});
    add(ours + "mlp_norm.weight", theirs + "ffn_norm", {c.width});
    if (c.is_moe_layer(layer)) {
      const auto& moe = c.moe;
      add(ours + "moe.router.weight", theirs + "ffn_gate_inp", {moe.num_experts, c.width});
      add(ours + "moe.experts.gate", theirs + "ffn_gate_exps", {moe.num_experts, moe.expert_width, c.width});
      add(ours + "moe.experts.up", theirs + "ffn_up_exps", {moe.num_experts, moe.expert_width, c.width});
      add(ours + "moe.experts.down", theirs + "ffn_down_exps", {moe.num_experts, c.width, moe.expert_width});
    } else {
      add(ours + "mlp.gate.weight", theirs + "ffn_gate", {c.mlp_width, c.width});
      add(ours + "mlp.up.weight", theirs + "ffn_up", {c.mlp_width, c.width});
      add(ours + "mlp.down.weight", theirs + "ffn_down", {c.width, c.mlp_width});
    }
  }
  add("norm.weight", "output_norm", {c.width});
  if (!c.tied_head) add("head.weight", "output", {c.vocabulary, c.width});
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
