// What distillation is by beside the forward KL gives one loss and one gradient however a step's sequences are cut into
// micro-batches and ranks, and whatever is cut over them.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <tuple>
#include <utility>

#include "launch/run/step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/layouts.h"
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
         bool recompute, const std::function<void(const launch::StepResult&, const core::ParameterList&)>& then,
         const launch::ParallelConfig& parallel = {}) {
  const GoldenModel golden("distillation.h5");
  const launch::Pipeline pipeline = testing::pipeline_of(rank, golden.config(), parallel, micro_batches);
  const int stage = rank.mesh().pp().rank();
  nn::Transformer student(golden.config(), pipeline.part_of(rank.sharded(DType::F64), stage));
  student.load(golden.parameters());
  nn::Transformer teacher(golden.config("/teacher"), rank.frozen_copy(DType::F64));
  teacher.load(golden.parameters("/teacher/parameters"));
  core::ParameterSet projectors(
      {.memory = rank.memory(), .dtype = DType::F64, .place = rank.sharded(DType::F64).place});
  core::Parameter& projector = projectors.add("projector", {teacher.config().width, student.config().width});
  core::init_normal(projector, 0.2, 3);
  core::ParameterList parameters = student.parameters();
  if (pipeline.stage_of(0) == stage) parameters.push_back(&projector);
  parallel::GradientSync sync(parameters, rank.mesh(), rank.memory(), DType::F64);
  const optim::Distillation objective({.ce_weight = 0.2, .temperature = 1.5, .divergence = divergence, .mix = 0.3});
  const launch::StepResult result = launch::forward_backward(
      rank, {student, &teacher, objective}, golden.samples(),
      {.micro_batches = micro_batches,
       .pipeline = &pipeline,
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
    launch::ParallelConfig parallel = {};
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
          Layout{"tp2", 2}, Layout{"cp3", 3, 2}, Layout{"cp2ep2", 4, 1, false, true}, Layout{"tp2", 2, 2, true},
          Layout{"tp2ep2", 4}, Layout{"tp2ep2", 4, 1, true, true}, Layout{"pp2", 2, 3},
          Layout{"pp2tp2", 4, 2, true, true},
          Layout{"pp2", 2, 4, false, false, testing::with_schedule(launch::PipelineKind::ZeroBubble, 2)}}) {
      SCOPED_TRACE(layout.name);
      testing::run_ranks(layout.ranks, [&, d = divergence, by = distance](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        run(
            rank, d, by, layout.micro_batches, layout.recompute,
            [&](const launch::StepResult& result, const core::ParameterList& parameters) {
              EXPECT_NEAR(result.loss(), expected.loss, 1e-11);
              EXPECT_NEAR(result.hidden, expected.hidden, 1e-11);
              EXPECT_LE(testing::worst_gradient_error(parameters, expected.gradients), 1e-9);
            },
            layout.parallel);
      });
    }
  }
}

/// The objective of one step of the golden student, under a control.
double controlled(launch::Rank& rank, const launch::TeacherControl& control, const char* teacher_group,
                  std::int64_t micro_batches = 1, bool is_sharded = false) {
  const GoldenModel golden("distillation.h5");
  nn::Transformer student(golden.config(), rank.sharded(DType::F64));
  student.load(golden.parameters());
  const std::string group = teacher_group;
  nn::Transformer teacher(golden.config(group.empty() ? "/" : group),
                          is_sharded ? rank.frozen_shard(DType::F64) : rank.frozen_copy(DType::F64));
  teacher.load(golden.parameters(group + "/parameters"));
  parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), DType::F64);
  const optim::Distillation objective({.ce_weight = 0});
  return launch::forward_backward(rank, {student, &teacher, objective}, golden.samples(),
                                  {.micro_batches = micro_batches, .valid_vocabulary = 96, .control = control}, sync)
      .objective;
}

