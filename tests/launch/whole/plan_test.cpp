// What is planned of a run beside what the run does: bytes in tensors at a step's peak, bytes that it sends, time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "launch/plan/imagined_run.h"
#include "launch/run/run_config.h"
#include "launch/run/run_state.h"
#include "launch/run/run_steps.h"
#include "launch/run/session.h"
#include "launch/run/stop_flag.h"
#include "launch/run/teacher_service.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using launch::RunConfig;
using parallel::ExchangeCount;
using testing::RunFolder;

constexpr const char* model = R"(
model {
  width: 96 num_layers: 4 num_heads: 4 num_kv_heads: 2 mlp_width: 256 max_positions: 128
  moe { num_experts: 4 experts_per_token: 2 expert_width: 64 dense_layers: [0] }
}
data { text: "text" tokenizer: "bytes" sequence_length: 64 held_out_fraction: 0.2 }
optimizer { rate: 1e-3 }
batch { sequences_per_step: 8 }
train { steps: 8 eval_tokens: 192 threads: 1 device: CPU }
parallel { bucket_mib: 0.25 }
)";

/// Of one rank, of its third step, and of ranks that have the teacher alone.
struct Measured {
  std::int64_t start = 0;         // the most before the first
  core::MemoryStatistics memory;  // the peak is the step's
  std::vector<ExchangeCount> traffic;
};
struct OfTeacher {
  std::vector<std::int64_t> peaks;      // by rank of the world
  std::vector<ExchangeCount> answered;  // of the last stage's first, in all
};

Measured measured(const RunConfig& config, int ranks, int ranks_a_node, int watched, OfTeacher& of_teacher) {
  Measured result;
  of_teacher.peaks.resize(static_cast<std::size_t>(ranks));
  const auto run = [&](testing::RankWorld& world) {
    const launch::Log log = launch::make_log(1);
    const auto traffic = std::make_shared<parallel::TrafficLog>();
    const auto train = [&](launch::Rank& rank) {
      launch::Session session(rank, config, log);
      launch::RunSteps steps(session, log);
      session.start_student();
      steps.find_matches(session.start.layers);
      steps.begin();
      const std::int64_t start = rank.memory()->statistics().peak_bytes;
      session.prepare_teacher(/*is_asked=*/false, log);
      for (int i = 0; i < 2; ++i) steps.step();
      launch::StateCopy copy(rank.host_memory());
      if (launch::saves_beside_steps(config.train)) copy.take(steps.state());
      rank.memory()->reset_peak();
      traffic->forget();
      steps.step();
      if (world.rank == watched) result = {start, rank.memory()->statistics(), traffic->entries()};
    };
    const auto serve = [&](launch::Rank& rank, const launch::TeacherRanks& sides) {
      launch::serve_teacher(rank, config, sides, log);
      of_teacher.peaks[static_cast<std::size_t>(world.rank)] = rank.memory()->statistics().peak_bytes;
      if (rank.is_last_stage() && rank.mesh().stage().rank() == 0) of_teacher.answered = traffic->entries();
    };
    launch::in_world(parallel::counted(world.comm, traffic), config, train, serve);
  };
  testing::run_ranks(ranks, run, std::chrono::seconds(60), ranks_a_node);
  launch::restore_stop_signals();  // which the teacher's ranks catch
  return result;
}

struct Case {
  const char* name;
  int ranks;
  std::vector<std::string> sets;
  int ranks_a_node = 0;               // as ThreadWorld takes it
  std::int64_t expert_exchanges = 0;  // of a step, counted by hand; 0: they are not
  std::int64_t tensor_shares = 0;     // likewise: sums over tp of which each rank gets its share,
  std::int64_t tensor_gathers = 0;    // and shares that every rank gets
  std::int64_t tensor_sums = 0;       // sums over tp that every rank gets, beyond those without parallel.tensor_chunks
};

