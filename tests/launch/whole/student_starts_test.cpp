// Students that are cut from a teacher: which of its layers, experts, neurons, heads and channels they keep, under
// every layout, and how far from it that is; the same written as a model before it learns.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>
#include <vector>

#include "core/nn/student/activity.h"
#include "core/nn/student/expert_start.h"
#include "core/nn/student/student_init.h"
#include "core/ops/head_loss.h"
#include "data/text/loader.h"
#include "launch/run/batch.h"
#include "launch/run/model_source.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST(StudentStarts, KeepTheWindowsOfTheirLayers) {
  const RunFolder folder("student_starts");
  const std::string common = R"(
    data { text: "text" tokenizer: "bytes" sequence_length: 48 held_out_fraction: 0.2 }
    batch { sequences_per_step: 2 } train { steps: 1 eval_tokens: 96 threads: 1 } generation { max_tokens: 4 })";
  folder.write("teacher.textproto",
               "model { width: 32 num_layers: 4 num_heads: 4 num_kv_heads: 2 mlp_width: 48 "
               "max_positions: 128 window: 8 full_layers: [1, 3] }" +
                   common);
  folder.write("student.textproto", R"(teacher { source: "teacher" }
    student_init { calibration_tokens: 96 upcycle { slices: 2 experts: 4 experts_per_token: 2 } })" +
                                        common);
  const Outcome trained = folder.limbeck("train teacher.textproto --out teacher");
  ASSERT_EQ(trained.code, 0) << trained.output;
  const std::string distill = "distill student.textproto --set student_init.choice=";
  const Outcome listed = folder.limbeck(distill + "LIST --set student_init.layers=[1,2] --out listed");
  ASSERT_EQ(listed.code, 0) << listed.output;
  const auto model = nlohmann::json::parse(folder.limbeck("inspect listed --json").output)["model"];
  EXPECT_EQ(model["window"], 8);
  EXPECT_EQ(model["full_layers"], nlohmann::json::array({0}));
  const Outcome ranked = folder.limbeck(distill + "BLOCK_INFLUENCE --set student_init.num_layers=2 --out ranked");
  EXPECT_EQ(ranked.code, 2);
  EXPECT_THAT(ranked.output, HasSubstr("but the teacher mixes layers with a window and without, expected LIST"));
}

/// A teacher with experts in layers 1 to 3, and a run that cuts its layers 0, 1 and 3.
class ExpertTeacher : public ::testing::Test {
 protected:
  explicit ExpertTeacher(const std::string& experts = "shared_width: 16 dense_layers: 0") : folder_("expert_starts") {
    const std::string common = R"(
      data { text: "text" sequence_length: 24 held_out_fraction: 0.35 tokenizer: "bytes" }
      optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 }
      train { threads: 1 eval_tokens: 120 steps: 3 } generation { max_tokens: 2 }
    )" + std::string(in_float64);
    folder_.write("teacher.textproto", R"(
      model { vocabulary: 264 width: 24 num_layers: 4 num_heads: 8 num_kv_heads: 4 head_width: 4 mlp_width: 48 max_positions: 64
              moe { num_experts: 4 experts_per_token: 2 expert_width: 16 )" +
                                           experts + " } }" + common);
    folder_.write("job.textproto", R"(
      teacher { source: "teacher" }
      student_init { choice: LIST layers: [0, 1, 3] calibration_tokens: 120 report_tokens: 72 }
    )" + common);
    const Outcome trained = folder_.limbeck("train teacher.textproto --out teacher");
    EXPECT_EQ(trained.code, 0) << trained.output;
  }

  /// Before the first step of a student that starts so.
  json start_of(const std::string& how, const std::string& layout = "dp1", int ranks = 1) const {
    const std::string run = fmt::format("run{}", ++runs_);
    const Outcome outcome = folder_.limbeck(
        fmt::format("distill job.textproto --steps 1 --out {} --set parallel.layout={} --set {}", run, layout, how),
        ranks);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    if (outcome.code != 0) return {};
    EXPECT_EQ(outcome.lines_with("cut from the teacher, before it learns: KL ").size(),
              how.starts_with("student_init= ") ? 0U : 1U);
    return json::parse(folder_.read(run + "/start.json"));
  }

  /// The teacher with what its calibration text is.
  struct Seen {
    std::unique_ptr<nn::Transformer> model;
    nn::Batch batch;
    nn::Communicators alone = nn::single_communicators();
  };
  Seen seen() const {
    const core::MemoryPtr memory = core::Memory::cpu(1);
    const launch::ModelSource source = launch::open_model(folder_.path() / "teacher");
    data::Loader loader(
        byte_token_file(folder_, 0, 5),
        {.sequence_length = 24, .vocabulary = source.tokenizer->vocabulary_size(), .seed = 1, .held_out = 0.35});
    Seen seen{
        std::make_unique<nn::Transformer>(source.config, nn::ModelOptions{.memory = memory, .dtype = core::DType::F64}),
        launch::make_batch(memory, loader.fetch(0, 5), 0, 5)};
    seen.model->load(*source.reader);
    return seen;
  }

  RunFolder folder_;
  mutable int runs_ = 0;
};

