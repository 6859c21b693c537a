#include "launch/run/spike_guard.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "core/error.h"

namespace limbeck::launch {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::ThrowsMessage;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

SpikeGuard with(const GuardConfig& config, std::initializer_list<double> losses) {
  SpikeGuard guard(config);
  std::int64_t step = 0;
  for (const double loss : losses) guard.take(++step, loss, 10);
  return guard;
}

TEST(SpikeGuard, RefusesWhatLiesFarAboveTheMedian) {
  // Of 100 and 1 to 5 the last five: median 3, distances 2 1 0 1 2, their median 1: 3 + 2 * 1.4826.
  const SpikeGuard guard = with({.deviations = 2, .window = 5}, {100, 4, 2, 1, 5, 3});
  EXPECT_THAT(guard.refuses(5.965, 10), IsEmpty());
  EXPECT_THAT(guard.refuses(5.966, 10),
              HasSubstr("its loss is 5.966, 2.0 deviations of 1.48 above the median 3 of the last 5 steps"));
  EXPECT_THAT(guard.refuses(-50, 10), IsEmpty());
  // Norms that do not differ: a hundredth of 10 is the deviation.
  EXPECT_THAT(guard.refuses(3, 10.199), IsEmpty());
  EXPECT_THAT(guard.refuses(3, 10.201), HasSubstr("its gradient norm is 10.201"));
}

TEST(SpikeGuard, OfAnEvenNumberTheMedianIsBetween) {
  // 1 2 4 9: median 3, distances 2 1 1 6: median 1.5, deviation 2.2239.
  const SpikeGuard guard = with({.deviations = 1, .window = 4}, {9, 1, 4, 2});
  EXPECT_THAT(guard.refuses(5.223, 10), IsEmpty());
  EXPECT_THAT(guard.refuses(5.224, 10), Not(IsEmpty()));
}

TEST(SpikeGuard, BeforeTheWindowIsFullOnlyWhatIsNotFiniteIsRefused) {
  const SpikeGuard guard = with({.deviations = 1, .window = 4}, {1, 1, 1});
  EXPECT_THAT(guard.refuses(1e9, 1e9), IsEmpty());
  EXPECT_THAT(guard.refuses(nan, 1), HasSubstr("its loss is not finite"));
  EXPECT_THAT(guard.refuses(1, std::numeric_limits<double>::infinity()), HasSubstr("its gradient norm is not finite"));
}

TEST(SpikeGuard, EndsTheRunWhereItGetsNoFurther) {
  SpikeGuard guard({.most = 2});
  guard.refuse(7, "why");
  guard.refuse(8, "why");
  guard.take(8, 1, 1);  // the step that was refused last is done: as far as ever
  guard.refuse(9, "why");
  guard.take(8, 1, 1);  // behind it
  guard.refuse(9, "why");
  EXPECT_THAT([&] { guard.refuse(10, "its loss is 3"); },
              ThrowsMessage<core::Error>(AllOf(HasSubstr("step 10 is refused, its loss is 3"), HasSubstr("3 steps"),
                                               HasSubstr("2 at most (guard.most)"))));
}

TEST(SpikeGuard, ItsStateComesBackToTheBit) {
  SpikeGuard guard = with({.window = 4}, {0.1, 1.0 / 3, 2, 3, 1e-300});
  guard.refuse(6, "why");
  const nlohmann::json json = nlohmann::json::parse(to_json(guard.state()).dump());
  EXPECT_EQ(guard_state_from_json({json, "here"}), guard.state());
  EXPECT_THAT(guard.state().losses, ::testing::ElementsAre(1.0 / 3, 2, 3, 1e-300));
  nlohmann::json bad = json;
  bad["norms"][1] = "x";
  EXPECT_THAT(
      [&] {
        guard_state_from_json({bad, "here"});
      },
      ThrowsMessage<core::Error>(HasSubstr("here: norms[1] is \"x\", expected a finite number")));
}

TEST(SpikeGuard, GoingBackKeepsTheCounts) {
  SpikeGuard guard = with({.window = 4}, {1, 2});
  const GuardState before = guard.state();
  guard.take(3, 3, 10);
  guard.refuse(4, "why");
  guard.go_back(before);
  EXPECT_EQ(guard.state().losses, before.losses);
  EXPECT_EQ(guard.state().refused, 1);
  EXPECT_EQ(guard.state().rolled_back, 1);
}

}  // namespace
}  // namespace limbeck::launch
