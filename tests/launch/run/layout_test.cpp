// Promise 1: loss and every gradient are the same under any layout. The reference is PyTorch's (tests/golden/models),
// so each layout is checked against an independent one.

#include "tests/support/layouts.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "optim/adamw.h"
#include "optim/clip.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using testing::GoldenModel;

struct Layout {
  const char* name;
  int ranks;
  bool sequence_parallel = false;
};

class LayoutTest : public ::testing::TestWithParam<Layout> {
 protected:
  static void on_ranks(const std::function<void(launch::Rank&)>& body) {
    testing::run_ranks(GetParam().ranks, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, GetParam().name, 1, GetParam().sequence_parallel);
      body(rank);
    });
  }
};

TEST_P(LayoutTest, Float64GradientsAreThoseOfPyTorch) {
  on_ranks([](launch::Rank& rank) { testing::expect_every_golden(rank, DType::F64); });
}

TEST_P(LayoutTest, Float32GradientsAreThoseOfPyTorchUnderItsRouting) {
  on_ranks([](launch::Rank& rank) { testing::expect_every_golden(rank, DType::F32); });
}

TEST_P(LayoutTest, RecomputeAndDelayedWeightPartsChangeNothing) {
  on_ranks([](launch::Rank& rank) {
    testing::expect_golden(rank, "moe_idle_expert.h5", DType::F64, {.recompute = true});
    testing::expect_golden(rank, "moe_global_balance.h5", DType::F64, {.recompute = true});
    testing::expect_golden(rank, "moe_options.h5", DType::F64, {.recompute = true, .delay_weight_parts = true});
    testing::expect_golden(rank, "moe_expert_choice.h5", DType::F64, {.recompute = true});
    testing::expect_golden(rank, "moe.h5", DType::F64,
                           {.micro_batches = 3, .recompute = true, .delay_weight_parts = true});
  });
}

/// Chunks of a layer's tokens: that are not as long as one another, and more than there are tokens.
TEST_P(LayoutTest, ChunksOfTokensChangeNothing) {
  on_ranks([](launch::Rank& rank) {
    testing::expect_golden(rank, "moe_idle_expert.h5", DType::F64,
                           {.expert_chunks = 2, .tensor_chunks = 3, .delay_weight_parts = true});
    testing::expect_golden(rank, "moe_global_balance.h5", DType::F64,
                           {.expert_chunks = 64, .tensor_chunks = 64, .recompute = true});
    testing::expect_golden(rank, "moe_options.h5", DType::F64,
                           {.micro_batches = 2, .expert_chunks = 3, .tensor_chunks = 2});
    testing::expect_golden(rank, "moe_expert_choice.h5", DType::F64, {.expert_chunks = 3});
  });
}

INSTANTIATE_TEST_SUITE_P(Threads, LayoutTest,
                         ::testing::Values(Layout{"dp1", 1}, Layout{"dp2", 2}, Layout{"ep2", 2}, Layout{"dp4", 4},
                                           Layout{"dp2ep2", 4}, Layout{"ep4", 4}, Layout{"tp2", 2}, Layout{"tp3", 3},
                                           Layout{"tp4", 4}, Layout{"tp2dp2", 4}, Layout{"tp2ep2", 4},
                                           Layout{"tp2ep2", 2}, Layout{"tp2etp2", 4}, Layout{"tp2etp2", 2},
                                           Layout{"ep2etp2", 4}, Layout{"tp2", 2, true}, Layout{"tp3", 3, true},
                                           Layout{"tp4", 4, true}, Layout{"tp2dp2", 4, true}, Layout{"tp2ep2", 4, true},
                                           Layout{"tp2ep2", 2, true}, Layout{"tp2etp2", 4, true}, Layout{"cp2", 2},
                                           Layout{"cp3", 3}, Layout{"cp4", 4}, Layout{"cp2tp2", 4}, Layout{"cp2dp2", 4},
                                           Layout{"cp2ep2", 2}, Layout{"cp2ep4", 4}, Layout{"cp2tp2ep2", 4, true},
                                           Layout{"cp2etp2", 2}, Layout{"pp2", 2}, Layout{"pp3", 3},
                                           Layout{"pp2dp2", 4}, Layout{"pp2tp2", 4}, Layout{"pp2tp2", 4, true},
                                           Layout{"pp2ep2", 4}, Layout{"pp2cp2", 4}, Layout{"pp2tp2ep2", 4, true}),
                         [](const auto& layout) {
                           return fmt::format("{}_on_{}{}", layout.param.name, layout.param.ranks,
                                              layout.param.sequence_parallel ? "_sequence" : "");
                         });