TEST(ObjectiveLayouts, ControlsAreThoseOfOneRank) {
  for (const launch::TeacherControl control :
       {launch::TeacherControl{launch::Control::ShuffledPositions}, {launch::Control::SmoothedLabels, 0.3}}) {
    double expected = 0;
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, "dp1", 1);
      expected = controlled(rank, control, "/teacher");
    });
    for (const auto& [layout, ranks, micro_batches] :
         {std::tuple{"dp1", 1, 3}, {"dp2", 2, 1}, {"ep2", 2, 2}, {"tp2", 2, 1}, {"tp2ep2", 4, 1}, {"cp2", 2, 2}}) {
      if (control.kind == launch::Control::ShuffledPositions && layout == std::string("cp2")) continue;  // refused
      SCOPED_TRACE(layout);
      testing::run_ranks(ranks, [&, name = layout, micro = micro_batches](testing::RankWorld& world) {
        launch::Rank rank(world.comm, name, 1);
        EXPECT_NEAR(controlled(rank, control, "/teacher", micro), expected, 1e-11);
      });
    }
  }
}

// A teacher with experts, which are cut as the student's.
TEST(ObjectiveLayouts, ShardedTeachersSayTheSame) {
  ASSERT_GT(GoldenModel("distillation.h5").config().moe.num_experts, 0);
  const launch::TeacherControl control{launch::Control::ShuffledPositions};  // of one that is the student
  double expected = 0;
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    expected = controlled(rank, control, "");
  });
  for (const auto& [layout, ranks, sequence_parallel] :
       {std::tuple{"ep2", 2, false}, {"tp2", 2, true}, {"tp2ep2", 4, false}, {"dp2", 2, false}}) {
    SCOPED_TRACE(layout);
    testing::run_ranks(ranks, [&, name = layout, cut = sequence_parallel](testing::RankWorld& world) {
      launch::Rank rank(world.comm, name, 1, cut);
      EXPECT_NEAR(controlled(rank, control, "", 2, /*is_sharded=*/true), expected, 1e-11);
    });
  }
}

/// Of each token of the golden student its log-probabilities of the 96 tokens.
class StudentRows {
 public:
  explicit StudentRows(const launch::Rank& rank) {
    const GoldenModel golden("distillation.h5");
    nn::Transformer student(golden.config(), rank.sharded(DType::F64));
    student.load(golden.parameters());
    const data::TokenBatch samples = golden.samples();
    batch_ = launch::make_batch(rank.memory(), samples, 0, samples.num_sequences, 0);
    core::Tape off(core::Tape::Mode::Off);
    logits_ = core::logits_of(student.forward(off, student.pass(batch_)).hidden.value, student.head().value);
  }
  std::vector<double> operator[](std::int64_t token) const {
    const double* z = logits_.data<double>() + token * logits_.shape()[1];
    double sum = 0;
    for (int v = 0; v < 96; ++v) sum += std::exp(z[v]);
    std::vector<double> row;
    for (int v = 0; v < 96; ++v) row.push_back(z[v] - std::log(sum));
    return row;
  }
  /// The mean of f(sequence's first token, its length, place in it) over the tokens with a target.
  double mean(const std::function<double(std::int64_t, std::int64_t, std::int64_t)>& f) const {
    double sum = 0, tokens = 0;
    for (std::size_t n = 0; n + 1 < batch_.offsets_on_host.size(); ++n) {
      const std::int64_t first = batch_.offsets_on_host[n], length = batch_.offsets_on_host[n + 1] - first;
      for (std::int64_t t = 0; t < length; ++t) {
        if (target(first + t) < 0) continue;
        sum += f(first, length, t);
        ++tokens;
      }
    }
    return sum / tokens;
  }
  std::int32_t target(std::int64_t token) const { return batch_.targets.data<std::int32_t>()[token]; }

 private:
  nn::Batch batch_;
  core::Tensor logits_;
};

// The student's own distributions, half a sequence further on, in its teacher's place.
TEST(ObjectiveLayouts, ShuffledPositionsAreHalfASequenceFurtherOn) {
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    const launch::Rank alone(world.comm, "dp1", 1);
    const StudentRows rows(alone);
    const double kl = rows.mean([&](std::int64_t first, std::int64_t length, std::int64_t t) {
      const auto p = rows[first + (t + length / 2) % length], q = rows[first + t];
      double sum = 0;
      for (std::size_t v = 0; v < p.size(); ++v) sum += std::exp(p[v]) * (p[v] - q[v]);
      return sum;
    });
    launch::Rank rank(world.comm, "dp1", 1);
    EXPECT_NEAR(controlled(rank, {launch::Control::ShuffledPositions}, ""), kl, 1e-10);
    EXPECT_NEAR(controlled(rank, {}, ""), 0, 1e-12);
  });
}

