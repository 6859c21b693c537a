// Steps of golden models under layouts of ranks as threads: what tests of objectives share.
//
//     INSTANTIATE_TEST_SUITE_P(Threads, MyLayouts, ::testing::Values(StepLayout{"dp1", 1}, StepLayout{"tp2", 2, 2,
//     true}),
//                              name_of_layout);
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "launch/run/batch.h"
#include "tests/support/golden_model.h"

namespace limbeck::testing {

struct StepLayout {
  const char* name;
  int ranks;
  std::int64_t micro_batches = 1;
  bool sequence_parallel = false;
  bool recompute = false;
};

inline std::string name_of_layout(const ::testing::TestParamInfo<StepLayout>& info) {
  const StepLayout& layout = info.param;
  return fmt::format("{}_in_{}{}{}", layout.name, layout.micro_batches, layout.sequence_parallel ? "_sequence" : "",
                     layout.recompute ? "_recompute" : "");
}

/// Each of the golden sequences is a pair of responses.
inline launch::StepText pairs_of(const GoldenModel& golden) {
  launch::StepText text(golden.samples());
  text.num_pairs = text.num_sequences;
  return text;
}

}  // namespace limbeck::testing
