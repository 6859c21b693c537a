// docs/models.md has the families' own table.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "data/models/families/family.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

std::string row_of(const Family& family) {
  const FamilyTraits& t = family.traits;
  std::vector<std::string> has;
  const auto add = [&](bool is_so, const char* what) {
    if (is_so) has.emplace_back(what);
  };
  add(t.attention_bias, t.may_lack_attention_bias ? "biases of q, k and v or none" : "biases of q, k and v");
  add(t.head_norm == nn::HeadNorm::EachHead,
      t.may_lack_head_norm ? "norms of q and k, of each head, or none" : "norms of q and k, of each head");
  add(t.head_norm == nn::HeadNorm::AllHeads, "norms of q and k, of all heads");
  add(t.norm_placement == nn::NormPlacement::After, "norms behind the blocks");
  add(t.norm_placement == nn::NormPlacement::Around, "norms around the blocks");
  add(t.norm_offset != 0, "norms' weights stored less 1");
  add(t.activation == nn::Activation::GeluTanh, "GELU");
  add(t.activation == nn::Activation::ClampedSwish, "a clamped gate");
  add(t.attention_sinks, "attention sinks");
  add(t.attention_output_bias, "a bias of o");
  add(t.mlp_bias, "biases of feed-forwards");
  add(t.head_bias, "a bias of logits");
  add(!t.mlp_gate, "no gate");
  add(t.norm_kind == nn::NormKind::Layer, "LayerNorm");
  add(t.mamba == FamilyTraits::Mamba::All, "layers of Mamba-2 alone");
  add(t.mamba == FamilyTraits::Mamba::Some, "Mamba-2 in some layers or all");
  add(t.positions == nn::Positions::Learned, "learned positions");
  add(t.may_lack_positions, "no positions");
  add(t.scales_embedding, "scaled embedding");
  add(t.has_scales, "scales of embedded tokens, of what blocks add and of logits");
  add(t.has_attention_scale, "a scale of scores");
  add(t.has_latents, "queries, keys and values of latents");
  add(t.experts == FamilyTraits::Experts::All,
      t.may_lack_experts ? "experts in every layer or none" : "experts in every layer");
  add(t.experts == FamilyTraits::Experts::Some, "experts in some layers or all");
  add(t.leads_with_dense, "the first layers dense");
  add(t.has_groups, "groups of experts");
  add(t.scores == nn::RouterScores::Sigmoid, "scores that are sigmoids");
  add(t.selection_bias, "a bias they are chosen by");
  add(t.has_weight_scale, "a scale of their outputs");
  add(t.has_shared_experts && t.shared_gate, "a gated shared expert");
  add(t.has_shared_experts && !t.shared_gate, "shared experts");
  add(t.predicts, "layers that predict further tokens");
  add(t.router_bias, "a bias of the router");
  add(t.expert_bias, "biases of experts");
  add(t.windows == FamilyTraits::Windows::All, "a window");
  add(t.windows == FamilyTraits::Windows::Some, "a window in some layers");
  add(t.has_window_rope, "a rotary base of theirs");
  add(t.ropes == FamilyTraits::Ropes::Long, "LongRoPE");
  add(t.has_long_scales, "scales of its own");
  add(t.may_turn_partly, "a part of a head may turn");
  std::string list;
  for (const std::string& one : has) list += (list.empty() ? "" : ", ") + one;
  const std::string weights = t.experts == FamilyTraits::Experts::None  ? ""
                              : t.router == nn::RouterKind::SparseMixer ? "of the sparse mixer"
                              : !t.may_renormalise                      ? "do not sum to 1"
                              : t.may_not_renormalise                   ? "sum to 1 or not"
                                                                        : "sum to 1";
  const std::string gguf = *family.gguf == '\0' ? "" : fmt::format("`{}`", family.gguf);
  const std::string names = *family.also == '\0' ? family.name : fmt::format("{} ({})", family.name, family.also);
  return fmt::format("| {} | `{}` | {} | {} | {} |\n", names, family.architecture, gguf, list, weights);
}

TEST(Families, AreAsTheDocumentationSays) {
  std::string table =
      "| family | `architectures` | GGUF | beyond a Llama | weights of the chosen experts |\n"
      "|---|---|---|---|---|\n";
  for (const Family* family : families()) table += row_of(*family);
  const std::string document = testing::read_file(testing::source_folder() / "docs/models.md");
  EXPECT_NE(document.find(table), std::string::npos) << "docs/models.md lacks this table:\n" << table;
}