json members(const std::vector<std::vector<nn::ExpertGroup>>& layers) {
  json all = json::array();
  for (const auto& layer : layers) {
    all.push_back(json::array());
    for (const nn::ExpertGroup& group : layer) {
      all.back().push_back(json::array());
      for (const nn::ExpertShare& member : group) all.back().back().push_back(member.expert);
    }
  }
  return all;
}

void expect_near(const json& found, double expected) {
  EXPECT_NEAR(found.get<double>(), expected, 1e-9 * std::abs(expected));
}

TEST_F(ExpertTeacher, FewerExpertsAreThoseOfTheRuleUnderEveryLayout) {
  const Seen teacher = this->seen();
  const std::vector<std::int64_t> layers = {0, 1, 3};
  const std::vector<nn::ExpertUse> use = nn::expert_use(*teacher.model, teacher.batch, *teacher.alone.batch, layers);
  std::map<std::string, std::vector<std::vector<nn::ExpertGroup>>> expected = {
      {"ROUTED_NORM", {{}}}, {"LOAD", {{}}}, {"MERGE", {{}}}};  // the first layer is dense
  for (const std::size_t layer : {1U, 2U}) {
    std::vector<double> norms;
    for (std::int64_t e = 0; e < 4; ++e) norms.push_back(use[layer].routed_norm(e));
    expected["ROUTED_NORM"].push_back(nn::pruned_experts(norms, 2));
    expected["LOAD"].push_back(nn::pruned_experts(use[layer].load, 2));
    expected["MERGE"].push_back(nn::merged_experts(use[layer], 2));
  }
  const auto how = [](const std::string& rule) {
    return fmt::format("'student_init {{ experts {{ keep: 2 rule: {} experts_per_token: 1 }} }}'", rule);
  };
  std::map<std::string, double> kl;
  for (const auto& [rule, groups] : expected) {
    SCOPED_TRACE(rule);
    const json start = start_of(how(rule));
    EXPECT_EQ(start["experts"], members(groups));
    kl[rule] = start["calibration"]["kl"];
    EXPECT_EQ(start["calibration"]["experts"], 4);
  }
  for (const auto& [layout, ranks] :
       std::map<std::string, int>{{"dp2", 2}, {"tp2", 2}, {"ep2", 2}, {"tp2ep2", 4}, {"pp2", 2}}) {
    SCOPED_TRACE(layout);
    const json start = start_of(how("MERGE"), layout, ranks);
    EXPECT_EQ(start["experts"], members(expected["MERGE"]));
    expect_near(start["calibration"]["kl"], kl["MERGE"]);
  }
}