/// Eight experts over three ranks are 2, 3 and 3, four of them 1, 1 and 2; over five ranks the first has none of four.
TEST(UnevenExperts, GradientsAreThoseOfPyTorch) {
  for (const auto& [layout, ranks, sequence_parallel] :
       std::vector<Layout>{{"ep3", 3}, {"ep5", 5}, {"tp2ep3", 6, true}, {"ep3etp2", 6}}) {
    SCOPED_TRACE(layout);
    testing::run_ranks(ranks, [&, name = layout, divides = sequence_parallel](testing::RankWorld& world) {
      launch::Rank rank(world.comm, name, 1, divides);
      testing::expect_golden(rank, "moe.h5", DType::F64, {.micro_batches = 2, .delay_weight_parts = true});
      testing::expect_golden(rank, "moe.h5", DType::F32);
      testing::expect_golden(rank, "moe_options.h5", DType::F64, {.expert_chunks = 3, .recompute = true});
      testing::expect_golden(rank, "moe_expert_choice.h5", DType::F64);
    });
  }
}

/// Of a dense model and one with shared experts. In float64 a product adds the terms of a row in one order, however
/// many rows there are.
TEST(TensorChunks, BitsAreThoseOfOneSum) {
  for (const auto& [layout, ranks, sequence_parallel] :
       std::vector<Layout>{{"tp2", 2}, {"tp2", 2, true}, {"tp3", 3}, {"tp3", 3, true}, {"tp2ep2", 2, true}}) {
    SCOPED_TRACE(fmt::format("{} {}", layout, sequence_parallel));
    testing::run_ranks(ranks, [&, name = layout, divides = sequence_parallel](testing::RankWorld& world) {
      launch::Rank rank(world.comm, name, 1, divides);
      for (const char* file : {"dense_uneven.h5", "moe_options.h5"}) {
        const auto gradients = [&](const launch::StepOptions& options) {
          return testing::check_gradients_of(rank, file, DType::F64, options, nullptr);
        };
        const testing::Gradients whole = gradients({});
        for (const launch::StepOptions& options : {launch::StepOptions{.tensor_chunks = 2},
                                                   {.tensor_chunks = 5, .recompute = true},
                                                   {.tensor_chunks = 1024}}) {
          const testing::Gradients found = gradients(options);
          EXPECT_EQ(found.loss, whole.loss) << file << ' ' << options.tensor_chunks;
          EXPECT_EQ(found.whole, whole.whole) << file << ' ' << options.tensor_chunks;
        }
      }
    });
  }
}

/// What else is gathered for products: by weights with biases, of latents, and of states of one group and of several.
TEST(TensorChunks, BitsOfEachKindOfLayerAreThoseOfOneGather) {
  const GoldenModel golden("dense_uneven.h5");
  nn::ModelConfig biases = golden.config(), latents = biases, states = biases, groups = biases;
  biases.attention_bias = biases.mlp_bias = true;
  latents.num_kv_heads = latents.num_heads;
  latents.latent = {.rank = 7, .query_rank = 5, .rope_width = 2, .value_width = 3};
  states.mamba = {.num_heads = 6, .head_width = 5, .state_width = 7};
  groups.mamba = {.num_heads = 6, .head_width = 5, .state_width = 7, .num_groups = 3};
  for (const int ranks : {2, 3})
    testing::run_ranks(ranks, [&](testing::RankWorld& world) {
      launch::Rank rank(world.comm, fmt::format("tp{}", ranks), 1, /*sequence_parallel=*/true);
      for (const nn::ModelConfig& config : {biases, latents, states, groups}) {
        const auto gradients = [&](const launch::StepOptions& options) {
          nn::Transformer model(config, rank.sharded(DType::F64));
          model.init_random(3);
          parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F64, 4096);
          const optim::LanguageModelling objective;
          testing::Gradients found;
          found.loss =
              launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(), options, sync).loss();
          for (const core::Parameter* p : model.parameters()) found.whole[p->name] = testing::values_of(p->slot->grad);
          return found;
        };
        const testing::Gradients whole = gradients({});
        for (const launch::StepOptions& options : {launch::StepOptions{.tensor_chunks = 3},
                                                   {.tensor_chunks = 2, .recompute = true},
                                                   {.tensor_chunks = 1024, .delay_weight_parts = true}}) {
          const testing::Gradients found = gradients(options);
          EXPECT_EQ(found.loss, whole.loss) << ranks << ' ' << options.tensor_chunks;
          EXPECT_EQ(found.whole, whole.whole) << ranks << ' ' << options.tensor_chunks;
        }
      }
    });
}

