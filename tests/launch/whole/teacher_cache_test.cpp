// `limbeck cache-teacher`, and runs that learn from what it wrote.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

using ::testing::HasSubstr;

constexpr const char* teacher_job = R"(
model { vocabulary: 264 width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64 }
data { text: "lines.jsonl" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.3 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 12 threads: 1 }
)";

constexpr const char* distill_job = R"(
teacher { source: "teacher" cache_temperatures: 1 cache_temperatures: 2 }
model {
  vocabulary: 264 width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64
  moe { num_experts: 4 experts_per_token: 2 expert_width: 12 }
}
data { text: "lines.jsonl" sequence_length: 24 held_out_fraction: 0.3 seed: 5 }
objective { cross_entropy_weight: 0.3 }
optimizer { rate: 5e-3 eps: 1e-5 }
batch { sequences_per_step: 4 }
train { steps: 4 seed: 11 eval_tokens: 96 threads: 1 }
)";

/// Documents of seven bytes and an end, so that sequences of whole multiples of eight tokens cut none: then a teacher
/// beside the student sees what one sees that reads whole documents.
class TeacherCacheRuns : public ::testing::Test {
 protected:
  TeacherCacheRuns() : folder_("teacher_cache") {
    std::string lines;
    for (int d = 0; d < 60; ++d) {
      std::string text;
      for (int i = 0; i < 7; ++i) text.push_back(static_cast<char>('a' + (d * 5 + i * i * (1 + d % 3)) % 17));
      lines += "{\"text\": \"" + text + "\"}\n";
    }
    folder_.write("lines.jsonl", lines);
    folder_.write("teacher.textproto", teacher_job);
    folder_.write("job.textproto", distill_job);
    expect_done("train teacher.textproto --out teacher");
  }
  Outcome expect_done(const std::string& arguments, int ranks = 1) const {
    Outcome outcome = folder_.limbeck(arguments, ranks);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    return outcome;
  }
  RunFolder folder_;
};

// Written by two ranks, with all tokens kept and nothing rounded: what a run learns is what the teacher beside it would
// teach, whatever layout, batch, order and packing reads it.
TEST_F(TeacherCacheRuns, LearnWhatTheTeacherBesideThemWouldTeach) {
  expect_done("cache-teacher job.textproto --out cache --set teacher.cache_tokens=300 --set teacher.cache_exact=true",
              2);
  struct Case {
    std::string sets;
    int ranks;
  };
  const std::vector<Case> cases = {{"", 1},
                                   {"", 2},
                                   {"--set parallel.layout=ep2", 2},
                                   {"--set parallel.layout=tp2", 2},
                                   {"--set batch.micro_batches=2 --set batch.sequences_per_step=5", 1},
                                   {"--set data.seed=9 --set data.sequence_length=48", 2},
                                   {"--set objective.temperature=2 --set train.recompute=true", 1},
                                   {"--set data.sequence_length=8 --set objective.final_cross_entropy_weight=0", 1}};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const std::string run = "run" + std::to_string(i),
                      command = "distill job.textproto " + cases[i].sets + " --out " + run;
    expect_done(command + "_online", cases[i].ranks);
    expect_done(command + "_cached --set teacher.cache=cache", cases[i].ranks);
    const auto online = folder_.metrics(run + "_online"), cached = folder_.metrics(run + "_cached");
    ASSERT_EQ(online.size(), 4U);
    ASSERT_EQ(cached.size(), 4U);
    for (std::size_t step = 0; step < 4; ++step)
      for (const char* figure : {"loss", "kl", "teacher_ce", "ce", "top1_agreement"})
        EXPECT_NEAR(cached[step][figure].get<double>(), online[step][figure].get<double>(), 1e-5)
            << cases[i].sets << ", step " << step << ", " << figure;
    EXPECT_EQ(cached[3]["kept_mass"], 1);
    EXPECT_FALSE(online[3].contains("kept_mass"));
  }
}

