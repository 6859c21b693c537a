// Which layers a stage has, by what they and a teacher cost; what a pipeline refuses, and that all ranks have the same.
#include "launch/run/pipeline.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "launch/run/run_config.h"
#include "launch/run/session.h"
#include "launch/run/teacher_service.h"
#include "parallel/pipeline/filled_gaps.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;

/// A token's forward, of sequences of 3, is 368 FLOP a layer: 2 of each of the weights, 4 (4 4) of attention, 3 (4 8)
/// of the feed-forward and 2 (4) of norms, and 2 (2 (2 + 2)) of each of the 2 keys that it sees on average. The head's
/// 10 rows of 4 are 80.
nn::ModelConfig model_of(std::int64_t layers) {
  nn::ModelConfig model;
  model.vocabulary = 10;
  model.width = 4;
  model.num_layers = layers;
  model.num_heads = model.num_kv_heads = 2;
  model.head_width = 2;
  model.mlp_width = 8;
  model.max_positions = 16;
  return model;
}

RunConfig config_of(std::vector<std::int64_t> stages = {}) {
  RunConfig config;
  config.data.sequence_length = 3;
  config.parallel.stages = std::move(stages);
  return config;
}

std::vector<std::int64_t> counts(const Pipeline& pipeline) {
  std::vector<std::int64_t> counts;
  for (const core::Slice& part : pipeline.layers) counts.push_back(part.count);
  return counts;
}

TEST(PipelineOf, ATeacherTakesLayersFromTheLastStage) {
  const Pipeline alone = pipeline_of(config_of(), model_of(6), 2);
  EXPECT_THAT(counts(alone), ElementsAre(3, 3));
  // 6 layers' forward, which is what 2 layers take forward and backward: 4 and 2 + 2, not 3 and 3 + 2.
  const StagePasses passes{.beside_head = 6 * 368, .readers = 2};
  const Pipeline beside = pipeline_of(config_of(), model_of(6), 2, passes);
  EXPECT_THAT(counts(beside), ElementsAre(4, 2));
  const parallel::PipelineCosts costs = costs_of_stages(config_of(), model_of(6), beside.layers, passes);
  EXPECT_EQ(beside.costs.forward, costs.forward);
  EXPECT_EQ(beside.costs.input_gradient, costs.input_gradient);
  EXPECT_EQ(beside.costs.weight_gradient, costs.weight_gradient);
}

// The schedule with weights apart is the one for what the stages cost, in the memory of the one for stages alike.
TEST(PipelineOf, WeightsAreLeftForTheGapsOfItsStages) {
  for (const std::int64_t chunks : {1, 2})
    for (const double teacher : {0.0, 40 * 368.0}) {
      RunConfig config = config_of();
      config.batch.micro_batches = 6;
      config.parallel.schedule = PipelineKind::ZeroBubble;
      config.parallel.chunks = chunks;
      const Pipeline pipeline = pipeline_of(config, model_of(8), 3, {.beside_head = teacher});
      const parallel::PipelineSchedule given =
          parallel::make_schedule(parallel::ScheduleKind::ZeroBubble, 3, static_cast<int>(chunks), 6);
      EXPECT_EQ(pipeline.schedule.stages, parallel::with_gaps_filled(given, pipeline.costs).stages);
      EXPECT_LE(std::ranges::max(parallel::peak_activations(pipeline.schedule)),
                std::ranges::max(parallel::peak_activations(given)));
    }
}

// Of each stage what is counted of its time, by the same costs as the picture.
TEST(ToLines, AStageSaysWhatItWaitsByWhatItCosts) {
  RunConfig config = config_of({4, 2});
  config.batch.micro_batches = 4;
  Pipeline pipeline = pipeline_of(config, model_of(6), 2);
  pipeline.costs = {.forward = {1, 2}, .input_gradient = {2, 1}, .weight_gradient = {1, 1}, .communication = 0};
  // Rank 0: F0 0 to 1, F1 2; rank 1: F0 3, B0 5 and so on, 4 each: rank 1 waits 1, and 3 behind its last.
  EXPECT_THAT(
      to_lines(pipeline),
      ElementsAre("stage 0: layers 0 to 3; holds up to 2 chunks of activations, waits 20.0 % of a step's time by "
                  "what its layers cost: 25 % forward, 50 % for gradients of inputs, 25 % of weights",
                  "stage 1: layers 4 to 5; holds up to 1 chunk of activations, waits 20.0 % of a step's time by "
                  "what its layers cost: 50 % forward, 25 % for gradients of inputs, 25 % of weights",
                  HasSubstr("rank 0 F0F1"), HasSubstr("rank 1 ")));
}

