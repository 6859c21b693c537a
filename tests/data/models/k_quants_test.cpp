// Formats of blocks, written: as near to the values as ggml's own quantisers come (tests/golden/k_quants), and of the
// tensors that llama.cpp chose them for.
#include "data/models/k_quants.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "data/models/gguf_blocks.h"
#include "data/models/gguf_choice.h"
#include "data/models/gguf_format.h"
#include "tests/support/teacher_file.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using core::DType;
using testing::error_of;
using testing::golden_path;
using ::testing::HasSubstr;

constexpr std::int64_t columns = 1024;

std::vector<float> back(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(core::bytes_of(dtype, std::ssize(values))));
  quantize(dtype, values, bytes.data());
  std::vector<float> result(values.size());
  dequantize(dtype, bytes.data(), 0, std::ssize(values), result.data());
  return result;
}

double rms(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a[i]) - b[i], 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

TEST(BlockFormats, AreAsNearAsGgmlsOwn) {
  const std::string raw = testing::read_file(golden_path("k_quants/values.f32"));
  std::istringstream errors(testing::read_file(golden_path("k_quants/errors.txt")));
  const std::size_t rows = raw.size() / sizeof(float) / columns;
  ASSERT_EQ(rows, 11U);
  for (std::size_t row = 0; row < rows; ++row) {
    std::vector<float> values(columns);
    std::memcpy(values.data(), raw.data() + row * columns * sizeof(float), columns * sizeof(float));
    for (const DType dtype :
         {DType::Q4_0, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K}) {
      double reference = 0;
      ASSERT_TRUE(errors >> reference);
      EXPECT_LE(rms(back(dtype, values), values), 1.02 * reference) << core::name_of(dtype) << " row " << row;
    }
  }
}

TEST(BlockFormats, ValuesThatTheyHoldComeBack) {
  std::vector<float> zeros(256), whole(256);
  for (int i = 0; i < 256; ++i) whole[static_cast<std::size_t>(i)] = static_cast<float>(i % 16) - 8;
  for (const DType dtype :
       {DType::Q4_0, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K}) {
    EXPECT_EQ(back(dtype, zeros), zeros) << core::name_of(dtype);
    EXPECT_LE(rms(back(dtype, whole), whole), dtype == DType::Q4_0 ? 0.01 : 0.2) << core::name_of(dtype);
    zeros[7] = NAN;
    EXPECT_THAT(error_of([&] { back(dtype, zeros); }),
                HasSubstr("a value is nan, which " + std::string(core::name_of(dtype)) + " cannot hold"));
    zeros[7] = 0;
  }
  std::byte byte{};
  EXPECT_THAT(error_of([&] { quantize(DType::Q4_1, zeros, &byte); }), HasSubstr("dtype is Q4_1, expected"));
  EXPECT_THAT(error_of([&] { quantize(DType::Q4_K, {zeros.data(), 128}, &byte); }), HasSubstr("128"));
}

/// Lines "NAME FORMAT" of a published file.
std::map<std::string, std::string> published(const std::string& file) {
  std::istringstream text(testing::read_file(golden_path("k_quants/" + file)));
  std::map<std::string, std::string> formats;
  for (std::string name, format; text >> name >> format;) formats[name] = format;
  return formats;
}

/// The tensors of a file, chosen by us. llama.cpp once counted layers in the order of their names in text, 0, 1, 10,
/// 11, .., 2: then the file's n-th layer in that order is what ours of the number n is.
void expect_chosen(const std::string& file, const nn::ModelConfig& config, const Family& family, bool in_text_order) {
  const auto formats = published(file);
  std::vector<std::string> layers;
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer) layers.push_back(std::to_string(layer));
  if (in_text_order) std::sort(layers.begin(), layers.end());
  const auto names = gguf_names(config, family);
  ASSERT_EQ(names.size(), formats.size());
  for (const GgufName& name : names) {
    std::string theirs = name.stored;
    if (theirs.starts_with("blk.")) {
      const std::size_t end = theirs.find('.', 4);
      theirs.replace(4, end - 4, layers.at(std::stoul(theirs.substr(4, end - 4))));
    }
    const DType dtype = gguf_choice(name, config, family, DType::Q4_K).dtype;
    EXPECT_EQ(gguf_format(dtype).name, formats.at(theirs)) << theirs;
  }
}