nn::ModelConfig model_as_gpt2() {
  nn::ModelConfig c{.vocabulary = 7,
                    .width = 8,
                    .num_layers = 3,
                    .num_heads = 2,
                    .num_kv_heads = 2,
                    .head_width = 4,
                    .mlp_width = 5,
                    .max_positions = 16,
                    .moe = {}};
  set_traits(family_of("GPT2LMHeadModel", "x").traits, c);
  return c;
}

// Square matrices are told by nothing but their names; what GPT-2 cannot be is refused.
TEST(Families, Gpt2IsWhatItSays) {
  nn::ModelConfig c = model_as_gpt2();
  EXPECT_STREQ(family_for(c, "x").name, "GPT-2");
  c.num_kv_heads = 1;
  EXPECT_EQ(*beyond_all_families(c), "num_kv_heads is 1, expected as num_heads = 2 (GPT-2)");
  c = model_as_gpt2();
  c.head_width = 6;
  EXPECT_EQ(*beyond_all_families(c), "head_width is 6, expected width / num_heads = 4 (GPT-2)");
  c = model_as_gpt2();
  c.attention_output_bias = false;
  EXPECT_EQ(*beyond_all_families(c), "attention_output_bias is false, expected true (GPT-2)");
}

TEST(Families, LongRopeIsOfPhi) {
  nn::ModelConfig c = model_as_gpt2();
  set_traits(family_of("Phi3ForCausalLM", "x").traits, c);
  EXPECT_STREQ(family_for(c, "x").name, "Llama") << "without scaling it is no other";
  c.rope_scaling = {.kind = nn::RopeScaling::Kind::LongRope,
                    .factor = 2,
                    .original_positions = 8,
                    .short_factors = {1, 1},
                    .long_factors = {1, 2}};
  EXPECT_STREQ(family_for(c, "x").name, "Phi-3");
  EXPECT_STREQ(family_for(c, "x", beyond_gguf).name, "Phi-3");
  c.rope_scaling.short_scale = c.rope_scaling.long_scale = 1.5;
  EXPECT_EQ(*beyond_all_families(c), "rope_scaling.short_scale and long_scale are 1.5 and 1.5, expected 0 (Phi-3)");
  c.rope_scaling.short_scale = c.rope_scaling.long_scale = 0;
  c.moe = {.num_experts = 4, .experts_per_token = 2, .expert_width = 6, .dense_layers = {}};
  EXPECT_NE(beyond_all_families(c)->find("rope_scaling is LongRoPE"), std::string::npos) << "no mixture has it so";
  set_traits(family_of("PhimoeForCausalLM", "x").traits, c);
  c.moe.renormalise = false;
  c.rope_scaling.short_scale = c.rope_scaling.long_scale = 1.5;
  EXPECT_STREQ(family_for(c, "x").name, "Phi-3.5-MoE");
  EXPECT_EQ(*beyond_gguf(family_of("PhimoeForCausalLM", "x"), c), "Phi-3.5-MoE has no general.architecture");
}

TEST(Families, OfGgufAreToldApartByTheirExperts) {
  EXPECT_STREQ(family_of_gguf("llama", false, "x").name, "Llama");
  EXPECT_STREQ(family_of_gguf("llama", true, "x").name, "Mixtral");
  EXPECT_THROW(family_of_gguf("qwen3", true, "x"), core::Error);
  for (const bool is_mixture : {false, true})
    EXPECT_STREQ(family_of_gguf("granitehybrid", is_mixture, "x").name, "Granite 4 (hybrid)") << "a Bamba is one too";
}

nn::ModelConfig small_model() {
  return {.vocabulary = 7,
          .width = 8,
          .num_layers = 3,
          .num_heads = 2,
          .num_kv_heads = 1,
          .head_width = 4,
          .mlp_width = 5,
          .max_positions = 16,
          .moe = {}};
}