TEST_F(ExpertTeacher, DenseAndNarrowerStudentsAreTheSameUnderEveryLayout) {
  const std::string dense = "'student_init { dense { experts: 2 } width { num_kv_heads: 2 width: 16 } }'";
  const json alone = start_of(dense);
  ASSERT_EQ(alone["experts"].size(), 3U);
  EXPECT_TRUE(alone["experts"][0].empty());
  EXPECT_EQ(alone["experts"][1][0].size(), 2U);
  const json model = json::parse(folder_.limbeck("inspect run1 --json").output)["model"];
  EXPECT_EQ(model["width"], 16);
  EXPECT_EQ(model["num_heads"], 4);
  EXPECT_EQ(model["num_kv_heads"], 2);
  EXPECT_EQ(model["mlp_width"], 48);  // of the shared and two other experts, as the dense layer has it

  const Seen teacher = this->seen();
  const nn::Activity activity =
      nn::activity_of(*teacher.model, teacher.batch, *teacher.alone.batch, std::vector<std::int64_t>{0, 1, 3});
  std::vector<double> channels = activity.channels;
  std::ranges::sort(channels, std::greater());
  const auto sum = [](const auto& begin, const auto& end) { return std::accumulate(begin, end, 0.0); };
  expect_near(alone["kept_activity"]["channels"],
              sum(channels.begin(), channels.begin() + 16) / sum(channels.begin(), channels.end()));
  double heads = 0;
  for (std::vector<double> of : activity.kv_heads) {
    std::ranges::sort(of, std::greater());
    heads += (of[0] + of[1]) / sum(of.begin(), of.end()) / 3;
  }
  expect_near(alone["kept_activity"]["kv_heads"], heads);
  EXPECT_FALSE(alone["kept_activity"].contains("neurons"));
  for (const char* layout : {"dp2", "tp2", "cp2", "pp2"}) {
    SCOPED_TRACE(layout);
    const json start = start_of(dense, layout, 2);
    EXPECT_EQ(start["experts"], alone["experts"]);
    expect_near(start["calibration"]["kl"], alone["calibration"]["kl"]);
    expect_near(start["kept_activity"]["channels"], alone["kept_activity"]["channels"]);
  }
}

/// Mean over the tokens with a target of KL(p, q), by the logits alone.
double kl_of(const core::Tensor& p, const core::Tensor& q, const std::vector<std::int32_t>& targets) {
  const auto log_softmax = [](const core::Tensor& logits, std::int64_t row) {
    std::vector<double> z = core::host_values<double>(logits.rows(row, 1));
    const double top = *std::ranges::max_element(z);
    double sum = 0;
    for (const double v : z) sum += std::exp(v - top);
    for (double& v : z) v -= top + std::log(sum);
    return z;
  };
  double kl = 0;
  std::int64_t tokens = 0;
  for (std::size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    const auto row = static_cast<std::int64_t>(t);
    const std::vector<double> theirs = log_softmax(p, row), ours = log_softmax(q, row);
    for (std::size_t v = 0; v < ours.size(); ++v) kl += std::exp(theirs[v]) * (theirs[v] - ours[v]);
    ++tokens;
  }
  return kl / static_cast<double>(tokens);
}

