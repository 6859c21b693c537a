// A trained teacher and jobs that distil it, for tests of its cache.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "tests/support/run_limbeck.h"

namespace limbeck::testing {

inline constexpr const char* teacher_job = R"(
model { vocabulary: 264 width: 16 num_layers: 2 num_heads: 2 mlp_width: 20 max_positions: 64 }
data { text: "lines.jsonl" tokenizer: "bytes" sequence_length: 24 held_out_fraction: 0.3 }
optimizer { rate: 2e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 12 threads: 1 }
)";

inline constexpr const char* distill_job = R"(
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
  /// RUN_cached, of all tokens, beside RUN_online, which were given `sets`.
  void expect_as_online(const std::string& run, const std::string& sets) const {
    const auto online = folder_.metrics(run + "_online"), cached = folder_.metrics(run + "_cached");
    ASSERT_EQ(online.size(), 4U);
    ASSERT_EQ(cached.size(), 4U);
    for (std::size_t step = 0; step < 4; ++step)
      for (const char* figure : {"loss", "kl", "teacher_ce", "ce", "top1_agreement"})
        EXPECT_NEAR(cached[step][figure].get<double>(), online[step][figure].get<double>(), 1e-5)
            << sets << ", step " << step << ", " << figure;
    EXPECT_EQ(cached[3]["kept_mass"], 1);
    EXPECT_FALSE(online[3].contains("kept_mass"));
  }
  RunFolder folder_;
};

}  // namespace limbeck::testing
