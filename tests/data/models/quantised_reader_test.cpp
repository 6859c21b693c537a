#include "data/models/quantised_reader.h"

#include <gmock/gmock.h>

#include <cstring>
#include <span>

#include "core/nn/transformer.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "tests/support/golden_lines.h"
#include "tests/support/made_model.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using core::DType;
using core::Shape;
using core::StateEntry;
using core::Tensor;
using testing::MadeModel;

/// Rows of attention and of the embedding are blocks of 256, those of feed-forwards' outputs of 32 alone.
nn::ModelConfig config_of(bool moe) {
  nn::ModelConfig c{.vocabulary = 1100,
                    .width = 256,
                    .num_layers = 2,
                    .num_heads = 4,
                    .num_kv_heads = 2,
                    .head_width = 64,
                    .mlp_width = moe ? 0 : 96,
                    .max_positions = 64,
                    .tied_head = moe,
                    .moe = {}};
  if (moe) c.moe = {.num_experts = 3, .experts_per_token = 2, .expert_width = 96, .dense_layers = {}};
  return c;
}

StateEntry box_of(const Shape& whole, std::vector<std::int64_t> offset, const Shape& box) {
  return {whole, std::move(offset), Tensor::zeros(core::Memory::cpu(1), DType::F32, box), true};
}

std::vector<float> read(const core::StateReader& reader, const std::string& name, StateEntry entry) {
  reader.read(name, entry);
  return core::host_values<float>(entry.tensor);
}

/// Some boxes of a tensor: all of it, and of a matrix rows, half of the columns, and a run that cuts blocks.
std::vector<StateEntry> boxes_of(const Shape& shape) {
  std::vector<std::int64_t> none(static_cast<std::size_t>(shape.rank()), 0);
  std::vector<StateEntry> boxes = {box_of(shape, none, shape)};
  const int last = shape.rank() - 1;
  if (last == 0) return boxes;
  Shape rows = shape, half = shape, cut = shape;
  std::vector<std::int64_t> from_row = none, from_half = none, from_cut = none;
  rows[last - 1] = shape[last - 1] - 1, from_row[static_cast<std::size_t>(last) - 1] = 1;
  if (last == 2) rows[0] = 1, from_row[0] = 2;
  half[last] = shape[last] / 2, from_half[static_cast<std::size_t>(last)] = shape[last] / 2;
  cut[last] = shape[last] - 9, from_cut[static_cast<std::size_t>(last)] = 5;
  boxes.push_back(box_of(shape, from_row, rows));
  boxes.push_back(box_of(shape, from_half, half));
  boxes.push_back(box_of(shape, from_cut, cut));
  return boxes;
}

class QuantisedReaders : public ::testing::TestWithParam<std::tuple<DType, bool>> {};

// What is read and what is lent is, bit by bit, that of the file which an export of the same name writes.
TEST_P(QuantisedReaders, GiveWhatAGgufFileHolds) {
  const auto [dtype, moe] = GetParam();
  const nn::ModelConfig config = config_of(moe);
  const MadeModel made(config);
  const testing::TemporaryFolder folder;
  export_gguf(made, config, folder / "m.gguf", {.dtype = dtype});
  const GgufModel file(std::make_shared<GgufFile>((folder / "m.gguf").string()));
  for (const int threads : {1, 3}) {
    const QuantisedReader reader(made, config, dtype, threads, "made");
    ASSERT_EQ(reader.tensors().size(), file.tensors().size());
    const auto memory = core::Memory::cpu(1);
    int lent_boxes = 0;
    for (const auto& [name, info] : reader.tensors()) {
      SCOPED_TRACE(name);
      EXPECT_EQ(info.dtype, file.tensors().at(name).dtype);
      for (const StateEntry& entry : boxes_of(info.shape)) {
        EXPECT_EQ(read(reader, name, entry), read(file, name, entry));
        if (info.shape.rank() == 1) continue;
        const auto ours = reader.lend(name, entry, memory), theirs = file.lend(name, entry, memory);
        ASSERT_EQ(ours.has_value(), theirs.has_value());
        if (!ours) continue;
        ++lent_boxes;
        ASSERT_EQ(ours->dtype(), theirs->dtype());
        ASSERT_EQ(ours->shape(), theirs->shape());
        EXPECT_EQ(std::memcmp(ours->host_raw(), theirs->host_raw(), static_cast<std::size_t>(ours->bytes())), 0);
      }
    }
    EXPECT_GT(lent_boxes, 20);
  }
}

INSTANTIATE_TEST_SUITE_P(By, QuantisedReaders,
                         ::testing::Combine(::testing::Values(DType::Q8_0, DType::Q6_K, DType::Q5_K, DType::Q4_K,
                                                              DType::Q4_0),
                                            ::testing::Bool()),
                         [](const auto& test) {
                           return fmt::format("{}_{}", core::name_of(std::get<0>(test.param)),
                                              std::get<1>(test.param) ? "experts" : "dense");
                         });