// What one family cannot hold another may; what none can is told of the nearest.
TEST(Families, AreChosenByWhatAModelIs) {
  nn::ModelConfig c = small_model();
  const auto name = [&] { return std::string(family_for(c, "x").name); };
  EXPECT_EQ(name(), "Llama");
  c.window = 4;
  EXPECT_EQ(name(), "Mistral");
  c.attention_bias = true;
  EXPECT_EQ(name(), "Qwen2");
  c.full_layers = {1};
  EXPECT_EQ(name(), "Qwen2");
  c.attention_bias = false;
  EXPECT_EQ(*beyond_all_families(c), "full_layers has 1 layers, expected none (Mistral)");
  c.head_norm = nn::HeadNorm::EachHead;
  EXPECT_EQ(name(), "Qwen3");
  c.window = 0;
  c.moe = {.num_experts = 4, .experts_per_token = 2, .expert_width = 6, .dense_layers = {0}};
  EXPECT_EQ(name(), "Qwen3-MoE");
  c.moe.weight_scale = 2;
  EXPECT_EQ(*beyond_all_families(c), "moe.weight_scale is 2, expected 1 (Qwen3-MoE)");
  c.head_norm = nn::HeadNorm::None;
  c.num_kv_heads = 2;
  c.moe.renormalise = false;
  c.moe.shared_width = 12;
  c.latent = {.rank = 3, .rope_width = 2, .value_width = 5};
  EXPECT_EQ(name(), "DeepSeek-V2");
  c.moe.num_groups = 2;
  EXPECT_EQ(name(), "DeepSeek-V2");
  c.moe.group_score = nn::GroupScore::BestTwo;
  EXPECT_EQ(*beyond_all_families(c), "moe.group_score is the best two of a group, expected the best (DeepSeek-V2)");
  c.moe.scores = nn::RouterScores::Sigmoid;
  c.moe.selection_bias = true;
  EXPECT_EQ(name(), "DeepSeek-V3");
  c.moe.dense_layers = {1};
  EXPECT_EQ(*beyond_all_families(c), "moe.dense_layers has 1, expected the first layers (DeepSeek-V3)");
}

// What is computed but no family has is refused by name, not written without it.
TEST(Families, BiasesAndPositionsThatNoneHasAreNamed) {
  const auto beyond_with = [](auto&& change) {
    nn::ModelConfig c = small_model();
    change(c);
    return beyond_all_families(c).value_or("");
  };
  EXPECT_EQ(beyond_with([](auto& c) { c.rotary_width = 2; }), "");
  EXPECT_EQ(beyond_with([](auto& c) {
              c.rotary_width = 2, c.rope_scaling = {.kind = nn::RopeScaling::Kind::Linear, .factor = 2};
            }),
            "rotary_width is 2, expected that of a head, 4 (Llama)");
  EXPECT_EQ(beyond_with([](auto& c) { c.attention_output_bias = true; }),
            "attention_output_bias is true, expected false (Llama)");
  EXPECT_EQ(beyond_with([](auto& c) { c.mlp_bias = true; }), "mlp_bias is true, expected false (Llama)");
  EXPECT_EQ(beyond_with([](auto& c) { c.head_bias = true; }), "head_bias is true, expected false (Llama)");
  EXPECT_EQ(beyond_with([](auto& c) { c.mlp_gate = false; }), "mlp_gate is false, expected true (Llama)");
  EXPECT_EQ(beyond_with([](auto& c) { c.norm_kind = nn::NormKind::Layer; }),
            "norms are LayerNorm, expected RMSNorm (Llama)");
  EXPECT_EQ(beyond_with([](auto& c) { c.positions = nn::Positions::Learned; }),
            "positions are learned, expected rotary (Llama)");
}

/// Gemma 3 has no word for it: its layers with a window have frequencies of their own, which are not stretched.
TEST(Families, StretchedFrequenciesOfWindowsAreNotGemmas) {
  nn::ModelConfig c = small_model();
  c.head_norm = nn::HeadNorm::EachHead;
  c.norm_placement = nn::NormPlacement::Around;
  c.norm_offset = 1;
  c.activation = nn::Activation::GeluTanh;
  c.embedding_scale = std::sqrt(8.0);
  c.window = 4;
  c.full_layers = {1};
  EXPECT_EQ(std::string(family_for(c, "x").name), "Gemma 3");
  c.rope_scaling = {.kind = nn::RopeScaling::Kind::Linear, .factor = 8};
  EXPECT_EQ(*beyond_all_families(c), "window_rope_base is 0 beside rope_scaling, expected above 0 (Gemma 3)");
  c.window_rope_base = 10000;
  EXPECT_EQ(std::string(family_for(c, "x").name), "Gemma 3");
}

}  // namespace
}  // namespace limbeck::data
