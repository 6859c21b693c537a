// What is Phi's and GPT-2's own: factors of short and long documents, fused and turned tensors, names that differ.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "data/models/hugging_face_config.h"
#include "tests/support/family_reference.h"
#include "tests/support/golden_model.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using data::HuggingFaceModel;
using testing::document_of;
using testing::expect_near;
using testing::FamilyReference;
using testing::logits_of;
using testing::stored_values;

/// Families whose short documents have other frequencies than their long ones.
class LongRope : public ::testing::TestWithParam<const char*> {
 protected:
  const FamilyReference reference{GetParam()};
};

TEST_P(LongRope, AShortDocumentHasTheShortFactors) {
  const HuggingFaceModel model(reference.folder());
  const std::vector<double> tokens = reference.values("/short/tokens"), expected = reference.values("/short/logits");
  const data::TokenBatch alone = document_of({tokens.begin(), tokens.end()});
  expect_near(logits_of(model, model.model_config(), alone, DType::F32), expected, 1e-5);
  expect_near(logits_of(model, model.model_config(), alone, DType::F64), expected, 2e-7);
  // In a row with a long one before it, each has its own.
  data::TokenBatch packed = document_of({5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
  const std::vector<double> first = logits_of(model, model.model_config(), packed, DType::F64);
  for (std::int64_t i = 0; i < alone.sequence_length; ++i) {
    const auto at = static_cast<std::size_t>(i);
    packed.tokens.push_back(alone.tokens[at]);
    packed.targets.push_back(-1);
    packed.positions.push_back(alone.positions[at]);
    packed.documents.push_back(1);
  }
  packed.sequence_length += alone.sequence_length;
  const std::vector<double> both = logits_of(model, model.model_config(), packed, DType::F64);
  const auto begin = both.begin() + std::ssize(first);
  expect_near({both.begin(), begin}, first, 1e-12);
  expect_near({begin, both.end()}, expected, 2e-7);
}

INSTANTIATE_TEST_SUITE_P(OfPeople, LongRope, ::testing::Values("phi3", "phi4_mini", "phimoe"),
                         [](const auto& test) { return std::string(test.param); });

void expect_gguf_holds(const std::string& family, const std::map<std::string, std::string>& names, bool transposed) {
  const FamilyReference reference(family);
  const HuggingFaceModel model(reference.folder());
  const testing::TemporaryFolder folder;
  data::export_gguf(model, model.model_config(), folder / "m.gguf", {.dtype = DType::F32});
  const data::GgufFile gguf((folder / "m.gguf").string());
  const data::SafetensorsFile stored(reference.folder() / "model.safetensors");
  for (const auto& [ours, theirs] : names) {
    if (theirs.empty()) continue;  // of GGUF alone
    const data::GgufTensor& tensor = gguf.tensors().at(ours);
    const auto expected = stored_values(
        stored, theirs, transposed && tensor.shape.rank() == 2 && theirs.find(".h.") != std::string::npos);
    std::vector<float> values(expected.size());
    ASSERT_EQ(tensor.shape.numel(), std::ssize(expected)) << ours;
    gguf.read(tensor, 0, tensor.shape.numel(), values.data());
    EXPECT_EQ(values, expected) << ours;
  }
  EXPECT_EQ(gguf.tensors().size(), names.size()) << "no other tensors";
}

// Where llama.cpp's converter puts what transformers has: fused tensors as they are, Conv1D's turned.
TEST(FamiliesInGguf, Phi3HasItsTensorsAsTheyAre) {
  std::map<std::string, std::string> names = {{"token_embd.weight", "model.embed_tokens.weight"},
                                              {"output_norm.weight", "model.norm.weight"},
                                              {"output.weight", "lm_head.weight"}};
  for (const std::string n : {"0", "1", "2"}) {
    const std::string ours = "blk." + n + ".", theirs = "model.layers." + n + ".";
    names[ours + "attn_norm.weight"] = theirs + "input_layernorm.weight";
    names[ours + "attn_qkv.weight"] = theirs + "self_attn.qkv_proj.weight";
    names[ours + "attn_output.weight"] = theirs + "self_attn.o_proj.weight";
    names[ours + "ffn_norm.weight"] = theirs + "post_attention_layernorm.weight";
    names[ours + "ffn_up.weight"] = theirs + "mlp.gate_up_proj.weight";
    names[ours + "ffn_down.weight"] = theirs + "mlp.down_proj.weight";
  }
  const FamilyReference reference("phi3");
  const HuggingFaceModel model(reference.folder());
  const testing::TemporaryFolder folder;
  data::export_gguf(model, model.model_config(), folder / "m.gguf", {.dtype = DType::F32});
  const data::GgufFile gguf((folder / "m.gguf").string());
  const auto factors = [&](const char* name) {
    std::vector<float> values(3);
    gguf.read(gguf.tensors().at(name), 0, 3, values.data());
    return values;
  };
  EXPECT_EQ(factors("rope_factors_short.weight"), (std::vector<float>{1, 1.1F, 1.4F}));
  EXPECT_EQ(factors("rope_factors_long.weight"), (std::vector<float>{1.2F, 2.1F, 3.7F}));
  EXPECT_EQ(gguf.integer("phi3.rope.scaling.original_context_length"), 10);
  EXPECT_EQ(gguf.integer("phi3.attention.sliding_window"), 7);
  EXPECT_NEAR(gguf.number("phi3.rope.scaling.attn_factor"), std::sqrt(1 + std::log(4.0) / std::log(10.0)), 1e-6);
  names["rope_factors_long.weight"] = names["rope_factors_short.weight"] = "";
  expect_gguf_holds("phi3", names, false);
}

TEST(FamiliesInGguf, Gpt2HasItsMatricesTurned) {
  std::map<std::string, std::string> names = {{"token_embd.weight", "transformer.wte.weight"},
                                              {"position_embd.weight", "transformer.wpe.weight"}};
  const auto both = [&](const std::string& ours, const std::string& theirs) {
    for (const char* kind : {".weight", ".bias"}) names[ours + kind] = theirs + kind;
  };
  both("output_norm", "transformer.ln_f");
  for (const std::string n : {"0", "1", "2"}) {
    const std::string ours = "blk." + n + ".", theirs = "transformer.h." + n + ".";
    both(ours + "attn_norm", theirs + "ln_1");
    both(ours + "attn_qkv", theirs + "attn.c_attn");
    both(ours + "attn_output", theirs + "attn.c_proj");
    both(ours + "ffn_norm", theirs + "ln_2");
    both(ours + "ffn_up", theirs + "mlp.c_fc");
    both(ours + "ffn_down", theirs + "mlp.c_proj");
  }
  expect_gguf_holds("gpt2", names, true);
}

// What a config.json of Phi-3 may say wrongly is told by its field.
TEST(Phi3, AConfigThatCannotBeMeantIsRefused) {
  const FamilyReference reference("phi4_mini");
  const std::string config = testing::read_file(reference.folder() / "config_v4.json");
  const testing::TemporaryFolder folder;
  fs::copy_file(reference.folder() / "model.safetensors", folder / "model.safetensors");
  const auto expect_refusal = [&](const std::string& what, const std::string& by, const char* message) {
    std::string other = config;
    const std::size_t at = other.find(what);
    ASSERT_NE(at, std::string::npos) << what;
    testing::write_file(folder / "config.json", other.replace(at, what.size(), by));
    EXPECT_THAT([&] { HuggingFaceModel{folder.path()}; },
                ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr(message)));
  };
  expect_refusal("0.75", "1.5", "partial_rotary_factor is 1.5, expected above 0 to 1");
  expect_refusal("0.75", "0.1", "nothing of a head of 6 turns");
  expect_refusal("0.75", "0.6", "rotary_width is 3, expected an even number");
  expect_refusal("0.75", "1.0", "short_factors are 2, expected half of the 6 channels that turn");
  expect_refusal("2.9", "-2.9", "long_factors is -2.9, expected a positive number");
  expect_refusal("\"longrope\"", "\"dynamic\"", "type is \"dynamic\", which is not supported");
  expect_refusal("\"long_factor\"", "\"factors\"", "long_factor is absent, expected a list of numbers");
  expect_refusal("embeddings\": 10", "embeddings\": 0", "original_max_position_embeddings is 0");
  expect_refusal("silu", "gelu", "hidden_act is \"gelu\"");
}

/// A source whose tied head is there once more.
class WithHead final : public core::StateReader {
 public:
  explicit WithHead(const core::StateReader& source) : source_(source), tensors_(source.tensors()) {
    tensors_["head.weight"] = tensors_.at("embed.weight");
  }
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const override {
    source_.read(name == "head.weight" ? "embed.weight" : name, entry);
  }
  const core::StateReader& source_;
  std::map<std::string, core::StateInfo> tensors_;
};

// As converters have written GPT-2: the head is the embedding, and in the file all the same.
TEST(FamiliesInGguf, AHeadThatIsTheEmbeddingOnceMoreIsTied) {
  const FamilyReference reference("gpt2");
  const HuggingFaceModel model(reference.folder());
  nn::ModelConfig config = model.model_config();
  config.tied_head = false;
  const testing::TemporaryFolder folder;
  data::export_gguf(WithHead(model), config, folder / "m.gguf", {.dtype = DType::F32});
  const auto file = std::make_shared<data::GgufFile>((folder / "m.gguf").string());
  ASSERT_TRUE(file->tensors().contains("output.weight"));
  const data::GgufModel again(file);
  EXPECT_TRUE(again.model_config().tied_head);
  EXPECT_FALSE(again.tensors().contains("head.weight"));
  expect_near(logits_of(again, again.model_config(), reference.samples(), DType::F32), reference.values("/logits"),
              1e-5);
}

// Its authors' own code has another name for the architecture, and adds noise in training.
TEST(PhiMoe, IsReadAsItsAuthorsSaveIt) {
  const FamilyReference reference("phimoe");
  const testing::TemporaryFolder folder;
  std::string config = testing::read_file(reference.folder() / "config_v4.json");
  const auto replace = [&](const std::string& what, const std::string& by) {
    const std::size_t at = config.find(what);
    ASSERT_NE(at, std::string::npos) << what;
    config.replace(at, what.size(), by);
  };
  replace("PhimoeForCausalLM", "PhiMoEForCausalLM");
  replace("\"input_jitter_noise\": 0.0", "\"input_jitter_noise\": 0.01");
  testing::write_file(folder / "config.json", config);
  fs::copy_file(reference.folder() / "model.safetensors", folder / "model.safetensors");
  EXPECT_EQ(HuggingFaceModel(folder.path()).model_config(), HuggingFaceModel(reference.folder()).model_config());
  replace("\"lm_head_bias\": true", "\"lm_head_bias\": false");
  testing::write_file(folder / "config.json", config);
  EXPECT_THAT([&] { HuggingFaceModel{folder.path()}; },
              ::testing::ThrowsMessage<core::Error>(::testing::HasSubstr("lm_head_bias is false")));
}

/// The golden GPT-2 with tensors renamed, and with more of them.
void write_gpt2(const fs::path& folder, const std::string& prefix, bool with_masks) {
  const FamilyReference reference("gpt2");
  const data::SafetensorsFile stored(reference.folder() / "model.safetensors");
  std::vector<data::SafetensorsPlan> plan;
  const std::size_t root = std::string("transformer.").size();
  std::map<std::string, std::string> origin;
  for (const auto& [name, entry] : stored.tensors()) {
    plan.push_back({prefix + name.substr(root), DType::F32, entry.shape});
    origin[plan.back().name] = name;
  }
  if (with_masks)
    for (const char* name : {"h.0.attn.bias", "h.2.attn.masked_bias"})
      plan.push_back({prefix + name, DType::F32, {1, 1, 3, 3}});
  data::SafetensorsWriter writer(folder / "model.safetensors", plan, {{"format", "pt"}});
  for (const data::SafetensorsPlan& tensor : plan) {
    Tensor value = Tensor::zeros(core::Memory::cpu(1), DType::F32, tensor.shape);
    if (const auto from = origin.find(tensor.name); from != origin.end()) {
      const std::vector<float> values = stored_values(stored, from->second, false);
      std::copy(values.begin(), values.end(), value.mutable_data<float>());
    }
    writer.write(value);
  }
  writer.finish();
  fs::copy_file(reference.folder() / "config.json", folder / "config.json");
}

TEST(Gpt2, IsReadWithoutItsRootAndWithItsMasks) {
  const FamilyReference reference("gpt2");
  for (const char* prefix : {"transformer.", ""})
    for (const bool with_masks : {false, true}) {
      const testing::TemporaryFolder folder;
      write_gpt2(folder.path(), prefix, with_masks);
      const HuggingFaceModel model(folder.path());
      expect_near(logits_of(model, model.model_config(), reference.samples(), DType::F64), reference.values("/logits"),
                  2e-7);
    }
}

}  // namespace
}  // namespace limbeck
