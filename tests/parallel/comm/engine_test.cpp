// Patient waits, in a world of one rank whose others are made up.
#include "parallel/comm/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

namespace limbeck::parallel {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr Deadline deadline = 100ms;

/// Waits for rank 2, in the end in vain.
class Open final : public Operation {
 public:
  bool progress() override { return is_over || Clock::now() - since_ > 10s; }
  std::vector<Missing> waits_for() const override { return {{.rank = 2, .heard = {}}}; }
  std::atomic<bool> is_over = false;

 private:
  Clock::time_point since_ = Clock::now();
};

/// A rank whose patient wait is told who is silent.
struct PatientRank {
  explicit PatientRank(const std::function<std::string()>& silent)
      : engine(0, deadline,
               {.stop = [this](const std::string& why) { engine.fail(0, why); },
                .who_is_missing = [](const auto&) { return HeldUp{.who = "; rank 2 is missing"}; },
                .who_is_silent =
                    [this, silent](const std::vector<Missing>& missing) {
                      ++looks;
                      EXPECT_EQ(missing.size(), 1U);
                      EXPECT_EQ(missing.at(0).rank, 2);
                      return silent();
                    },
                .poll = [] {}}) {
    engine.start();
    engine.set_step(5);
  }
  void wait_patiently() {
    const auto world = std::make_shared<const std::string>("world");
    engine.submit({}, {.of = core::Subject("a question"), .group = world}, operation).wait_patiently();
  }

  std::shared_ptr<Open> operation = std::make_shared<Open>();
  int looks = 0;
  Engine engine;
};

TEST(PatientWait, LastsAsLongAsAllGiveSignsOfLife) {
  PatientRank rank([&rank] {
    rank.operation->is_over = rank.looks == 9;
    return "";
  });
  const auto since = Clock::now();
  EXPECT_NO_THROW(rank.wait_patiently());
  EXPECT_GE(Clock::now() - since, 2 * deadline);
  EXPECT_FALSE(rank.engine.has_failed());
}

TEST(PatientWait, EndsWhereOneGivesNone) {
  PatientRank rank([&rank] { return rank.looks < 3 ? "" : "; rank 2 is silent"; });
  EXPECT_THAT([&] { rank.wait_patiently(); },
              ThrowsMessage<core::Error>("barrier (a question) in group world at step 5: no end after 0.1 s "
                                         "(parallel.deadline_s); rank 2 is silent"));
  EXPECT_EQ(rank.looks, 3);
  EXPECT_THAT([&] { rank.wait_patiently(); }, ThrowsMessage<core::Error>(HasSubstr("rank 2 is silent")));
}

}  // namespace
}  // namespace limbeck::parallel
