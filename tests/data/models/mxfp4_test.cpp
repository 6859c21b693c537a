// Experts in MXFP4 of a model directory, and of GGUF, against values by the standard (tests/golden/make_gpt_oss.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "data/files/hdf5_file.h"
#include "data/models/gguf_blocks.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "tests/support/golden_model.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

namespace fs = std::filesystem;
using core::DType;
using core::Tensor;
using testing::error_of;
using ::testing::HasSubstr;

class Mxfp4 : public ::testing::TestWithParam<const char*> {
 protected:
  const fs::path folder = testing::golden_folder() / "gpt_oss_mxfp4" / GetParam();

  std::vector<double> expected(const char* name) const {
    const Hdf5File file = Hdf5File::open((folder / "reference.h5").string());
    const core::Shape shape = file.dataset_info(name).shape;
    std::vector<double> values(static_cast<std::size_t>(shape.numel()));
    file.read(name, DType::F64, values.data(), std::vector<std::int64_t>{0, 0, 0}, shape);
    return values;
  }
};

/// A box of a tensor.
Tensor box_of(const core::StateReader& model, const std::string& name, const core::Shape& box,
              const std::vector<std::int64_t>& offset, DType dtype = DType::F64) {
  core::StateEntry entry{model.tensors().at(name).shape, offset, Tensor::zeros(core::Memory::cpu(1), dtype, box)};
  model.read(name, entry);
  return entry.tensor;
}

TEST_P(Mxfp4, ValuesAreThoseOfTheStandard) {
  const HuggingFaceModel directory(folder);
  const GgufModel gguf(std::make_shared<GgufFile>((folder / "model.gguf").string()));
  const std::vector<double> gate_up = expected("/gate_up_proj"), down = expected("/down_proj");
  const nn::ModelConfig& c = directory.model_config();
  const std::int64_t e = c.moe.num_experts, f = c.moe.expert_width, w = c.width;
  for (const core::StateReader* model : std::initializer_list<const core::StateReader*>{&directory, &gguf}) {
    const auto of = [&](const char* name, std::int64_t rows, std::int64_t columns) {
      return testing::values_of(
          box_of(*model, std::string("layers.1.moe.experts.") + name, {e, rows, columns}, {0, 0, 0}));
    };
    const std::vector<double> gate = of("gate", f, w), up = of("up", f, w), found = of("down", w, f);
    for (std::int64_t x = 0; x < e; ++x)
      for (std::int64_t row = 0; row < f; ++row)
        for (std::int64_t column = 0; column < w; ++column) {
          const std::int64_t ours = (x * f + row) * w + column, theirs = (x * w + column) * 2 * f + 2 * row;
          ASSERT_EQ(gate[ours], gate_up[theirs]);
          ASSERT_EQ(up[ours], gate_up[theirs + 1]);
          ASSERT_EQ(found[(x * w + column) * f + row], down[(x * f + row) * w + column]);
        }
  }
}

// A rank's part: some experts, or some rows or columns of all, that begin within a block.
TEST_P(Mxfp4, PartsAreThoseOfTheWhole) {
  const HuggingFaceModel model(folder);
  const nn::ModelConfig& c = model.model_config();
  const std::int64_t f = c.moe.expert_width, w = c.width;
  const std::vector<double> down = expected("/down_proj");
  for (const DType dtype : {DType::F32, DType::F64}) {
    const auto part = testing::values_of(box_of(model, "layers.1.moe.experts.down", {2, 3, 9}, {1, 4, 20}, dtype));
    for (std::int64_t x = 0; x < 2; ++x)
      for (std::int64_t row = 0; row < 3; ++row)
        for (std::int64_t column = 0; column < 9; ++column)
          ASSERT_EQ(part[(x * 3 + row) * 9 + column], down[((1 + x) * f + 20 + column) * w + 4 + row]);
  }
  // As bfloat16 they are the same: 3 bits and an exponent.
  const Tensor narrow = box_of(model, "layers.1.moe.experts.down", {1, w, f}, {2, 0, 0}, DType::BF16);
  EXPECT_EQ(testing::values_of(narrow.to(DType::F64)),
            testing::values_of(box_of(model, "layers.1.moe.experts.down", {1, w, f}, {2, 0, 0})));
}

TEST_P(Mxfp4, PartsOfBlocksAreNotLent) {
  const HuggingFaceModel model(folder);
  const auto memory = core::Memory::cpu(1);
  const auto lent = [&](const core::Shape& box, const std::vector<std::int64_t>& offset) {
    const std::string name = "layers.1.moe.experts.gate";
    return model.lend(name, {model.tensors().at(name).shape, offset, Tensor::zeros(memory, DType::F32, box)}, memory);
  };
  EXPECT_TRUE(lent({2, 3, 32}, {1, 4, 0}));
  EXPECT_FALSE(lent({2, 3, 16}, {1, 4, 0}));
  // What is stored in no blocks lies there as it is.
  EXPECT_TRUE(model.lend(
      "norm.weight",
      {{model.model_config().width}, {0}, Tensor::zeros(memory, DType::F32, {model.model_config().width})}, memory));
}