/// Chunks go round the stages, the last of them without a layer where the model has two; weights are left for gaps.
TEST(Pipelines, GradientsAreThoseOfPyTorchByEverySchedule) {
  using Kind = launch::PipelineKind;
  for (const auto& [layout, ranks, kind, chunks] :
       std::vector<std::tuple<const char*, int, Kind, int>>{{"pp2", 2, Kind::Interleaved, 2},
                                                            {"pp2", 2, Kind::ZeroBubble, 1},
                                                            {"pp2", 2, Kind::ZeroBubble, 2},
                                                            {"pp3", 3, Kind::Interleaved, 3},
                                                            {"pp2tp2ep2", 4, Kind::ZeroBubble, 1},
                                                            {"pp2cp2", 4, Kind::Interleaved, 2}}) {
    SCOPED_TRACE(fmt::format("{} {} {}", layout, static_cast<int>(kind), chunks));
    launch::ParallelConfig parallel;
    parallel.schedule = kind;
    parallel.chunks = chunks;
    testing::run_ranks(ranks, [&, name = layout, is_recomputed = chunks == 2](testing::RankWorld& world) {
      launch::Rank rank(world.comm, name, 1);
      for (const std::int64_t micro_batches : {1, 2, 5})
        for (const char* file : {"dense.h5", "moe.h5", "moe_options.h5"})
          testing::expect_golden(
              rank, file, DType::F64,
              {.micro_batches = micro_batches, .tensor_chunks = micro_batches, .recompute = is_recomputed}, 4096,
              parallel);
    });
  }
}

/// The first stage does not begin its second micro-batch before the last one has made a gradient of a weight, which its
/// schedule has behind that micro-batch.
TEST(Pipelines, AStageThatWaitsMakesGradientsOfWeights) {
  std::atomic<bool> has_made = false;
  struct Seen final : core::FiniteWatch {
    std::atomic<bool>* has_made = nullptr;
    void ran(std::string_view /*op*/, const std::vector<core::SlotPtr>& slots) override {
      for (const core::SlotPtr& slot : slots)
        if (slot && slot->parameter && slot->parameter->name.starts_with("layers.") && slot->grad.shape().rank() > 1)
          *has_made = true;
    }
  };
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "pp2", 1);
    const auto gradients = [&](const launch::StepWatch& watch) {
      return testing::check_gradients_of(rank, "dense.h5", DType::F64, {.micro_batches = 2, .watch = watch}, nullptr,
                                         4096, testing::with_schedule(launch::PipelineKind::ZeroBubble, 1));
    };
    const testing::Gradients by_turns = gradients({});
    Seen seen;
    launch::StepWatch watch;
    int pass = 0;
    if (world.rank == 0) {
      watch.pass = [&](nn::Pass& /*pass*/, const nn::Transformer& /*model*/) {
        if (++pass < 2) return;
        for (int ms = 0; ms < 5000 && !has_made; ++ms) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        EXPECT_TRUE(has_made);
      };
    } else {
      seen.has_made = &has_made;
      watch.finite = &seen;
    }
    EXPECT_EQ(gradients(watch).whole, by_turns.whole);
  });
}

/// Two micro-batches through two stages, one of which takes long over each operation, and longer to begin a pass.
struct OnStage : core::FiniteWatch {
  std::map<std::string, std::vector<double>> gradients;
  int attentions = 0, before_final = 0;  // backward ones; of them before the last part of a gradient of layer 3
  int passes = 0, sums_of_copies = 0;    // of experts, before the second pass
  bool is_late = false;

