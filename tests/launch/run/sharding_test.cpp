// Optimizer state, gradients and parameters that are dealt among ranks: the bits of plain data parallelism, and state
// that any other layout reads.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "tests/support/golden_steps.h"
#include "tests/support/kept_state.h"
#include "tests/support/saved_steps.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/written_state.h"

namespace limbeck {
namespace {

using core::DType;
using parallel::Sharded;
using Settings = testing::StepSettings;
using testing::float64;
using testing::Seen;
using testing::values_of;
using testing::WrittenState;

/// Steps `first` and those behind it, `count` in all, from `from` (none: from the start); what is left is in `written`.
Seen run(const Settings& s, int count, WrittenState& written, const core::StateDict* from = nullptr) {
  Seen seen;
  testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
    testing::GoldenSteps steps(world.comm, s, core::Memory::cpu(1));
    if (from != nullptr) {
      steps.load(testing::KeptState(*from));
      steps.optimizer().set_num_steps(3);
    }
    for (int step = 0; step < count; ++step) {
      const testing::GoldenSteps::Step one = steps.run();
      if (world.rank == 0) {
        seen.losses.push_back(one.result.loss());
        seen.norms.push_back(one.norm);
      }
    }
    written.add(steps.state());
  });
  seen.state = values_of(written.whole());
  return seen;
}

struct Case {
  const char* name;
  Settings settings;
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};

class Shards : public ::testing::TestWithParam<std::tuple<Case, Sharded>> {
 protected:
  static Settings plain() { return std::get<0>(GetParam()).settings; }
  /// In every bit but the norms'; of 8 bits, whose blocks begin elsewhere, nearly.
  static void expect_same(const Seen& actual, const Seen& expected) {
    ASSERT_EQ(actual.losses.size(), expected.losses.size());
    for (std::size_t i = 0; i < expected.losses.size(); ++i)
      EXPECT_NEAR(actual.losses[i], expected.losses[i], plain().eight_bit ? 1e-3 * expected.losses[i] : 0);
    if (plain().eight_bit) return;
    for (std::size_t i = 0; i < expected.norms.size(); ++i)
      EXPECT_NEAR(actual.norms[i], expected.norms[i], 1e-14 * expected.norms[i]);
    for (const auto& [name, values] : expected.state) EXPECT_EQ(actual.state.at(name), values) << name;
    EXPECT_EQ(actual.state.size(), expected.state.size());
  }
  static Settings sharded(int ranks = 0) {
    Settings s = plain();
    s.sharding = {std::get<1>(GetParam()), ranks};
    return s;
  }
};

/// Of one micro-batch, unclipped: then every sum but that of the norm has one order.
Settings of_one_order(Settings s) {
  s.micro_batches = 1;
  s.clip = 0;
  return s;
}

TEST_P(Shards, HaveTheBitsOfPlainDataParallelism) {
  WrittenState as_plain, as_sharded;
  const Seen expected = run(of_one_order(plain()), 3, as_plain), actual = run(of_one_order(sharded()), 3, as_sharded);
  expect_same(actual, expected);
}

TEST_P(Shards, OfSeveralMicroBatchesAreClippedAsPlainOnes) {
  if (plain().weights != DType::F64) return;
  Settings one = plain(), dealt = sharded();
  one.micro_batches = dealt.micro_batches = 3;
  one.clip = dealt.clip = 0.1;
  WrittenState as_plain, as_sharded;
  const Seen expected = run(one, 2, as_plain), actual = run(dealt, 2, as_sharded);
  EXPECT_GT(expected.norms[0], 0.1);
  expect_near(actual, expected, 1e-9);
  if (std::get<1>(GetParam()) != Sharded::OptimizerState) return;
  EXPECT_EQ(actual.norms, expected.norms);  // whole gradients are there
  EXPECT_EQ(actual.state, expected.state);
}

// Within a node, of which each has everything: other sums of more than two ranks, in another order.
TEST_P(Shards, AreTheSameWithinNodes) {
  if (plain().weights != DType::F64 || plain().ranks != 4) return;
  WrittenState as_plain, as_sharded;
  expect_near(run(sharded(2), 2, as_sharded), run(plain(), 2, as_plain), 1e-9);
}

