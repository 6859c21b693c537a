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
  StoredRows rows = {};        // of the one that is stored as one with others; of a bias, its elements
  bool is_transposed = false;  // there it is [in, out]
  bool is_wide = false;        // float32 in every file
  bool is_copy = false;        // of one that is stored elsewhere too; files may be without it
  // Of each of `stored`: its shape, and where element [i,j,...] of ours, or of a matrix of our stack, lies in it, at
  // first + rows.of(i) strides[0] + j strides[1] + ... Empty: what follows from the above.
  core::Shape stored_shape = {};
  std::int64_t first = 0;
  std::vector<std::int64_t> strides = {};

  /// Of ours, or of a matrix of our stack.
  core::Shape matrix() const { return is_stack ? core::Shape(shape.extents().subspan(1)) : shape; }
  /// Whether the values of a tensor of theirs are those of one of ours, in the same order.
  bool is_as_stored() const {
    HuggingFaceName plain{name, shape, {}, is_stack};
    plain.complete();
    return rows.is_all() && first == 0 && stored_shape == plain.stored_shape && strides == plain.strides;
  }
  void complete() {
    if (!strides.empty()) return;
    stored_shape = matrix();
    if (!rows.is_all()) stored_shape[0] = rows.total;
    if (is_transposed) {
      strides = {1, stored_shape[0]};
      stored_shape = {stored_shape[1], stored_shape[0]};
      return;
    }
    strides.assign(static_cast<std::size_t>(stored_shape.rank()), 1);
    for (int d = stored_shape.rank() - 2; d >= 0; --d) strides[d] = strides[d + 1] * stored_shape[d + 1];
  }
};