/// The bytes of a file's tensors, by name, behind their type and shape.
std::map<std::string, std::string> tensors_of(const fs::path& file) {
  const std::string bytes = testing::read_file(file);
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof size);
  std::map<std::string, std::string> all;
  const auto head = nlohmann::json::parse(bytes.substr(sizeof size, size));
  for (const auto& [name, tensor] : head.items()) {
    if (name == "__metadata__") continue;
    const std::size_t begin = tensor["data_offsets"][0], end = tensor["data_offsets"][1];
    all[name] = tensor["dtype"].dump() + tensor["shape"].dump() + bytes.substr(sizeof size + size + begin, end - begin);
  }
  return all;
}

std::map<std::string, std::string> tensors_of(const GgufFile& file) {
  std::map<std::string, std::string> all;
  for (const auto& [name, tensor] : file.tensors())
    all[name] = fmt::format("{} {} ", tensor.dtype, tensor.shape) +
                std::string(reinterpret_cast<const char*>(file.data(tensor)), static_cast<std::size_t>(tensor.bytes));
  return all;
}

// As gpt-oss is published, whichever format it is read from.
TEST_P(Mxfp4, DirectoriesComeBackBitForBit) {
  const HuggingFaceModel directory(folder);
  const GgufModel gguf(std::make_shared<GgufFile>((folder / "model.gguf").string()));
  const testing::TemporaryFolder out;
  for (const core::StateReader* model : std::initializer_list<const core::StateReader*>{&directory, &gguf}) {
    const fs::path to = out / (model == &gguf ? "gguf" : "directory");
    export_hugging_face(*model, directory.model_config(), to, {.dtype = DType::MXFP4});
    EXPECT_EQ(tensors_of(to / "model.safetensors"), tensors_of(folder / "model.safetensors"));
    EXPECT_EQ(HuggingFaceModel(to).model_config(), directory.model_config());
    const auto config = nlohmann::json::parse(testing::read_file(to / "config.json"));
    EXPECT_EQ(config["quantization_config"]["quant_method"], "mxfp4");
    EXPECT_EQ(config["torch_dtype"], "bfloat16");
  }
}

TEST_P(Mxfp4, GgufComesBackBitForBit) {
  const HuggingFaceModel directory(folder);
  const GgufModel gguf(std::make_shared<GgufFile>((folder / "model.gguf").string()));
  const testing::TemporaryFolder out;
  for (const core::StateReader* model : std::initializer_list<const core::StateReader*>{&directory, &gguf}) {
    export_gguf(*model, directory.model_config(), out / "m.gguf", {.dtype = DType::MXFP4});
    const GgufFile file((out / "m.gguf").string());
    EXPECT_EQ(tensors_of(file), tensors_of(gguf.file()));
    EXPECT_EQ(file.integer("general.file_type"), 38);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Mxfp4, ::testing::Values("gate", "down"),
                         [](const auto& test) { return std::string(test.param); });

constexpr std::array e2m1{0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0};

/// The squared error of a block with the power of two e - 127, each value the nearest that there is.
double error_with_power(const std::vector<float>& values, int e) {
  double error = 0;
  for (const float x : values) {
    double least = HUGE_VAL;
    for (const double v : e2m1)
      least = std::min(least, std::abs(std::abs(static_cast<double>(x)) - std::ldexp(v, e - 127)));
    error += least * least;
  }
  return error;
}

std::vector<float> back(const std::vector<float>& values) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(core::bytes_of(DType::MXFP4, std::ssize(values))));
  quantize(DType::MXFP4, values, bytes.data());
  std::vector<float> result(values.size());
  dequantize(DType::MXFP4, bytes.data(), 0, std::ssize(values), result.data());
  return result;
}

// No power of two is nearer, but for a little where it cuts far values off; ggml's own, that of the largest value,
// never.
TEST(Mxfp4Values, AreTheNearest) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 300; ++trial) {
    std::vector<float> values;
    std::normal_distribution<float> normal(0, std::ldexp(1.0F, trial % 40 - 20));
    std::student_t_distribution<float> tails(2);
    for (int i = 0; i < 32; ++i) values.push_back(trial % 2 == 0 ? normal(random) : tails(random));
    double found = 0, best = HUGE_VAL, largest = 0;
    const std::vector<float> stored = back(values);
    for (int i = 0; i < 32; ++i) {
      found += std::pow(static_cast<double>(values[i]) - stored[i], 2);
      largest = std::max(largest, std::abs(static_cast<double>(values[i])));
    }
    for (int e = 0; e < 253; ++e) best = std::min(best, error_with_power(values, e));
    EXPECT_LE(found, 1.1 * best) << trial;
    EXPECT_LE(found, (1 + 1e-6) * error_with_power(values, std::ilogb(largest) - 2 + 127)) << trial;
  }
}