// As if nothing had come between.
TEST_P(Shards, GoOnFromAnyOtherSetting) {
  const Settings one = of_one_order(plain()), dealt = of_one_order(sharded());
  WrittenState whole, as_plain, as_sharded, from_plain, from_sharded;
  Seen expected = run(one, 5, whole);
  run(one, 3, as_plain);
  run(dealt, 3, as_sharded);
  const core::StateDict plain_state = as_plain.whole(), sharded_state = as_sharded.whole();
  expected.losses.erase(expected.losses.begin(), expected.losses.begin() + 3);
  expected.norms.erase(expected.norms.begin(), expected.norms.begin() + 3);
  expect_same(run(dealt, 2, from_plain, &plain_state), expected);
  expect_same(run(one, 2, from_sharded, &sharded_state), expected);
}

// From each to both others, by files: experts whose widths are cut, sharers that are neighbours, and stages whose
// layers are dealt; of experts Muon steps on some stacks and AdamW on others. What is read, moments too, is what was
// written in every bit, and the step behind it the next of one rank.
TEST(Checkpoints, GoBetweenCutExpertsNeighboursAndDealtStages) {
  const auto on = [](const char* layout, int ranks, const parallel::Sharding& sharding) {
    Settings s = float64({.layout = layout, .ranks = ranks, .uses_muon = true});
    s.sharding = sharding;
    s.groups = {{.pattern = "*.experts.down", .adamw = true}, {.pattern = "*.experts.up", .adamw = true}};
    return s;
  };
  const Settings cut = on("ep2etp2", 4, {}), neighbours = on("dp4", 4, {Sharded::Gradients, 2}),
                 stages = on("dp2pp2", 4, {Sharded::Parameters});
  const std::vector<Settings> order = {cut, neighbours, stages, cut, stages, neighbours, cut};
  WrittenState of_alone;
  const Seen alone = run(on("dp1", 1, {}), static_cast<int>(order.size()), of_alone);
  const testing::TemporaryFolder folder;
  Seen seen;  // its state: what the last step has left
  for (const Settings& s : order) {
    const std::size_t done = seen.losses.size();
    SCOPED_TRACE(fmt::format("step {} under {}", done + 1, s.layout));
    WrittenState read, written;
    testing::run_ranks(s.ranks, [&](testing::RankWorld& world) {
      testing::GoldenSteps steps(world.comm, s, core::Memory::cpu(1));
      if (done > 0) testing::go_on_from(folder / fmt::format("step_{}", done), steps);
      read.add(steps.state());
      const testing::GoldenSteps::Step one = steps.run();
      if (world.rank == 0) {
        seen.losses.push_back(one.result.loss());
        seen.norms.push_back(one.norm);
      }
      written.add(steps.state());
      testing::save(steps, folder.path());
    });
    const std::map<std::string, std::vector<double>> begun = values_of(read.whole());
    for (const auto& [name, values] : seen.state) EXPECT_EQ(begun.at(name), values) << name;
    seen.state = values_of(written.whole());
    EXPECT_EQ(begun.size(), seen.state.size());
  }
  expect_near(seen, alone, 1e-9);
}

// Of one rank, from ranks of which each has experts, or not, to others.
TEST(UnevenExperts, StateGoesOnUnderAnyLayout) {
  for (const std::int64_t num_experts : {6, 3}) {
    SCOPED_TRACE(num_experts);
    const auto on = [&](const char* layout, int ranks, Sharded what) {
      Settings s{.layout = layout, .ranks = ranks, .uses_muon = true, .weights = DType::F64};
      s.compute = DType::F64;
      s.sharding.what = what;
      s.num_experts = num_experts;
      return of_one_order(s);
    };
    const Settings one = on("dp1", 1, Sharded::Nothing), two = on("ep2", 2, Sharded::Gradients),
                   four = on("ep4", 4, Sharded::Parameters);
    WrittenState whole;
    Seen expected = run(one, 5, whole);
    expected.losses.erase(expected.losses.begin(), expected.losses.begin() + 3);
    expected.norms.erase(expected.norms.begin(), expected.norms.begin() + 3);
    for (const auto& [from, to] : {std::pair(four, two), std::pair(two, four), std::pair(four, one)}) {
      SCOPED_TRACE(from.layout + " to " + to.layout);
      WrittenState before, behind;
      run(from, 3, before);
      const core::StateDict state = before.whole();
      expect_near(run(to, 2, behind, &state), expected, 1e-9);
    }
  }
}

