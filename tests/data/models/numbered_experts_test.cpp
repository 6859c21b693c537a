// Where experts' values lie in the files of each family, by names and orders written out here: each value says whose it
// is, of which row and column, in matrices whose shapes would say nothing: square, or gate and up square as one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "core/nn/transformer.h"
#include "data/models/families/family.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "data/models/hugging_face_config.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using core::DType;
using core::Shape;
using core::Tensor;
using testing::TemporaryFolder;

enum Part : std::int64_t { Gate, Up, Down };
constexpr std::array parts{"gate", "up", "down"};
constexpr std::int64_t of_shared = 20, of_dense = 21;  // in place of an expert's number

/// Whole in float32.
float number(std::int64_t layer, std::int64_t expert, Part part, std::int64_t row, std::int64_t column) {
  return static_cast<float>((((layer * 22 + expert) * 3 + part) * 40 + row) * 40 + column);
}

/// Feed-forwards whose values are their numbers, other tensors of values that differ.
class Numbered : public core::StateReader {
 public:
  explicit Numbered(const std::map<std::string, core::StateInfo>& tensors) : tensors_(tensors) {}
  std::string source() const override { return "numbered"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override {
    const Shape &box = entry.tensor.shape(), &all = info.shape;
    std::array<std::int64_t, 3> at{};
    for (std::int64_t i = 0; i < box.numel(); ++i) {
      std::int64_t rest = i;
      for (int d = box.rank() - 1; d >= 0; rest /= box[d], --d)
        at.at(static_cast<std::size_t>(d + 3 - box.rank())) = entry.offset[static_cast<std::size_t>(d)] + rest % box[d];
      entry.tensor.mutable_host<float>()[i] = value(name, at, all.rank());
    }
  }
  static float value(const std::string& name, const std::array<std::int64_t, 3>& at, int rank) {
    std::int64_t layer = 0;
    std::array<char, 8> part{};
    const auto is_of = [&](const char* pattern) {
      part = {};
      return std::sscanf(name.c_str(), pattern, &layer, part.data()) == 2;
    };
    const bool is_expert = rank == 3 && is_of("layers.%ld.moe.experts.%7[a-z]");
    const bool is_shared = !is_expert && is_of("layers.%ld.moe.shared.%7[a-z]");
    const bool is_dense = !is_expert && !is_shared && is_of("layers.%ld.mlp.%7[a-z]");
    if (rank >= 2 && (is_expert || is_shared || is_dense))
      for (const Part p : {Gate, Up, Down})
        if (parts.at(p) == std::string(part.data()))
          return number(layer, is_expert ? at[0] : is_shared ? of_shared : of_dense, p, at[1], at[2]);
    const auto sum = static_cast<float>(at[0] * 7919 + at[1] * 211 + at[2] * 3);
    return sum / 64 + static_cast<float>(name.size());
  }

  std::map<std::string, core::StateInfo> tensors_;
};

/// A tensor of a file, row by row.
struct Stored {
  Shape shape;
  std::vector<float> values;
  float at(std::int64_t i, std::int64_t j) const { return values[static_cast<std::size_t>(i * shape[1] + j)]; }
  float at(std::int64_t e, std::int64_t i, std::int64_t j) const {
    return values[static_cast<std::size_t>((e * shape[1] + i) * shape[2] + j)];
  }
};

Stored stored(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry& entry = file.tensors().at(name);
  Stored result{entry.shape, std::vector<float>(static_cast<std::size_t>(entry.shape.numel()))};
  SafetensorsFile::read(entry, 0, entry.shape.numel(), DType::F32, reinterpret_cast<std::byte*>(result.values.data()));
  return result;
}

Stored stored(const GgufFile& file, const std::string& name) {
  const GgufTensor& tensor = file.tensors().at(name);
  Stored result{tensor.shape, std::vector<float>(static_cast<std::size_t>(tensor.shape.numel()))};
  file.read(tensor, 0, tensor.shape.numel(), result.values.data());
  return result;
}

void expect_same(const core::StateReader& a, const core::StateReader& b) {
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const auto& [name, info] : a.tensors()) {
    const auto read = [&name = name, &info = info](const core::StateReader& from) {
      core::StateEntry entry = core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, info.shape));
      from.read(name, entry);
      const auto* values = entry.tensor.host<float>();
      return std::vector<float>(values, values + entry.tensor.numel());
    };
    EXPECT_EQ(read(a), read(b)) << name;
  }
}

struct Names {
  const char* family;
  const char* experts;              // module of a layer
  std::array<const char*, 3> part;  // of an expert
  const char* shared = "";
};

constexpr std::array usual{"gate_proj", "up_proj", "down_proj"};
constexpr std::array of_mistral{"w1", "w3", "w2"};

