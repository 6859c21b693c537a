// Whole runs whose layers lie on the stages of a pipeline: figures, evaluations, continuations and checkpoints are
// those of one rank; what a pipeline does not do is refused in one line.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "tests/support/run_limbeck.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Experts in some layers, a head that is the embedding, clipping.
constexpr const char* job = R"(
model {
  width: 24 num_layers: 4 num_heads: 4 num_kv_heads: 2 head_width: 8 max_positions: 64 tied_head: true
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 dense_layers: [0] scores: SIGMOID selection_bias: true }
  mlp_width: 20
}
data { text: "text" tokenizer: "bytes" sequence_length: 37 held_out_fraction: 0.35 }
optimizer { rate: 5e-3 clip_norm: 0.5 }
moe_loss { balance_weight: 0.02 z_weight: 0.001 }
schedule { warmup_steps: 0 }
batch { sequences_per_step: 8 micro_batches: 4 }
train { steps: 4 eval_every_steps: 2 eval_tokens: 150 log_every_steps: 1 threads: 1 checkpoint_every_steps: 2 }
generation { prompt: "1 2 " max_tokens: 12 temperature: 0 }
evaluation { set { name: "own" text: "text/1.txt" } }
)";

void expect_same(const RunFolder& folder, const std::string& run, const std::string& other) {
  const auto lines = folder.metrics(run), others = folder.metrics(other);
  ASSERT_EQ(lines.size(), others.size()) << run << " " << other;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const json found = lines[i].flatten(), right = others[i].flatten();
    for (const auto& [name, value] : right.items()) {
      ASSERT_TRUE(found.contains(name)) << name;
      if (value.is_number()) expect_near(found[name], value.get<double>(), name);
    }
  }
}

/// Parameters that one stage alone has.
constexpr const char* groups =
    "optimizer { groups { pattern: \"layers.3.*\" rate_factor: 0.5 } groups { pattern: \"layers.0.mlp.*\" frozen: true "
    "} }\n";

json start_of(const RunFolder& folder, const std::string& run) { return json::parse(folder.read(run + "/start.json")); }

TEST(PipelineRuns, FiguresAreThoseOfOneRankAndCheckpointsGoAnyway) {
  const RunFolder folder("pipeline");
  folder.write("job.textproto", std::string(job) + in_float64);
  folder.write("groups.textproto", groups);
  folder.succeed("train job.textproto groups.textproto --out one");
  for (const auto& [layout, ranks, more] :
       {std::tuple{"pp2", 2, ""},
        {"pp2tp2", 4, " --set parallel.schedule=ZERO_BUBBLE"},
        {"pp2dp2", 4, " --set parallel.schedule=INTERLEAVED --set parallel.chunks=2 --set parallel.shard=OPTIMIZER"}}) {
    SCOPED_TRACE(layout);
    const std::string said = folder.succeed(
        fmt::format("train job.textproto groups.textproto --out {0} --set parallel.layout={0}{1}", layout, more),
        ranks);
    EXPECT_THAT(said, HasSubstr("stage 1: layers"));
    expect_same(folder, layout, "one");
    EXPECT_EQ(json::parse(folder.read(std::string(layout) + "/end.json"))["student_text"],
              json::parse(folder.read("one/end.json"))["student_text"]);
    EXPECT_EQ(start_of(folder, layout)["parameters"], start_of(folder, "one")["parameters"]);
  }
  folder.succeed("train job.textproto groups.textproto --out one --resume --steps 6 --set train.steps=6");
  for (const auto& [from, to, ranks] : {std::tuple{"pp2", "dp1", 1}, {"pp2dp2", "pp2ep2", 4}, {"pp2tp2", "pp2", 2}}) {
    SCOPED_TRACE(fmt::format("{} {}", from, to));
    const std::string run = fmt::format("{}_{}", from, to);
    fs::copy(folder.path() / from, folder.path() / run, fs::copy_options::recursive);
    folder.succeed(fmt::format("train job.textproto groups.textproto --out {} --set parallel.layout={} --set "
                               "train.steps=6 --resume --steps 6",
                               run, to),
                   ranks);
    expect_same(folder, run, "one");
  }
}