// Rows of 896 values: nearly everything falls back to formats of 32.
TEST(GgufChoice, IsLlamaCppsForQwen) {
  nn::ModelConfig config{.vocabulary = 151936,
                         .width = 896,
                         .num_layers = 24,
                         .num_heads = 14,
                         .num_kv_heads = 2,
                         .head_width = 64,
                         .mlp_width = 4864,
                         .max_positions = 32768,
                         .tied_head = true,
                         .moe = {}};
  config.attention_bias = true;
  const auto formats = published("qwen2.5-coder-0.5b.txt");
  config.tied_head = !formats.contains("output.weight");
  expect_chosen("qwen2.5-coder-0.5b.txt", config, family_of("Qwen2ForCausalLM", ""), true);
}

TEST(GgufChoice, IsLlamaCppsForGemma) {
  nn::ModelConfig config{.vocabulary = 262144,
                         .width = 640,
                         .num_layers = 18,
                         .num_heads = 4,
                         .num_kv_heads = 1,
                         .head_width = 256,
                         .mlp_width = 2048,
                         .max_positions = 32768,
                         .tied_head = true,
                         .moe = {}};
  config.head_norm = nn::HeadNorm::EachHead;
  config.norm_placement = nn::NormPlacement::Around;
  expect_chosen("gemma-3-270m.txt", config, family_of("Gemma3ForCausalLM", ""), false);
}

// By the rules of llama-quant.cpp, read off for Mixtral 8x7B and a Llama of 80 layers.
TEST(GgufChoice, LargeModelsHaveTheirOwnRules) {
  nn::ModelConfig config{.vocabulary = 32000,
                         .width = 4096,
                         .num_layers = 32,
                         .num_heads = 32,
                         .num_kv_heads = 8,
                         .head_width = 128,
                         .max_positions = 32768,
                         .moe = {.num_experts = 8, .experts_per_token = 2, .expert_width = 14336, .dense_layers = {}}};
  const auto chosen = [&](const char* family, DType wanted) {
    std::map<std::string, DType> dtypes;
    for (const GgufName& name : gguf_names(config, family_of(family, "")))
      dtypes[name.stored] = gguf_choice(name, config, family_of(family, ""), wanted).dtype;
    return dtypes;
  };
  const auto mixtral = chosen("MixtralForCausalLM", DType::Q4_K);
  EXPECT_EQ(mixtral.at("token_embd.weight"), DType::Q4_K);
  EXPECT_EQ(mixtral.at("output.weight"), DType::Q6_K);
  EXPECT_EQ(mixtral.at("blk.5.attn_q.weight"), DType::Q4_K);
  EXPECT_EQ(mixtral.at("blk.5.attn_k.weight"), DType::Q8_0);
  EXPECT_EQ(mixtral.at("blk.5.attn_v.weight"), DType::Q8_0);
  EXPECT_EQ(mixtral.at("blk.5.attn_output.weight"), DType::Q5_K);
  EXPECT_EQ(mixtral.at("blk.5.ffn_gate_inp.weight"), DType::F32);
  EXPECT_EQ(mixtral.at("blk.5.ffn_gate_exps.weight"), DType::Q4_K);
  // 4 at either end, and each third from the seventh on.
  for (const int layer : {0, 3, 6, 9, 27, 28, 31})
    EXPECT_EQ(mixtral.at(fmt::format("blk.{}.ffn_down_exps.weight", layer)), DType::Q6_K) << layer;
  for (const int layer : {4, 5, 7, 8, 26})
    EXPECT_EQ(mixtral.at(fmt::format("blk.{}.ffn_down_exps.weight", layer)), DType::Q4_K) << layer;
  config.moe = {};
  config.mlp_width = 28672;
  config.num_layers = 80;
  const auto llama = chosen("LlamaForCausalLM", DType::Q4_K);
  EXPECT_EQ(llama.at("blk.10.attn_v.weight"), DType::Q5_K);
  EXPECT_EQ(llama.at("blk.9.attn_v.weight"), DType::Q6_K);
  EXPECT_EQ(llama.at("blk.10.attn_output.weight"), DType::Q4_K);
  EXPECT_EQ(chosen("LlamaForCausalLM", DType::Q8_0).at("output.weight"), DType::Q8_0);
  EXPECT_EQ(chosen("LlamaForCausalLM", DType::Q4_0).at("output.weight"), DType::Q6_K);
  EXPECT_EQ(chosen("LlamaForCausalLM", DType::Q5_K).at("blk.10.attn_v.weight"), DType::Q5_K);
  EXPECT_EQ(chosen("LlamaForCausalLM", DType::F16).at("output.weight"), DType::F16);
}

}  // namespace
}  // namespace limbeck::data