/// Of a family, and whether an expert is as wide as the model or half as wide.
class NumberedExperts : public ::testing::TestWithParam<std::tuple<Names, bool>> {
 protected:
  NumberedExperts() {
    const std::string path = (testing::golden_folder() / "families" / names.family / "config.json").string();
    auto json = nlohmann::json::parse(testing::read_file(path));
    width = json["hidden_size"].get<std::int64_t>();
    inner = std::get<1>(GetParam()) ? width : width / 2;
    for (const char* field : {"moe_intermediate_size", "intermediate_size", "shared_expert_intermediate_size"})
      if (json.contains(field)) json[field] = inner;
    // What GGUF cannot say otherwise.
    json.erase("mlp_only_layers");
    json.erase("decoder_sparse_step");
    json["swiglu_limit"] = 7.0;
    if (names.family == std::string("deepseek_v2")) {
      json["topk_method"] = "greedy";
      json["rope_parameters"]["mscale"] = json["rope_parameters"]["mscale_all_dim"];
    }
    config = parse_hugging_face_config(json.dump(), path).model;
    config.num_predict_layers = 0;
    for (first = 0; !config.is_moe_layer(first);) ++first;
    nn::Transformer model(config, {.memory = core::Memory::cpu(1), .frozen = true});
    for (const core::Parameter* p : model.parameters()) tensors[p->name] = {p->global_shape, DType::F32};
  }
  /// Each value of a matrix that is stored as ours is, by rows.
  void expect_matrix(const Stored& matrix, std::int64_t layer, std::int64_t expert, Part part) const {
    const std::int64_t rows = part == Down ? width : inner, columns = part == Down ? inner : width;
    const std::int64_t wide = expert == of_shared ? shared_width() : inner;
    const std::int64_t r = part == Down ? rows : wide, c = part == Down ? wide : columns;
    ASSERT_EQ(matrix.shape, Shape({r, c})) << expert << " " << parts.at(part);
    for (std::int64_t i = 0; i < r; ++i)
      for (std::int64_t j = 0; j < c; ++j)
        ASSERT_EQ(matrix.at(i, j), number(layer, expert, part, i, j)) << expert << " " << parts.at(part) << " " << i;
  }
  std::int64_t shared_width() const { return config.moe.shared_width; }
  std::int64_t num_experts() const { return config.moe.num_experts; }

  const Names names = std::get<0>(GetParam());
  std::int64_t width = 0, inner = 0, first = 0;
  nn::ModelConfig config;
  std::map<std::string, core::StateInfo> tensors;
  const TemporaryFolder folder;
};

TEST_P(NumberedExperts, LieWhereTransformersHasThem) {
  const Numbered model(tensors);
  export_hugging_face(model, config, folder / "out", {.dtype = DType::F32});
  const SafetensorsFile file(folder / "out" / "model.safetensors");
  for (std::int64_t layer = first; layer < config.num_layers; ++layer) {
    const std::string module = fmt::format("model.layers.{}.", layer);
    const std::string experts = module + names.experts;
    for (const Part part : {Gate, Up, Down}) {
      for (std::int64_t e = 0; e < num_experts() && *names.part[0] != '\0'; ++e)
        expect_matrix(stored(file, fmt::format("{}.{}.{}.weight", experts, e, names.part.at(part))), layer, e, part);
      if (*names.shared != '\0')
        expect_matrix(stored(file, fmt::format("{}{}.{}.weight", module, names.shared, usual.at(part))), layer,
                      of_shared, part);
    }
    if (*names.part[0] != '\0') continue;
    // gpt-oss: [E,C,2F], columns of gate and up in turn, and [E,F,C].
    const Stored both = stored(file, experts + ".gate_up_proj"), down = stored(file, experts + ".down_proj");
    ASSERT_EQ(both.shape, Shape({num_experts(), width, 2 * inner}));
    ASSERT_EQ(down.shape, Shape({num_experts(), inner, width}));
    for (std::int64_t e = 0; e < num_experts(); ++e)
      for (std::int64_t c = 0; c < width; ++c)
        for (std::int64_t f = 0; f < inner; ++f) {
          ASSERT_EQ(both.at(e, c, 2 * f), number(layer, e, Gate, f, c));
          ASSERT_EQ(both.at(e, c, 2 * f + 1), number(layer, e, Up, f, c));
          ASSERT_EQ(down.at(e, f, c), number(layer, e, Down, c, f));
        }
  }
  for (std::int64_t layer = 0; layer < first; ++layer)
    for (const Part part : {Gate, Up, Down})
      expect_matrix(stored(file, fmt::format("model.layers.{}.mlp.{}.weight", layer, usual.at(part))), layer, of_dense,
                    part);
  const HuggingFaceModel again(folder / "out");
  EXPECT_EQ(again.model_config(), config);
  expect_same(again, model);
}

