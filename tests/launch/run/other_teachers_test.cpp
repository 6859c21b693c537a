// Several teachers of a step: the mean of those that teach a token's source, whatever is cut over ranks. What the mean
// is and what comes of it is held against PyTorch in tests/optim/mixed_teachers_test.cpp.
#include "launch/run/other_teachers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "launch/run/evaluation.h"
#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using launch::OtherTeachers;
using testing::GoldenModel;
using Shares = std::vector<std::vector<double>>;

constexpr std::int64_t valid = 95;

/// The golden batch, whose sequences are of three sources in turn.
data::TokenBatch samples_of(const GoldenModel& golden) {
  data::TokenBatch samples = golden.samples();
  samples.pieces.clear();
  for (std::int64_t i = 0; i < samples.num_sequences; ++i)
    samples.pieces.push_back({.source = static_cast<std::size_t>(i % 3),
                              .document = i,
                              .first = i * samples.sequence_length,
                              .count = samples.sequence_length});
  return samples;
}

/// What the second teacher is: a model of the student's architecture, or the first one again.
enum class Second : std::uint8_t { Another, TheFirst };

struct Ran {
  launch::StepResult result;
  launch::Evaluation held_out;
  std::map<std::string, std::vector<double>> gradients = {};  // of one rank: whole
};

struct Options {
  Shares shares = {};  // empty: the first teacher is alone
  Second second = Second::Another;
  std::int64_t micro_batches = 1;
  bool sharded = false;
  double temperature = 1.5;
  bool only_second = false;  // it is the one teacher
};

/// One step of the golden student.
void run(launch::Rank& rank, const Options& options,
         const std::function<void(const Ran&, const core::ParameterList&)>& then) {
  const GoldenModel golden("distillation.h5");
  nn::Transformer student(golden.config(), rank.sharded(DType::F64));
  student.load(golden.parameters());
  const auto frozen = [&] { return options.sharded ? rank.frozen_shard(DType::F64) : rank.frozen_copy(DType::F64); };
  nn::Transformer first(golden.config("/teacher"), frozen());
  first.load(golden.parameters("/teacher/parameters"));
  std::unique_ptr<nn::Transformer> second;
  if (options.second == Second::TheFirst) {
    second = std::make_unique<nn::Transformer>(golden.config("/teacher"), frozen());
    second->load(golden.parameters("/teacher/parameters"));
  } else {
    second = std::make_unique<nn::Transformer>(golden.config(), frozen());
    second->init_random(5);
    for (core::Parameter* p : second->parameters())  // of distributions that are not flat
      if (p->name == "head.weight" || p->name == "embed.weight")
        for (std::int64_t i = 0; i < p->value.numel(); ++i) p->value.mutable_host<double>()[i] *= 30;
  }
  OtherTeachers others{
      .teachers = {}, .shares = options.shares, .together = options.sharded || rank.context_place().size > 1};
  const nn::Transformer* teacher = options.only_second ? second.get() : &first;
  if (!options.shares.empty()) others.teachers.push_back({std::move(second), nullptr});
  const OtherTeachers* beside = options.shares.empty() ? nullptr : &others;
  parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), DType::F64);
  const optim::Distillation objective({.ce_weight = 0.2, .temperature = options.temperature});
  Ran ran;
  ran.result = launch::forward_backward(
      rank, {.student = student, .teacher = teacher, .objective = objective, .others = beside}, samples_of(golden),
      {.micro_batches = options.micro_batches, .valid_vocabulary = valid, .temperature = options.temperature}, sync);
  ran.held_out = launch::HeldOut(rank, {.samples = samples_of(golden)}, teacher, valid, nullptr, nullptr, beside)
                     .evaluate(student)
                     .held_out;
  for (const core::Parameter* p : student.parameters()) ran.gradients[p->name] = testing::values_of(p->slot->grad);
  then(ran, student.parameters());
}

Ran alone(const Options& options) {
  Ran of_one;
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    run(rank, options, [&](const Ran& ran, const core::ParameterList&) { of_one = ran; });
  });
  return of_one;
}

const Shares mixed = {{1, 0}, {0.25, 0.75}, {0, 1}};

TEST(OtherTeachersTest, LossGradientsAndFiguresAreThoseOfOneRank) {
  const Ran expected = alone({.shares = mixed});
  struct Layout {
    const char* name;
    int ranks;
    std::int64_t micro_batches = 1;
    bool sequence_parallel = false, sharded = false;
  };
  for (const Layout& layout :
       {Layout{"dp1", 1, 4}, Layout{"dp2", 2}, Layout{"dp4", 4}, Layout{"ep2", 2, 2}, Layout{"tp2", 2},
        Layout{"tp2", 2, 3, true}, Layout{"tp2ep2", 4}, Layout{"ep2", 2, 3, false, true}, Layout{"cp3", 3, 2},
        Layout{"cp2ep2", 2, 1, false, true}}) {
    SCOPED_TRACE(fmt::format("{} {} {}", layout.name, layout.micro_batches, layout.sharded));
    testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
      run(rank, {.shares = mixed, .micro_batches = layout.micro_batches, .sharded = layout.sharded},
          [&](const Ran& ran, const core::ParameterList& parameters) {
            EXPECT_NEAR(ran.result.loss(), expected.result.loss(), 1e-11);
            EXPECT_NEAR(ran.result.head.kl, expected.result.head.kl, 1e-9);
            EXPECT_NEAR(ran.result.head.teacher_ce, expected.result.head.teacher_ce, 1e-9);
            EXPECT_LE(testing::worst_gradient_error(parameters, expected.gradients), 1e-9);
            EXPECT_NEAR(ran.held_out.kl, expected.held_out.kl, 1e-11);
            EXPECT_NEAR(ran.held_out.teacher_cross_entropy, expected.held_out.teacher_cross_entropy, 1e-11);
          });
    });
  }
}

