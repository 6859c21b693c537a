#include "launch/run/run_objective.h"

#include <gtest/gtest.h>

#include "launch/config/config.h"

namespace limbeck::launch {
namespace {

TEST(RunObjective, AMixThatIsGivenIsTaken) {
  const auto mix_of = [](const std::string& fields, bool is_sampled) {
    const std::string section =
        is_sampled ? "objective { sampled_text { " + fields + " } }" : "objective { " + fields + " }";
    return distillation_options(parse_config(section, "c"), 1, is_sampled).mix;
  };
  for (const bool is_sampled : {false, true}) {
    EXPECT_EQ(mix_of("divergence: JENSEN_SHANNON", is_sampled), 0.5);
    EXPECT_EQ(mix_of("divergence: SKEW_KL", is_sampled), 0.1);
    for (const double mix : {0.0, 0.3, 1.0})
      EXPECT_EQ(mix_of("divergence: JENSEN_SHANNON mix: " + std::to_string(mix), is_sampled), mix);
  }
}

}  // namespace
}  // namespace limbeck::launch
