// Layers and optimizer state that lie in the host's memory, of a device whose memory the host cannot read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "data/models/gguf_model.h"
#include "launch/config/config.h"
#include "tests/support/family_reference.h"
#include "tests/support/offloaded_steps.h"

namespace limbeck {
namespace {

using core::DType;
using core::MemoryPtr;
using core::Tensor;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Settings = testing::StepSettings;

MemoryPtr hidden(int) { return core::Memory::hidden_cpu(1); }

std::vector<double> on_host(const Tensor& t) { return testing::values_of(t.in(t.memory()->host())); }

class Offload : public ::testing::TestWithParam<Settings> {};

TEST_P(Offload, HasTheBitsOfStepsOnTheDevice) {
  const auto there = testing::all_left_by(GetParam(), true, hidden);
  const auto here = testing::all_left_by(GetParam(), false, hidden);
  for (std::size_t r = 0; r < here.size(); ++r) {
    EXPECT_EQ(there[r].losses, here[r].losses);
    EXPECT_EQ(bits_of(there[r]), bits_of(here[r]));
    EXPECT_EQ(here[r].optimizer_on_host + here[r].teacher_on_host, 0);
    EXPECT_GT(there[r].optimizer_on_host, 0);
    EXPECT_GT(there[r].teacher_on_host, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, Offload,
    ::testing::Values(Settings{.uses_muon = true}, Settings{.eight_bit = true}, Settings{.weights = DType::BF16},
                      Settings{.layout = "dp2", .ranks = 2, .sharding = {parallel::Sharded::Parameters}}),
    [](const auto& test) { return fmt::format("{}", test.index); });

TEST(OffloadOfTheOptimizer, GoesOnFromStepsWithoutIt) {
  for (const Settings& settings : {Settings{.uses_muon = true}, Settings{.eight_bit = true}}) {
    const testing::Left before = testing::left_by(settings, false, hidden);
    const testing::Left there = testing::left_by(settings, true, hidden, &before),
                        here = testing::left_by(settings, false, hidden, &before);
    EXPECT_EQ(there.losses, here.losses);
    EXPECT_EQ(bits_of(there), bits_of(here));
  }
}

TEST(OffloadOfTheOptimizer, IsWithoutEffectInMemoryOfTheHost) {
  const testing::Left left = testing::left_by({}, true, [](int) { return core::Memory::cpu(1); });
  EXPECT_EQ(left.optimizer_on_host + left.teacher_on_host, 0);
}

constexpr std::int64_t num_layers = 10;
const nn::ModelConfig config{.vocabulary = 31,
                             .width = 64,
                             .num_layers = num_layers,
                             .num_heads = 4,
                             .num_kv_heads = 2,
                             .head_width = 16,
                             .mlp_width = 256,
                             .max_positions = 40,
                             .moe = {}};

/// Of random weights, the same in each.
class Layers {
 public:
  explicit Layers(bool offload)
      : model_(config, {.memory = memory_, .frozen = true, .offload_layers = offload}),
        batch_(nn::one_sequence(memory_, std::vector<std::int32_t>{1, 2, 3, 4, 5, 6, 7}, 0)) {
    model_.init_random(3);
  }
  std::vector<double> hidden_states() {
    core::Tape off(core::Tape::Mode::Off);
    return on_host(model_.forward(off, model_.pass(batch_)).hidden.value);
  }
  /// Of the stream before the layers, of one behind them that is its own gradient; they run in this order.
  std::vector<double> gradient(const std::vector<std::int64_t>& order) {
    core::Tape off(core::Tape::Mode::Off), tape;
    const nn::Pass pass = model_.pass(batch_);
    const core::Var x = core::leaf(model_.embedded(off, pass).value.clone());
    core::Var y = x;
    for (const std::int64_t layer : order) y = model_.layer(tape, pass, layer, y);
    y.slot->grad = y.value.clone();
    y.slot->has_grad = true;
    tape.run();
    return on_host(x.slot->grad);
  }
  nn::Transformer& model() { return model_; }
  core::Memory& memory() { return *memory_; }

 private:
  MemoryPtr memory_ = core::Memory::hidden_cpu(1);
  nn::Transformer model_;
  nn::Batch batch_;
};

TEST(OffloadOfLayers, HasThoseOfTwoOnTheDevice) {
  Layers there(true), here(false);
  there.hidden_states();  // makes tables that stay
  for (int pass = 0; pass < 2; ++pass) {
    const std::int64_t kept = there.memory().statistics().used_bytes, all = there.model().offloaded_bytes();
    there.memory().reset_peak();
    EXPECT_EQ(there.hidden_states(), here.hidden_states());
    const core::MemoryStatistics after = there.memory().statistics();
    EXPECT_EQ(after.used_bytes, kept);
    EXPECT_GE(after.peak_bytes - kept, 2 * all / num_layers);
    EXPECT_LT(after.peak_bytes - kept, 4 * all / num_layers);  // beside activations, and forms of weights
  }
}

// Those of student_init run in orders of their own: what was brought in vain makes room.
TEST(OffloadOfLayers, RunInAnyOrderAndBackward) {
  Layers there(true), here(false);
  const std::int64_t kept = there.memory().statistics().used_bytes;
  for (const std::vector<std::int64_t>& order :
       {std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {0, 3, 1, 7, 9}, {8, 9}}) {
    EXPECT_EQ(there.gradient(order), here.gradient(order));
    EXPECT_LE(there.memory().statistics().used_bytes - kept, 2 * there.model().offloaded_bytes() / num_layers);
  }
}

TEST(OffloadOfLayers, BringsBlocksOfAFileAsTheyAre) {
  const testing::FamilyReference reference("../gpt_oss_mxfp4/gate");
  const data::GgufModel gguf{std::make_shared<data::GgufFile>((reference.folder() / "model.gguf").string())};
  const auto bytes_and_states = [&](bool offload) {
    const MemoryPtr memory = core::Memory::hidden_cpu(1);
    nn::Transformer model(gguf.model_config(),
                          {.memory = memory, .frozen = true, .as_kept = true, .offload_layers = offload});
    model.load(gguf);
    std::int64_t bytes = 0;
    for (const core::Parameter* p : model.parameters())
      if (p->name.starts_with("layers.")) bytes += p->value.bytes();
    EXPECT_EQ(model.offloaded_bytes(), offload ? bytes : 0);
    core::Tape off(core::Tape::Mode::Off);
    const nn::Batch batch = nn::one_sequence(memory, std::vector<std::int32_t>{1, 2, 3, 4, 5}, 0);
    return std::pair(bytes, on_host(model.forward(off, model.pass(batch)).hidden.value));
  };
  EXPECT_EQ(bytes_and_states(true), bytes_and_states(false));
}

TEST(OffloadOfLayers, IsOfFrozenModelsAlone) {
  EXPECT_THAT(
      [] { nn::Transformer(config, {.memory = hidden(0), .offload_layers = true}); },
      ThrowsMessage<core::Error>("transformer: layers stay in the host's memory of a frozen model alone"));
}

TEST(OffloadConfig, RefusesWhatItIsNotWith) {
  const auto refuses = [](const std::string& text, const std::string& expected) {
    EXPECT_THAT([&] { launch::parse_config(text, "c"); }, ThrowsMessage<core::UsageError>(HasSubstr(expected)));
  };
  refuses("precision { offload_teacher: true } train { cuda_graph: true }",
          "train.cuda_graph is given with precision.offload_teacher, expected false: what is copied is not recorded");
  refuses("optimizer { offload: true } parallel { layout: \"ep2\" deal_experts_every_steps: 5 }",
          "optimizer.offload is given with parallel.deal_experts_every_steps, expected false");
}

}  // namespace
}  // namespace limbeck
