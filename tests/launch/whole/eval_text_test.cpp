// `limbeck eval MODEL --text`, against each token's loss from its own context, computed by a model written out.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>

#include "launch/run/joint_counts.h"
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

std::vector<std::int32_t> ids_of(const std::string& text) {
  std::vector<std::int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  ids.push_back(256);
  return ids;
}

/// What was kept of the tokens of documents, and the sums over them.
struct Measured {
  Figures sums;
  std::vector<double> kl = {};
  Tops tops = {}, teacher_tops = {};

  void add(const Measured& other) {
    sums.tokens += other.sums.tokens;
    sums.ce += other.sums.ce;
    sums.kl += other.sums.kl;
    sums.agreement += other.sums.agreement;
    sums.sum_min += other.sums.sum_min;
    kl.insert(kl.end(), other.kl.begin(), other.kl.end());
    tops.insert(tops.end(), other.tops.begin(), other.tops.end());
    teacher_tops.insert(teacher_tops.end(), other.teacher_tops.begin(), other.teacher_tops.end());
  }
};

/// Of a document, each token from those before it in the first window that comes to it.
Measured figures_of(const std::string& text, const WrittenOut& model, const WrittenOut& teacher) {
  const std::vector<std::int32_t> ids = ids_of(text);
  Measured measured;
  Figures& f = measured.sums;
  for (std::int64_t t = 1; t < static_cast<std::int64_t>(ids.size()); ++t) {
    std::int64_t first = 0;
    while (first + window < t) first += stride;
    const std::vector<std::int32_t> context(ids.begin() + first, ids.begin() + t);
    const std::vector<double> q = log_softmax(model.next_logits(context)),
                              p = log_softmax(teacher.next_logits(context));
    f.tokens += 1;
    f.ce -= q[ids[t]];
    double kl = 0;
    for (std::size_t v = 0; v < q.size(); ++v) {
      kl += std::exp(p[v]) * (p[v] - q[v]);
      f.sum_min += std::min(std::exp(p[v]), std::exp(q[v]));
    }
    f.kl += kl;
    measured.kl.push_back(kl);
    const auto most_q = std::max_element(q.begin(), q.end()), most_p = std::max_element(p.begin(), p.end());
    measured.tops.emplace_back(std::exp(*most_q), most_q - q.begin() == ids[t]);
    measured.teacher_tops.emplace_back(std::exp(*most_p), most_p - p.begin() == ids[t]);
    f.agreement += most_q - q.begin() == most_p - p.begin();
  }
  return measured;
}

void expect_figures(const json& actual, Measured measured, std::int64_t bytes) {
  const Figures& sums = measured.sums;
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
  std::sort(measured.kl.begin(), measured.kl.end());
  const auto at = [&](std::size_t percent) { return measured.kl[percent * (measured.kl.size() - 1) / 100]; };
  near("kl_median", at(50));
  near("kl_p90", at(90));
  near("kl_p99", at(99));
  near("ece", calibration_error(measured.tops));
  near("teacher_ece", calibration_error(measured.teacher_tops));
}

/// Which experts the token takes that is read last.
std::vector<std::vector<double>> experts_of_last(const WrittenOut& model, const std::vector<std::int32_t>& context) {
  const auto load = [&](std::size_t count) {
    data::TokenBatch samples;
    samples.num_sequences = 1;
    samples.sequence_length = static_cast<std::int64_t>(count);
    samples.tokens.assign(context.begin(), context.begin() + samples.sequence_length);
    samples.targets.assign(count, -1);
    samples.positions.resize(count);
    std::iota(samples.positions.begin(), samples.positions.end(), 0);
    samples.documents.assign(count, 0);
    core::Tape off(core::Tape::Mode::Off);
    return model.run(off, samples).load;
  };
  std::vector<std::vector<double>> last = load(context.size());
  if (context.size() == 1) return last;
  const std::vector<std::vector<double>> before = load(context.size() - 1);
  for (std::size_t i = 0; i < last.size(); ++i)
    for (std::size_t e = 0; e < last[i].size(); ++e) last[i][e] -= before[i][e];
  return last;
}

