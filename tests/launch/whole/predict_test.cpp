// `limbeck train` and `distill` with layers that predict further tokens, and `generate --speculative`.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::Not;

class PredictRuns : public ::testing::Test {
 protected:
  std::string run(const std::string& arguments, int ranks = 1) const { return folder_.succeed(arguments, ranks); }
  json inspected(const std::string& model) const { return json::parse(run("inspect " + model + " --json"))["model"]; }
  const RunFolder folder_{"predict"};
  const std::string train_ = "train tiny.textproto --quiet --set model.num_predict_layers=2 ";
};

TEST_F(PredictRuns, WeightAndLayersReachTheSteps) {
  run(train_ + "--steps 4 --out run");
  run(train_ + "--steps 4 --set objective.predict_weight=0.1 --out light");
  run(train_ + "--steps 4 --set objective.predict_weight=0 --out without");
  run("train tiny.textproto --quiet --steps 4 --out never");
  const std::vector<json> lines = folder_.metrics("run"), light = folder_.metrics("light");
  ASSERT_EQ(lines.size(), 4U);
  for (const json& line : lines) {
    EXPECT_NEAR(line["loss"].get<double>(),
                line["ce"].get<double>() + line["predict_loss"].get<double>() + line["balance_loss"].get<double>() +
                    line["z_loss"].get<double>(),
                1e-12);
    EXPECT_GT(line["predict_ce_1"], 2);
    EXPECT_GT(line["predict_ce_2"], 2);
    const std::size_t experts = line["expert_load"].size();
    EXPECT_EQ(line["expert_load"].back()["layer"].get<int>(), line["expert_load"][experts - 3]["layer"].get<int>() + 2);
  }
  // 0.3 of the mean over the depths, of all targets of the model, of which a depth has nearly as many.
  const json& first = lines[0];
  const double mean = (first["predict_ce_1"].get<double>() + first["predict_ce_2"].get<double>()) / 2;
  EXPECT_LT(first["predict_loss"], 0.3 * mean);
  EXPECT_GT(first["predict_loss"], 0.28 * mean);
  EXPECT_NEAR(light[0]["predict_loss"].get<double>() * 3, first["predict_loss"].get<double>(), 1e-12);
  EXPECT_EQ(light[0]["ce"], first["ce"]);
  EXPECT_NE(light[3]["ce"], lines[3]["ce"]) << "the gradients have another weight";
  EXPECT_EQ(folder_.metrics("without"), folder_.metrics("never"));
  EXPECT_EQ(inspected("run")["num_predict_layers"], 2);
  EXPECT_THAT(run("inspect run"), ContainsRegex("predict layers +2 further tokens"));
  EXPECT_EQ(inspected("without")["num_predict_layers"], 0);
}

TEST_F(PredictRuns, AResumedRunIsTheWholeOne) {
  const std::string how = train_ + "--set schedule.kind=CONSTANT --set train.checkpoint_every_steps=2 ";
  run(how + "--steps 6 --out whole");
  run(how + "--steps 2 --out cut");
  run("train cut --resume --quiet --steps 6");
  EXPECT_EQ(folder_.metrics("cut"), folder_.metrics("whole"));
  run(how +
          "--steps 6 --set train.recompute=true --set parallel.layout=tp2 --set parallel.sequence_parallel=true --out "
          "divided",
      2);
  const std::vector<json> whole = folder_.metrics("whole"), divided = folder_.metrics("divided");
  for (std::size_t i = 0; i < whole.size(); ++i)
    for (const char* figure : {"loss", "predict_loss", "predict_ce_2", "grad_norm"})
      EXPECT_NEAR(divided.at(i)[figure].get<double>(), whole[i][figure].get<double>(),
                  1e-3 * whole[i][figure].get<double>())
          << figure << " " << i;
}

TEST_F(PredictRuns, SpeculativeTextIsThePlainOne) {
  run(train_ + "--steps 30 --out run");
  folder_.write("prompts.txt", "the still\na\nwhat was large becomes\ndrips slowly\n");
  for (const bool is_greedy : {true, false})
    for (const int ranks : {1, 2}) {
      const std::string command =
          fmt::format("generate run --prompts prompts.txt --max-tokens 40 --batch 3 --json --quiet {}",
                      is_greedy ? "--temperature 0" : "--temperature 0.8 --seed 3");
      const auto texts = [&](const std::string& output, bool has_drafts) {
        std::vector<std::pair<json, json>> result;
        std::istringstream lines(output);
        for (std::string line; std::getline(lines, line);) {
          const json one = json::parse(line);
          result.emplace_back(one["text"], one["finish_reason"]);
          EXPECT_EQ(one.contains("drafted") && one.contains("accepted"), has_drafts);
        }
        return result;
      };
      const std::string drafted = run(command + " --speculative", ranks);
      EXPECT_EQ(texts(drafted, true), texts(run(command, ranks), false));
      std::int64_t accepted = 0, all = 0;
      std::istringstream lines(drafted);
      for (std::string line; std::getline(lines, line);) {
        accepted += json::parse(line)["accepted"].get<std::int64_t>();
        all += json::parse(line)["drafted"].get<std::int64_t>();
      }
      EXPECT_GT(accepted, 0);
      EXPECT_TRUE(is_greedy || accepted < all) << accepted;
    }
  EXPECT_THAT(
      run("generate run --speculative --prompt a --max-tokens 12"),
      ContainsRegex("[0-9]+ of [0-9]+ drafts accepted, [0-9.]+ % of the [0-9]+ tried; [0-9.]+ tokens a pass\n"));
  EXPECT_THAT(run("generate run --prompt a --max-tokens 12"), Not(HasSubstr("accepted")));
  run("train tiny.textproto --steps 1 --quiet --out plain");
  const Outcome refused = folder_.limbeck("generate plain --speculative --prompt a");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.output, HasSubstr("--speculative: plain gives no layers that predict further tokens"));
}