// Sequences of 144, of which the first 128 tokens count: one layer after the other is left out of the model, and the
// logits of all tokens compared. Then what is left as experts, written as a model before it learns.
TEST(GreedyStarts, DropWhatIsLeastMissedOfTheBeginsOfTheText) {
  const RunFolder folder("greedy_starts");
  const std::string common = R"(
    data { text: "text" sequence_length: 144 held_out_fraction: 0.35 tokenizer: "bytes" }
    optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 1 }
    train { threads: 1 eval_tokens: 144 steps: 4 } generation { max_tokens: 2 } )" +
                             std::string(in_float64);
  folder.write(
      "teacher.textproto",
      "model { vocabulary: 264 width: 24 num_layers: 5 num_heads: 4 num_kv_heads: 2 head_width: 8 mlp_width: 32 "
      "max_positions: 160 }" +
          common);
  folder.write("job.textproto",
               "teacher { source: \"teacher\" }\n"
               "student_init { choice: GREEDY_KL num_layers: 3 greedy_tokens: 700 calibration_tokens: 300 "
               "upcycle { slices: 2 experts: 4 experts_per_token: 3 router_std: 0.5 } }" +
                   common);
  ASSERT_EQ(folder.limbeck("train teacher.textproto --out teacher").code, 0);

  const core::MemoryPtr memory = core::Memory::cpu(1);
  const launch::ModelSource source = launch::open_model(folder.path() / "teacher");
  data::Loader loader(
      byte_token_file(folder, 0, 5),
      {.sequence_length = 144, .vocabulary = source.tokenizer->vocabulary_size(), .seed = 1, .held_out = 0.35});
  data::TokenBatch text;
  text.num_sequences = 5;
  text.sequence_length = 128;
  const data::TokenBatch whole = loader.fetch(0, 5);
  for (std::size_t i = 0; i < whole.tokens.size(); ++i) {
    if (i % 144 >= 128) continue;
    text.tokens.push_back(whole.tokens[i]);
    text.targets.push_back(whole.targets[i]);
    text.positions.push_back(whole.positions[i]);
    text.documents.push_back(whole.documents[i]);
  }
  const auto logits_of = [&](const std::vector<std::int64_t>& layers) {
    nn::Transformer model(nn::skip_layers(source.config, layers), {.memory = memory, .dtype = core::DType::F64});
    model.load(nn::LayerSkip(*source.reader, 5, layers));
    core::Tape off(core::Tape::Mode::Off);
    const nn::Batch batch = launch::make_batch(memory, text, 0, 5);
    return core::logits_of(model.forward(off, model.pass(batch)).hidden.value.rows(0, 5 * 128),
                           model.head().value.rows(0, source.tokenizer->vocabulary_size()));
  };
  std::vector<std::int64_t> kept = {0, 1, 2, 3, 4};
  const core::Tensor theirs = logits_of(kept);
  std::vector<std::pair<std::int64_t, double>> dropped;
  while (kept.size() > 3) {
    std::vector<std::pair<double, std::int64_t>> found;
    for (const std::int64_t layer : kept) {
      std::vector<std::int64_t> rest = kept;
      std::erase(rest, layer);
      found.emplace_back(kl_of(theirs, logits_of(rest), text.targets), layer);
    }
    const auto [kl, layer] = *std::ranges::min_element(found);
    dropped.emplace_back(layer, kl);
    std::erase(kept, layer);
  }
  json last;
  for (const auto& [layout, ranks] :
       std::map<std::string, int>{{"dp1", 1}, {"dp2", 2}, {"tp2", 2}, {"dp4", 4}, {"pp2", 2}}) {
    SCOPED_TRACE(layout);
    const Outcome outcome = folder.limbeck(
        fmt::format("distill job.textproto --steps 1 --out {0} --set parallel.layout={0}", layout), ranks);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    const json start = json::parse(folder.read(layout + "/start.json"));
    EXPECT_EQ(start["layers"].get<std::vector<std::int64_t>>(), kept);
    for (std::size_t i = 0; i < dropped.size(); ++i) {
      EXPECT_EQ(start["dropped"][i]["layer"], dropped[i].first);
      EXPECT_NEAR(start["dropped"][i]["kl"].get<double>(), dropped[i].second, 1e-9 * dropped[i].second);
    }
    if (layout == "dp1") last = start;
  }
  const Outcome written = folder.limbeck("convert teacher started --init job.textproto");
  ASSERT_EQ(written.code, 0) << written.output;
  const Outcome learnt =
      folder.limbeck("distill job.textproto --steps 1 --out from_file --set student_init= --set model.source=started");
  ASSERT_EQ(learnt.code, 0) << learnt.output;
  EXPECT_NEAR(json::parse(folder.read("from_file/start.json"))["student"]["kl"].get<double>(),
              last["student"]["kl"].get<double>(), 1e-6);
}

