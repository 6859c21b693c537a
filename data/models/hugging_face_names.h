// Which Hugging Face tensors a Limbeck tensor is made of; for the reader and the exporter.
#pragma once

#include <string>
#include <vector>

#include "core/nn/model_config.h"
#include "core/shape.h"

namespace limbeck::data {

struct HuggingFaceName {
  std::string name;                 // ours
  core::Shape shape;                // ours
  std::vector<std::string> stored;  // theirs: one, or the matrices of a stack [E,...]
  bool is_stack = false;
};

/// Calls visit(HuggingFaceName) for every tensor of the model in the order of computation. One at a time: a config may
/// promise more tensors than there is memory for their names.
template <class F>
void for_each_hugging_face_name(const nn::ModelConfig& c, F&& visit) {
  const auto one = [&](const std::string& name, const core::Shape& shape, const std::string& stored) {
    visit(HuggingFaceName{name, shape, {stored + ".weight"}, false});
  };
  const auto stack = [&](const std::string& name, const core::Shape& shape, const std::string& experts,
                         const std::string& matrix) {
    HuggingFaceName stacked{name, shape, {}, true};
    for (std::int64_t e = 0; e < shape[0]; ++e)
      stacked.stored.push_back(fmt::format("{}.{}.{}.weight", experts, e, matrix));
    visit(stacked);
  };
  const std::int64_t q_rows = c.num_heads * c.head_width;
  const std::int64_t kv_rows = c.num_kv_heads * c.head_width;
  one("embed.weight", {c.vocabulary, c.width}, "model.embed_tokens");
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string ours = fmt::format("layers.{}.", layer);
    const std::string theirs = fmt::format("model.layers.{}.", layer);
    one(ours + "attention_norm.weight", {c.width}, theirs + "input_layernorm");
    one(ours + "attention.q.weight", {q_rows, c.width}, theirs + "self_attn.q_proj");
    one(ours + "attention.k.weight", {kv_rows, c.width}, theirs + "self_attn.k_proj");
    one(ours + "attention.v.weight", {kv_rows, c.width}, theirs + "self_attn.v_proj");
    one(ours + "attention.o.weight", {c.width, q_rows}, theirs + "self_attn.o_proj");
    one(ours + "mlp_norm.weight", {c.width}, theirs + "post_attention_layernorm");
    if (c.is_moe_layer(layer)) {
      const std::int64_t experts = c.moe.num_experts;
      const std::string moe = theirs + "block_sparse_moe.";
      one(ours + "moe.router.weight", {experts, c.width}, moe + "gate");
      stack(ours + "moe.experts.gate", {experts, c.moe.expert_width, c.width}, moe + "experts", "w1");
      stack(ours + "moe.experts.up", {experts, c.moe.expert_width, c.width}, moe + "experts", "w3");
      stack(ours + "moe.experts.down", {experts, c.width, c.moe.expert_width}, moe + "experts", "w2");
    } else {
      one(ours + "mlp.gate.weight", {c.mlp_width, c.width}, theirs + "mlp.gate_proj");
      one(ours + "mlp.up.weight", {c.mlp_width, c.width}, theirs + "mlp.up_proj");
      one(ours + "mlp.down.weight", {c.width, c.mlp_width}, theirs + "mlp.down_proj");
    }
  }
  one("norm.weight", {c.width}, "model.norm");
  if (!c.tied_head) one("head.weight", {c.vocabulary, c.width}, "lm_head");
}

}  // namespace limbeck::data