TEST_F(PredictRuns, AStudentDraftsForItsTeacher) {
  run("train tiny.textproto --quiet --steps 30 --out teacher");
  folder_.write("student.textproto", R"(
    teacher { source: "teacher" }
    student_init { choice: LIST layers: [1] calibration_tokens: 96 }
    data { text: "text" tokenizer: "teacher" sequence_length: 48 held_out_fraction: 0.2 }
    batch { sequences_per_step: 2 } train { steps: 10 eval_tokens: 96 threads: 1 } generation { max_tokens: 4 })");
  run("distill student.textproto --quiet --out student");
  folder_.write("prompts.txt", "the still\na\nwhat was large becomes\ndrips slowly\n");
  const std::string command = "generate teacher --prompts prompts.txt --max-tokens 40 --batch 3 --json --quiet ";
  const auto lines_of = [](const std::string& output) {
    std::vector<json> result;
    std::istringstream lines(output);
    for (std::string line; std::getline(lines, line);) result.push_back(json::parse(line));
    return result;
  };
  for (const int ranks : {1, 2}) {
    const auto plain = lines_of(run(command + "--temperature 0", ranks));
    const auto drafted = lines_of(run(command + "--temperature 0 --draft student --draft-tokens 3", ranks));
    ASSERT_EQ(drafted.size(), 4U);
    for (std::size_t i = 0; i < drafted.size(); ++i) {
      EXPECT_EQ(drafted[i]["text"], plain.at(i)["text"]);
      EXPECT_EQ(drafted[i]["finish_reason"], plain[i]["finish_reason"]);
      EXPECT_FALSE(plain[i].contains("drafted"));
      const auto number = [&](const char* field) { return drafted[i][field].get<double>(); };
      EXPECT_LE(number("drafted"), 3 * number("passes"));
      EXPECT_LE(number("accepted"), number("tried"));
      EXPECT_DOUBLE_EQ(number("acceptance"), number("accepted") / number("tried"));
      EXPECT_DOUBLE_EQ(number("tokens_per_pass"), (number("tokens") - 1) / number("passes"));
      EXPECT_LT(number("passes"), number("tokens") - 1) << "some drafts are right";
    }
  }
  const std::string sampled = command + "--temperature 0.8 --seed 3 --draft ";
  const auto texts_of = [&](const std::string& output) {
    std::vector<json> texts;
    for (const json& line : lines_of(output)) texts.push_back(line["text"]);
    return texts;
  };
  EXPECT_EQ(texts_of(run(sampled + "student")), texts_of(run(sampled + "student")));
  for (const json& line : lines_of(run(sampled + "teacher"))) {  // of other rows, but nearly the same logits
    EXPECT_GE(line["acceptance"], 0.9);
    EXPECT_GT(line["tokens_per_pass"], 3.5);
  }
  EXPECT_THAT(run("generate teacher --draft student --prompt a --max-tokens 12"), HasSubstr(" tokens a pass\n"));

  const auto refused = [&](const std::string& arguments) {
    const Outcome outcome = folder_.limbeck("generate teacher --prompt a " + arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    return outcome.output;
  };
  EXPECT_THAT(refused("--draft student --speculative"), HasSubstr("excludes"));
  EXPECT_THAT(refused("--draft-tokens 3"), HasSubstr("--draft"));
  EXPECT_THAT(refused("--draft student --draft-tokens 0"), HasSubstr("--draft-tokens"));
  run("tokenize text --train --vocab 270 --quiet --out words");
  run("train tiny.textproto --quiet --steps 1 --set data.tokenizer=words --out other");
  const std::string output = refused("--draft other");
  EXPECT_THAT(output, HasSubstr("--draft: other has other tokens than teacher: token "));
  EXPECT_EQ(std::count(output.begin(), output.end(), '\n'), 1) << output;
}

TEST_F(PredictRuns, StudentsKeepWhatTheyAreCutFrom) {
  run(train_ + "--steps 3 --out teacher");
  folder_.write("student.textproto", R"(
    teacher { source: "teacher" }
    student_init { choice: LIST layers: [1] calibration_tokens: 96 }
    data { text: "text" tokenizer: "teacher" sequence_length: 48 held_out_fraction: 0.2 }
    batch { sequences_per_step: 2 } train { steps: 3 eval_tokens: 96 threads: 1 } generation { max_tokens: 4 })");
  run("distill student.textproto --quiet --out student");
  EXPECT_EQ(inspected("student")["num_predict_layers"], 2);
  EXPECT_TRUE(folder_.metrics("student")[0].contains("predict_loss"));
  run("distill student.textproto --quiet --set objective.predict_weight=0 --out without");
  EXPECT_EQ(inspected("without")["num_predict_layers"], 0);
  EXPECT_FALSE(folder_.metrics("without")[0].contains("predict_loss"));
  // Where there is no format for them they are left out, with a word.
  EXPECT_THAT(run("convert student out"), HasSubstr("layers that predict further tokens (2) are left out"));
  EXPECT_THAT(run("convert student out.gguf"), HasSubstr("layers that predict further tokens (2) are left out"));
  EXPECT_EQ(inspected("out.gguf")["num_predict_layers"], 0);
}

}  // namespace
}  // namespace limbeck::testing
