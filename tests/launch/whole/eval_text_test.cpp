// `limbeck eval MODEL --text`, against each token's loss from its own context, computed by a model written out.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "launch/run/model_source.h"
#include "tests/support/packed_files.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/written_out.h"

namespace limbeck::testing {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t window = 20, stride = 7;

WrittenOut read_model(const RunFolder& folder, const std::string& run) {
  const launch::ModelSource source = launch::open_model(folder.path() / run);
  return {source.config, read_weights(source.config, *source.reader)};
}

/// Log-probabilities of the first 257 tokens.
std::vector<double> log_softmax(std::vector<double> logits) {
  logits.resize(257);
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const double z : logits) sum += std::exp(z - most);
  for (double& z : logits) z -= most + std::log(sum);
  return logits;
}

/// Sums over the tokens of a document, each from the tokens before it in the first window that comes to it.
Figures figures_of(const std::string& text, const WrittenOut& model, const WrittenOut& teacher) {
  std::vector<std::int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  ids.push_back(256);
  Figures f;
  for (std::int64_t t = 1; t < static_cast<std::int64_t>(ids.size()); ++t) {
    std::int64_t first = 0;
    while (first + window < t) first += stride;
    const std::vector<std::int32_t> context(ids.begin() + first, ids.begin() + t);
    const std::vector<double> q = log_softmax(model.next_logits(context)),
                              p = log_softmax(teacher.next_logits(context));
    f.tokens += 1;
    f.ce -= q[ids[t]];
    for (std::size_t v = 0; v < q.size(); ++v) {
      f.kl += std::exp(p[v]) * (p[v] - q[v]);
      f.sum_min += std::min(std::exp(p[v]), std::exp(q[v]));
    }
    f.agreement += std::max_element(q.begin(), q.end()) - q.begin() == std::max_element(p.begin(), p.end()) - p.begin();
  }
  return f;
}

void expect_figures(const json& actual, const Figures& sums, std::int64_t bytes) {
  EXPECT_EQ(actual["tokens"], sums.tokens);
  EXPECT_EQ(actual["bytes"], bytes);
  const auto near = [&](const char* name, double expected) {
    EXPECT_NEAR(actual[name].get<double>(), expected, 2e-5 * std::max(1.0, expected)) << name;
  };
  near("ce", sums.ce / sums.tokens);
  near("perplexity", std::exp(sums.ce / sums.tokens));
  near("bits_per_byte", sums.ce / std::log(2) / static_cast<double>(bytes));
  near("kl", sums.kl / sums.tokens);
  near("top1_agreement", sums.agreement / sums.tokens);
  near("sum_min", sums.sum_min / sums.tokens);
}

TEST(EvalText, EveryTokenIsScoredOnceFromItsOwnWindow) {
  const RunFolder folder("eval_text");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 6 --out run").code, 0);
  ASSERT_EQ(folder.limbeck("train tiny.textproto --set model.moe.num_experts=0 --steps 2 --out teacher").code, 0);
  const std::vector<std::string> texts = {"a still that drips into a large glass, and what was small keeps",
                                          "the spirit: \xc3\xa9\xc3\xa9\xc3\xa9", "x"};
  folder.write("a.txt", texts[0]);
  write_gzip(folder.path() / "b.jsonl.gz",
             json({{"text", texts[1]}}).dump() + "\n" + json({{"text", texts[2]}}).dump() + "\n");
  const std::string eval = fmt::format(
      "eval run --text a.txt b.jsonl.gz --teacher teacher --window {} --stride {} --json --quiet", window, stride);
  const Outcome alone = folder.limbeck(eval);
  ASSERT_EQ(alone.code, 0) << alone.output;
  const json result = json::parse(alone.output);
  EXPECT_EQ(result["step"], 6);
  EXPECT_EQ(result["window"], window);
  EXPECT_EQ(result["stride"], stride);
  const WrittenOut model = read_model(folder, "run"), teacher = read_model(folder, "teacher");
  Figures all;
  std::int64_t bytes = 0;
  ASSERT_EQ(result["documents"].size(), 3U);
  EXPECT_EQ(result["documents"][0]["name"], "a.txt");
  EXPECT_EQ(result["documents"][2]["name"], "b.jsonl.gz:2");
  for (std::size_t d = 0; d < texts.size(); ++d) {
    const Figures f = figures_of(texts[d], model, teacher);
    expect_figures(result["documents"][d], f, static_cast<std::int64_t>(texts[d].size()));
    EXPECT_EQ(result["documents"][d]["in_training_text"], false);
    all.tokens += f.tokens;
    all.ce += f.ce;
    all.kl += f.kl;
    all.agreement += f.agreement;
    all.sum_min += f.sum_min;
    bytes += static_cast<std::int64_t>(texts[d].size());
  }
  expect_figures(result["all"], all, bytes);
  for (const int ranks : {2, 3}) EXPECT_EQ(folder.limbeck(eval, ranks).output, alone.output) << ranks;

  const Outcome table = folder.limbeck("eval run --text a.txt b.jsonl.gz --quiet --threads 1");
  EXPECT_THAT(table.output, HasSubstr("3 documents, windows of 48 tokens, stride 24"));  // the run's sequences
  EXPECT_EQ(table.lines_with("in all").size(), 1U) << table.output;
  EXPECT_THAT(table.output, Not(HasSubstr("KL")));
}