/// On each of four ranks, of which the third one's pipeline is the other.
void expect_told(const Pipeline& pipeline, const Pipeline& other, const std::string& difference) {
  testing::run_ranks(4, [&](testing::RankWorld& world) {
    check_same_pipeline(*world.comm, pipeline);
    EXPECT_EQ(error_of([&] { check_same_pipeline(*world.comm, world.rank == 2 ? other : pipeline); }),
              difference + ", expected the same on all ranks");
  });
}

// The last stage goes F0 B0 F1 B1 and so on. Costs that differ and change nothing are nobody's concern.
TEST(CheckSamePipeline, TheFirstActionThatIsAnotherIsNamed) {
  RunConfig config = config_of();
  config.batch.micro_batches = 4;
  const Pipeline pipeline = pipeline_of(config, model_of(8), 2);
  Pipeline other = pipeline;
  other.costs.forward[0] *= 1 + 1e-15;
  testing::run_ranks(
      2, [&](testing::RankWorld& world) { check_same_pipeline(*world.comm, world.rank == 0 ? pipeline : other); });
  std::swap(other.schedule.stages[1][2], other.schedule.stages[1][3]);
  expect_told(pipeline, other, "pipeline.stage 1.action 2 is B1 on rank 2 and F1 on rank 0");
  other = pipeline;
  other.layers = {{0, 5}, {5, 3}};
  expect_told(pipeline, other, "pipeline.stage 0.layers is 0 to 4 on rank 2 and 0 to 3 on rank 0");
  other = pipeline;
  other.schedule.stages[1].pop_back();
  expect_told(pipeline, other,
              "the end of pipeline.stage 1 stands on rank 2 where rank 0 has pipeline.stage 1.action 7");
}

/// What each of two ranks says, of which each runs a config with other settings.
void expect_told_where_runs_begin(const testing::RunFolder& folder, const std::vector<std::string>& of_rank,
                                  const std::string& difference) {
  testing::run_ranks(
      2,
      [&](testing::RankWorld& world) {
        const std::vector<std::string> sets = {"data.text=" + (folder.path() / "text").string(),
                                               "data.cache_dir=" + (folder.path() / "tokens").string(),
                                               "train.device=CPU",
                                               "parallel.layout=pp2",
                                               "model.num_layers=4",
                                               "batch.micro_batches=4",
                                               of_rank[static_cast<std::size_t>(world.rank)]};
        Rank rank(world.comm, "pp2", 1);
        EXPECT_THAT(error_of([&] {
                      Session session(rank, load_given_config({folder.path() / "tiny.textproto"}, sets), make_log(1));
                    }),
                    HasSubstr(difference));
      },
      std::chrono::seconds(10));
}

TEST(CheckSamePipeline, RunsBeginWithIt) {
  const testing::RunFolder folder("same_pipeline");
  expect_told_where_runs_begin(folder, {"parallel.stages=[1,3]", "parallel.stages=[2,2]"},
                               "pipeline.stage 0.layers is 0 to 1 on rank 1 and 0 on rank 0");
  expect_told_where_runs_begin(folder, {"parallel.schedule=ONE_F_ONE_B", "parallel.schedule=ZERO_BUBBLE"},
                               "pipeline.stage 0.action ");
}

TEST(CheckSamePipeline, ATeachersStagesBeginWithIt) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    const Rank rank(world.comm, "pp2", 1);
    EXPECT_THAT(error_of([&] { on_stage(rank, {}, model_of(world.rank == 0 ? 4 : 6), 3); }),
                HasSubstr("the teacher's pipeline.stage 0.layers is 0 to 2 on rank 1 and 0 to 1 on rank 0"));
  });
}

