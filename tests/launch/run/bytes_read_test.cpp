// A rank reads of a file what it holds, and little more.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "core/nn/transformer.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "launch/run/rank.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;

nn::ModelConfig config_of_mixture() {
  return {.vocabulary = 512,
          .width = 256,
          .num_layers = 2,
          .num_heads = 8,
          .num_kv_heads = 2,
          .head_width = 64,
          .max_positions = 64,
          .moe = {.num_experts = 4, .experts_per_token = 2, .expert_width = 512, .dense_layers = {}}};
}

/// Random weights.
class Made : public core::StateReader {
 public:
  Made() : model_(config_of_mixture(), {.memory = core::Memory::cpu(1)}) {
    model_.init_random(1);
    for (const core::Parameter* p : model_.parameters()) tensors_[p->name] = {p->global_shape, DType::F32};
  }
  std::string source() const override { return "made"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override {
    const auto* values = model_.parameter(name).value.host<float>();
    const core::Shape& box = entry.tensor.shape();
    std::int64_t first = 0;  // whole rows, one behind the other
    for (int d = 0; d < box.rank(); ++d) first = first * info.shape[d] + entry.offset[static_cast<std::size_t>(d)];
    std::copy_n(values + first, box.numel(), entry.tensor.mutable_host<float>());
  }
  mutable nn::Transformer model_;
  std::map<std::string, core::StateInfo> tensors_;
};

struct Layout {
  const char* name;
  int ranks;
};

class BytesRead : public ::testing::TestWithParam<Layout> {
 protected:
  /// `Reader` is opened by each rank, which reads up to so many times its share.
  template <class Reader>
  void expect_shares(double most, const std::function<std::unique_ptr<Reader>()>& open) {
    testing::run_ranks(GetParam().ranks, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, GetParam().name, 1);
      const auto reader = open();
      const std::int64_t opened = reader->bytes_read();
      nn::Transformer model(config_of_mixture(), rank.sharded(DType::F32));
      model.load(*reader);
      double share = 0, whole = 0;
      for (const core::Parameter* p : model.parameters()) {
        const auto& format = core::info(reader->tensors().at(p->name).dtype);
        const double a_value = static_cast<double>(format.block_bytes) / static_cast<double>(format.block_elements);
        share += a_value * static_cast<double>(p->value.numel());
        whole += a_value * static_cast<double>(p->global_shape.numel());
      }
      EXPECT_EQ(opened, 0);
      EXPECT_GE(static_cast<double>(reader->bytes_read()), 0.999 * share);
      EXPECT_LE(static_cast<double>(reader->bytes_read()), most * share);
      // Of a model that is cut the share is a part.
      if (GetParam().name[0] != 'd') {
        EXPECT_LT(share, 0.95 * whole);
      }
    });
  }
  testing::TemporaryFolder folder_;
};

TEST_P(BytesRead, OfSafetensors) {
  data::export_hugging_face(Made(), config_of_mixture(), folder_ / "hf",
                            {.dtype = DType::BF16, .max_shard_bytes = 1 << 20});
  expect_shares<data::HuggingFaceModel>(1.0, [&] { return std::make_unique<data::HuggingFaceModel>(folder_ / "hf"); });
}

TEST_P(BytesRead, OfGguf) {
  for (const DType dtype : {DType::F32, DType::Q8_0, DType::Q4_K}) {
    const std::string path = folder_ / "m.gguf";
    data::export_gguf(Made(), config_of_mixture(), path, {.dtype = dtype});
    expect_shares<data::GgufModel>(
        1.1, [&] { return std::make_unique<data::GgufModel>(std::make_shared<data::GgufFile>(path)); });
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, BytesRead,
                         ::testing::Values(Layout{"tp2", 2}, Layout{"ep2", 2}, Layout{"dp2", 2}, Layout{"tp2ep2", 4}),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace limbeck