  void made(const core::Tensor& /*value*/) override { pause(); }
  void ran(std::string_view op, const std::vector<core::SlotPtr>& slots) override {
    pause();
    if (op == "attention") ++attentions;
    if (op == "replicas" && !slots.empty() && passes < 2) ++sums_of_copies;
    for (const core::SlotPtr& slot : slots)
      if (slot && slot->parameter && slot->parameter->name == "layers.3.mlp.up.weight") before_final = attentions;
  }
  void pause() const {
    if (is_late) std::this_thread::sleep_for(std::chrono::microseconds(300));
  }
  void run(launch::Rank& rank, const GoldenModel& golden, const nn::ModelConfig& config, int chunks,
           const std::vector<std::vector<std::int64_t>>& copied = {}) {
    const launch::ParallelConfig parallel = testing::with_schedule(launch::PipelineKind::ZeroBubble, chunks);
    launch::Pipeline pipeline = testing::pipeline_of(rank, config, parallel, 2);
    pipeline.schedule = parallel::make_schedule(parallel::ScheduleKind::ZeroBubble, 2, chunks, 2);
    nn::ModelOptions model_options = rank.sharded(DType::F64);
    model_options.with_predict = true;
    nn::Transformer model(config, pipeline.part_of(model_options, rank.mesh().pp().rank()));
    model.init_random(3);
    parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), DType::F64, 4096);
    const optim::LanguageModelling objective;
    launch::StepOptions options;
    options.micro_batches = 2;
    options.pipeline = &pipeline;
    options.predict_weight = 0.3;
    options.replicated = copied;
    options.watch.finite = this;
    options.watch.pass = [this](nn::Pass& /*pass*/, const nn::Transformer& /*model*/) {
      ++passes;
      if (is_late) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    };
    launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(), options, sync);
    for (const core::Parameter* p : model.parameters()) gradients[p->name] = testing::values_of(p->slot->grad);
  }
};

/// A tied head's gradient, which forwards make, and that of an embedding beside it come into one sum; and what is final
/// begins to be summed over ranks.
TEST(Pipelines, WhoIsLateChangesNoBitAndNotWhenAGradientIsFinal) {
  const GoldenModel golden("dense.h5");
  nn::ModelConfig tied = golden.config(), deep = tied;
  tied.tied_head = true;
  tied.num_predict_layers = 1;
  deep.num_layers = 4;
  testing::run_ranks(2, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "pp2", 1);
    for (const int chunks : {1, 2}) {
      OnStage first, last;
      (world.rank == 0 ? first : last).is_late = true;
      first.run(rank, golden, chunks == 1 ? tied : deep, chunks);
      last.run(rank, golden, chunks == 1 ? tied : deep, chunks);
      EXPECT_EQ(first.gradients, last.gradients);
      EXPECT_EQ(first.before_final, last.before_final);
      if (world.rank == 1 && chunks == 2) {
        EXPECT_EQ(last.before_final, 3);
      }
    }
  });
}

/// Of which each takes an exchange, that has to stand at one place on all ranks.
TEST(Pipelines, AStageThatWaitsSumsNoCopiesOfExperts) {
  const GoldenModel golden("moe.h5");
  testing::run_ranks(4, [&](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "pp2ep2", 1);
    OnStage stage;
    stage.is_late = !rank.is_last_stage();
    stage.run(rank, golden, golden.config(), 1, {{0, 1}, {0, 1}});
    EXPECT_EQ(stage.passes, 2);
    EXPECT_EQ(stage.sums_of_copies, 0);
  });
}

/// In float32, and in float64 where rounding is out of the way: Adam makes whole steps of gradients that are all but
/// zero.
class TenSteps : public ::testing::TestWithParam<std::tuple<const char*, DType, double>> {};