TEST(ObjectiveLayouts, SmoothedLabelsAreTheirLoss) {
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    const launch::Rank alone(world.comm, "dp1", 1);
    const StudentRows rows(alone);
    const double kl = rows.mean([&](std::int64_t first, std::int64_t, std::int64_t t) {
      const auto q = rows[first + t];
      double sum = 0;
      for (std::size_t v = 0; v < q.size(); ++v) {
        const double p = 0.3 / 96 + (std::cmp_equal(v, rows.target(first + t)) ? 0.7 : 0);
        sum += p * (std::log(p) - q[v]);
      }
      return sum;
    });
    launch::Rank rank(world.comm, "dp1", 1);
    EXPECT_NEAR(controlled(rank, {launch::Control::SmoothedLabels, 0.3}, "/teacher"), kl, 1e-10);
  });
}

// What blocks add to the stream, and routing, of a teacher of as many channels and experts, held against PyTorch under
// every layout.
TEST(ObjectiveLayouts, BlocksAndRoutingAreMatchedAsInPyTorch) {
  const GoldenModel golden("matching.h5");
  struct Layout {
    const char* name;
    int ranks;
    std::int64_t micro_batches = 1;
    bool sequence_parallel = false, recompute = false;
    launch::ParallelConfig parallel = {};
  };
  using Kind = launch::PipelineKind;
  for (const std::string which : {"a", "b"})
    for (const Layout& layout :
         {Layout{"dp1", 1}, Layout{"dp1", 1, 3}, Layout{"dp1", 1, 1, false, true}, Layout{"dp2", 2}, Layout{"ep4", 4},
          Layout{"tp2", 2}, Layout{"tp2", 2, 2, true}, Layout{"tp2ep2", 4}, Layout{"tp2ep2", 4, 1, true, true},
          Layout{"pp2", 2, 3}, Layout{"pp2ep2", 4, 2, false, true}, Layout{"pp2tp2", 4, 2, true},
          Layout{"pp2", 2, 5, false, true, testing::with_schedule(Kind::Interleaved, 2)},
          Layout{"pp3", 3, 4, false, false, testing::with_schedule(Kind::ZeroBubble, 2)}}) {
      SCOPED_TRACE(which + " " + layout.name);
      const std::string group = "/objectives/" + which;
      const bool is_first = which == "a";
      testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        const launch::Pipeline pipeline =
            testing::pipeline_of(rank, golden.config(), layout.parallel, layout.micro_batches);
        nn::Transformer student(golden.config(), pipeline.part_of(rank.sharded(DType::F64), rank.mesh().pp().rank()));
        student.load(golden.parameters());
        nn::Transformer teacher(golden.config("/teacher"), rank.frozen_copy(DType::F64));
        teacher.load(golden.parameters("/teacher/parameters"));
        parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), DType::F64);
        const optim::Distillation objective({.ce_weight = 0.3, .temperature = 1.5});
        using V = std::vector<std::int64_t>;
        const auto match = [&](double weight, const V& first, const V& other) {
          return launch::HiddenMatch{
              .weight = weight,
              .distance = is_first ? kernels::RowDistance::SquaredError : kernels::RowDistance::Cosine,
              .layers = is_first ? first : other};
        };
        const launch::UpdateMatches updates = {match(0.7, {1, 2}, {-1, 0}), match(0.4, {2, -1}, {0, 1})};
        const launch::RouterMatch routers{.weight = 0.9, .layers = is_first ? V{0, 2} : V{1, -1}, .by_load = is_first};
        const launch::StepResult result =
            launch::forward_backward(rank, {student, &teacher, objective}, golden.samples(),
                                     {.micro_batches = layout.micro_batches,
                                      .pipeline = &pipeline,
                                      .recompute = layout.recompute,
                                      .updates = updates,
                                      .routers = routers},
                                     sync);
        EXPECT_NEAR(result.loss(), golden.value(group + "/loss/total"), 1e-11);
        for (std::size_t block = 0; block < nn::num_blocks; ++block)
          EXPECT_NEAR(result.updates[block], golden.value(group + "/loss/" + launch::update_names[block]), 1e-11);
        EXPECT_NEAR(result.routing, golden.value(group + "/loss/routing"), 1e-11);
        EXPECT_LE(golden.worst_gradient_error(student.parameters(), group + "/gradients"), 1e-7);
        // Of the gradients by term.
        const auto expect_square = [&](double found, const char* name) {
          const double expected = golden.value(group + "/loss/" + name);
          EXPECT_NEAR(found, expected, 1e-11 * expected) << name;
        };
        expect_square(result.head.ce_square, "ce_square");
        expect_square(result.head.divergence_square, "divergence_square");
        expect_square(result.update_squares[0], "attention_square");
        expect_square(result.update_squares[1], "feed_forward_square");
      });
    }
}