TEST(EvalText, EveryKindOfModelAndOfTextGivesTheSame) {
  const RunFolder folder("eval_models");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --set model.moe.num_experts=0 --steps 4 --out run").code, 0);
  ASSERT_EQ(folder.limbeck("convert run hf").code, 0);
  ASSERT_EQ(folder.limbeck("convert run model.gguf --dtype float32").code, 0);
  ASSERT_EQ(folder.limbeck("tokenize text/0.txt text/1.txt --tokenizer bytes --out tokens").code, 0);
  const auto figures = [&](const std::string& model_and_text) {
    const Outcome outcome = folder.limbeck("eval " + model_and_text + " --window 32 --json --quiet");
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    return json::parse(outcome.output)["all"];
  };
  const json expected = figures("run --text text/0.txt text/1.txt");
  EXPECT_GT(expected["bits_per_byte"], 1);
  for (const char* other : {"run/checkpoints/step_4 --text text/0.txt text/1.txt", "hf --text text/0.txt text/1.txt",
                            "model.gguf --text text/0.txt text/1.txt", "run --tokens tokens", "hf --tokens tokens.bin",
                            "hf --tokenizer bytes --text text/0.txt text/1.txt"}) {
    const json actual = figures(other);
    EXPECT_EQ(actual["tokens"], expected["tokens"]) << other;
    EXPECT_EQ(actual["bytes"], expected["bytes"]) << other;
    EXPECT_NEAR(actual["ce"].get<double>(), expected["ce"].get<double>(), 1e-5) << other;
  }
}

TEST(EvalText, DocumentsOfTheTrainingTextAreSaid) {
  const RunFolder folder("eval_training_text");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  std::filesystem::create_directory(folder.path() / "mine");
  folder.write("mine/new.txt", "a text of its own");
  std::filesystem::remove_all(folder.path() / ".cache");  // what was trained on is known without the text's tokens
  std::filesystem::rename(folder.path() / "text", folder.path() / "moved");
  const Outcome outcome = folder.limbeck("eval run/checkpoints/step_1/ --text moved mine --json");
  ASSERT_EQ(outcome.code, 0) << outcome.output;
  const auto warnings = outcome.lines_with("in the training text: ");
  ASSERT_EQ(warnings.size(), 1U) << outcome.output;
  EXPECT_THAT(warnings[0], HasSubstr("5 of 7 documents are in the training text"));  // one of six is held out
  const json result = json::parse(outcome.output.substr(outcome.output.find('{')));
  EXPECT_EQ(result["in_training_text"], 5);
  int said = 0;
  for (const json& document : result["documents"]) said += document["in_training_text"].get<bool>() ? 1 : 0;
  EXPECT_EQ(said, 5);
  EXPECT_EQ(result["documents"][6]["name"], "mine/new.txt");
  EXPECT_EQ(result["documents"][6]["in_training_text"], false);
  const Outcome other = folder.limbeck("eval run --text mine");
  EXPECT_THAT(other.output, Not(HasSubstr("training text")));
}

TEST(EvalText, WhatIsWrongIsOneLine) {
  const RunFolder folder("eval_wrong");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  const auto error = [&](const std::string& arguments, int code) {
    const Outcome outcome = folder.limbeck("eval " + arguments);
    EXPECT_EQ(outcome.code, code) << outcome.output;
    const auto lines = outcome.lines_with("limbeck: error: ");
    EXPECT_EQ(lines.size(), 1U) << outcome.output;
    return lines.empty() ? "" : lines[0];
  };
  folder.write("empty.txt", "");
  EXPECT_THAT(error("run --text gone", 1), HasSubstr("gone: is not there"));
  EXPECT_THAT(error("run --text empty.txt", 1), HasSubstr("empty.txt: there is no text"));
  EXPECT_THAT(error("run --text text --tokens a", 2), HasSubstr("--text and --tokens are both given"));
  EXPECT_THAT(error("run --text text --window 129", 2), HasSubstr("--window is 129, expected at most 128"));
  EXPECT_THAT(error("run --text text --window 8 --stride 9", 2), HasSubstr("--stride is 9, expected at most"));
  EXPECT_THAT(error("run --window 8", 2), HasSubstr("--window goes with --text"));
  EXPECT_THAT(error("run --text text --set data.seed=1", 2), HasSubstr("--set and MORE are of a run's config"));
  EXPECT_THAT(error("run --logits x.h5", 2), HasSubstr("--tokens"));
  folder.write("ids.txt", "104");
  EXPECT_THAT(error("run --tokens ids.txt --logits x.h5 --json", 2), HasSubstr("--json is of figures"));
  EXPECT_THAT(error("run --tokens ids.txt", 1), HasSubstr("ids.txt: has one token"));
}

}  // namespace
}  // namespace limbeck::testing
