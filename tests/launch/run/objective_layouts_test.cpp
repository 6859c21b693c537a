// What distillation is by beside the forward KL gives one loss and one gradient however a step's sequences are cut into
// micro-batches and ranks, and whatever is cut over them.
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using kernels::Divergence;
using testing::GoldenModel;

struct Ran {
  double loss = 0, hidden = 0;
  std::map<std::string, std::vector<double>> gradients;
};

/// One step of the golden student, taught by the golden teacher, which is narrower, under a layout.
void run(launch::Rank& rank, Divergence divergence, kernels::RowDistance distance, std::int64_t micro_batches,
         bool recompute, const std::function<void(const launch::StepResult&, const core::ParameterList&)>& then) {
  const GoldenModel golden("distillation.h5");
  nn::Transformer student(golden.config(), rank.sharded(DType::F64));
  student.load(golden.parameters());
  nn::Transformer teacher(golden.config("/teacher"), rank.frozen_copy(DType::F64));
  teacher.load(golden.parameters("/teacher/parameters"));
  core::ParameterSet projectors(
      {.memory = rank.memory(), .dtype = DType::F64, .place = rank.sharded(DType::F64).place});
  core::Parameter& projector = projectors.add("projector", {teacher.config().width, student.config().width});
  core::init_normal(projector, 0.2, 3);
  core::ParameterList parameters = student.parameters();
  parameters.push_back(&projector);
  parallel::GradientSync sync(parameters, rank.mesh(), rank.memory(), DType::F64);
  const optim::Distillation objective({.ce_weight = 0.2, .temperature = 1.5, .divergence = divergence, .mix = 0.3});
  const launch::StepResult result = launch::forward_backward(
      rank, {student, &teacher, objective}, golden.samples(),
      {.micro_batches = micro_batches,
       .recompute = recompute,
       .valid_vocabulary = 95,
       .hidden = launch::HiddenMatch{.weight = 0.6, .distance = distance, .layers = {0}, .projectors = {&projector}}},
      sync);
  then(result, parameters);
}

TEST(ObjectiveLayouts, LossAndGradientsAreThoseOfOneRank) {
  struct Layout {
    const char* name;
    int ranks;
    std::int64_t micro_batches = 1;
    bool sequence_parallel = false, recompute = false;
  };
  for (const auto& [divergence, distance] : {std::pair{Divergence::ReverseKl, kernels::RowDistance::Cosine},
                                             {Divergence::JensenShannon, kernels::RowDistance::SquaredError},
                                             {Divergence::SkewKl, kernels::RowDistance::Cosine},
                                             {Divergence::ReverseSkewKl, kernels::RowDistance::SquaredError},
                                             {Divergence::TotalVariation, kernels::RowDistance::Cosine}}) {
    SCOPED_TRACE(static_cast<int>(divergence));
    Ran expected;
    testing::run_ranks(1, [&, d = divergence, by = distance](testing::RankWorld& world) {
      launch::Rank rank(world.comm, "dp1", 1);
      run(rank, d, by, 1, false, [&](const launch::StepResult& result, const core::ParameterList& parameters) {
        expected.loss = result.loss();
        expected.hidden = result.hidden;
        for (const core::Parameter* p : parameters) expected.gradients[p->name] = testing::values_of(p->slot->grad);
      });
    });
    ASSERT_GT(expected.hidden, 0);
    for (const Layout& layout :
         {Layout{"dp1", 1, 3}, Layout{"dp1", 1, 4, false, true}, Layout{"dp2", 2}, Layout{"dp4", 4}, Layout{"ep4", 4},
          Layout{"tp2", 2}, Layout{"tp2", 2, 2, true}, Layout{"tp2ep2", 4}, Layout{"tp2ep2", 4, 1, true, true}}) {
      SCOPED_TRACE(layout.name);
      testing::run_ranks(layout.ranks, [&, d = divergence, by = distance](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        run(rank, d, by, layout.micro_batches, layout.recompute,
            [&](const launch::StepResult& result, const core::ParameterList& parameters) {
              EXPECT_NEAR(result.loss(), expected.loss, 1e-11);
              EXPECT_NEAR(result.hidden, expected.hidden, 1e-11);
              EXPECT_LE(testing::worst_gradient_error(parameters, expected.gradients), 1e-9);
            });
      });
    }
  }
}

// Attention outputs and routing of a teacher of as many channels and experts, held against PyTorch under every layout.
TEST(ObjectiveLayouts, AttentionAndRoutingAreMatchedAsInPyTorch) {
  const GoldenModel golden("matching.h5");
  struct Layout {
    const char* name;
    int ranks;
    std::int64_t micro_batches = 1;
    bool sequence_parallel = false, recompute = false;
  };
  for (const std::string which : {"a", "b"})
    for (const Layout& layout :
         {Layout{"dp1", 1}, Layout{"dp1", 1, 3}, Layout{"dp1", 1, 1, false, true}, Layout{"dp2", 2}, Layout{"ep4", 4},
          Layout{"tp2", 2}, Layout{"tp2", 2, 2, true}, Layout{"tp2ep2", 4}, Layout{"tp2ep2", 4, 1, true, true}}) {
      SCOPED_TRACE(which + " " + layout.name);
      const std::string group = "/objectives/" + which;
      const bool is_first = which == "a";
      testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        nn::Transformer student(golden.config(), rank.sharded(DType::F64));
        student.load(golden.parameters());
        nn::Transformer teacher(golden.config("/teacher"), rank.frozen_copy(DType::F64));
        teacher.load(golden.parameters("/teacher/parameters"));
        parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), DType::F64);
        const optim::Distillation objective({.ce_weight = 0.3, .temperature = 1.5});
        using V = std::vector<std::int64_t>;
        const launch::HiddenMatch attention{
            .weight = 0.7,
            .distance = is_first ? kernels::RowDistance::SquaredError : kernels::RowDistance::Cosine,
            .layers = is_first ? V{1, 2} : V{-1, 0}};
        const launch::RouterMatch routers{.weight = 0.9, .layers = is_first ? V{0, 2} : V{1, -1}, .by_load = is_first};
        const launch::StepResult result =
            launch::forward_backward(rank, {student, &teacher, objective}, golden.samples(),
                                     {.micro_batches = layout.micro_batches,
                                      .recompute = layout.recompute,
                                      .attention = attention,
                                      .routers = routers},
                                     sync);
        EXPECT_NEAR(result.loss(), golden.value(group + "/loss/total"), 1e-11);
        EXPECT_NEAR(result.attention, golden.value(group + "/loss/attention"), 1e-11);
        EXPECT_NEAR(result.routing, golden.value(group + "/loss/routing"), 1e-11);
        EXPECT_LE(golden.worst_gradient_error(student.parameters(), group + "/gradients"), 1e-7);
        // Of the gradients by term.
        const auto expect_square = [&](double found, const char* name) {
          const double expected = golden.value(group + "/loss/" + name);
          EXPECT_NEAR(found, expected, 1e-11 * expected) << name;
        };
        expect_square(result.head.ce_square, "ce_square");
        expect_square(result.head.divergence_square, "divergence_square");
        expect_square(result.attention_square, "attention_square");
      });
    }
}

}  // namespace
}  // namespace limbeck