TEST_F(TeacherCacheRuns, OfFewTokensGiveABoundAndSayHowMuchWasKept) {
  expect_done("cache-teacher job.textproto --out cache --set teacher.cache_tokens=4 --verify");
  expect_done(
      "cache-teacher job.textproto --out draws --set teacher.cache_kind=SAMPLED --set teacher.cache_temperatures=1");
  expect_done("distill job.textproto --out online");
  expect_done("distill job.textproto --out cached --set teacher.cache=cache");
  expect_done("distill job.textproto --out both_sides --set teacher.cache=cache --set objective.renormalised=true");
  expect_done("distill job.textproto --out drawn --set teacher.cache=draws");
  const auto online = folder_.metrics("online"), cached = folder_.metrics("cached"),
             both_sides = folder_.metrics("both_sides"), drawn = folder_.metrics("drawn");
  const double kl = online[0]["kl"];
  EXPECT_LT(cached[0]["kl"].get<double>(), kl);
  EXPECT_GT(cached[0]["kl"].get<double>(), 0);
  EXPECT_EQ(both_sides[0]["kl"], cached[0]["kl"]);
  EXPECT_LT(both_sides[0]["loss"].get<double>(), cached[0]["loss"].get<double>());
  EXPECT_NEAR(drawn[0]["kl"].get<double>(), kl, 0.3 * kl);
  EXPECT_NEAR(cached[0]["teacher_ce"].get<double>(), online[0]["teacher_ce"].get<double>(), 1e-3);
  EXPECT_GT(cached[0]["kept_mass"].get<double>(), 0.05);
  EXPECT_LT(cached[0]["kept_mass"].get<double>(), 1);
  EXPECT_THAT(folder_.read("cached/metrics.jsonl"), HasSubstr("\"cache_wait_s\""));
  // A run that stops and goes on reads the same.
  expect_done("distill job.textproto --out stopped --steps 2 --set teacher.cache=cache");
  expect_done("distill stopped --resume");
  EXPECT_EQ(folder_.metrics("stopped"), cached);
}

TEST_F(TeacherCacheRuns, WhatIsThereIsNotDoneAgainAndMoreIsAdded) {
  expect_done("cache-teacher job.textproto --out cache");
  const std::string manifest = folder_.read("cache/cache.json"), part = folder_.read("cache/part_00000.h5");
  EXPECT_THAT(expect_done("cache-teacher job.textproto --out cache").output,
              HasSubstr("0 positions of the text are missing"));
  EXPECT_EQ(folder_.read("cache/cache.json"), manifest);
  expect_done("cache-teacher job.textproto --out cache --set data.text=text", 2);
  EXPECT_EQ(folder_.read("cache/part_00000.h5"), part);
  expect_done("distill job.textproto --out run --set teacher.cache=cache --set data.text=text");
  expect_done("distill job.textproto --out run2 --set teacher.cache=cache");
}

TEST_F(TeacherCacheRuns, RefuseWhatIsOfSomethingElse) {
  expect_done("cache-teacher job.textproto --out cache");
  const auto error = [&](const std::string& command, int code) {
    const Outcome outcome = folder_.limbeck(command);
    EXPECT_EQ(outcome.code, code) << outcome.output;
    return outcome.output;
  };
  const std::string distill = "distill job.textproto --out refused --set teacher.cache=cache ";
  EXPECT_THAT(error(distill + "--set objective.temperature=3", 2),
              HasSubstr("objective.temperature is 3, expected one that"));
  EXPECT_THAT(error(distill + "--set data.text=text", 2), HasSubstr("is of another text"));
  EXPECT_THAT(error(distill + "--set objective.divergence=REVERSE_KL", 2), HasSubstr("expected FORWARD_KL"));
  EXPECT_THAT(error("distill job.textproto --out refused --set objective.renormalised=true", 2),
              HasSubstr("without teacher.cache"));
  EXPECT_THAT(error("cache-teacher job.textproto --out cache --set teacher.cache_tokens=3", 2),
              HasSubstr("keeps something else"));
  EXPECT_THAT(error("cache-teacher job.textproto", 2), HasSubstr("expected --out DIR or teacher.cache"));
  EXPECT_THAT(error("cache-teacher job.textproto --out text", 2),
              HasSubstr("expected a teacher cache or an empty folder"));
  expect_done("train teacher.textproto --out other --set train.seed=77");
  EXPECT_THAT(error(distill + "--set teacher.source=other", 2), HasSubstr("is of another teacher"));
}

}  // namespace
}  // namespace limbeck::testing