// Blocks begin with each expert, whoever has it, so that moments of stacks are as they were; of dense matrices, with
// each share, so that those are off by a code.
TEST(UnevenExperts, MomentsInEightBitsGoOnUnderAnyLayout) {
  const auto on = [](const char* layout, int ranks) {
    Settings s{.layout = layout, .ranks = ranks, .eight_bit = true, .num_experts = 6};
    s.sharding.what = Sharded::OptimizerState;
    return of_one_order(s);
  };
  WrittenState before, further;
  const Seen kept = run(on("ep4", 4), 3, before);
  const core::StateDict state = before.whole();
  const Seen expected = run(on("ep4", 4), 2, further, &state);
  std::int64_t in_blocks = 0, of_experts = 0;
  for (const Settings& to : {on("dp1", 1), on("ep2", 2)}) {
    SCOPED_TRACE(to.layout);
    WrittenState loaded, behind;
    const Seen there = run(to, 0, loaded, &state);
    ASSERT_EQ(there.state.size(), kept.state.size());
    for (const auto& [name, values] : kept.state) {
      const std::vector<double>& others = there.state.at(name);
      const auto has = [&text = name](const char* part) { return text.find(part) != std::string::npos; };
      const bool is_moment = has("/exp_avg");
      if (!is_moment || has(".experts.")) {
        EXPECT_EQ(others, values) << name;
        of_experts += is_moment ? 1 : 0;
        continue;
      }
      ASSERT_EQ(others.size(), values.size()) << name;
      double greatest = 0;
      for (const double x : values) greatest = std::max(greatest, std::abs(x));
      // Half of what lies between the fractions -1 and -0.979 of kernels/block8.h.
      for (std::size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(others[i], values[i], 0.011 * greatest) << name;
      in_blocks += others == values ? 0 : 1;
    }
    const Seen actual = run(to, 2, behind, &state);
    for (std::size_t i = 0; i < expected.losses.size(); ++i)
      EXPECT_NEAR(actual.losses[i], expected.losses[i], 1e-3 * expected.losses[i]);
  }
  EXPECT_GT(of_experts, 0);
  EXPECT_GT(in_blocks, 0) << "of dense matrices";
}

/// Bytes of rank 0's tensors behind a step of AdamW in float32, at its peak, and at the most before the first, of a dense
/// model of its own.
struct Bytes {
  std::int64_t kept = 0, peak = 0, start = 0;
  std::int64_t largest = 0;             // value of a parameter
  std::int64_t layers = 0, others = 0;  // parameters, in elements
};
Bytes bytes_of(Sharded what) {
  Bytes bytes;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    const testing::GoldenModel golden("dense.h5");
    nn::ModelConfig config = golden.config();
    config.num_layers = 6;
    config.width = 192;
    config.mlp_width = 320;
    launch::Rank rank(world.comm, "dp2", 1);
    nn::ModelOptions options = rank.sharded(DType::F32);
    options.filled_later = what == Sharded::Parameters;
    nn::Transformer model(config, options);
    parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F32, 64 << 10, {what});
    parallel::SharedValues values(model.parameters(), sync.groups(), 64 << 10);
    const auto trained = launch::dealt(optim::apply_groups(model.parameters(), {}), sync.groups(), values);
    optim::Optimizer optimizer(trained, {});
    model.set_weights(values.weights());
    model.init_random(1);
    values.begin();
    const optim::LanguageModelling objective;
    launch::TrainingStep step(rank, {model, nullptr, objective}, sync, optimizer, values, optim::fragments_of(trained),
                              {});
    const launch::StepText samples = golden.samples();
    const std::int64_t start = rank.memory()->statistics().peak_bytes;
    values.gather();
    step.run(samples, {.recompute = true}, 1e-3);
    rank.memory()->reset_peak();
    step.run(samples, {.recompute = true}, 1e-3);
    if (world.rank != 0) return;
    bytes.kept = rank.memory()->statistics().used_bytes;
    bytes.peak = rank.memory()->statistics().peak_bytes;
    bytes.start = start;
    for (const core::Parameter* p : model.parameters()) {
      (nn::layer_of(*p) ? bytes.layers : bytes.others) += p->value.numel();
      bytes.largest = std::max(bytes.largest, p->value.bytes());
    }
  });
  return bytes;
}