TEST(PipelineRuns, ATeacherIsWholeBesideTheLastStage) {
  const RunFolder folder("pipeline_teacher");
  folder.write("teacher.textproto", std::string(job) + in_float64);
  folder.succeed("train teacher.textproto --steps 1 --out teacher");
  folder.write("job.textproto", std::string(job) + in_float64 +
                                    "teacher { source: \"teacher\" } objective { cross_entropy_weight: 0.3 }");
  const std::string smaller = "distill job.textproto --set model.num_layers=3";
  folder.succeed(smaller + " --out one");
  folder.succeed(smaller + " --out two --set parallel.layout=pp2", 2);
  expect_same(folder, "two", "one");
  const json one = start_of(folder, "one"), two = start_of(folder, "two");
  EXPECT_EQ(two["teacher_text"], one["teacher_text"]);
  EXPECT_EQ(two["student_text"], one["student_text"]);
  for (const auto& [name, value] : one["unigram"].items())
    if (value.is_number()) expect_near(two["unigram"][name], value.get<double>(), name);
}

/// Also what is trained where they lie: projectors, and the embedding that layers which predict read on the last stage.
TEST(PipelineRuns, LayersAreHeldToATeacherOnTheLastStage) {
  const RunFolder folder("pipeline_held");
  folder.write("teacher.textproto", std::string(job) + in_float64);
  folder.succeed("train teacher.textproto --steps 1 --out teacher");
  folder.write("job.textproto",
               std::string(job) + in_float64 +
                   "teacher { source: \"teacher\" } objective { hidden_states { weight: 0.5 projector: true } "
                   "attention { weight: 0.3 } routers { weight: 0.2 layers: [1, -1, 3] } }");
  const std::string smaller =
      "distill job.textproto --set model.num_layers=3 --set model.num_predict_layers=1 --set model.tied_head=false "
      "--set model.moe.dense_layers=[] ";
  folder.succeed(smaller + "--out one");
  folder.succeed(smaller + "--out two --set parallel.layout=pp2", 2);
  for (const char* figure : {"hidden_loss", "attention_loss", "router_loss", "predict_loss"})
    EXPECT_TRUE(folder.metrics("two").front().contains(figure)) << figure;
  expect_same(folder, "two", "one");
  for (const char* run : {"one", "two"})
    folder.succeed(fmt::format("{} --out {} --resume --steps 6 --set train.steps=6", smaller, run));
  expect_same(folder, "two", "one");
}

/// Of a run of one rank, and of one of two stages that says as much.
void expect_same_of_stages(const RunFolder& folder, const std::string& command, const std::string& name) {
  SCOPED_TRACE(name);
  folder.succeed(fmt::format("{} --out {}_one", command, name));
  folder.succeed(fmt::format("{} --out {}_two --set parallel.layout=pp2 --set batch.micro_batches=2", command, name),
                 2);
  const auto one = folder.metrics(name + "_one"), two = folder.metrics(name + "_two");
  ASSERT_EQ(one.size(), two.size());
  ASSERT_FALSE(one.empty());
  for (std::size_t i = 0; i < one.size(); ++i) {
    const json expected = one[i].flatten(), found = two[i].flatten();
    for (const auto& [field, value] : expected.items())
      if (value.is_number_float()) expect_near(found[field], value.get<double>(), field);
  }
}

TEST(PipelineRuns, AdaptersLieWhereTheirMatricesDo) {
  const RunFolder folder("pipeline_adapters");
  folder.write("base.textproto", std::string(job) + in_float64);
  folder.succeed("train base.textproto --steps 2 --out base");
  const std::string more = " --set model= --set model.source=base --set batch.micro_batches=1 ";
  const std::string targets = "--set adapters.rank=3 --set adapters.targets=[layers.3.attention.*,*.experts.*]";
  expect_same_of_stages(folder, "train base.textproto" + more + targets, "adapters");
  // Matrices of one stage alone, and its own of each when the run goes on elsewhere.
  expect_same_of_stages(folder, "train base.textproto" + more + "--set adapters.targets=[layers.3.attention.*]",
                        "last");
  const std::string resume = "train base.textproto" + more + targets + " --set train.steps=6 --resume --out adapters_";
  folder.succeed(resume + "one");
  folder.succeed(resume + "two --set parallel.layout=pp2 --set batch.micro_batches=2", 2);
  expect_near(folder.metrics("adapters_two").back()["loss"], folder.metrics("adapters_one").back()["loss"], "loss");
  const Outcome none = folder.limbeck(
      "train base.textproto" + more + "--set adapters.targets=[layers.9.*] --out none --set parallel.layout=pp2", 2);
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.lines_with("limbeck: error"), ElementsAre(HasSubstr("layers.9.* matches no parameter")));
}