// All layers, and all of what a start could cut.
TEST_F(ExpertTeacher, WhatKeepsAllIsTheTeacher) {
  const std::string all = "student_init.layers=[0,1,2,3] --set ";
  for (const char* how :
       {"'student_init={ experts { keep: 4 } }'", "'student_init={ experts { keep: 4 rule: MERGE } }'",
        "'student_init={ width { mlp_width: 48 num_kv_heads: 4 width: 24 } }'"}) {
    SCOPED_TRACE(how);
    const json start = start_of(all + how);
    EXPECT_NEAR(start["calibration"]["kl"].get<double>(), 0, 1e-12);
    EXPECT_EQ(start["calibration"]["top1_agreement"], 1);
  }
  const json less = start_of(all + "'student_init={ width { mlp_width: 47 } }'");
  EXPECT_GT(less["calibration"]["kl"].get<double>(), 1e-9);
}

/// Such as other programs read.
class PlainExpertTeacher : public ExpertTeacher {
 protected:
  PlainExpertTeacher() : ExpertTeacher("") {}
};

TEST_F(PlainExpertTeacher, DenseFeedForwardsAreOfSoManyExperts) {
  for (const auto& [how, width] :
       std::map<std::string, int>{{"'student_init={ dense {} }'", 32}, {"student_init.dense.experts=3", 48}}) {
    const json start = start_of(how);
    EXPECT_EQ(start["experts"][2][0].size(), width / 16U);
    const std::string inspected = folder_.limbeck(fmt::format("inspect run{} --json", runs_)).output;
    EXPECT_EQ(json::parse(inspected)["model"]["mlp_width"], width);
  }
}

TEST_F(PlainExpertTeacher, AStartedStudentIsWrittenAsAModel) {
  const std::string how = "student_init.experts.keep=3";
  const json start = start_of(how);
  const Outcome written = folder_.limbeck("convert teacher started --init job.textproto --set " + how, 2);
  ASSERT_EQ(written.code, 0) << written.output;
  EXPECT_THAT(written.output, HasSubstr("read back: every value is the same"));
  EXPECT_THAT(written.output,
              HasSubstr(fmt::format("; KL {:.4f} to teacher, top-1 agreement {:.3f}, on {} tokens of the training text",
                                    start["calibration"]["kl"].get<double>(),
                                    start["calibration"]["top1_agreement"].get<double>(),
                                    start["calibration"]["tokens"].get<int>())));
  // A run that begins with what was written begins where the one that cuts its student does.
  const json from_file = start_of("student_init= --set model.source=started");
  EXPECT_NEAR(from_file["student"]["kl"].get<double>(), start["student"]["kl"].get<double>(), 1e-6);
  EXPECT_FALSE(from_file.contains("calibration"));
}

TEST_F(ExpertTeacher, WhatItCannotBeCutToIsRefusedByName) {
  const auto refused = [&](const std::string& how, const std::string& what) {
    const Outcome outcome = folder_.limbeck("distill job.textproto --set " + how);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(what));
  };
  refused("student_init.experts.keep=5", "student_init.experts.keep is 5, expected 1 to the 4 experts of");
  refused("student_init.dense.experts=1", "make feed-forwards of width 32, expected 48");
  refused("student_init.width.mlp_width=49", "student_init.width.mlp_width is 49, expected at most the 48 of");
  refused("student_init.width.num_kv_heads=5", "student_init.width.num_kv_heads is 5, expected at most the 4 of");
  refused("student_init.upcycle.slices=2", "has experts already");
  const Outcome none = folder_.limbeck("convert teacher started --init teacher.textproto");
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.output, HasSubstr("--init: teacher.textproto has no section student_init"));
}

/// [V,C]
std::vector<float> table_of(const launch::ModelSource& model) {
  core::StateEntry entry = core::StateEntry::whole(
      core::Tensor::empty(core::Memory::cpu(1), core::DType::F32, {model.config.vocabulary, model.config.width}));
  model.reader->read("embed.weight", entry);
  return core::host_values<float>(entry.tensor);
}

