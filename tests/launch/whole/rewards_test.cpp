// A reward model from end to end (objective.reward): learnt, resumed, judged by, written and read.
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "launch/run/model_source.h"
#include "tests/support/state_values.h"
#include "tests/support/written_out_run.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* start_job = R"(
model {
  vocabulary: 264 width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
data { text: "text" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.35 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 8 threads: 1 }
)";

constexpr const char* job = R"(
model { source: "start" }
data { text: "pairs.jsonl" format: PAIRS sequence_length: 64 held_out_fraction: 0.25 seed: 5 }
objective { reward { center: 0.01 } }
moe_loss { balance_weight: 0.02 z_weight: 0.005 }
optimizer { rate: 1e-2 eps: 1e-5 }
schedule { kind: CONSTANT warmup_steps: 0 }
batch { sequences_per_step: 5 }
train { steps: 24 seed: 11 eval_every_steps: 24 checkpoint_every_steps: 10 log_every_steps: 1 threads: 1 }
)";

/// 24 pairs of 30 to 60 bytes, one of them much shorter than the others.
std::string pairs() {
  std::string lines;
  for (std::size_t i = 0; i < 24; ++i)
    lines += json{{"prompt", i == 7 ? "x" : "the " + std::string(i % 4 + 1, 'x') + " still "},
                  {"chosen", i == 7 ? "d" : "drips " + std::to_string(i) + std::string(i % 3, '.')},
                  {"rejected", std::string(i % 2 + 1, 'n') + "o"}}
                 .dump() +
             "\n";
  return lines;
}

/// All tensors of a model, by name.
std::map<std::string, std::vector<double>> values_in(const std::filesystem::path& model) {
  const launch::ModelSource source = launch::open_model(model);
  auto values = state_values<double>(*source.reader);
  std::erase_if(values, [](const auto& value) { return !core::is_of_model(value.first); });
  return values;
}

class Rewards : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_.write("pairs.jsonl", pairs());
    folder_.write("start.textproto", std::string(start_job) + in_float64);
    folder_.write("job.textproto", std::string(job) + in_float64);
    run("train start.textproto --out start");
  }
  Outcome run(const std::string& arguments, int ranks = 1) const {
    Outcome outcome = folder_.limbeck(arguments, ranks);
    EXPECT_EQ(outcome.code, 0) << arguments << "\n" << outcome.output;
    return outcome;
  }
  std::string fails(const std::string& arguments) const {
    const Outcome outcome = folder_.limbeck(arguments);
    EXPECT_NE(outcome.code, 0) << arguments;
    return outcome.output;
  }
  json judged(const std::string& model, int ranks = 1) const {
    return json::parse(run("eval " + model + " --format pairs --text pairs.jsonl --json --quiet", ranks).output);
  }
  json config_of(const std::string& folder) const {
    std::ifstream in(folder_.path() / folder / "config.json");
    return json::parse(in);
  }
  const RunFolder folder_{"rewards"};
};

TEST_F(Rewards, AreLearntAndGoOnBitForBit) {
  const std::string said = run("train job.textproto --out whole --set train.keep_best=preference_accuracy").output;
  EXPECT_THAT(said, HasSubstr("pairs: right, share"));
  EXPECT_THAT(said, HasSubstr("reward of the chosen"));
  EXPECT_THAT(said, HasSubstr("eval whole --format pairs"));
  EXPECT_THAT(said, Not(HasSubstr("perplexity")));
  const std::vector<json> whole = folder_.metrics("whole");
  EXPECT_NEAR(
      whole[0]["loss"].get<double>() - whole[0]["balance_loss"].get<double>() - whole[0]["z_loss"].get<double>(),
      std::log(2.0), 0.1);
  for (const char* none : {"ce", "kl", "eval_ce", "eval_perplexity", "grad_norm_ce"})
    for (const json& line : whole) EXPECT_FALSE(line.contains(none)) << none;
  EXPECT_EQ(whole.back()["eval_preference_accuracy"], 1);
  EXPECT_GT(whole.back()["chosen_reward"], whole.back()["rejected_reward"]);
  EXPECT_LT(whole.back()["eval_preference_loss"].get<double>(), 0.3);
  EXPECT_GT(whole.back()["eval_tokens"], 0);

  run("train job.textproto --out parts --steps 7 --set train.keep_best=preference_accuracy");
  run("train parts --resume");
  EXPECT_EQ(folder_.metrics("parts"), whole);
  EXPECT_EQ(values_in(folder_.path() / "parts"), values_in(folder_.path() / "whole"));
  EXPECT_TRUE(values_in(folder_.path() / "whole").contains("reward.weight"));
  EXPECT_FALSE(values_in(folder_.path() / "whole").contains("head.weight"));

  const json evaluated = json::parse(run("eval whole --json --quiet").output)["held_out"];
  for (const char* figure : {"preference_accuracy", "preference_loss", "chosen_reward", "rejected_reward"})
    EXPECT_EQ(evaluated[figure], whole.back()["eval_" + std::string(figure)]) << figure;
  EXPECT_EQ(json::parse(run("compare whole --json").output)["runs"][0]["kind"], "rewards");
  EXPECT_THAT(run("report whole").output, HasSubstr("report"));

  run("train job.textproto --out again --steps 1 --set model.source=whole");  // goes on from its head
  EXPECT_EQ(folder_.metrics("again")[0]["preference_accuracy"], 1);
  run("train job.textproto --out other --steps 1 --set train.seed=12");
  EXPECT_NE(folder_.metrics("other")[0]["chosen_reward"], whole[0]["chosen_reward"]);
}

