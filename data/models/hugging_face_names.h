// Which Hugging Face tensors a Limbeck tensor is made of; for the reader and the exporter.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/nn/model_config.h"
#include "core/shape.h"
#include "data/models/families/family.h"
#include "data/models/stored_rows.h"

namespace limbeck::data {

struct HuggingFaceName {
  std::string name;                 // ours
  core::Shape shape;                // ours
  std::vector<std::string> stored;  // theirs: one, or the matrices of a stack [E,...]
  bool is_stack = false;
  StoredRows rows = {};  // of the one that is stored
  bool is_wide = false;  // float32 in every file
};

/// Calls visit(HuggingFaceName) for every tensor of the model in the order of computation. One at a time: a config may
/// promise more tensors than there is memory for their names.
template <class F>
void for_each_hugging_face_name(const nn::ModelConfig& c, const FamilyNames& names, F&& visit) {
  const auto one = [&](const std::string& name, const core::Shape& shape, const std::string& stored,
                       const char* kind = ".weight") {
    visit(HuggingFaceName{name + kind, shape, {stored + kind}, false});
  };
  const auto norm = [&](bool is_there, const std::string& name, std::int64_t width, const std::string& stored) {
    if (is_there) one(name, {width}, stored);
  };
  const auto mlp = [&](const std::string& ours, const std::string& theirs, std::int64_t width) {
    one(ours + "gate", {width, c.width}, theirs + "gate_proj");
    one(ours + "up", {width, c.width}, theirs + "up_proj");
    one(ours + "down", {c.width, width}, theirs + "down_proj");
  };
  const auto stack = [&](const std::string& name, const core::Shape& shape, const std::string& experts,
                         const std::string& matrix) {
    HuggingFaceName stacked{name, shape, {}, true};
    for (std::int64_t e = 0; e < shape[0]; ++e)
      stacked.stored.push_back(fmt::format("{}.{}.{}.weight", experts, e, matrix));
    visit(stacked);
  };
  const auto rows = [&](const std::string& name, std::int64_t count, std::int64_t width, const std::string& stored,
                        const StoredRows& of) {
    visit(HuggingFaceName{name + ".weight", {count, width}, {stored + ".weight"}, false, of});
  };
  const auto latent_attention = [&](const std::string& ours, const std::string& theirs) {
    const nn::LatentConfig& l = c.latent;
    const std::int64_t h = c.num_heads, d = c.head_width, own = d - l.rope_width, both = own + l.value_width;
    const std::int64_t down = l.rank + l.rope_width;
    const bool is_low = l.query_rank > 0;
    if (is_low) {
      one(ours + "q_a", {l.query_rank, c.width}, theirs + "q_a_proj");
      one(ours + "q_a_norm", {l.query_rank}, theirs + "q_a_layernorm");
    }
    rows(ours + (is_low ? "q_b" : "q"), h * d, is_low ? l.query_rank : c.width,
         theirs + (is_low ? "q_b_proj" : "q_proj"), {.group = d, .stride = d, .total = h * d, .turning = l.rope_width});
    const std::string kv_a = theirs + "kv_a_proj_with_mqa", kv_b = theirs + "kv_b_proj";
    rows(ours + "kv_a", l.rank, c.width, kv_a, {.group = l.rank, .stride = down, .total = down});
    one(ours + "kv_a_norm", {l.rank}, theirs + "kv_a_layernorm");
    rows(ours + "k_rope", l.rope_width, c.width, kv_a,
         {.group = l.rope_width, .stride = down, .first = l.rank, .total = down, .turning = l.rope_width});
    rows(ours + "k_b", h * own, l.rank, kv_b, {.group = own, .stride = both, .total = h * both});
    rows(ours + "v_b", h * l.value_width, l.rank, kv_b,
         {.group = l.value_width, .stride = both, .first = own, .total = h * both});
    one(ours + "o", {c.width, h * l.value_width}, theirs + "o_proj");
  };
  const auto usual_attention = [&](const std::string& ours, const std::string& theirs) {
    const std::int64_t q_rows = c.num_heads * c.head_width;
    const std::int64_t kv_rows = c.num_kv_heads * c.head_width;
    for (const auto& [name, count] : {std::pair("q", q_rows), std::pair("k", kv_rows), std::pair("v", kv_rows)}) {
      one(ours + name, {count, c.width}, theirs + name + "_proj");
      if (c.attention_bias) one(ours + name, {count}, theirs + name + "_proj", ".bias");
    }
    const bool each = c.head_norm == nn::HeadNorm::EachHead, has_norms = c.head_norm != nn::HeadNorm::None;
    norm(has_norms, ours + "q_norm", each ? c.head_width : q_rows, theirs + "q_norm");
    norm(has_norms, ours + "k_norm", each ? c.head_width : kv_rows, theirs + "k_norm");
    one(ours + "o", {c.width, q_rows}, theirs + "o_proj");
  };
  const bool before = c.norm_placement != nn::NormPlacement::After;
  const bool after = c.norm_placement != nn::NormPlacement::Before;
  one("embed", {c.vocabulary, c.width}, "model.embed_tokens");
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string ours = fmt::format("layers.{}.", layer);
    const std::string theirs = fmt::format("model.layers.{}.", layer);
    const std::string attention = theirs + "self_attn.";
    norm(before, ours + "attention_norm", c.width, theirs + names.attention_norm);
    if (c.is_latent())
      latent_attention(ours + "attention.", attention);
    else
      usual_attention(ours + "attention.", attention);
    norm(after, ours + "attention_post_norm", c.width, theirs + names.attention_post_norm);
    norm(before, ours + "mlp_norm", c.width, theirs + names.mlp_norm);
    if (c.is_moe_layer(layer)) {
      const std::int64_t experts = c.moe.num_experts;
      const std::string moe = theirs + names.experts + ".";
      one(ours + "moe.router", {experts, c.width}, moe + "gate");
      if (c.moe.selection_bias) {
        HuggingFaceName bias{ours + "moe.router.bias", {experts}, {moe + "gate.e_score_correction_bias"}};
        bias.is_wide = true;
        visit(bias);
      }
      stack(ours + "moe.experts.gate", {experts, c.moe.expert_width, c.width}, moe + "experts", names.gate);
      stack(ours + "moe.experts.up", {experts, c.moe.expert_width, c.width}, moe + "experts", names.up);
      stack(ours + "moe.experts.down", {experts, c.width, c.moe.expert_width}, moe + "experts", names.down);
      if (c.moe.shared_width > 0) mlp(ours + "moe.shared.", moe + names.shared + ".", c.moe.shared_width);
      if (c.moe.shared_gate) one(ours + "moe.shared_gate", {1, c.width}, moe + "shared_expert_gate");
    } else {
      mlp(ours + "mlp.", theirs + "mlp.", c.mlp_width);
    }
    norm(after, ours + "mlp_post_norm", c.width, theirs + names.mlp_post_norm);
  }
  one("norm", {c.width}, "model.norm");
  if (!c.tied_head) one("head", {c.vocabulary, c.width}, "lm_head");
}

}  // namespace limbeck::data