// A teacher whose tokenizer has words that the student's text has not.
TEST(SmallerVocabularies, AreOfTheTokensOfTheText) {
  const RunFolder folder("smaller_vocabulary");
  std::string words;
  for (int i = 0; i < 40; ++i) words += "the zebra and the xylophone; quartz, quivering quietly.\n";
  folder.write("words.txt", words);
  ASSERT_EQ(folder.limbeck("tokenize text words.txt --train --vocab 420 --out tokenizer").code, 0);
  const std::string common = R"(
    data { text: "text" sequence_length: 24 held_out_fraction: 0.35 tokenizer: "TOKENIZER" }
    optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 }
    train { threads: 1 eval_tokens: 120 steps: 3 } generation { max_tokens: 2 } )" +
                             std::string(in_float64);
  const auto with = [&](std::string config, const std::string& tokenizer) {
    return config.replace(config.find("TOKENIZER"), 9, tokenizer);
  };
  folder.write("teacher.textproto",
               with("model { width: 24 num_layers: 2 num_heads: 4 num_kv_heads: 2 head_width: 8 mlp_width: 32 "
                    "max_positions: 64 }" +
                        common,
                    "tokenizer"));
  folder.write("job.textproto", with("teacher { source: \"teacher\" }\n"
                                     "student_init { vocabulary_count: 1 report_tokens: 96 }" +
                                         common,
                                     "teacher"));
  const Outcome trained = folder.limbeck("train teacher.textproto --out teacher");
  ASSERT_EQ(trained.code, 0) << trained.output;
  std::map<std::string, json> starts;
  const std::vector<std::pair<std::string, int>> layouts{{"dp1", 1}, {"dp2", 2}, {"tp2", 2}, {"cp2", 2}};
  for (const auto& [layout, ranks] : layouts) {
    const Outcome outcome = folder.limbeck(
        fmt::format("distill job.textproto --steps 2 --out {0} --set parallel.layout={0}", layout), ranks);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    starts[layout] = json::parse(folder.read(layout + "/start.json"));
    const json& moved = starts[layout]["calibration"];
    EXPECT_NEAR(moved["kl"].get<double>(), 0, 1e-12) << "all layers stay";
    EXPECT_EQ(starts[layout]["vocabulary"], starts["dp1"]["vocabulary"]);
    expect_near(moved["ce"], starts["dp1"]["calibration"]["ce"]);
  }
  const Outcome resumed = folder.limbeck("distill job.textproto --out dp2 --set parallel.layout=dp2 --resume", 2);
  EXPECT_EQ(resumed.code, 0) << resumed.output;

  ASSERT_EQ(folder.limbeck("convert teacher started --init job.textproto").code, 0);
  const launch::ModelSource teacher = launch::open_model(folder.path() / "teacher"),
                            started = launch::open_model(folder.path() / "started");
  const std::int64_t vocabulary = started.config.vocabulary;
  EXPECT_EQ(vocabulary, starts["dp1"]["vocabulary"]);
  EXPECT_LT(vocabulary, teacher.config.vocabulary);
  EXPECT_FALSE(started.tokenizer->id_of("zebra") || started.tokenizer->id_of("\xc4\xa0zebra"));
  const std::vector<float> all = table_of(teacher), ours = table_of(started);
  for (std::int64_t i = 0; i < vocabulary; ++i) {
    const auto theirs = teacher.tokenizer->id_of(started.tokenizer->name_of(static_cast<std::int32_t>(i)));
    ASSERT_TRUE(theirs);
    EXPECT_TRUE(std::equal(ours.begin() + i * 24, ours.begin() + (i + 1) * 24, all.begin() + *theirs * 24)) << i;
  }
  EXPECT_EQ(started.tokenizer->decode(started.tokenizer->encode(words)), words);

  const Outcome refused = folder.limbeck("distill job.textproto --out no --set data.tokens=tokens --set data.text=");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.output, HasSubstr("student_init.vocabulary_count is 1, but tokens holds tokens of the whole"));
}

}  // namespace
}  // namespace limbeck::testing