TEST_P(TenSteps, LossesAreThoseOfPyTorch) {
  const auto [file, dtype, tolerance] = GetParam();
  const GoldenModel golden(file);
  const std::vector<double> losses = golden.values("/steps/total");
  const std::vector<double> norms = golden.values("/steps/grad_norm");
  ASSERT_EQ(losses.size(), 10U);
  testing::run_ranks(1, [&, dtype = dtype, tolerance = tolerance](testing::RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    nn::Transformer model(golden.config(), rank.sharded(dtype));
    model.load(golden.parameters());
    parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), dtype);
    optim::AdamW adamw(optim::whole_fragments(model.parameters()), {.beta1 = golden.number("beta1"),
                                                                    .beta2 = golden.number("beta2"),
                                                                    .eps = golden.number("epsilon"),
                                                                    .weight_decay = golden.number("weight_decay")});
    const optim::LanguageModelling objective;
    for (std::size_t step = 0; step < losses.size(); ++step) {
      const launch::StepResult result = launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(),
                                                                 {.router = golden.router()}, sync);
      EXPECT_NEAR(result.loss(), losses[step], tolerance * losses[step]) << "step " << step + 1;
      optim::GradientNorm norm(model.parameters(), rank.world(), golden.number("clip_norm"));
      EXPECT_NEAR(norm.values().norm, norms[step], 10 * tolerance * norms[step]) << "step " << step + 1;
      adamw.step(golden.number("learning_rate"), norm.factor());
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Golden, TenSteps,
                         ::testing::Values(std::tuple{"dense.h5", DType::F32, 1e-4},
                                           std::tuple{"moe.h5", DType::F32, 1e-4},
                                           std::tuple{"dense.h5", DType::F64, 1e-9},
                                           std::tuple{"moe.h5", DType::F64, 1e-9},
                                           std::tuple{"moe_idle_expert.h5", DType::F64, 1e-9},
                                           std::tuple{"moe_expert_choice.h5", DType::F64, 1e-9}));

TEST(DistillationStep, GradientsAndStatisticsAreThoseOfPyTorch) {
  const GoldenModel golden("distillation.h5");
  for (const auto& [which, layout, sequence_parallel] :
       std::vector<std::tuple<std::string, std::string, bool>>{{"a", "ep2", false},
                                                               {"b", "ep2", false},
                                                               {"a", "tp2", false},
                                                               {"b", "tp2ep2", false},
                                                               {"a", "cp2", false},
                                                               {"b", "cp2ep2", false},
                                                               {"a", "tp2", true},
                                                               {"b", "tp2ep2", true},
                                                               {"a", "pp2", false},
                                                               {"b", "pp2", false}}) {
    SCOPED_TRACE(layout);
    const std::string group = "/objectives/" + which;
    testing::run_ranks(2, [&, &name = layout, &divides = sequence_parallel](testing::RankWorld& world) {
      launch::Rank rank(world.comm, name, 1, divides);
      const launch::Pipeline pipeline = testing::pipeline_of(rank, golden.config(), {}, 1);
      nn::Transformer student(golden.config(), pipeline.part_of(rank.sharded(DType::F64), rank.mesh().pp().rank()));
      student.load(golden.parameters());
      nn::Transformer teacher(golden.config("/teacher"), rank.frozen_copy(DType::F64));
      teacher.load(golden.parameters("/teacher/parameters"));
      parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), DType::F64);
      const optim::Distillation objective(
          {.ce_weight = golden.number("alpha", group), .temperature = golden.number("temperature", group)});
      const launch::StepResult result = launch::forward_backward(rank, {student, &teacher, objective}, golden.samples(),
                                                                 {.pipeline = &pipeline}, sync);
      EXPECT_NEAR(result.loss(), golden.value(group + "/loss/total"), 1e-11);
      EXPECT_LE(golden.worst_gradient_error(student.parameters(), group + "/gradients"), 1e-7);
      const core::LossStatistics& s = result.head;
      EXPECT_EQ(s.tokens, golden.number("num_valid"));
      EXPECT_NEAR(s.ce / s.tokens, golden.value("/metrics/ce"), 1e-11);
      EXPECT_NEAR(s.kl / s.tokens, golden.value("/metrics/kl"), 1e-11);
      EXPECT_NEAR(s.teacher_ce / s.tokens, golden.value("/metrics/teacher_ce"), 1e-11);
      EXPECT_NEAR(s.agreement / s.tokens, golden.value("/metrics/top1_agreement"), 1e-12);
      EXPECT_NEAR(s.sum_min / s.tokens, golden.value("/metrics/sum_min"), 1e-11);
    });
  }
}

}  // namespace
}  // namespace limbeck