TEST(PipelineRuns, PreferencesAreThoseOfTheLastStage) {
  const RunFolder folder("pipeline_preferences");
  folder.write("job.textproto", std::string(job) + in_float64);
  folder.succeed("train job.textproto --steps 1 --out start");
  std::string pairs;
  for (int i = 0; i < 24; ++i)
    pairs += fmt::format("{{\"prompt\": \"the {} still\", \"chosen\": \"drips{}\", \"rejected\": \"{}\"}}\n", i % 4, i,
                         i % 2 == 0 ? "no" : "it does not");
  folder.write("pairs.jsonl", pairs);
  folder.write("pairs.textproto", std::string(R"(
model { source: "start" }
data { text: "pairs.jsonl" format: PAIRS sequence_length: 64 held_out_fraction: 0.25 }
objective { preference { beta: 0.7 } }
optimizer { rate: 5e-3 eps: 1e-5 }
schedule { warmup_steps: 0 }
batch { sequences_per_step: 6 }
train { steps: 3 eval_every_steps: 2 eval_tokens: 2000 log_every_steps: 1 threads: 1 }
)") + in_float64);
  expect_same_of_stages(folder, "train pairs.textproto", "pairs");
}

TEST(PipelineRuns, SeveralTeachersAndTheirCachesAreThoseOfOneRank) {
  const RunFolder folder("pipeline_teachers");
  folder.write("teacher.textproto", std::string(job) + in_float64);
  folder.succeed("train teacher.textproto --steps 1 --out a");
  folder.succeed("train teacher.textproto --steps 2 --out b --set train.seed=5");
  folder.write("job.textproto", std::string(job) + in_float64 + "objective { cross_entropy_weight: 0.3 }");
  const std::string distill = "distill job.textproto --set batch.micro_batches=1 --set teacher.source=a";
  expect_same_of_stages(folder, distill + " --set 'teacher.others={ source: \"b\" }' --set evaluation.set=[]",
                        "several");

  const std::string cache = "cache-teacher job.textproto --set teacher.source=a --set teacher.cache_exact=true --out ";
  folder.succeed(cache + "of_one");
  folder.succeed(cache + "of_two --set parallel.layout=pp2dp1", 2);
  folder.succeed(distill + " --set teacher.cache=of_one --out from_one");
  folder.succeed(distill + " --set teacher.cache=of_two --out from_two");
  expect_same(folder, "from_two", "from_one");
  expect_same_of_stages(folder, distill + " --set teacher.cache=of_two", "cached");
}

TEST(PipelineRuns, StartsAndControlsThatRunTheTeacherAreThoseOfOneRank) {
  const RunFolder folder("pipeline_starts");
  const std::string dense = std::string(job) + in_float64;
  folder.write("teacher.textproto", dense);
  folder.succeed("train teacher.textproto --steps 1 --out teacher --set model.moe= --set model.mlp_width=24");
  folder.write("job.textproto", dense + "teacher { source: \"teacher\" } objective { cross_entropy_weight: 0.3 }");
  const std::string distill = "distill job.textproto --set batch.micro_batches=1 ";
  expect_same_of_stages(folder, distill + "--set objective.control=UNTRAINED", "untrained");
  const std::string start =
      "student_init { choice: BLOCK_INFLUENCE num_layers: 3 calibration_tokens: 111 "
      "upcycle { slices: 2 experts: 4 experts_per_token: 2 router_std: 0.5 } }";
  const std::string cut = distill + "--set model= --set '" + start + "'";
  expect_same_of_stages(folder, cut, "started");
  const json one = start_of(folder, "started_one"), two = start_of(folder, "started_two");
  EXPECT_EQ(two["layers"], one["layers"]);
  EXPECT_EQ(two["influence"], one["influence"]);
  expect_near(two["calibration"]["kl"], one["calibration"]["kl"].get<double>(), "kl of the start");
  // Layers that are dealt as they are cut, and whose routers are centred when they have been.
  folder.succeed(cut + " --out started_dealt --set parallel.layout=dp2 --set parallel.shard=PARAMETERS", 2);
  expect_same(folder, "started_dealt", "started_one");
  expect_near(start_of(folder, "started_dealt")["calibration"]["kl"], one["calibration"]["kl"].get<double>(),
              "kl of the start that is dealt");
}

TEST(PipelineRuns, MeasureTheirCheckpointsInStagesAndWithout) {
  const RunFolder folder("pipeline_eval");
  folder.write("job.textproto", std::string(job) + in_float64);
  folder.succeed("train job.textproto --out run --set parallel.layout=pp2", 2);
  const json alone = json::parse(folder.succeed("eval run --json --quiet")).flatten();
  const json stages = json::parse(folder.succeed("eval run --json --quiet --set parallel.layout=pp2", 2)).flatten();
  for (const auto& [name, value] : alone.items())
    if (value.is_number()) expect_near(stages[name], value.get<double>(), name);
  // Questions of benchmarks are dealt over all ranks, whatever stages the run had.
  folder.write("questions.jsonl",
               R"({"question": "1 2", "choices": {"text": ["3", "no"], "label": ["A", "B"]}, "answerKey": "A"}
{"question": "2 3", "choices": {"text": ["no", "4"], "label": ["A", "B"]}, "answerKey": "B"}
)");
  const std::string task = "eval run --task arc:questions.jsonl --json --quiet";
  EXPECT_EQ(folder.succeed(task, 2), folder.succeed(task));
}

TEST(PipelineRuns, RefuseWhatAPipelineDoesNotDo) {
  const RunFolder folder("pipeline_refused");
  folder.write("job.textproto", job);
  for (const auto& [sets, says] :
       {std::pair{"--set parallel.chunks=2", "parallel.chunks is 2 with parallel.schedule ONE_F_ONE_B"},
        {"--set parallel.stages=[1,2]", "parallel.stages is [1, 2], expected 2 numbers"}}) {
    const Outcome outcome =
        folder.limbeck(fmt::format("train job.textproto --out run --set parallel.layout=pp2 {}", sets), 2);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    EXPECT_THAT(outcome.lines_with("limbeck: error"), ElementsAre(HasSubstr(says)));
  }
}

TEST(PipelineRuns, ACacheIsReadOnTheLastStage) {
  const RunFolder folder("pipeline_cache");
  folder.write("teacher.textproto", std::string(job) + in_float64);
  folder.succeed("train teacher.textproto --steps 1 --out teacher");
  folder.write("job.textproto", std::string(job) + in_float64 + "teacher { source: \"teacher\" }");
  folder.succeed(
      "cache-teacher job.textproto --out cache --set teacher.cache_tokens=4 --set teacher.cache_hidden_layers=[0,2]");
  const std::string cached =
      "distill job.textproto --set teacher.cache=cache --set objective.hidden_states.weight=0.5 --set "
      "objective.hidden_states.layers=[2,0,-1,2] --out ";
  folder.succeed(cached + "one");
  folder.succeed(cached + "two --set parallel.layout=pp2", 2);
  expect_same(folder, "two", "one");
  EXPECT_TRUE(folder.metrics("two").front().contains("kept_mass"));
}

// A stage all of whose own parameters are frozen goes along; without any on all stages there is nothing to do.
TEST(PipelineRuns, SomethingIsTrainedAndFieldsOfStagesAreOfAPipeline) {
  const RunFolder folder("pipeline_frozen");
  folder.write("job.textproto", job);
  const Outcome outcome = folder.limbeck(
      "train job.textproto --out run --set parallel.layout=pp2 --set 'optimizer.groups={pattern: \"*\" frozen: true}'",
      2);
  EXPECT_EQ(outcome.code, 2) << outcome.output;
  EXPECT_THAT(outcome.lines_with("limbeck: error"), ElementsAre(HasSubstr("all parameters are frozen")));
  const std::string said = folder.succeed(
      "train job.textproto --out one --steps 1 --set parallel.stages=[1,3] --set parallel.schedule=ZERO_BUBBLE");
  for (const char* field : {"stages", "schedule"})
    EXPECT_THAT(said,
                HasSubstr(fmt::format("parallel.{} is given, and changes nothing: parallel.layout has no pp", field)));
  EXPECT_THAT(said, ::testing::Not(HasSubstr("parallel.chunks")));
}

}  // namespace
}  // namespace limbeck::testing