// docs/parallelism.md, "Sharing optimizer state, gradients and parameters": 4 bytes each of value and gradient, 8 of
// moments.
TEST(ShardedMemory, IsThatOfTheFormulas) {
  const auto mb = [](std::int64_t bytes) { return static_cast<double>(bytes) / 1e6; };
  const Bytes plain = bytes_of(Sharded::Nothing), one = bytes_of(Sharded::OptimizerState),
              two = bytes_of(Sharded::Gradients), three = bytes_of(Sharded::Parameters);
  const std::int64_t all = plain.layers + plain.others;
  EXPECT_NEAR(mb(plain.kept), mb(16 * all), 0.02 * mb(16 * all));
  EXPECT_NEAR(mb(one.kept), mb(8 * all + 8 * all / 2), 0.02 * mb(16 * all));
  EXPECT_NEAR(mb(two.kept), mb(4 * all + 12 * all / 2), 0.02 * mb(16 * all));
  EXPECT_NEAR(mb(three.kept), mb(16 * all / 2), 0.02 * mb(16 * all));
  // Beside it at any time: activations, alike; a bucket (of one matrix, which is larger than its bound), what of it
  // travels and the next one that is written, a layer or two and what of them travels.
  const std::int64_t activations = plain.peak - plain.kept, layer = 4 * plain.layers / 6, bucket = 4 * 192 * 320;
  EXPECT_LE(one.peak - one.kept, activations + 3 * bucket);
  EXPECT_LE(two.peak - two.kept, activations + 4 * bucket);
  EXPECT_LE(three.peak - three.kept, activations + 4 * bucket + 4 * layer);
  // Where it begins a parameter is made, dealt and freed before the next one: all of the layers would be far more.
  EXPECT_LE(three.start, three.kept + three.largest + (64 << 10));
  EXPECT_LT(three.largest + (64 << 10), 4 * three.layers / 2);
}

INSTANTIATE_TEST_SUITE_P(
    Steps, Shards,
    ::testing::Combine(
        ::testing::Values(Case{"dp3", float64({.layout = "dp3", .ranks = 3})},
                          Case{"dp3_muon", float64({.layout = "dp3", .ranks = 3, .uses_muon = true})},
                          Case{"dp4", float64({.layout = "dp4", .ranks = 4, .num_predict_layers = 1})},
                          Case{"dp2_own_head",
                               float64({.layout = "dp2", .ranks = 2, .num_predict_layers = 2, .own_head = true})},
                          Case{"dp2tp2", float64({.layout = "dp2tp2", .ranks = 4, .recompute = true})},
                          Case{"dp2tp2_sequence_muon",
                               {.layout = "dp2tp2", .ranks = 4, .uses_muon = true, .sequence_parallel = true}},
                          Case{"dp2ep2", float64({.layout = "dp2ep2", .ranks = 4, .recompute = true})},
                          Case{"ep4", float64({.layout = "ep4", .ranks = 4})},  // of experts one sharer
                          Case{"dp2ep2_muon", {.layout = "dp2ep2", .ranks = 4, .uses_muon = true}},
                          Case{"tp2etp2_muon", float64({.layout = "tp2etp2", .ranks = 4, .uses_muon = true})},
                          Case{"bfloat16_muon",
                               {.layout = "dp3", .ranks = 3, .uses_muon = true, .weights = DType::BF16}},
                          Case{"eight_bit", {.layout = "dp2", .ranks = 2, .eight_bit = true}},
                          // Two sharers have rows of one expert each, or one of two experts.
                          Case{"four_experts_over_three_muon",
                               float64({.layout = "dp2ep3", .ranks = 6, .uses_muon = true, .num_experts = 4})},
                          // The first of three has none.
                          Case{"two_experts_over_three_eight_bit",
                               {.layout = "dp2ep3", .ranks = 6, .eight_bit = true, .num_experts = 2}}),
        ::testing::Values(Sharded::OptimizerState, Sharded::Gradients, Sharded::Parameters)),
    [](const auto& test) {
      return fmt::format("{}_{}", std::get<0>(test.param).name, static_cast<int>(std::get<1>(test.param)));
    });

}  // namespace
}  // namespace limbeck