TEST_F(Rewards, EveryLayoutIsTheSameRun) {
  std::vector<json> first;
  std::map<std::string, std::vector<double>> values;
  for (const auto& [layout, ranks, micro_batches] : std::vector<std::tuple<std::string, int, int>>{
           {"dp1", 1, 1}, {"dp1", 1, 3}, {"dp2", 2, 1}, {"tp2", 2, 1}, {"ep2", 2, 2}, {"dp4", 4, 1}, {"pp2", 2, 5}}) {
    SCOPED_TRACE(fmt::format("{} in {}", layout, micro_batches));
    const std::string name = fmt::format("{}_{}", layout, micro_batches);
    run(fmt::format("train job.textproto --out {} --set parallel.layout={} --set batch.micro_batches={} --set "
                    "train.steps=3 --set train.eval_every_steps=3 --set moe_loss.balance_weight=0",
                    name, layout, micro_batches),
        ranks);
    const std::vector<json> lines = folder_.metrics(name);
    if (first.empty()) {
      first = lines;
      values = values_in(folder_.path() / name);
    }
    ASSERT_EQ(lines.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i)
      for (const char* figure :
           {"loss", "grad_norm", "preference_accuracy", "preference_margin", "chosen_reward", "rejected_reward"})
        expect_near(lines[i][figure], first[i][figure].get<double>(), figure);
    expect_near(lines[2]["eval_preference_loss"], first[2]["eval_preference_loss"].get<double>(), "held-out loss");
    expect_same_values(values_in(folder_.path() / name), values);
  }
}

TEST_F(Rewards, JudgePairsAlsoAsAFolder) {
  run("train job.textproto --out model");
  const json judges = judged("model");
  ASSERT_EQ(judges["pairs"].size(), 24U);
  EXPECT_EQ(judges["pairs"][7]["name"], "pairs.jsonl:8");
  double right = 0, margin = 0;
  for (const json& pair : judges["pairs"]) {
    right += pair["chosen_reward"] > pair["rejected_reward"] ? 1 : 0;
    margin += (pair["chosen_reward"].get<double>() - pair["rejected_reward"].get<double>()) / 24;
  }
  EXPECT_EQ(judges["all"]["preference_accuracy"].get<double>(), right / 24);
  EXPECT_NEAR(judges["all"]["preference_margin"].get<double>(), margin, 1e-12);
  // A line is judged alone as it is among others: those that it stood beside had other lengths.
  const std::string all = pairs();
  folder_.write("one.jsonl", all.substr(0, all.find('\n') + 1));
  const json one = json::parse(run("eval model --format pairs --text one.jsonl --json --quiet").output);
  EXPECT_NEAR(one["pairs"][0]["chosen_reward"].get<double>(), judges["pairs"][0]["chosen_reward"].get<double>(), 1e-5);
  EXPECT_NEAR(judged("model", 2)["pairs"][5]["rejected_reward"].get<double>(),
              judges["pairs"][5]["rejected_reward"].get<double>(), 1e-5);
  EXPECT_THAT(run("eval model --format pairs --text pairs.jsonl").output, HasSubstr("pairs: right, share"));

  EXPECT_THAT(run("convert model folder --dtype float32 --verify").output, HasSubstr("every value is the same"));
  const json config = config_of("folder");
  EXPECT_EQ(config["architectures"], json{"MixtralForSequenceClassification"});
  EXPECT_EQ(config["id2label"].size(), 1U);
  EXPECT_TRUE(config["pad_token_id"].is_null());  // that of the tokenizer ends each text
  const json again = judged("folder");
  for (std::size_t i = 0; i < 24; ++i)
    EXPECT_NEAR(again["pairs"][i]["chosen_reward"].get<double>(), judges["pairs"][i]["chosen_reward"].get<double>(),
                1e-5);
  run("train job.textproto --out on --steps 1 --set model.source=folder");
  EXPECT_EQ(folder_.metrics("on")[0]["preference_accuracy"], 1);
  run("convert folder back --dtype float32");
  EXPECT_EQ(config_of("back"), config);
  EXPECT_THAT(run("inspect folder").output, HasSubstr("reward"));
}

