// What a run is measured on besides its steps, against what its teacher's cache has of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "launch/run/run_config.h"
#include "launch/run/run_evaluations.h"
#include "tests/support/teacher_cache_runs.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {
namespace {

using ::testing::HasSubstr;

class CachedEvaluations : public TeacherCacheRuns {
 protected:
  /// sets.textproto: the job with an evaluation set of such documents, the first of which is in the text, and of one
  /// that takes several windows.
  void write_sets() const {
    std::string lines = folder_.read("lines.jsonl"), longer;
    lines.resize(lines.find('\n') + 1);
    for (int i = 0; i < 61; ++i) longer.push_back(static_cast<char>('a' + i * i % 17));
    for (const std::string& text : {std::string("kbdfhac"), std::string("aaqbbnc"), std::string("ponmlkj"), longer})
      lines += "{\"text\": \"" + text + "\"}\n";
    folder_.write("sets.jsonl", lines);
    folder_.write("sets.textproto", std::string(distill_job) + R"(
evaluation { set { name: "web" text: "sets.jsonl" } }
generation { prompt: "abcdef" max_tokens: 6 }
)");
  }
  nlohmann::json record(const std::string& run, const char* file) const {
    return nlohmann::json::parse(folder_.read(run + "/" + file));
  }
};

/// The same figures by the same names; `tolerance` is relative to what is above 1.
void expect_near(const nlohmann::json& found, const nlohmann::json& expected, double tolerance,
                 const std::string& what) {
  for (const auto& [name, value] : expected.items()) {
    ASSERT_TRUE(found.contains(name)) << what << ": " << name;
    if (value.is_object())
      expect_near(found.at(name), value, tolerance, what + ": " + name);
    else if (value.is_number_float())
      EXPECT_NEAR(found.at(name).get<double>(), value.get<double>(), tolerance * std::max(1.0, value.get<double>()))
          << what << ": " << name;
    else
      EXPECT_EQ(found.at(name), value) << what << ": " << name;
  }
  EXPECT_EQ(found.size(), expected.size()) << what;
}

// The held-out sample and an evaluation set, against what a cache has of all tokens: the figures of the teacher itself,
// which is not loaded and so does not go on with the prompt.
TEST_F(CachedEvaluations, AreThoseOfTheTeacherWhereTheCacheHasAllTokens) {
  write_sets();
  expect_done("cache-teacher sets.textproto --out full --set teacher.cache_kind=FULL --set teacher.cache_exact=true",
              2);
  expect_done("cache-teacher sets.textproto --out all --set teacher.cache_tokens=300 --set teacher.cache_exact=true");
  struct Case {
    const char* cache;
    std::string sets;
    int ranks;
  };
  const std::vector<Case> cases = {{"full", "", 1},
                                   {"full", "--set parallel.layout=tp2", 2},
                                   {"full", "--set parallel.layout=cp2", 2},
                                   {"all", "--set objective.temperature=2", 1},
                                   {"all", "--set parallel.layout=tp2", 2},
                                   {"all", "--set parallel.layout=ep2", 2},
                                   {"all", "--set parallel.layout=cp2", 2}};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const auto& [cache, sets, ranks] = cases[i];
    const std::string run = "run" + std::to_string(i), command = "distill sets.textproto " + sets + " --out " + run;
    expect_done(command + "_online", ranks);
    expect_done(command + "_cached --set teacher.cache=" + cache, ranks);
    const nlohmann::json online = record(run + "_online", "start.json"), cached = record(run + "_cached", "start.json");
    EXPECT_TRUE(online.contains("teacher_text"));
    EXPECT_FALSE(cached.contains("teacher_text"));
    EXPECT_EQ(cached.at("teacher"), online.at("teacher"));
    EXPECT_EQ(cached.at("teacher_parameters"), online.at("teacher_parameters"));
    for (const char* measured : {"student", "unigram", "sets"}) {
      ASSERT_TRUE(online.contains(measured));
      expect_near(cached.at(measured), online.at(measured), 1e-5, sets + ": start: " + measured);
    }
    EXPECT_TRUE(online.at("sets").at("web").contains("teacher_ece"));
    const nlohmann::json after = record(run + "_online", "end.json"), of_cache = record(run + "_cached", "end.json");
    for (const char* measured : {"student", "sets"})
      expect_near(of_cache.at(measured), after.at(measured), 1e-4, sets + ": end: " + measured);
  }
}