class PlannedRun : public ::testing::TestWithParam<Case> {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<RunFolder>("plan");
    folder_->write("model.textproto", model);
    // With experts in all layers, which a format of blocks asks for.
    folder_->succeed("train model.textproto --quiet --steps 1 --out teacher --set model.moe.dense_layers=[]");
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static RunConfig config_of(const Case& tested) {
    std::vector<std::string> sets = {"data.text=" + (folder_->path() / "text").string(),
                                     "data.cache_dir=" + (folder_->path() / "tokens").string()};
    for (std::string set : tested.sets) {
      if (const std::size_t at = set.find("TEACHER"); at != std::string::npos)
        set.replace(at, 7, (folder_->path() / "teacher").string());
      sets.push_back(set);
    }
    return launch::load_given_config({folder_->path() / "model.textproto"}, sets);
  }

  static std::unique_ptr<RunFolder> folder_;
};
std::unique_ptr<RunFolder> PlannedRun::folder_;

/// To three steps' questions, the next one's, which is asked ahead, and to what the teacher is called. How many streams
/// lie between stages is a matter of time.
void expect_answers(const launch::TeacherPlan& plan, const OfTeacher& run) {
  const auto peak = static_cast<double>(std::ranges::max(run.peaks));
  if (plan.num_stages == 1) {
    EXPECT_NEAR(static_cast<double>(plan.memory.peak()), peak, 0.1 * peak);
  }
  constexpr std::int64_t steps = 3 + 1;
  const auto answers = [](const std::vector<ExchangeCount>& traffic) {
    const auto at = std::ranges::find_if(
        traffic, [](const ExchangeCount& t) { return t.group == "world" && t.operation == "send"; });
    return at == traffic.end() ? ExchangeCount() : *at;
  };
  const ExchangeCount planned = answers(plan.traffic), sent = answers(run.answered);
  EXPECT_GT(planned.calls, 0);
  const std::int64_t names = sent.calls - steps * planned.calls;
  EXPECT_GT(names, 0);
  EXPECT_EQ(sent.bytes, steps * planned.bytes + names * launch::teacher_fingerprint_length);
}

