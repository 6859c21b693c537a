// `limbeck report`, `compare` and `inspect` of runs, as users do it.
#include <gmock/gmock.h>

#include <algorithm>
#include <sstream>

#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

nlohmann::json json_of(const RunFolder& folder, const std::string& command) {
  const Outcome outcome = folder.limbeck(command);
  EXPECT_EQ(outcome.code, 0) << outcome.output;
  return nlohmann::json::parse(outcome.output);
}

TEST(Compare, RunsAreReportedComparedAndInspected) {
  const RunFolder folder("compare");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --set train.steps=6 --out slow --quiet").code, 0);
  ASSERT_EQ(folder
                .limbeck("train tiny.textproto --set train.steps=6 --set optimizer.rate=1e-2 --out 'f<a>st' --quiet "
                         "--set 'optimizer.groups={ pattern: \"embed.weight\" frozen: true }'",
                         2)
                .code,
            0);
  const Outcome part = folder.limbeck("train tiny.textproto --set train.steps=6 --steps 3 --out slow2");
  ASSERT_EQ(part.code, 0) << part.output;
  EXPECT_EQ(part.lines_with(" model: 41,440 parameters").size(), 1U) << part.output;
  EXPECT_THAT(part.output, Not(HasSubstr("student")));  // there is no teacher

  const Outcome page = folder.limbeck("report slow 'f<a>st' slow2");
  EXPECT_EQ(page.code, 0) << page.output;
  EXPECT_THAT(page.output, HasSubstr("comparison.html: "));
  EXPECT_THAT(folder.read("comparison.html"), AllOf(HasSubstr("f&lt;a&gt;st"), HasSubstr("<h1>3 runs</h1>")));
  EXPECT_EQ(folder.limbeck("report slow slow2").code, 0);  // its own page is written anew
  EXPECT_EQ(folder.limbeck("report slow slow2 --out slow/metrics.jsonl --force").code, 2);
  EXPECT_EQ(folder.limbeck("report slow text").code, 2);

  const Outcome table = folder.limbeck("compare slow 'f<a>st' slow2");
  EXPECT_EQ(table.code, 0) << table.output;
  EXPECT_EQ(table.lines_with("finished").size(), 1U) << table.output;
  EXPECT_EQ(table.lines_with("  optimizer.rate").size(), 1U) << table.output;
  const nlohmann::json json = json_of(folder, "compare slow 'f<a>st' slow2 --json");
  const nlohmann::json& slow = json["runs"][0];
  const nlohmann::json& fast = json["runs"][1];
  EXPECT_EQ(slow["step"], 6);
  EXPECT_EQ(slow["tokens"], 6 * 4 * 48);
  EXPECT_EQ(slow["ranks"], 1);
  EXPECT_EQ(fast["ranks"], 2);
  EXPECT_EQ(fast["layout"], "dp2");
  EXPECT_EQ(slow["threads_per_rank"], 1);
  EXPECT_EQ(slow["parameters"]["trainable"], slow["parameters"]["total"]);
  EXPECT_EQ(fast["parameters"]["total"].get<int>() - fast["parameters"]["trainable"].get<int>(), 257 * 32);
  EXPECT_THAT(slow["command"].get<std::string>(), HasSubstr(" train tiny.textproto --set train.steps=6 --out slow"));
  EXPECT_FALSE(slow.contains("kl"));
  EXPECT_EQ(json["runs"][2]["step"], 3);
  EXPECT_EQ(json["runs"][2]["state"], "paused");
  EXPECT_EQ(nlohmann::json::parse(folder.read("slow/end.json"))["ended_by"], "train.steps");
  EXPECT_EQ(folder.limbeck("inspect slow2").lines_with("3 of 6 steps, paused by --steps").size(), 1U);

  // The continuation is in the report of a training too, and what the run knows of itself is inspected.
  ASSERT_EQ(folder.limbeck("report slow").code, 0);
  EXPECT_THAT(folder.read("slow/report.html"), AllOf(HasSubstr("“the still ” goes on"), HasSubstr("--out slow")));
  const nlohmann::json run = json_of(folder, "inspect slow --json");
  EXPECT_EQ(run["kind"], "run directory");
  EXPECT_EQ(run["run"]["ce"], slow["ce"]);
  EXPECT_EQ(run["parameters"]["total"], slow["parameters"]["total"]);
  EXPECT_EQ(run["step"], 6);
  EXPECT_EQ(json_of(folder, "inspect slow/checkpoints/step_6 --json")["kind"], "checkpoint");
  EXPECT_EQ(folder.limbeck("inspect slow").lines_with("cross-entropy, held out").size(), 1U);
}

TEST(Compare, TimeAndStartsGoOnWhereARunDoes) {
  const RunFolder folder("starts");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 4 --out run --quiet").code, 0);
  const auto metrics = [&] {  // with what RunFolder::metrics leaves out
    std::vector<nlohmann::json> lines;
    std::istringstream in(folder.read("run/metrics.jsonl"));
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  };
  const double before = metrics().back()["seconds"].get<double>();
  EXPECT_GT(before, 0);
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 8 --out run --resume --quiet", 2).code, 0);
  const auto lines = metrics();
  ASSERT_EQ(lines.size(), 8U);
  EXPECT_EQ(lines[3]["seconds"], before);
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const double tokens = lines[i]["tokens"].get<double>() - lines[i - 1]["tokens"].get<double>();
    const double seconds = lines[i]["seconds"].get<double>() - lines[i - 1]["seconds"].get<double>();
    EXPECT_NEAR(seconds * lines[i]["tokens_per_s"].get<double>(), tokens, 1e-6 * tokens) << i;
  }
  const nlohmann::json starts = nlohmann::json::parse(folder.read("run/start.json"))["starts"];
  ASSERT_EQ(starts.size(), 2U);
  EXPECT_EQ(starts[0]["step"], 0);
  EXPECT_EQ(starts[0]["ranks"], 1);
  EXPECT_EQ(starts[1]["step"], 4);
  EXPECT_EQ(starts[1]["ranks"], 2);
  EXPECT_THAT(starts[1]["command"].get<std::string>(), HasSubstr("--resume"));
}

TEST(Inspect, ATrainedTokenizersFolder) {
  const RunFolder folder("inspect_tokenizer");
  ASSERT_EQ(
      folder.limbeck("tokenize text --train --vocab 270 --out mine --quiet --special '<|end|>' --special '<a>'").code,
      0);
  const nlohmann::json json = json_of(folder, "inspect mine --json");
  EXPECT_EQ(json["kind"], "tokenizer");
  EXPECT_EQ(json["algorithm"], "BPE on bytes");
  EXPECT_EQ(json["vocabulary"], 270);
  EXPECT_EQ(json["merges"], 270 - 256 - 2);
  EXPECT_THAT(json["pretokenizer"].get<std::string>(), HasSubstr("llama3"));
  EXPECT_EQ(json["special_tokens"].size(), 2U);
  const Outcome text = folder.limbeck("inspect mine/tokenizer.json");
  EXPECT_EQ(text.code, 0) << text.output;
  EXPECT_EQ(text.lines_with("\"<|end|>\"").size(), 3U) << text.output;  // among all, and where texts and answers end
}

}  // namespace
}  // namespace limbeck::testing