// Of four tokens figures are bounds by names of their own, of draws an estimate; a run with neither the teacher's files
// nor its name has them, goes on with them and keeps its best by one.
TEST_F(CachedEvaluations, ACacheAloneMeasuresWhatItCan) {
  write_sets();
  expect_done("cache-teacher sets.textproto --out cache --set teacher.cache_tokens=4");
  expect_done(
      "cache-teacher sets.textproto --out draws --set teacher.cache_kind=SAMPLED --set teacher.cache_temperatures=1");
  expect_done("distill sets.textproto --out online --set train.eval_every_steps=2");
  std::filesystem::rename(folder_.path() / "teacher", folder_.path() / "gone");
  const std::string alone =
      "distill sets.textproto --set teacher.source= --set data.tokenizer=bytes --set train.eval_every_steps=2 ";
  const std::string of_cache = alone + "--set teacher.cache=cache --set train.keep_best=web.kl_lower_bound --out ";
  expect_done(of_cache + "alone");
  const nlohmann::json whole = record("online", "start.json"), start = record("alone", "start.json"),
                       end = record("alone", "end.json");
  for (const char* set : {"student", "unigram", "web"}) {
    const bool is_set = std::string(set) == "web";
    const nlohmann::json &expected = is_set ? whole.at("sets").at("web") : whole.at(set),
                         &found = is_set ? start.at("sets").at("web") : start.at(set);
    EXPECT_FALSE(found.contains("kl") || found.contains("sum_min") || found.contains("kl_median")) << found;
    EXPECT_LT(found.at("kl_lower_bound").get<double>(), expected.at("kl").get<double>());
    EXPECT_GT(found.at("kl_lower_bound").get<double>(), 0);
    EXPECT_LT(found.at("kl_lower_bound_p90").get<double>(), expected.at("kl_p90").get<double>());
    EXPECT_GT(found.at("sum_min_upper_bound").get<double>(), expected.at("sum_min").get<double>());
    EXPECT_EQ(found.at("top1_agreement"), expected.at("top1_agreement"));
    EXPECT_NEAR(found.at("teacher_ce").get<double>(), expected.at("teacher_ce").get<double>(), 1e-3);
    EXPECT_NEAR(found.at("ce").get<double>(), expected.at("ce").get<double>(), 1e-5);
  }
  EXPECT_EQ(end.at("best").at("figure"), "web.kl_lower_bound");
  EXPECT_EQ(folder_.metrics("alone")[1]["eval_sets"]["web"].size(), end.at("sets").at("web").size());
  const nlohmann::json again = nlohmann::json::parse(folder_.limbeck("eval alone --json --quiet").output);
  expect_near(again.at("held_out"), end.at("student"), 1e-6, "held out");
  expect_near(again.at("sets"), end.at("sets"), 1e-6, "sets");
  expect_done(of_cache + "stopped --steps 2");
  expect_done("distill stopped --resume");
  EXPECT_EQ(folder_.metrics("stopped"), folder_.metrics("alone"));
  EXPECT_EQ(record("stopped", "end.json").at("sets"), end.at("sets"));

  expect_done(alone + "--set teacher.cache=draws --out drawn");
  const nlohmann::json drawn = record("drawn", "start.json").at("sets").at("web");
  EXPECT_NEAR(drawn.at("kl_estimate").get<double>(), whole.at("sets").at("web")["kl"].get<double>(),
              0.3 * whole.at("sets").at("web")["kl"].get<double>());
  EXPECT_EQ(drawn.at("top1_agreement"), whole.at("sets").at("web")["top1_agreement"]);
  for (const char* name : {"kl", "kl_median", "kl_lower_bound", "sum_min", "sum_min_upper_bound", "teacher_ece"})
    EXPECT_FALSE(drawn.contains(name)) << name;
}