// Hidden states of a narrower teacher through projectors, whose gradients are among those compared, and of one as wide.
TEST(ObjectiveLayouts, HiddenStatesAreMatchedAsInPyTorch) {
  const GoldenModel golden("hidden.h5");
  struct Layout {
    const char* name;
    int ranks;
    std::int64_t micro_batches = 1;
    bool sequence_parallel = false, recompute = false;
  };
  struct Match {
    const char *name, *teacher;
    kernels::RowDistance distance;
    std::vector<std::int64_t> layers;
    bool has_projectors;
  };
  for (const Match& match : {Match{"a", "/narrow", kernels::RowDistance::SquaredError, {1, 2}, true},
                             {"b", "/narrow", kernels::RowDistance::Cosine, {2, 0}, true},
                             {"c", "/wide", kernels::RowDistance::Cosine, {-1, 1}, false}})
    for (const Layout& layout : {Layout{"dp1", 1}, Layout{"dp1", 1, 3}, Layout{"dp2", 2}, Layout{"ep4", 4},
                                 Layout{"tp2", 2, 2, true}, Layout{"cp2", 2}, Layout{"tp2ep2", 4, 1, true, true}}) {
      SCOPED_TRACE(fmt::format("{} {}", match.name, layout.name));
      const std::string group = fmt::format("/objectives/{}", match.name), teacher_group = match.teacher;
      testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
        launch::Rank rank(world.comm, layout.name, 1, layout.sequence_parallel);
        nn::Transformer student(golden.config(), rank.sharded(DType::F64));
        student.load(golden.parameters());
        nn::Transformer teacher(golden.config(teacher_group), rank.frozen_copy(DType::F64));
        teacher.load(golden.parameters(teacher_group + "/parameters"));
        core::ParameterSet projectors(
            {.memory = rank.memory(), .dtype = DType::F64, .place = rank.sharded(DType::F64).place});
        launch::HiddenMatch hidden{.weight = 0.6, .distance = match.distance, .layers = match.layers};
        core::ParameterList parameters = student.parameters();
        for (std::int64_t layer = 0; match.has_projectors && layer < 2; ++layer) {
          core::Parameter& projector = projectors.add(fmt::format("projectors.{}", layer), {16, 24});
          core::StateEntry entry = projector.entry(projector.value);
          golden.parameters("").read(projector.name, entry);
          hidden.projectors.push_back(&projector);
          parameters.push_back(&projector);
        }
        parallel::GradientSync sync(parameters, rank.mesh(), rank.memory(), DType::F64);
        const optim::Distillation objective({.ce_weight = 0.2, .temperature = 1.5});
        const launch::StepResult result = launch::forward_backward(
            rank, {student, &teacher, objective}, golden.samples(),
            {.micro_batches = layout.micro_batches, .recompute = layout.recompute, .hidden = hidden}, sync);
        EXPECT_NEAR(result.loss(), golden.value(group + "/loss/total"), 1e-11);
        EXPECT_NEAR(result.hidden, golden.value(group + "/loss/hidden"), 1e-11);
        const double square = golden.value(group + "/loss/hidden_square");
        EXPECT_NEAR(result.hidden_square, square, 1e-11 * square);
        EXPECT_LE(golden.worst_gradient_error(parameters, group + "/gradients"), 1e-7);
      });
    }
}

}  // namespace
}  // namespace limbeck
