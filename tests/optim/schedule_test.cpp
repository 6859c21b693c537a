#include "optim/schedule.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/teacher_file.h"

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

// Every kind, step by step, against transformers' schedules (tests/golden/optim/make_schedules.py).
TEST(Schedule, RatesAreThoseOfTransformers) {
  std::ifstream file(testing::golden_path("optim/schedules.json"));
  const auto golden = nlohmann::json::parse(file);
  const auto& settings = golden["settings"];
  const auto expect = [](const Schedule& s, const nlohmann::json& rates, const std::string& what) {
    ASSERT_EQ(static_cast<std::int64_t>(rates.size()), s.num_steps) << what;
    for (std::int64_t step = 1; step <= s.num_steps; ++step)
      EXPECT_NEAR(s.rate(step), rates[static_cast<std::size_t>(step - 1)].get<double>(), 1e-15) << what << ' ' << step;
  };
  const Schedule cosine{.peak_rate = settings["peak"],
                        .warmup_steps = settings["warmup"],
                        .num_steps = settings["steps"],
                        .final_fraction = settings["final"],
                        .decay_fraction = settings["decay_steps"].get<double>() / settings["steps"].get<double>()};
  expect(cosine, golden["cosine"], "cosine");
  Schedule other = cosine;
  other.kind = Schedule::Kind::Constant;
  expect(other, golden["constant"], "constant");
  other.kind = Schedule::Kind::Linear;
  expect(other, golden["linear"], "linear");
  other.final_fraction = 0;
  expect(other, golden["linear_to_zero"], "linear to zero");
  for (const auto& [name, decay] :
       {std::pair("LINEAR_DECAY", Schedule::Decay::Linear), std::pair("COSINE_DECAY", Schedule::Decay::Cosine),
        std::pair("ONE_MINUS_SQRT", Schedule::Decay::OneMinusSqrt)}) {
    Schedule stable = cosine;
    stable.kind = Schedule::Kind::WarmupStableDecay;
    stable.decay = decay;
    stable.final_fraction = 0;
    expect(stable, golden["stable"][name], std::string("stable ") + name);
    stable.final_fraction = settings["final"];
    stable.warmup_steps = 0;
    expect(stable, golden["stable_without_warmup"][name], std::string("stable without warm-up ") + name);
  }
}

TEST(Schedule, APlateauDoesNotDependOnTheLengthOfTheRun) {
  Schedule s{.kind = Schedule::Kind::WarmupStableDecay, .peak_rate = 8, .warmup_steps = 4, .num_steps = 20};
  for (const std::int64_t num_steps : {20, 2000}) {
    s.num_steps = num_steps;
    EXPECT_DOUBLE_EQ(s.rate(2), 4);
    for (const int step : {4, 10, 16}) EXPECT_DOUBLE_EQ(s.rate(step), 8) << num_steps;
  }
  EXPECT_DOUBLE_EQ(s.rate(1600), 8);
  EXPECT_LT(s.rate(1601), 8);
  // Without decay the rate falls at the last step alone; a decay of the whole run begins after the warm-up.
  s.num_steps = 20;
  s.decay_fraction = 0;
  EXPECT_DOUBLE_EQ(s.rate(19), 8);
  EXPECT_DOUBLE_EQ(s.rate(20), 8);
  s.decay_fraction = 1;
  s.decay = Schedule::Decay::Linear;
  EXPECT_DOUBLE_EQ(s.rate(4), 8);
  EXPECT_DOUBLE_EQ(s.rate(12), 8 * (0.1 + 0.9 / 2));
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
  EXPECT_THROW((Schedule{.decay_fraction = -0.1}.check_valid()), core::UsageError);
  try {
    Schedule{.final_fraction = std::nan("")}.check_valid();
    ADD_FAILURE();
  } catch (const core::UsageError& e) {
    EXPECT_STREQ(e.what(), "schedule: final_rate_fraction is nan, expected 0 to 1");
  }
}

}  // namespace
}  // namespace limbeck::optim
