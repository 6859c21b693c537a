// Experts in MXFP4 of a model directory, and of GGUF, against values by the standard (tests/golden/make_gpt_oss.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "data/files/hdf5_file.h"
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
  EXPECT_FALSE(model.lend(
      "norm.weight",
      {{model.model_config().width}, {0}, Tensor::zeros(memory, DType::F32, {model.model_config().width})}, memory));
}

INSTANTIATE_TEST_SUITE_P(Of, Mxfp4, ::testing::Values("gate", "down"),
                         [](const auto& test) { return std::string(test.param); });

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