// A cache that lacks a set says so in a line; that set alone is measured against the teacher, if there is one.
TEST_F(CachedEvaluations, ASetThatACacheLacksIsSaid) {
  write_sets();
  expect_done("cache-teacher job.textproto --out cache --set teacher.cache_tokens=4");
  expect_done("distill sets.textproto --out online");
  const std::string cached = "distill sets.textproto --set teacher.cache=cache --out ";
  const std::string line = "evaluation set web: 4 of 5 documents not in teacher.cache, cache, where";
  EXPECT_EQ(expect_done(cached + "both").lines_with(line).size(), 1U);
  const nlohmann::json online = record("online", "start.json"), both = record("both", "start.json");
  expect_near(both.at("sets"), online.at("sets"), 1e-9, "a set against the teacher");
  EXPECT_TRUE(both.at("student").contains("kl_lower_bound"));
  EXPECT_TRUE(record("both", "end.json").at("sets").at("web").contains("kl"));
  const std::string without = " --set teacher.source= --set data.tokenizer=bytes";
  const Outcome alone = expect_done(cached + "alone" + without);
  ASSERT_EQ(alone.lines_with(line).size(), 1U);
  EXPECT_THAT(alone.lines_with(line).front(), HasSubstr("without figures against a teacher"));
  const nlohmann::json start = record("alone", "start.json");
  EXPECT_FALSE(start.at("sets").at("web").contains("teacher_ce"));
  EXPECT_EQ(start.at("student"), both.at("student"));
  EXPECT_THAT(folder_
                  .limbeck(cached + "refused" + without +
                           " --set train.eval_every_steps=2 --set train.keep_best=web.sum_min_upper_bound")
                  .output,
              HasSubstr("expected a figure without a teacher: there is none"));

  EXPECT_THAT(folder_
                  .limbeck(cached + "refused" + without +
                           " --set train.eval_every_steps=2 --set train.keep_best=web.top1_agreement")
                  .output,
              HasSubstr("train.keep_best is \"web.top1_agreement\", expected a figure without a teacher"));
  const char* other_window = "its teacher read windows of 24 tokens, data.sequence_length is 16";
  EXPECT_EQ(expect_done(cached + "short --set data.sequence_length=16" + without).lines_with(other_window).size(), 1U);
  EXPECT_EQ(alone.lines_with("its teacher read windows").size(), 0U);

  EXPECT_THAT(expect_done("cache-teacher sets.textproto --out cache --set teacher.cache_tokens=4").output,
              HasSubstr("82 positions of the text and the evaluation sets are missing in cache"));
  EXPECT_EQ(expect_done(cached + "added" + without).lines_with("not in teacher.cache").size(), 0U);
  EXPECT_TRUE(record("added", "start.json").at("sets").at("web").contains("kl_lower_bound"));
}

// Ranks that see other states of a folder do not wait for each other.
TEST_F(CachedEvaluations, RanksSeeTheSameCache) {
  write_sets();
  expect_done("cache-teacher job.textproto --out without --set teacher.cache_tokens=4");
  expect_done("cache-teacher sets.textproto --out with --set teacher.cache_tokens=4");
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(folder_.path());
  const std::string error = error_of([] {
    run_ranks(2, [](RankWorld& world) {
      const char* cache = world.rank == 0 ? "teacher.cache=with" : "teacher.cache=without";
      const launch::RunConfig config =
          launch::load_given_config({"sets.textproto"}, {cache, "teacher.source=", "data.tokenizer=bytes"});
      const launch::Log log = launch::make_log(1);
      launch::Rank rank(world.comm, "dp2", 1);
      launch::Session session(rank, config, log);
      session.open_cache(log);
      launch::RunEvaluations evaluations(session, log);
    });
  });
  std::filesystem::current_path(before);
  EXPECT_THAT(error,
              HasSubstr("number of documents of evaluation set web that teacher.cache lacks is 4 on rank 1 and 0 "
                        "on rank 0"));
}

}  // namespace
}  // namespace limbeck::testing