// The mean is of probabilities, so what is of a source that one teaches is that one's.
TEST(OtherTeachersTest, FiguresAreBetweenThoseOfEach) {
  const Ran both = alone({.shares = {{0.5, 0.5}, {0.5, 0.5}, {0.5, 0.5}}, .temperature = 1});
  const Ran first = alone({.temperature = 1}), second = alone({.temperature = 1, .only_second = true});
  EXPECT_GT(std::abs(first.held_out.kl - second.held_out.kl), 0.01);
  EXPECT_LT(both.held_out.kl, 0.5 * (first.held_out.kl + second.held_out.kl));  // KL is convex in p
  EXPECT_LT(both.held_out.teacher_cross_entropy,
            0.5 * (first.held_out.teacher_cross_entropy + second.held_out.teacher_cross_entropy));  // so is -log
  EXPECT_NEAR(both.result.head.kl / both.result.head.tokens, both.held_out.kl, 1e-11);
}

TEST(OtherTeachersTest, TwoEqualOnesAreOne) {
  for (const double temperature : {1.0, 2.0}) {
    const Ran one = alone({.temperature = temperature});
    const Ran two = alone({.shares = mixed, .second = Second::TheFirst, .temperature = temperature});
    EXPECT_NEAR(two.result.loss(), one.result.loss(), 1e-12);
    EXPECT_NEAR(two.held_out.kl, one.held_out.kl, 1e-12);
    EXPECT_NEAR(two.held_out.teacher_cross_entropy, one.held_out.teacher_cross_entropy, 1e-12);
    for (const auto& [name, values] : one.gradients)
      for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(two.gradients.at(name)[i], values[i], 1e-12) << name;
  }
}

// A teacher that teaches nothing of a batch is not asked, and the other is as if it were alone, bit by bit.
TEST(OtherTeachersTest, WhoTeachesAllIsAsIfAlone) {
  const Ran first = alone({}), second = alone({.only_second = true});
  const Ran of_first = alone({.shares = {{1, 0}, {1, 0}, {1, 0}}}),
            of_second = alone({.shares = {{0, 1}, {0, 1}, {0, 1}}});
  EXPECT_EQ(of_first.result.loss(), first.result.loss());
  EXPECT_EQ(of_first.gradients, first.gradients);
  EXPECT_EQ(of_second.result.loss(), second.result.loss());
  EXPECT_EQ(of_second.gradients, second.gradients);
  EXPECT_EQ(of_second.held_out.kl, second.held_out.kl);
  EXPECT_NE(first.result.loss(), second.result.loss());
}

TEST(OtherTeachersTest, SharesFollowTheSourcesOfTheTokens) {
  OtherTeachers others{.teachers = {}, .shares = {{1, 0}, {0.25, 0.75}}};
  others.teachers.emplace_back();
  const data::TokenBatch samples{.num_sequences = 3,
                                 .sequence_length = 2,
                                 .tokens = {1, 2, 3, 4, 5, 6},
                                 .targets = {},
                                 .positions = {},
                                 .documents = {},
                                 .pieces = {{.source = 1, .first = 0, .count = 2},
                                            {.source = 0, .first = 2, .count = 1},
                                            {.source = 0, .first = 3, .count = 1},
                                            {.source = 1, .first = 4, .count = 2}}};
  const auto memory = core::Memory::cpu(1);
  const launch::TokenShares all = others.shares_of(memory, samples, 0, 3);
  EXPECT_EQ(core::host_values<double>(all.values[0]), (std::vector<double>{0.25, 0.25, 1, 1, 0.25, 0.25}));
  EXPECT_EQ(core::host_values<double>(all.values[1]), (std::vector<double>{0.75, 0.75, 0, 0, 0.75, 0.75}));
  EXPECT_EQ(all.teaches, (std::vector<bool>{true, true}));
  const launch::TokenShares middle = others.shares_of(memory, samples, 1, 1);
  EXPECT_EQ(core::host_values<double>(middle.values[0]), (std::vector<double>{1, 1}));
  EXPECT_EQ(middle.teaches, (std::vector<bool>{true, false}));
  EXPECT_EQ(others.shares_of(memory, samples, 1, 0).teaches, (std::vector<bool>{true, false}));
}

}  // namespace
}  // namespace limbeck