TEST_P(PlannedRun, TakesWhatTheRunTakes) {
  const Case& tested = GetParam();
  const RunConfig config = config_of(tested);
  const launch::PlannedModels models = launch::planned_models(config, launch::make_log(1));
  const auto planned_of = [&](const RunConfig& of) {
    return launch::plan_rank(
        of, models, {.num_ranks = launch::num_students(of, tested.ranks), .ranks_a_node = tested.ranks_a_node});
  };
  const launch::RankPlan plan = planned_of(config);
  OfTeacher of_teacher;
  const Measured run = measured(config, tested.ranks, tested.ranks_a_node, plan.rank, of_teacher);

  const auto kept = static_cast<double>(run.memory.used_bytes), peak = static_cast<double>(run.memory.peak_bytes);
  EXPECT_NEAR(static_cast<double>(plan.memory.kept()), kept, 0.02 * kept);
  EXPECT_NEAR(static_cast<double>(plan.memory.kept() + plan.memory.activations), peak, 0.1 * peak);
  if (config.parallel.shard == launch::Shard::Parameters) {  // whose values are never all there
    const auto start = static_cast<double>(run.start);
    EXPECT_NEAR(static_cast<double>(plan.memory.start), start, 0.1 * start);
    ASSERT_EQ(plan.waited.size(), 1U);
    EXPECT_EQ(plan.waited[0].calls, 2);  // the embedding, and the head
  }

  // Who gets a token is the routers' choice; all else is sent byte for byte.
  std::map<std::string, std::pair<std::int64_t, std::int64_t>> planned, sent;
  const auto count = [](auto& counts, const std::vector<ExchangeCount>& traffic) {
    for (const ExchangeCount& t : traffic) {
      auto& [calls, bytes] = counts[t.group + " " + t.operation];
      calls += t.calls;
      bytes += t.bytes;
    }
  };
  count(planned, plan.traffic);
  count(sent, run.traffic);
  if (plan.teacher_apart && config.parallel.teacher_ranks == 0) count(planned, plan.teacher_apart->traffic);
  EXPECT_EQ(planned.contains("experts inside all_to_all"),
            tested.ranks_a_node > 0 || config.parallel.expert_exchange == launch::ExpertExchange::TwoLevel);
  for (const char* group : {"experts all_to_all", "experts inside all_to_all"}) {
    const auto rows = planned.find(group);
    if (rows == planned.end()) continue;
    EXPECT_EQ(sent[group].first, rows->second.first);
    if (tested.expert_exchanges > 0) {
      EXPECT_EQ(rows->second.first, tested.expert_exchanges);
    }
    const auto bytes = static_cast<double>(sent[group].second);
    // Planned are tokens that choose each expert as often; a router that has learnt nothing is some way from that.
    EXPECT_NEAR(static_cast<double>(rows->second.second), bytes, 0.25 * bytes);
    sent.erase(group);
    planned.erase(rows);
  }
  EXPECT_EQ(planned, sent);
  // Of states, which is waited for: all_to_all along cp is taken to run beside attention.
  EXPECT_EQ(planned.contains("cp all_gather"), models.student.num_mamba_layers() > 0);
  if (config.parallel.teacher_ranks > 0) expect_answers(*plan.teacher_apart, of_teacher);
  if (tested.tensor_shares > 0) {
    EXPECT_EQ(planned["tp reduce_scatter"].first, tested.tensor_shares);
    EXPECT_EQ(planned["tp all_gather"].first, tested.tensor_gathers);
  }
  if (config.parallel.tensor_chunks == 1) return;
  RunConfig at_once = config;
  at_once.parallel.tensor_chunks = 1;
  for (const ExchangeCount& t : planned_of(at_once).traffic) {
    if (t.group != "tp") continue;
    SCOPED_TRACE(t.operation);
    const auto [calls, bytes] = planned[t.group + " " + t.operation];
    EXPECT_EQ(bytes, t.bytes);
    if (t.operation == "all_reduce") {
      EXPECT_EQ(calls, t.calls + tested.tensor_sums);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Of, PlannedRun,
    ::testing::Values(
        Case{"Dense", 1, {"parallel.layout=dp1", "model.moe.num_experts=0", "model.moe.dense_layers=[]"}},
        Case{"Saves",
             1,
             {"parallel.layout=dp1", "train.checkpoint_every_steps=2", "precision.compute=BFLOAT16",
              "precision.bfloat16_weights=true"}},
        Case{"Experts", 2, {"parallel.layout=dp2"}},
        Case{"Tensors", 2, {"parallel.layout=tp2", "parallel.sequence_parallel=true"}},
        // Sums: the embedding's; o of four layers and one down in three chunks each; and, backward, what enters these
        // in as many, and the head. Gathers: what enters these in three chunks, and the head; three routers' logits;
        // and, backward, what enters these once more whole, the gradients of o and down in three chunks each, of the
        // embedding's, and of what three routers choose by.
        Case{"TensorsInChunks",
             2,
             {"parallel.layout=tp2", "parallel.sequence_parallel=true", "parallel.tensor_chunks=3"},
             0,
             0,
             1 + 3 * (4 + 1) + 3 * (4 + 1) + 1,
             3 * (4 + 1) + 1 + 3 + (4 + 1) + 3 * (4 + 1) + 1 + 3},
        // Two more of each o and down, and of each gradient of what enters these.
        Case{"SumsInChunks",
             2,
             {"parallel.layout=tp2", "parallel.tensor_chunks=3"},
             0,
             0,
             0,
             0,
             2 * (4 + 1) + 2 * (4 + 1)},
        Case{"ExpertsOfRanks", 2, {"parallel.layout=ep2", "train.recompute=true", "batch.micro_batches=2"}},
        Case{"ExpertsOfNodes", 4, {"parallel.layout=ep4"}, 2},
        // Three layers of three chunks, each of which is agreed on by two exchanges, goes there with its weights and
        // comes back; and in the backward the other way round.
        Case{"ExpertsInChunks", 2, {"parallel.layout=ep2", "parallel.expert_chunks=3"}, 0, 3 * 3 * (2 + 3 + 3)},
        Case{"ExpertsByTwoLevels", 2, {"parallel.layout=ep2", "parallel.expert_exchange=TWO_LEVEL"}},
        // The last rank has two of six.
        Case{"UnevenExperts", 4, {"parallel.layout=ep4", "model.moe.num_experts=6", "optimizer.kind=MUON"}},
        // Three of four ranks have one each.
        Case{"FewerExpertsThanRanks",
             4,
             {"parallel.layout=ep4", "model.moe.num_experts=3", "parallel.expert_exchange=TWO_LEVEL",
              "optimizer.eight_bit_state=true"}},
        Case{"Sequences", 2, {"parallel.layout=cp2"}},
        Case{"StatesAlongSequences",
             2,
             {"parallel.layout=cp2", "model.mamba.num_heads=4", "model.mamba.head_width=16",
              "model.mamba.state_width=8", "model.mamba.attention_layers=[1]", "train.recompute=true"}},
        Case{"SharedParameters", 2, {"parallel.layout=dp2", "parallel.shard=PARAMETERS", "train.recompute=true"}},
        Case{"SharedGradients", 3, {"parallel.layout=dp3", "parallel.shard=GRADIENTS", "batch.micro_batches=2"}},
        Case{"Bfloat16",
             2,
             {"parallel.layout=dp2", "precision.compute=BFLOAT16", "precision.bfloat16_weights=true",
              "parallel.shard=OPTIMIZER", "batch.micro_batches=4"}},
        Case{"Muon", 2, {"parallel.layout=tp2", "optimizer.kind=MUON"}},
        Case{"QuantisedTeacher",
             2,
             {"parallel.layout=dp2", "teacher.source=TEACHER", "precision.quantised_teacher=Q8_0"}},
        Case{"ShardedTeacher",
             4,
             {"parallel.layout=tp2ep2", "teacher.source=TEACHER", "precision.sharded_teacher=true",
              "optimizer.eight_bit_state=true"}},
        Case{"Adapters", 1, {"parallel.layout=dp1", "model.source=TEACHER", "adapters.rank=4"}},
        Case{"Stages", 2, {"parallel.layout=pp2", "batch.micro_batches=4"}},
        Case{"StagesOfShards",
             4,
             {"parallel.layout=pp2", "batch.micro_batches=2", "parallel.shard=GRADIENTS", "model.tied_head=true"}},
        Case{"StagesInChunks",
             2,
             {"parallel.layout=pp2", "batch.micro_batches=4", "parallel.chunks=2", "parallel.schedule=INTERLEAVED",
              "train.recompute=true"}},
        Case{"StagesThatLeaveWeights",
             2,
             {"parallel.layout=pp2", "batch.micro_batches=8", "parallel.schedule=ZERO_BUBBLE",
              "optimizer.groups={pattern: \"layers.3.*\" frozen: true}"}},
        Case{"StagesOfAdapters",
             2,
             {"parallel.layout=pp2", "batch.micro_batches=2", "model.source=TEACHER", "adapters.rank=4"}},
        Case{"StagesBesideATeacher", 2, {"parallel.layout=pp2", "batch.micro_batches=4", "teacher.source=TEACHER"}},
        Case{"ATeachersTensorsOverAll",
             2,
             {"parallel.layout=dp2", "teacher.source=TEACHER", "parallel.teacher_layout=tp2", "batch.micro_batches=2"}},
        Case{"ATeachersStagesOverAll",
             4,
             {"parallel.layout=pp2", "teacher.source=TEACHER", "parallel.teacher_layout=pp2cp2",
              "batch.micro_batches=2", "objective.hidden_states.weight=1"}},
        Case{"ATeacherOnItsOwnRanks",
             4,
             {"parallel.layout=dp2", "teacher.source=TEACHER", "parallel.teacher_ranks=2",
              "parallel.teacher_layout=cp2", "objective.hidden_states.weight=1"}},
        Case{"ATeachersStagesOnTheirOwn",
             3,
             {"parallel.layout=dp1", "teacher.source=TEACHER", "parallel.teacher_ranks=2",
              "parallel.teacher_layout=pp2", "batch.micro_batches=2", "objective.hidden_states.weight=1"}}),
    [](const auto& test) { return std::string(test.param.name); });

/// What the log of a run says of an epoch, sequences.
std::int64_t said_epoch(const std::string& log) {
  const std::string words = "; an epoch is ";
  const std::size_t at = log.find(words);
  return at == std::string::npos ? 0 : std::stoll(log.substr(at + words.size()));
}

TEST(Planned, EpochsAreThoseOfTheText) {
  const RunFolder folder("plan_epochs");
  const auto plan = [&](const std::string& more) {
    return nlohmann::json::parse(folder.succeed("plan tiny.textproto --ranks 1 --json " + more))["run"];
  };
  EXPECT_FALSE(plan("").contains("epochs"));  // nobody has tokenized it
  EXPECT_EQ(plan("")["tokens"], 24 * 4 * 48);
  const testing::Outcome refused = folder.limbeck("plan tiny.textproto --ranks 1 --set train.epochs=2");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.lines_with("limbeck: error"),
              ::testing::ElementsAre(::testing::HasSubstr("the tokens of the text are not there yet")));
  const std::string log = folder.succeed("train tiny.textproto --out run --steps 1 --set train.epochs=2");
  const auto sequences = static_cast<double>(said_epoch(log));
  ASSERT_GT(sequences, 0) << log;
  EXPECT_NEAR(plan("")["epochs"].get<double>(), 24 * 4 / sequences, 1e-9);
  EXPECT_EQ(plan("--set train.epochs=2")["steps"], std::ceil(2 * sequences / 4));
  EXPECT_THAT(folder.succeed("plan tiny.textproto --ranks 1"), ::testing::HasSubstr(" epochs of the text\n"));
  EXPECT_FALSE(plan("--set data.sequence_length=32 --set data.text=nowhere").contains("epochs"));
}

// What one rank is measured to reach is kept, and plans of one rank of as many threads are made by it.
TEST(Planned, TimesAreOfTheMeasuredMachine) {
  const RunFolder folder("plan_machine");
  const std::string one = "plan tiny.textproto --ranks 1 --set train.device=CPU --set train.threads=0 ";
  EXPECT_FALSE(nlohmann::json::parse(folder.succeed(one + "--json --quiet")).contains("step"));
  const std::string said = folder.succeed("plan --calibrate --quiet");
  EXPECT_THAT(said, ::testing::AllOf(::testing::HasSubstr("GFLOP/s of products in float32"),
                                     ::testing::HasSubstr("dense, width 128, float32"),
                                     ::testing::HasSubstr("\nkept in " + folder.path().string() + "/cache/limbeck/")));
  const std::string text = folder.succeed(one);
  EXPECT_THAT(text, ::testing::AllOf(::testing::HasSubstr("times are of this machine as it was measured: "),
                                     ::testing::HasSubstr("\na step on this machine, as measured: ")));
  const nlohmann::json plan = nlohmann::json::parse(folder.succeed(one + "--json --quiet"));
  EXPECT_GT(plan["step"]["seconds"], 0);
  EXPECT_THAT(folder.succeed("train tiny.textproto --steps 1 --out run --set train.threads=0 --set train.device=CPU "
                             "--set parallel.layout=auto"),
              ::testing::HasSubstr("times are of this machine as it was measured: "));
  EXPECT_THAT(folder.succeed("plan tiny.textproto --ranks 1 --set train.device=CPU --set train.threads=77"),
              ::testing::AllOf(::testing::HasSubstr("the run's have 77 threads: it is not used"),
                               ::testing::Not(::testing::HasSubstr("a step on "))));
}

}  // namespace
}  // namespace limbeck