TEST(Mxfp4Values, ThatItHasComeBack) {
  std::vector<float> values;
  for (int e = -120; e <= 120; e += 8)
    for (const double v : {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0})
      for (const double sign : {1.0, -1.0})
        for (int twice = 0; twice < 2; ++twice) values.push_back(static_cast<float>(sign * std::ldexp(v, e)));
  EXPECT_EQ(back(values), values);
  for (const float only : {0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F, 0x1p-126F, 0x1p125F, 0.0F}) {
    std::vector<float> one(32);
    one[7] = only;
    one[20] = -only;
    EXPECT_EQ(back(one), one) << only;
  }
  std::vector<float> far(32);
  for (const float x : {NAN, HUGE_VALF, 3e38F}) {
    far[3] = x;
    EXPECT_THAT(error_of([&] { back(far); }), HasSubstr("which MXFP4 cannot hold"));
  }
}

TEST(Mxfp4Export, IsOfGptOssAlone) {
  const testing::TemporaryFolder out;
  const HuggingFaceModel gpt_oss(testing::golden_folder() / "gpt_oss_mxfp4" / "down");
  nn::ModelConfig odd = gpt_oss.model_config();
  odd.moe.expert_width = 24;
  EXPECT_THAT(
      error_of([&] { export_hugging_face(gpt_oss, odd, out / "odd", {.dtype = DType::MXFP4}); }),
      HasSubstr("model.layers.0.mlp.experts.down_proj [4,24,32] has rows of 24 values, expected a multiple of 32"));
  const nn::ModelConfig llama{.vocabulary = 7,
                              .width = 32,
                              .num_layers = 1,
                              .num_heads = 2,
                              .num_kv_heads = 2,
                              .head_width = 16,
                              .mlp_width = 32,
                              .max_positions = 16,
                              .moe = {}};
  EXPECT_THAT(error_of([&] { export_hugging_face(gpt_oss, llama, out / "llama", {.dtype = DType::MXFP4}); }),
              HasSubstr("dtype is MXFP4, which is of gpt-oss alone, expected float32 or bfloat16 for Llama"));
  EXPECT_THAT(error_of([&] { export_gguf(gpt_oss, llama, out / "m.gguf", {.dtype = DType::MXFP4}); }),
              HasSubstr("dtype is MXFP4, which is of experts, and there are none"));
}

/// The error of the directory with its config or weights changed.
template <class F>
std::string error_with(F&& change) {
  const testing::TemporaryFolder copy;
  const fs::path folder = testing::golden_folder() / "gpt_oss_mxfp4" / "down";
  std::string config = testing::read_file(folder / "config.json");
  std::string weights = testing::read_file(folder / "model.safetensors");
  change(config, weights);
  testing::write_file(copy / "config.json", config);
  testing::write_file(copy / "model.safetensors", weights);
  return error_of([&] {
    const HuggingFaceModel model(copy.path());
    box_of(model, "layers.0.moe.experts.down", {4, 32, 32}, {0, 0, 0});
  });
}
void replace(std::string& text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
}

TEST(DamagedMxfp4, IsNamed) {
  const std::string down = "model.layers.0.mlp.experts.down_proj";
  EXPECT_EQ(error_with([](auto&, auto&) {}), "");
  EXPECT_THAT(error_with([](auto& config, auto&) { replace(config, "\"mxfp4\"", "\"hqq\""); }),
              HasSubstr("config.json: quantization_config: quant_method is \"hqq\", expected one of "));
  EXPECT_THAT(error_with([&](auto&, auto& weights) { replace(weights, down + "_scales", down + "_scalez"); }),
              HasSubstr("has no tensor " + down + "_scales, a part of the quantised " + down));
  EXPECT_THAT(error_with([&](auto&, auto& weights) {
                const std::size_t at = weights.find("[4,32,1]", weights.find(down + "_scales"));
                weights.replace(at, 8, "[32,4,1]");
              }),
              HasSubstr("tensor " + down + "_scales has shape [32,4,1], expected [4,32,1]"));
  EXPECT_THAT(error_with([&](auto&, auto& weights) {
                const std::size_t at = weights.find("[4,32,1,16]", weights.find(down + "_blocks"));
                weights.replace(at, 11, "[4,16,2,16]");
              }),
              HasSubstr("tensor " + down + "_scales has shape [4,32,1], expected [4,16,2]"));
  // E8M0's NaN.
  EXPECT_THAT(error_with([&](auto&, auto& weights) {
                std::uint64_t header = 0;
                std::memcpy(&header, weights.data(), sizeof header);
                const std::size_t offsets = weights.find("data_offsets\":[", weights.find(down + "_scales")) + 15;
                weights[8 + header + std::stoul(weights.substr(offsets, 12)) + 5] = '\xff';
              }),
              HasSubstr("layers.0.moe.experts.down holds NaN or an infinity at [0,5,0]"));
}

}  // namespace
}  // namespace limbeck::data