// Projections are blocks, parts of in_proj and heads that turn in part too; filters and what heads decay by are none.
TEST(QuantisedReader, GivesWhatTheFileOfAHybridHolds) {
  nn::ModelConfig config = config_of(false);
  config.rotary_width = 32;
  config.mamba = {.num_heads = 8, .head_width = 64, .state_width = 16, .attention_layers = {1}};
  const MadeModel made(config);
  const testing::TemporaryFolder folder;
  export_gguf(made, config, folder / "m.gguf", {.dtype = DType::Q4_K});
  const GgufModel file(std::make_shared<GgufFile>((folder / "m.gguf").string()));
  const QuantisedReader reader(made, config, DType::Q4_K, 2, "made");
  ASSERT_EQ(reader.tensors().size(), file.tensors().size());
  for (const auto& [name, info] : reader.tensors()) {
    EXPECT_EQ(info.dtype, file.tensors().at(name).dtype) << name;
    const StateEntry all = StateEntry::whole(Tensor::zeros(core::Memory::cpu(1), DType::F32, info.shape));
    const std::vector<float> ours = read(reader, name, all), theirs = read(file, name, all);
    for (std::size_t i = 0; i < ours.size(); ++i)  // the file has decays, not their logarithms
      ASSERT_NEAR(ours[i], theirs[i], name.ends_with(".A_log") ? 1e-5 : 0) << name;
  }
  nn::Transformer model(config, {.memory = core::Memory::cpu(1), .frozen = true, .as_kept = true});
  model.load(reader);
  for (const char* part : {"mamba.z", "mamba.x", "mamba.B", "mamba.C", "mamba.dt", "mamba.o"})
    EXPECT_EQ(model.parameter(fmt::format("layers.0.{}.weight", part)).value.dtype(), DType::Q4_K) << part;
  EXPECT_EQ(model.parameter("layers.0.mamba.conv_x.weight").value.dtype(), DType::F32);
  EXPECT_EQ(model.parameter("layers.0.mamba.A_log").value.dtype(), DType::F32);
}

// Rows that fit no blocks are float16 in the file, whose values those are that stay.
TEST(QuantisedReader, RoundsToHalvesWhereRowsAreNoBlocks) {
  nn::ModelConfig config = config_of(false);
  config.mlp_width = 40;
  const MadeModel made(config);
  const testing::TemporaryFolder folder;
  export_gguf(made, config, folder / "m.gguf", {.dtype = DType::Q4_0});
  const GgufModel file(std::make_shared<GgufFile>((folder / "m.gguf").string()));
  const QuantisedReader reader(made, config, DType::Q4_0, 1, "made");
  const std::string name = "layers.0.mlp.down.weight";
  const StateEntry all = boxes_of(reader.tensors().at(name).shape).front();
  EXPECT_EQ(reader.tensors().at(name).dtype, DType::F16);
  EXPECT_EQ(reader.lend(name, all, core::Memory::cpu(1)).value().dtype(), DType::F16);
  EXPECT_EQ(read(reader, name, all), read(file, name, all));
  EXPECT_NE(read(reader, name, all), read(made, name, all));
}

// No more than a run of rows is in floats, and the model's memory never held more than the blocks.
TEST(QuantisedReader, NeedsNoMoreMemoryThanTheBlocks) {
  nn::ModelConfig config = config_of(true);
  config.vocabulary = 3000;
  const MadeModel made(config);
  const QuantisedReader reader(made, config, DType::Q4_0, 1, "made");
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(config, {.memory = memory, .frozen = true, .as_kept = true});
  model.load(reader);
  EXPECT_LE(made.most_values(), std::int64_t{1} << 18U);
  std::int64_t bytes = 0, values = 0;
  for (const core::Parameter* p : model.parameters()) {
    bytes += p->value.bytes();
    values += p->value.numel();
  }
  EXPECT_LT(bytes, values * 7 / 10);  // Q6_K is 0.82 bytes, Q4_0 0.56
  const std::int64_t rounded_up = std::ssize(model.parameters()) * 4096;
  EXPECT_LE(memory->statistics().peak_bytes, bytes + rounded_up);
}

TEST(QuantisedReader, RefusesAModelThatNoFileHolds) {
  nn::ModelConfig config = config_of(false);
  config.norm_offset = 0.5;
  const MadeModel made(config_of(false));
  EXPECT_THAT([&] { QuantisedReader(made, config, DType::Q8_0, 1, "precision.quantised_teacher"); },
              ::testing::ThrowsMessage<core::UsageError>(
                  ::testing::StartsWith("precision.quantised_teacher: no GGUF file holds this model")));
}

}  // namespace
}  // namespace limbeck::data
