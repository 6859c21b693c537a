#include "optim/schedule.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "core/error.h"

namespace limbeck::optim {
namespace {

TEST(Schedule, WarmUpIsLinearFromZeroThenCosine) {
  const Schedule s{.peak_rate = 8, .warmup_steps = 4, .num_steps = 16, .final_fraction = 0.25};
  EXPECT_DOUBLE_EQ(s.rate(1), 2);
  EXPECT_DOUBLE_EQ(s.rate(3), 6);
  EXPECT_DOUBLE_EQ(s.rate(4), 8);
  EXPECT_DOUBLE_EQ(s.rate(7), 2 + 6 * (1 + std::sqrt(0.5)) / 2);  // a quarter of the way: cos 45 degrees
  EXPECT_DOUBLE_EQ(s.rate(8), 2 + 6 * 0.75);                      // a third: cos 60 degrees
  EXPECT_DOUBLE_EQ(s.rate(10), 5);                                // half
  EXPECT_DOUBLE_EQ(s.rate(12), 2 + 6 * 0.25);
  EXPECT_DOUBLE_EQ(s.rate(16), 2);
  EXPECT_DOUBLE_EQ(s.rate(1000), 2);
}

TEST(Schedule, Constant) {
  const Schedule s{.kind = Schedule::Kind::Constant, .peak_rate = 8, .warmup_steps = 2, .num_steps = 3};
  EXPECT_DOUBLE_EQ(s.rate(1), 4);
  for (const int step : {2, 3, 4, 100}) EXPECT_DOUBLE_EQ(s.rate(step), 8);
}

TEST(Schedule, ShortRuns) {
  const Schedule none{.peak_rate = 8, .warmup_steps = 0, .num_steps = 2, .final_fraction = 0};
  EXPECT_DOUBLE_EQ(none.rate(1), 4);
  EXPECT_DOUBLE_EQ(none.rate(2), 0);
  const Schedule one{.peak_rate = 8, .warmup_steps = 0, .num_steps = 1, .final_fraction = 0.5};
  EXPECT_DOUBLE_EQ(one.rate(1), 4);
  // A warm-up that is as long as the run, or longer: the run ends on the rise.
  const Schedule rise{.peak_rate = 8, .warmup_steps = 4, .num_steps = 4, .final_fraction = 0};
  EXPECT_DOUBLE_EQ(rise.rate(4), 8);
  const Schedule longer{.peak_rate = 8, .warmup_steps = 8, .num_steps = 4, .final_fraction = 0};
  EXPECT_DOUBLE_EQ(longer.rate(4), 4);
}

TEST(Schedule, RefusesWhatIsOutOfRange) {
  const Schedule good{};
  EXPECT_NO_THROW(good.check_valid());
  EXPECT_THROW(good.rate(0), core::Error);
  EXPECT_THROW((Schedule{.peak_rate = -1}.check_valid()), core::UsageError);
  EXPECT_THROW((Schedule{.peak_rate = std::numeric_limits<double>::infinity()}.check_valid()), core::UsageError);
  EXPECT_THROW((Schedule{.warmup_steps = -1}.check_valid()), core::UsageError);
  EXPECT_THROW((Schedule{.num_steps = 0}.check_valid()), core::UsageError);
  EXPECT_THROW((Schedule{.final_fraction = 1.5}.check_valid()), core::UsageError);
  try {
    Schedule{.final_fraction = std::nan("")}.check_valid();
    ADD_FAILURE();
  } catch (const core::UsageError& e) {
    EXPECT_STREQ(e.what(), "schedule: final_rate_fraction is nan, expected 0 to 1");
  }
}

}  // namespace
}  // namespace limbeck::optim