/// Of what each token of the texts took, in the first window that has it to predict from, against "routing".
void expect_routing(const json& actual, const std::vector<std::string>& texts, const WrittenOut& model) {
  std::vector<std::map<std::int32_t, std::vector<double>>> by_token;  // by layer with experts
  std::vector<std::vector<std::vector<double>>> by_document;
  for (std::size_t d = 0; d < texts.size(); ++d) {
    const std::vector<std::int32_t> ids = ids_of(texts[d]);
    for (std::int64_t t = 1; t < static_cast<std::int64_t>(ids.size()); ++t) {
      std::int64_t first = 0;
      while (first + window < t) first += stride;
      const auto taken = experts_of_last(model, {ids.begin() + first, ids.begin() + t});
      by_token.resize(taken.size());
      by_document.resize(taken.size());
      for (std::size_t i = 0; i < taken.size(); ++i) {
        by_document[i].resize(texts.size(), std::vector<double>(taken[i].size()));
        std::vector<double>& of_token = by_token[i][ids[t - 1]];
        of_token.resize(taken[i].size());
        for (std::size_t e = 0; e < taken[i].size(); ++e) {
          of_token[e] += taken[i][e];
          by_document[i][d][e] += taken[i][e];
        }
      }
    }
  }
  const auto specialisation = [](const std::vector<std::vector<double>>& table) {
    launch::JointSums sums;
    sums.columns.resize(table[0].size());
    for (const std::vector<double>& row : table) {
      sums.rows.push_back(std::accumulate(row.begin(), row.end(), 0.0));
      for (std::size_t e = 0; e < row.size(); ++e) {
        sums.columns[e] += row[e];
        if (row[e] > 0) sums.n_log_n += row[e] * std::log(row[e]);
      }
    }
    return std::pair(sums.specialisation().value(), sums.columns);
  };
  ASSERT_EQ(actual["layers"].size(), by_token.size());
  double mean = 0;
  for (std::size_t i = 0; i < by_token.size(); ++i) {
    std::vector<std::vector<double>> rows;
    for (const auto& [_, row] : by_token[i]) rows.push_back(row);
    const json& layer = actual["layers"][i];
    const auto [of_tokens, columns] = specialisation(rows);
    EXPECT_EQ(layer["assignments"].get<std::vector<double>>(), columns);
    EXPECT_NEAR(layer["token_specialisation"].get<double>(), of_tokens, 1e-9);
    EXPECT_NEAR(layer["document_specialisation"].get<double>(), specialisation(by_document[i]).first, 1e-9);
    mean += of_tokens / static_cast<double>(by_token.size());
  }
  EXPECT_NEAR(actual["token_specialisation"].get<double>(), mean, 1e-9);
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
  Measured all;
  double document_ce = 0;
  std::int64_t bytes = 0;
  ASSERT_EQ(result["documents"].size(), 3U);
  EXPECT_EQ(result["documents"][0]["name"], "a.txt");
  EXPECT_EQ(result["documents"][2]["name"], "b.jsonl.gz:2");
  for (std::size_t d = 0; d < texts.size(); ++d) {
    const Measured f = figures_of(texts[d], model, teacher);
    expect_figures(result["documents"][d], f, static_cast<std::int64_t>(texts[d].size()));
    EXPECT_EQ(result["documents"][d]["in_training_text"], false);
    all.add(f);
    document_ce += f.sums.ce / f.sums.tokens / static_cast<double>(texts.size());
    bytes += static_cast<std::int64_t>(texts[d].size());
  }
  expect_figures(result["all"], all, bytes);
  EXPECT_NEAR(result["all"]["document_perplexity"].get<double>(), std::exp(document_ce), 1e-4 * std::exp(document_ce));
  const double nats_a_byte = all.sums.ce / static_cast<double>(bytes);
  EXPECT_NEAR(result["all"]["byte_perplexity"].get<double>(), std::exp(nats_a_byte), 1e-4 * std::exp(nats_a_byte));
  expect_routing(result["routing"], texts, model);
  for (const int ranks : {2, 3}) EXPECT_EQ(folder.limbeck(eval, ranks).output, alone.output) << ranks;

  const Outcome table = folder.limbeck("eval run --text a.txt b.jsonl.gz --quiet --threads 1");
  EXPECT_THAT(table.output, HasSubstr("3 documents, windows of 48 tokens, stride 24"));  // the run's sequences
  EXPECT_EQ(table.lines_with("in all").size(), 1U) << table.output;
  EXPECT_THAT(table.output, Not(HasSubstr("KL")));
  EXPECT_EQ(table.lines_with("perplexity        by token").size(), 1U);
  EXPECT_EQ(table.lines_with("calibration error ").size(), 1U);
  EXPECT_EQ(table.lines_with("experts: load, specialisation").size(), 1U);
  EXPECT_EQ(table.lines_with("layer ").size(), result["routing"]["layers"].size());
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
