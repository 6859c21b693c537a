// Weights as other programs quantise them against values that the formats' arithmetic gives
// (tests/golden/make_quantised.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "data/files/hdf5_file.h"
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

fs::path folder_of(const std::string& kind) { return testing::golden_folder() / "quantised" / kind; }

std::vector<double> box_of(const core::StateReader& model, const std::string& name, const core::Shape& box,
                           const std::vector<std::int64_t>& offset, DType dtype = DType::F64) {
  core::StateEntry entry{model.tensors().at(name).shape, offset, Tensor::zeros(core::Memory::cpu(1), dtype, box)};
  model.read(name, entry);
  return testing::values_of(entry.tensor.to(DType::F64));
}

class Quantised : public ::testing::TestWithParam<const char*> {
 protected:
  const HuggingFaceModel model{folder_of(GetParam())};

  std::vector<double> expected(const char* name, const core::Shape& shape) const {
    const Hdf5File file = Hdf5File::open((folder_of(GetParam()) / "reference.h5").string());
    std::vector<double> values(static_cast<std::size_t>(shape.numel()));
    file.read(name, DType::F64, values.data(), std::vector<std::int64_t>{0, 0}, shape);
    return values;
  }
  static void expect_same(const std::vector<double>& values, const std::vector<double>& expected) {
    ASSERT_EQ(values.size(), expected.size());
    // Of 8 bits one product is rounded.
    const double slack = std::string(GetParam()) == "int8" ? 0x1p-22 : 0;
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_NEAR(values[i], expected[i], slack * std::abs(expected[i])) << i;
  }
};

TEST_P(Quantised, ValuesAreThoseOfTheFormat) {
  const std::int64_t inner = model.model_config().mlp_width;
  expect_same(box_of(model, "layers.0.attention.q.weight", {64, 64}, {0, 0}), expected("/q_proj", {64, 64}));
  expect_same(box_of(model, "layers.0.attention.q.weight", {64, 64}, {0, 0}, DType::F32),
              expected("/q_proj", {64, 64}));
  expect_same(box_of(model, "layers.0.mlp.down.weight", {8, inner}, {56, 0}), expected("/down_proj_end", {8, inner}));
}

TEST_P(Quantised, PartsAreThoseOfTheWhole) {
  const std::vector<double> q = expected("/q_proj", {64, 64});
  for (const DType dtype : {DType::F32, DType::F64, DType::BF16}) {
    const std::vector<double> part = box_of(model, "layers.0.attention.q.weight", {5, 37}, {11, 21}, dtype);
    for (std::int64_t row = 0; row < 5; ++row)
      for (std::int64_t column = 0; column < 37; ++column) {
        const double value = q[(11 + row) * 64 + 21 + column];
        const auto exact = static_cast<float>(value);
        if (dtype != DType::BF16)
          ASSERT_NEAR(part[row * 37 + column], value, 0x1p-22 * std::abs(value));
        else
          ASSERT_NEAR(part[row * 37 + column], static_cast<float>(core::bf16(exact)), 0x1p-7 * std::abs(value));
      }
  }
}

