// Which Hugging Face tensors a Limbeck tensor is made of; for the reader and the exporter.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/nn/model_config.h"
#include "core/shape.h"
#include "data/models/families/family.h"

namespace limbeck::data {

struct HuggingFaceName {
  std::string name;                 // ours
  core::Shape shape;                // ours
  std::vector<std::string> stored;  // theirs: one, or the matrices of a stack [E,...]
  bool is_stack = false;
  // Where a tensor of theirs is not ours as it is, or the matrix of our stack: its shape, and element [i,j,...] of ours
  // is theirs at first + i strides[0] + j strides[1] + ...
  core::Shape stored_shape = {};
  std::int64_t first = 0;
  std::vector<std::int64_t> strides = {};

  /// Of each stored tensor, or of our matrix.
  core::Shape matrix() const { return is_stack ? core::Shape(shape.extents().subspan(1)) : shape; }
  /// Whether the values of a tensor of theirs are those of one of ours, in the same order.
  bool is_as_stored() const {
    return stored_shape == matrix() && HuggingFaceName{name, shape, stored, is_stack}.complete().strides == strides;
  }
  /// With what follows from the rest.
  HuggingFaceName complete() && {
    if (!strides.empty()) return std::move(*this);
    stored_shape = matrix();
    strides.assign(static_cast<std::size_t>(stored_shape.rank()), 1);
    for (int d = stored_shape.rank() - 2; d >= 0; --d) strides[d] = strides[d + 1] * stored_shape[d + 1];
    return std::move(*this);
  }
};

/// Calls visit(HuggingFaceName) for every tensor of the model in the order of computation. One at a time: a config may
/// promise more tensors than there is memory for their names.
template <class F>
void for_each_hugging_face_name(const nn::ModelConfig& c, const FamilyNames& names, F&& visit) {
  const auto one = [&](const std::string& name, const core::Shape& shape, const std::string& stored,
                       const char* kind = ".weight") {
    visit(HuggingFaceName{name + kind, shape, {stored + kind}, false}.complete());
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
    visit(std::move(stacked).complete());
  };
  const auto fused_experts = [&](const std::string& ours, const std::string& theirs) {
    const std::int64_t e = c.moe.num_experts, f = c.moe.expert_width, w = c.width;
    const auto part = [&](const std::string& name, const core::Shape& shape, const std::string& stored,
                          const core::Shape& stored_shape, std::int64_t first, std::vector<std::int64_t> strides) {
      visit(HuggingFaceName{ours + name, shape, {theirs + stored}, false, stored_shape, first, std::move(strides)});
    };
    for (const auto& [name, first] : {std::pair<std::string, std::int64_t>("gate", 0), {"up", 1}}) {
      part(name, {e, f, w}, "gate_up_proj", {e, w, 2 * f}, first, {w * 2 * f, 2, 2 * f});
      if (c.moe.expert_bias) part(name + "_bias", {e, f}, "gate_up_proj_bias", {e, 2 * f}, first, {2 * f, 2});
    }
    part("down", {e, w, f}, "down_proj", {e, f, w}, 0, {f * w, 1, w});
    if (c.moe.expert_bias) part("down_bias", {e, w}, "down_proj_bias", {e, w}, 0, {w, 1});
  };
  const std::int64_t q_rows = c.num_heads * c.head_width;
  const std::int64_t kv_rows = c.num_kv_heads * c.head_width;
  const bool before = c.norm_placement != nn::NormPlacement::After;
  const bool after = c.norm_placement != nn::NormPlacement::Before;
  one("embed", {c.vocabulary, c.width}, "model.embed_tokens");
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string ours = fmt::format("layers.{}.", layer);
    const std::string theirs = fmt::format("model.layers.{}.", layer);
    const std::string attention = theirs + "self_attn.";
    norm(before, ours + "attention_norm", c.width, theirs + names.attention_norm);
    for (const auto& [name, rows] : {std::pair("q", q_rows), std::pair("k", kv_rows), std::pair("v", kv_rows)}) {
      one(ours + "attention." + name, {rows, c.width}, attention + name + "_proj");
      if (c.attention_bias) one(ours + "attention." + name, {rows}, attention + name + "_proj", ".bias");
    }
    const bool each = c.head_norm == nn::HeadNorm::EachHead, has_norms = c.head_norm != nn::HeadNorm::None;
    norm(has_norms, ours + "attention.q_norm", each ? c.head_width : q_rows, attention + "q_norm");
    norm(has_norms, ours + "attention.k_norm", each ? c.head_width : kv_rows, attention + "k_norm");
    one(ours + "attention.o", {c.width, q_rows}, attention + "o_proj");
    if (c.attention_output_bias) one(ours + "attention.o", {c.width}, attention + "o_proj", ".bias");
    if (c.attention_sinks) one(ours + "attention.", {c.num_heads}, attention, "sinks");
    norm(after, ours + "attention_post_norm", c.width, theirs + names.attention_post_norm);
    norm(before, ours + "mlp_norm", c.width, theirs + names.mlp_norm);
    if (c.is_moe_layer(layer)) {
      const std::int64_t experts = c.moe.num_experts;
      const std::string moe = theirs + names.experts + ".";
      one(ours + "moe.router", {experts, c.width}, moe + names.router);
      if (c.moe.router_bias) one(ours + "moe.router", {experts}, moe + names.router, ".bias");
      if (names.fused_experts) {
        fused_experts(ours + "moe.experts.", moe + "experts.");
      } else {
        stack(ours + "moe.experts.gate", {experts, c.moe.expert_width, c.width}, moe + "experts", names.gate);
        stack(ours + "moe.experts.up", {experts, c.moe.expert_width, c.width}, moe + "experts", names.up);
        stack(ours + "moe.experts.down", {experts, c.width, c.moe.expert_width}, moe + "experts", names.down);
      }
      if (c.moe.shared_width > 0) mlp(ours + "moe.shared.", moe + "shared_expert.", c.moe.shared_width);
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