/// Of a tokenizer whose answers end with one token and its documents with another, which fills texts up too:
/// transformers would look for the reward in front of it.
TEST_F(Rewards, AnEndOfTextIsNoPaddingThoughItIsNotEos) {
  run("tokenize text --train --vocab 290 --out mine --quiet");
  const auto change = [&](const char* file, const std::function<void(json&)>& how) {
    json contents = json::parse(folder_.read(file));
    how(contents);
    folder_.write(file, contents.dump());
  };
  change("mine/tokenizer.json", [](json& tokenizer) {
    json token = tokenizer["added_tokens"][0];
    ASSERT_EQ(token["content"], "<|endoftext|>");
    token["content"] = "<|im_end|>";
    token["id"] = 290;
    tokenizer["added_tokens"].push_back(token);
  });
  change("mine/tokenizer_config.json", [](json& config) { config["eos_token"] = "<|im_end|>"; });
  run("train start.textproto --out mine_start --set data.tokenizer=mine --set model.vocabulary=296");
  run("train job.textproto --out model --steps 1 --set model.source=mine_start");
  run("convert model folder --dtype float32");
  const json config = config_of("folder"), tokenizer = json::parse(folder_.read("folder/tokenizer_config.json"));
  EXPECT_EQ(config["eos_token_id"], 290);
  EXPECT_EQ(tokenizer["pad_token"], "<|endoftext|>");
  EXPECT_TRUE(config["pad_token_id"].is_null()) << config["pad_token_id"];
}

TEST_F(Rewards, WhatCannotBeIsOneLine) {
  run("train job.textproto --out model --steps 1");
  EXPECT_THAT(fails("convert model model.gguf --dtype float32"), HasSubstr("reward_head is true, expected false"));
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "model.gguf"));
  EXPECT_THAT(fails("eval start --format pairs --text pairs.jsonl"), HasSubstr("has no reward head"));
  EXPECT_THAT(fails("eval model --format pairs"), HasSubstr("--format pairs goes with --text"));
  EXPECT_THAT(fails("eval model --format pairs --text pairs.jsonl --stride 3"), HasSubstr("--stride is given"));
  EXPECT_THAT(fails("eval model --text text"), HasSubstr("the model has a reward head"));
  EXPECT_THAT(fails("generate model --prompt x"), HasSubstr("the model has a reward head"));
  EXPECT_THAT(fails("train start.textproto --out r --set model.source=model"),
              HasSubstr("has a reward head, expected objective.reward"));
  EXPECT_THAT(fails("train job.textproto --out r --set teacher.source=model"), HasSubstr("section teacher"));
  EXPECT_THAT(fails("train job.textproto --out r --set objective.preference.beta=1"),
              HasSubstr("objective.reward is given with objective.preference"));
  EXPECT_THAT(fails("train job.textproto --out r --set data.format=JSON_LINES"),
              HasSubstr("expected PAIRS with objective.reward"));
  EXPECT_THAT(fails("train job.textproto --out r --set train.cuda_graph=true"),
              HasSubstr("train.cuda_graph is given with objective.reward"));
  EXPECT_THAT(fails("train job.textproto --out r --set adapters.rank=2"), HasSubstr("adapters is given"));
  EXPECT_THAT(fails("train job.textproto --out r --set train.keep_best=ce"),
              HasSubstr("a reward head predicts no tokens"));
  EXPECT_THAT(
      fails("train start.textproto --out r --set train.keep_best=preference_loss --set train.eval_every_steps=1"),
      HasSubstr("there are no pairs of responses"));
  EXPECT_THAT(fails("train job.textproto --out r --set objective.reward.center=-1"),
              HasSubstr("objective.reward.center is -1"));
  EXPECT_THAT(fails("train job.textproto --out r --dump-gradients g.h5"), HasSubstr("objective.reward"));
  EXPECT_THAT(fails("distill job.textproto --out r --set teacher.source=start"),
              HasSubstr("objective.reward is given"));
  folder_.write("distill.textproto", R"(teacher { source: "model" } student_init { num_layers: 1 }
data { text: "text" sequence_length: 24 held_out_fraction: 0.35 } train { steps: 1 })");
  EXPECT_THAT(fails("distill distill.textproto --out r"), HasSubstr("which has a reward head"));
}

}  // namespace
}  // namespace limbeck::testing