/// Calls visit(HuggingFaceName) for every tensor of the model in the order of computation. One at a time: a config may
/// promise more tensors than there is memory for their names. Those that are stored as one follow each other.
template <class F>
void for_each_hugging_face_name(const nn::ModelConfig& c, const FamilyNames& names, F&& visit_complete) {
  const auto visit = [&](HuggingFaceName name) {
    name.complete();
    visit_complete(std::as_const(name));
  };
  const auto one = [&](const std::string& name, const core::Shape& shape, const std::string& stored,
                       const char* kind = ".weight") {
    visit(HuggingFaceName{name + kind, shape, {stored + kind}});
  };
  /// Of a layer.
  const auto matrix = [&](const std::string& name, const core::Shape& shape, const std::string& stored,
                          const StoredRows& rows = {}) {
    visit(HuggingFaceName{name + ".weight", shape, {stored + ".weight"}, false, rows, names.is_transposed});
  };
  const auto bias = [&](const std::string& name, std::int64_t width, const std::string& stored,
                        const StoredRows& rows = {}) {
    visit(HuggingFaceName{name + ".bias", {width}, {stored + ".bias"}, false, rows});
  };
  const auto norm = [&](bool is_there, const std::string& name, std::int64_t width, const std::string& stored) {
    if (!is_there) return;
    one(name, {width}, stored);
    if (c.norm_kind == nn::NormKind::Layer) one(name, {width}, stored, ".bias");
  };
  const auto attention_inputs = [&](const std::string& ours, const std::string& theirs) {
    const std::int64_t q_rows = c.num_heads * c.head_width, kv_rows = c.num_kv_heads * c.head_width;
    const std::vector<std::pair<std::string, std::int64_t>> parts = {{"q", q_rows}, {"k", kv_rows}, {"v", kv_rows}};
    if (*names.qkv == '\0') {
      for (const auto& [name, rows] : parts) {
        const StoredRows order = names.interleaves && name != "v"
                                     ? StoredRows::in_pairs(c.head_width, c.turning_width(), rows)
                                     : StoredRows();
        matrix(ours + name, {rows, c.width}, theirs + name + "_proj", order);
        if (c.attention_bias) bias(ours + name, rows, theirs + name + "_proj", order);
      }
      return;
    }
    const std::int64_t all = q_rows + 2 * kv_rows;
    std::int64_t first = 0;
    for (const auto& [name, rows] : parts) {
      matrix(ours + name, {rows, c.width}, theirs + names.qkv, StoredRows::run(first, rows, all));
      first += rows;
    }
    if (!c.attention_bias) return;
    first = 0;
    for (const auto& [name, rows] : parts) {
      bias(ours + name, rows, theirs + names.qkv, StoredRows::run(first, rows, all));
      first += rows;
    }
  };
  const auto mlp = [&](const std::string& ours, const std::string& theirs, std::int64_t width, bool has_biases) {
    const bool is_fused = *names.gate_up != '\0' && c.mlp_gate;
    if (is_fused) {
      matrix(ours + "gate", {width, c.width}, theirs + names.gate_up, StoredRows::run(0, width, 2 * width));
      matrix(ours + "up", {width, c.width}, theirs + names.gate_up, StoredRows::run(width, width, 2 * width));
    } else {
      if (c.mlp_gate) matrix(ours + "gate", {width, c.width}, theirs + "gate_proj");
      if (c.mlp_gate && has_biases) bias(ours + "gate", width, theirs + "gate_proj");
      matrix(ours + "up", {width, c.width}, theirs + names.mlp_up);
      if (has_biases) bias(ours + "up", width, theirs + names.mlp_up);
    }
    matrix(ours + "down", {c.width, width}, theirs + names.mlp_down);
    if (has_biases) bias(ours + "down", c.width, theirs + names.mlp_down);
  };
  const auto stack = [&](const std::string& name, const core::Shape& shape, const std::string& experts,
                         const std::string& matrix_name) {
    HuggingFaceName stacked{name, shape, {}, true};
    for (std::int64_t e = 0; e < shape[0]; ++e)
      stacked.stored.push_back(fmt::format("{}.{}.{}.weight", experts, e, matrix_name));
    visit(stacked);
  };
  const auto fused_experts = [&](const std::string& ours, const std::string& theirs) {
    const std::int64_t e = c.moe.num_experts, f = c.moe.expert_width, w = c.width;
    const auto part = [&](const std::string& name, const core::Shape& shape, const std::string& stored,
                          const core::Shape& stored_shape, std::int64_t first, std::vector<std::int64_t> strides) {
      HuggingFaceName fused{ours + name, shape, {theirs + stored}};
      fused.stored_shape = stored_shape;
      fused.first = first;
      fused.strides = std::move(strides);
      visit(fused);
    };
    for (const auto& [name, first] : {std::pair<std::string, std::int64_t>("gate", 0), {"up", 1}}) {
      part(name, {e, f, w}, "gate_up_proj", {e, w, 2 * f}, first, {w * 2 * f, 2, 2 * f});
      if (c.moe.expert_bias) part(name + "_bias", {e, f}, "gate_up_proj_bias", {e, 2 * f}, first, {2 * f, 2});
    }
    part("down", {e, w, f}, "down_proj", {e, f, w}, 0, {f * w, 1, w});
    if (c.moe.expert_bias) part("down_bias", {e, w}, "down_proj_bias", {e, w}, 0, {w, 1});
  };
  const auto joined_experts = [&](const std::string& ours, const std::string& theirs) {
    const std::int64_t e = c.moe.num_experts, f = c.moe.expert_width, w = c.width;
    for (const auto& [name, first] : {std::pair<std::string, std::int64_t>("gate", 0), {"up", f * w}}) {
      HuggingFaceName part{ours + name, {e, f, w}, {theirs + "input_linear.weight"}};
      part.stored_shape = {e, 2 * f, w};
      part.first = first;
      part.strides = {2 * f * w, w, 1};
      visit(part);
    }
    visit(HuggingFaceName{ours + "down", {e, w, f}, {theirs + "output_linear.weight"}});
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
    matrix(ours + (is_low ? "q_b" : "q"), {h * d, is_low ? l.query_rank : c.width},
           theirs + (is_low ? "q_b_proj" : "q_proj"),
           {.group = d, .stride = d, .total = h * d, .turning = l.rope_width});
    const std::string kv_a = theirs + "kv_a_proj_with_mqa", kv_b = theirs + "kv_b_proj";
    matrix(ours + "kv_a", {l.rank, c.width}, kv_a, StoredRows::run(0, l.rank, down));
    one(ours + "kv_a_norm", {l.rank}, theirs + "kv_a_layernorm");
    matrix(ours + "k_rope", {l.rope_width, c.width}, kv_a,
           {.group = l.rope_width, .stride = down, .first = l.rank, .total = down, .turning = l.rope_width});
    matrix(ours + "k_b", {h * own, l.rank}, kv_b, {.group = own, .stride = both, .total = h * both});
    matrix(ours + "v_b", {h * l.value_width, l.rank}, kv_b,
           {.group = l.value_width, .stride = both, .first = own, .total = h * both});
    one(ours + "o", {c.width, h * l.value_width}, theirs + "o_proj");
  };
  const auto usual_attention = [&](const std::string& ours, const std::string& theirs) {
    attention_inputs(ours, theirs);
    const std::int64_t q_rows = c.num_heads * c.head_width, kv_rows = c.num_kv_heads * c.head_width;
    const bool each = c.head_norm == nn::HeadNorm::EachHead, has_norms = c.head_norm != nn::HeadNorm::None;
    norm(has_norms, ours + "q_norm", each ? c.head_width : q_rows, theirs + "q_norm");
    norm(has_norms, ours + "k_norm", each ? c.head_width : kv_rows, theirs + "k_norm");
    matrix(ours + "o", {c.width, q_rows}, theirs + names.o);
    if (c.attention_output_bias) bias(ours + "o", c.width, theirs + names.o);
    if (c.attention_sinks) one(ours, {c.num_heads}, theirs, "sinks");
  };
  const auto mamba = [&](const std::string& ours, const std::string& theirs) {
    const nn::MambaConfig& m = c.mamba;
    const std::int64_t inner = m.inner_width(), states = m.num_groups * m.state_width;
    // In the order of their rows; the first and the last have no filters.
    const std::vector<std::pair<std::string, std::int64_t>> parts = {
        {"z", inner}, {"x", inner}, {"B", states}, {"C", states}, {"dt", m.num_heads}};
    const std::int64_t filters = inner + 2 * states, all = inner + filters + m.num_heads;
    std::int64_t first = 0;
    for (const auto& [name, rows] : parts) {
      matrix(ours + name, {rows, c.width}, theirs + "in_proj", StoredRows::run(first, rows, all));
      first += rows;
    }
    const auto each_filtered = [&](auto&& f) {
      std::int64_t at = 0;
      for (std::size_t i = 1; i + 1 < parts.size(); at += parts[i++].second)
        f(ours + "conv_" + parts[i].first, parts[i].second, StoredRows::run(at, parts[i].second, filters));
    };
    each_filtered([&](const std::string& name, std::int64_t width, const StoredRows& rows) {
      HuggingFaceName filter{name + ".weight", {width, m.conv_width}, {theirs + "conv1d.weight"}, false, rows};
      filter.stored_shape = {filters, 1, m.conv_width};
      filter.strides = {m.conv_width, 1};
      visit(filter);
    });
    if (m.conv_bias)
      each_filtered([&](const std::string& name, std::int64_t width, const StoredRows& rows) {
        bias(name, width, theirs + "conv1d", rows);
      });
    for (const char* name : {"dt_bias", "A_log", "D"}) one(ours, {m.num_heads}, theirs, name);
    one(ours + "norm", {inner}, theirs + "norm");
    one(ours + "o", {c.width, inner}, theirs + "out_proj");
  };
  const bool before = c.norm_placement != nn::NormPlacement::After;
  const bool after = c.norm_placement != nn::NormPlacement::Before;
  const auto one_layer = [&](std::int64_t layer, const std::string& ours, const std::string& theirs) {
    const std::string attention = theirs + names.attention + ".";
    const bool is_mamba = c.is_mamba_layer(layer);
    const std::string mixer = is_mamba ? "mamba" : "attention";
    norm(before, ours + mixer + "_norm", c.width, theirs + names.attention_norm);
    if (is_mamba)
      mamba(ours + "mamba.", theirs + names.mamba + ".");
    else if (c.is_latent())
      latent_attention(ours + "attention.", attention);
    else
      usual_attention(ours + "attention.", attention);
    norm(after, ours + mixer + "_post_norm", c.width, theirs + names.attention_post_norm);
    if (!c.feed_forward) return;
    norm(before, ours + "mlp_norm", c.width, theirs + names.mlp_norm);
    if (c.is_moe_layer(layer)) {
      const std::int64_t experts = c.moe.num_experts;
      const std::string moe = theirs + names.experts + ".";
      one(ours + "moe.router", {experts, c.width}, moe + names.router);
      if (c.moe.router_bias) one(ours + "moe.router", {experts}, moe + names.router, ".bias");
      if (c.moe.selection_bias) {
        HuggingFaceName chooses{
            ours + "moe.router.selection_bias", {experts}, {moe + names.router + ".e_score_correction_bias"}};
        chooses.is_wide = true;
        visit(chooses);
      }
      if (names.fused_experts) {
        fused_experts(ours + "moe.experts.", moe + "experts.");
      } else if (names.joined_experts) {
        joined_experts(ours + "moe.experts.", moe);
      } else {
        stack(ours + "moe.experts.gate", {experts, c.moe.expert_width, c.width}, moe + "experts", names.gate);
        stack(ours + "moe.experts.up", {experts, c.moe.expert_width, c.width}, moe + "experts", names.up);
        stack(ours + "moe.experts.down", {experts, c.width, c.moe.expert_width}, moe + "experts", names.down);
      }
      const std::string shared = names.joined_experts ? theirs + names.mlp + "." : moe + names.shared + ".";
      if (c.moe.shared_width > 0) mlp(ours + "moe.shared.", shared, c.moe.shared_width, false);
      if (c.moe.shared_gate) one(ours + "moe.shared_gate", {1, c.width}, moe + "shared_expert_gate");
    } else {
      mlp(ours + "mlp.", theirs + names.mlp + ".", c.mlp_width, c.mlp_bias);
    }
    norm(after, ours + "mlp_post_norm", c.width, theirs + names.mlp_post_norm);
  };
  one("embed", {c.vocabulary, c.width}, names.root + names.embed);
  if (c.positions == nn::Positions::Learned)
    one("position_embed", {c.max_positions, c.width}, names.root + names.position_embed);
  for (std::int64_t layer = 0; layer < c.num_layers; ++layer)
    one_layer(layer, fmt::format("layers.{}.", layer), fmt::format("{}{}.{}.", names.root, names.layers, layer));
  norm(true, "norm", c.width, names.root + names.norm);
  if (c.reward_head)
    one("reward", {1, c.width}, "score");
  else if (!c.tied_head)
    one("head", {c.vocabulary, c.width}, "lm_head");
  if (c.head_bias) one("head", {c.vocabulary}, "lm_head", ".bias");
  const auto copy = [&](const char* name, const std::string& stored) {
    HuggingFaceName copied{std::string(name) + ".weight", {c.vocabulary, c.width}, {stored + ".weight"}};
    copied.is_copy = true;
    visit(copied);
  };
  for (std::int64_t depth = 0; depth < c.num_predict_layers; ++depth) {
    const std::string ours = fmt::format("predict.{}.", depth);
    const std::string theirs = fmt::format("{}{}.{}.", names.root, names.layers, c.num_layers + depth);
    copy("embed", theirs + names.embed);
    norm(true, ours + "embed_norm", c.width, theirs + "enorm");
    norm(true, ours + "hidden_norm", c.width, theirs + "hnorm");
    one(ours + "project", {c.width, 2 * c.width}, theirs + "eh_proj");
    one_layer(c.num_layers + depth, ours, theirs);
    norm(true, ours + "norm", c.width, theirs + "shared_head.norm");
    copy(c.tied_head ? "embed" : "head", theirs + "shared_head.head");
  }
}

}  // namespace limbeck::data