// A head of 1000 rows of 4 is 8000 FLOP, as 22 layers: where it is not computed it takes none from the last stage.
TEST(PipelineWithoutHead, IsDealtByLayersAlone) {
  EXPECT_THAT(counts(pipeline_without_head(model_of(6), 3, 3)), ElementsAre(2, 2, 2));
  nn::ModelConfig wide_head = model_of(6);
  wide_head.vocabulary = 1000;
  EXPECT_THAT(counts(pipeline_without_head(wide_head, 3, 2)), ElementsAre(3, 3));
  EXPECT_THAT(counts(pipeline_of(config_of(), wide_head, 2)), ElementsAre(5, 1));  // every stage has a layer
}

TEST(CheckTeacherCut, StagesAreNoMoreThanItsLayers) {
  RunConfig config = config_of();
  check_teacher_cut(config, model_of(1), 6);
  config.parallel.teacher_layout = "pp3tp2";
  check_teacher_cut(config, model_of(3), 6);
  EXPECT_THAT(error_of([&] { check_teacher_cut(config, model_of(2), 6); }),
              HasSubstr("parallel.teacher_layout is pp3tp2: 3 stages, expected at most the teacher's 2 layers; 6 ranks "
                        "can be tp2"));
}

// Of one group single heads are dealt, of several whole groups.
TEST(CheckTeacherCut, TensorsAreNoMoreThanItsHeads) {
  RunConfig config = config_of();
  config.parallel.teacher_layout = "pp2tp4";
  nn::ModelConfig teacher = model_of(2);
  check_teacher_cut(config, teacher, 8);
  teacher.mamba.num_heads = 4;
  check_teacher_cut(config, teacher, 8);
  teacher.mamba.num_groups = 2;
  const std::string message =
      "parallel.teacher_layout is pp2tp4: the teacher's Mamba-2 layers are cut over 4 ranks (tp), expected at most 2, "
      "their groups of heads; ";
  EXPECT_THAT(error_of([&] { check_teacher_cut(config, teacher, 8); }), HasSubstr(message + "8 ranks can be tp2pp2"));
  config.parallel.teacher_ranks = 16;
  EXPECT_THAT(error_of([&] { check_teacher_cut(config, teacher, 8); }), HasSubstr(message + "16 ranks can be tp2pp2"));
}

/// Each is a layer, 2 (2 4 4) of what reads the stream and an embedding, and a head: 512 forward, as 1.4 layers.
TEST(PipelineOf, LayersThatPredictAreBesideTheHead) {
  nn::ModelConfig model = model_of(6);
  model.num_predict_layers = 2;
  const Pipeline pipeline = pipeline_of(config_of(), model, 2);
  EXPECT_THAT(counts(pipeline), ElementsAre(4, 2));  // 1472 and 736 + 80 + 1024, not 1104 and 1104 + 1104
  for (const std::int64_t layer : {0, 3, 4, 5}) EXPECT_EQ(pipeline.stage_of(layer), layer < 4 ? 0 : 1);
}

TEST(PipelineOf, StagesAreTheModelsLayers) {
  EXPECT_THAT(counts(pipeline_of(config_of({1, 3}), model_of(4), 2)), ElementsAre(1, 3));
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();  // twice that and 6 wrap to 4
  using Stages = std::vector<std::int64_t>;
  for (const Stages& wrong : {Stages{1, 2, 0}, {4}, {5, -1, 0}, {1, 3}, {4, 1, -1}, {most, most, 6}})
    EXPECT_THAT(error_of([&] { pipeline_of(config_of(wrong), model_of(4), 3); }), HasSubstr("that add up to 4 layers"));
}

TEST(CheckPipeline, RefusesWhatItsStagesDoNotDo) {
  check_pipeline(config_of(), model_of(6), 2);
  RunConfig config = config_of();
  config.parallel.chunks = 2;
  EXPECT_THAT(error_of([&] { check_pipeline(config, model_of(6), 2); }),
              HasSubstr("parallel.chunks is 2 with parallel.schedule ONE_F_ONE_B"));
  config.parallel.schedule = PipelineKind::Interleaved;
  check_pipeline(config, model_of(6), 2);
  EXPECT_THAT(error_of([&] { check_pipeline(config, model_of(3), 2); }), HasSubstr("expected at most the model's 3"));
}

}  // namespace
}  // namespace limbeck::launch
