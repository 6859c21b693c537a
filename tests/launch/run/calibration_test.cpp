#include "launch/run/calibration.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/support/golden_lines.h"

namespace limbeck::launch {
namespace {

using nlohmann::json;

TEST(Calibration, ErrorsAreNumPys) {
  const json golden = json::parse(data::read_document(testing::golden_path("evaluation/figures.json")));
  for (const json& expected : golden["calibrations"]) {
    Calibration whole, first, second;
    const std::size_t n = expected["confidence"].size();
    for (std::size_t i = 0; i < n; ++i) {
      const double confidence = expected["confidence"][i];
      const bool is_right = expected["right"][i] == 1;
      whole.add(confidence, is_right);
      (i < n / 3 ? first : second).add(confidence, is_right);
    }
    ASSERT_TRUE(whole.error());
    EXPECT_NEAR(*whole.error(), expected["error"].get<double>(), 1e-14);
    first.add(second);
    EXPECT_NEAR(*first.error(), expected["error"].get<double>(), 1e-14);
  }
}

TEST(Calibration, WithoutAPredictionThereIsNone) { EXPECT_EQ(Calibration().error(), std::nullopt); }

TEST(Calibration, ABorderIsOfTheBinBelow) {
  // 1/5 ends the third of fifteen bins: together with 0.19 the right one makes up for the wrong one; 0.21 is by itself.
  Calibration same, another;
  same.add(3.0 / 15, true);
  same.add(0.19, false);
  EXPECT_NEAR(*same.error(), (1 - 0.2 - 0.19) / 2, 1e-15);
  another.add(0.21, true);
  another.add(0.19, false);
  EXPECT_NEAR(*another.error(), (0.79 + 0.19) / 2, 1e-15);
}

}  // namespace
}  // namespace limbeck::launch