// What is quantised comes out as a model that is not.
TEST_P(Quantised, ComesBackUnquantised) {
  const testing::TemporaryFolder folder;
  export_hugging_face(model, model.model_config(), folder / "out", {.dtype = DType::F32});
  const HuggingFaceModel again(folder / "out");
  for (const auto& [name, info] : model.tensors()) {
    const std::vector<std::int64_t> whole(static_cast<std::size_t>(info.shape.rank()), 0);
    EXPECT_EQ(box_of(again, name, info.shape, whole), box_of(model, name, info.shape, whole)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(By, Quantised, ::testing::Values("nf4", "nf4_double", "int8", "gptq", "gptq_order", "awq"),
                         [](const auto& test) { return std::string(test.param); });

/// Of a model directory, changed.
class Damaged {
 public:
  explicit Damaged(const std::string& kind)
      : config_(testing::read_file(folder_of(kind) / "config.json")),
        weights_(testing::read_file(folder_of(kind) / "model.safetensors")) {}

  Damaged& config(const std::string& from, const std::string& to) { return replaced(config_, 0, from, to); }
  /// In the header, from a tensor's name on; of equal length.
  Damaged& header(const std::string& tensor, const std::string& from, const std::string& to) {
    EXPECT_EQ(from.size(), to.size());
    return replaced(weights_, weights_.find("\"" + tensor + "\""), from, to);
  }
  Damaged& bytes(const std::string& tensor, std::size_t at, const std::string& to) {
    std::uint64_t header = 0;
    std::memcpy(&header, weights_.data(), sizeof header);
    const std::string key = "data_offsets\":[";
    const std::size_t offset = weights_.find(key, weights_.find("\"" + tensor + "\"")) + key.size();
    weights_.replace(8 + header + std::stoul(weights_.substr(offset, 12)) + at, to.size(), to);
    return *this;
  }
  std::string error() const {
    const testing::TemporaryFolder copy;
    testing::write_file(copy / "config.json", config_);
    testing::write_file(copy / "model.safetensors", weights_);
    return error_of([&] {
      const HuggingFaceModel model(copy.path());
      for (const auto& [name, info] : model.tensors())
        box_of(model, name, info.shape, std::vector<std::int64_t>(static_cast<std::size_t>(info.shape.rank()), 0));
    });
  }

 private:
  Damaged& replaced(std::string& text, std::size_t begin, const std::string& from, const std::string& to) {
    const std::size_t at = begin == std::string::npos ? begin : text.find(from, begin);
    if (at == std::string::npos)
      ADD_FAILURE() << from << " is not there";
    else
      text.replace(at, from.size(), to);
    return *this;
  }
  std::string config_, weights_;
};

const std::string q = "model.layers.0.self_attn.q_proj.";

// A table is a table: only the name of the tensor that describes the weight differs.
TEST(Fp4, IsReadAsNf4) {
  const testing::TemporaryFolder copy;
  std::string weights = testing::read_file(folder_of("nf4") / "model.safetensors");
  for (std::size_t at = 0; (at = weights.find("bitsandbytes__nf4", at)) != std::string::npos;)
    weights.replace(at, 17, "bitsandbytes__fp4");
  testing::write_file(copy / "model.safetensors", weights);
  fs::copy_file(folder_of("nf4") / "config.json", copy / "config.json");
  const HuggingFaceModel nf4(folder_of("nf4")), fp4(copy.path());
  for (const std::string name : {"layers.0.attention.q.weight", "layers.0.mlp.down.weight"}) {
    const core::Shape shape = nf4.tensors().at(name).shape;
    EXPECT_EQ(box_of(fp4, name, shape, {0, 0}), box_of(nf4, name, shape, {0, 0}));
  }
}

TEST(QuantisedDirectories, SayWhatIsNotRead) {
  EXPECT_EQ(Damaged("gptq").error(), "");
  EXPECT_THAT(Damaged("gptq").config("\"gptq\"", "\"fbgemm\"").error(),
              HasSubstr("config.json: quantization_config: quant_method is \"fbgemm\", expected one of mxfp4, "
                        "bitsandbytes, gptq, awq"));
  EXPECT_THAT(Damaged("gptq").config("\"bits\": 4", "\"bits\": 3").error(),
              HasSubstr("bits is 3, which is not supported: expected 4"));
  EXPECT_THAT(Damaged("gptq").config("\"checkpoint_format\": \"gptq\"", "\"checkpoint_format\": \"marlin\"").error(),
              HasSubstr("checkpoint_format is \"marlin\", expected gptq or gptq_v2"));
  EXPECT_THAT(Damaged("awq").config("\"gemm\"", "\"gemv\"").error(),
              HasSubstr("version is \"gemv\", which is not supported: expected gemm"));
  EXPECT_THAT(Damaged("awq").config("\"quantization_config\"", "\"another_config\"").error(),
              HasSubstr("has no tensor " + q + "weight"));
}

TEST(DamagedGptq, IsNamed) {
  EXPECT_THAT(Damaged("gptq").header(q + "qzeros", "[2,8]", "[8,2]").error(),
              HasSubstr("tensor " + q + "qzeros has shape [8,2], expected [2,8] as a part of the quantised " + q));
  EXPECT_THAT(Damaged("gptq").header(q + "scales", "[2,64]", "[64,2]").error(),
              HasSubstr("tensor " + q + "scales has shape [64,2], expected [groups,64]"));
  EXPECT_THAT(Damaged("gptq").header(q + "scales", "F16", "I16").error(), HasSubstr("dtype is I16"));
  EXPECT_THAT(Damaged("gptq").header(q + "g_idx", "g_idx", "g_idy").error(),
              HasSubstr("has no tensor " + q + "g_idx, a part of the quantised " + q + "weight"));
  EXPECT_THAT(Damaged("gptq").bytes(q + "g_idx", 4 * 5, std::string("\2\0\0\0", 4)).error(),
              HasSubstr("tensor " + q + "g_idx has 2 at [5], expected 0 to 1"));
  EXPECT_THAT(Damaged("gptq").bytes(q + "g_idx", 4 * 63, "\xff\xff\xff\xff").error(),
              HasSubstr("tensor " + q + "g_idx has -1 at [63], expected 0 to 1"));
  // A scale that is NaN.
  EXPECT_THAT(Damaged("gptq").bytes(q + "scales", 2 * (64 + 3), std::string("\x01\x7e", 2)).error(),
              HasSubstr("layers.0.attention.q.weight holds NaN or an infinity at [3,32]"));
}

TEST(DamagedAwq, IsNamed) {
  EXPECT_THAT(Damaged("awq").config("\"group_size\": 32", "\"group_size\": 64").error(),
              HasSubstr("has 3 groups for 96 inputs, expected groups of group_size = 64"));
  EXPECT_THAT(Damaged("awq").header(q + "qzeros", "[2,8]", "[8,2]").error(),
              HasSubstr("tensor " + q + "qzeros has shape [8,2], expected [2,8]"));
}

TEST(DamagedBitsandbytes, IsNamed) {
  const std::string name = q + "weight", state = name + ".quant_state.bitsandbytes__nf4";
  EXPECT_EQ(Damaged("nf4").error(), "");
  EXPECT_THAT(
      Damaged("nf4").bytes(state, 35, "32").error(),
      HasSubstr("tensor " + name + ".absmax has shape [64], expected [128] as a part of the quantised " + name));
  EXPECT_THAT(Damaged("nf4").bytes(state, 35, " 0").error(),
              HasSubstr("tensor " + state + ": blocksize is 0, expected a positive number"));
  EXPECT_THAT(Damaged("nf4").bytes(state, 73, "32").error(),
              HasSubstr("tensor " + name + " has shape [2048,1], expected [1024,1]"));
  EXPECT_THAT(Damaged("nf4").bytes(state, 0, "x").error(), HasSubstr("tensor " + state));
  EXPECT_THAT(Damaged("nf4").header(name + ".quant_map", "quant_map", "quant_mop").error(),
              HasSubstr("has no tensor " + name + ".quant_map, a part of the quantised " + name));
  EXPECT_THAT(Damaged("nf4_double").header(name + ".nested_absmax", "nested_absmax", "nested_absmin").error(),
              HasSubstr("tensor " + name + ".absmax is uint8, expected float32"));
  EXPECT_THAT(Damaged("int8").bytes(q + "weight_format", 0, "\2").error(),
              HasSubstr("tensor " + q + "weight_format is 2, expected 0"));
  EXPECT_THAT(Damaged("int8").header(q + "SCB", "SCB", "SCX").error(),
              HasSubstr("tensor " + q + "weight is int8, expected a floating type"));
}

}  // namespace
}  // namespace limbeck::data