TEST_P(NumberedExperts, LieWhereLlamaCppHasThem) {
  const Numbered model(tensors);
  if (names.family == std::string("phimoe")) {
    EXPECT_TRUE(beyond_all_families(config, beyond_gguf).has_value());
    return;
  }
  export_gguf(model, config, folder / "m.gguf", {.dtype = DType::F32});
  const auto file = std::make_shared<GgufFile>((folder / "m.gguf").string());
  for (std::int64_t layer = 0; layer < config.num_layers; ++layer)
    for (const Part part : {Gate, Up, Down}) {
      const std::string name = fmt::format("blk.{}.ffn_{}", layer, parts.at(part));
      if (layer < first) {
        expect_matrix(stored(*file, name + ".weight"), layer, of_dense, part);
        continue;
      }
      if (shared_width() > 0) expect_matrix(stored(*file, name + "_shexp.weight"), layer, of_shared, part);
      const Stored stack = stored(*file, name + "_exps.weight");
      const std::int64_t rows = part == Down ? width : inner, columns = part == Down ? inner : width;
      ASSERT_EQ(stack.shape, Shape({num_experts(), rows, columns}));
      for (std::int64_t e = 0; e < num_experts(); ++e)
        for (std::int64_t i = 0; i < rows; ++i)
          for (std::int64_t j = 0; j < columns; ++j) ASSERT_EQ(stack.at(e, i, j), number(layer, e, part, i, j)) << name;
    }
  expect_same(GgufModel(file), model);
}

constexpr auto all_names = std::to_array<Names>({
    {"mixtral", "block_sparse_moe.experts", of_mistral},
    {"phimoe", "block_sparse_moe.experts", of_mistral},
    {"olmoe", "mlp.experts", usual},
    {"qwen2_moe", "mlp.experts", usual, "mlp.shared_expert"},
    {"qwen3_moe", "mlp.experts", usual},
    {"deepseek_v2", "mlp.experts", usual, "mlp.shared_experts"},
    {"deepseek_v3", "mlp.experts", usual, "mlp.shared_experts"},
    {"kimi_k2", "mlp.experts", usual, "mlp.shared_experts"},
    {"glm4_moe", "mlp.experts", usual, "mlp.shared_experts"},
    {"gpt_oss", "mlp.experts", {"", "", ""}},
});

INSTANTIATE_TEST_SUITE_P(OfPeople, NumberedExperts,
                         ::testing::Combine(::testing::ValuesIn(all_names), ::testing::Bool()), [](const auto& test) {
                           return fmt::format("{}_{}", std::get<0>(test.param).family,
                                              std::get<1>(test.param) ? "as_wide" : "half_as_wide");
                         });

/// Attention of latents whose matrices of a head are square: R = N = Dv.
TEST(SquareLatents, LieWhereOthersHaveThem) {
  const std::string path = (testing::golden_folder() / "families/deepseek_v3/config.json").string();
  auto json = nlohmann::json::parse(testing::read_file(path));
  for (const char* field : {"kv_lora_rank", "qk_nope_head_dim", "v_head_dim"}) json[field] = 6;
  nn::ModelConfig config = parse_hugging_face_config(json.dump(), path).model;
  config.num_predict_layers = 0;
  const std::int64_t heads = config.num_heads, side = 6;
  std::map<std::string, core::StateInfo> tensors;
  nn::Transformer shapes(config, {.memory = core::Memory::cpu(1), .frozen = true});
  for (const core::Parameter* p : shapes.parameters()) tensors[p->name] = {p->global_shape, DType::F32};
  const Numbered model(tensors);
  const auto ours = [&](const char* name) {
    core::StateEntry entry =
        core::StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, {heads * side, side}));
    model.read(fmt::format("layers.1.attention.{}.weight", name), entry);
    const auto* values = entry.tensor.host<float>();
    return Stored{entry.tensor.shape(), {values, values + entry.tensor.numel()}};
  };
  const Stored k = ours("k_b"), v = ours("v_b");
  const TemporaryFolder folder;
  export_hugging_face(model, config, folder / "out", {.dtype = DType::F32});
  const Stored both = stored(SafetensorsFile(folder / "out" / "model.safetensors"),
                             "model.layers.1.self_attn.kv_b_proj.weight");  // [H(N+Dv),R]
  export_gguf(model, config, folder / "m.gguf", {.dtype = DType::F32});
  const auto file = std::make_shared<GgufFile>((folder / "m.gguf").string());
  const Stored gguf_k = stored(*file, "blk.1.attn_k_b.weight"), gguf_v = stored(*file, "blk.1.attn_v_b.weight");
  ASSERT_EQ(both.shape, Shape({heads * 2 * side, side}));
  ASSERT_EQ(gguf_k.shape, Shape({heads, side, side}));
  ASSERT_EQ(gguf_v.shape, Shape({heads, side, side}));
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t i = 0; i < side; ++i)
      for (std::int64_t r = 0; r < side; ++r) {
        EXPECT_EQ(both.at(h * 2 * side + i, r), k.at(h * side + i, r));
        EXPECT_EQ(both.at(h * 2 * side + side + i, r), v.at(h * side + i, r));
        EXPECT_EQ(gguf_k.at(h, r, i), k.at(h * side + i, r));
        EXPECT_EQ(gguf_v.at(h, i, r), v.at(h * side + i, r));
      }
  expect_same(HuggingFaceModel(folder / "out"), model);
  expect_same(GgufModel(file), model);
}

}  // namespace
}  // namespace limbeck::data
