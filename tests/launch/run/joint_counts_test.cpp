#include "launch/run/joint_counts.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/support/golden_lines.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using nlohmann::json;

/// Its counts, dealt to the ranks one by one.
JointSums sums_of(const json& table, Rank& rank) {
  JointCounts counts(std::ssize(table[0]));
  std::int64_t next = 0;
  for (std::size_t x = 0; x < table.size(); ++x)
    for (std::size_t y = 0; y < table[x].size(); ++y)
      for (std::int64_t n = table[x][y]; n > 0; --n)
        if (next++ % rank.mesh().dp().size() == rank.mesh().dp().rank())
          counts.add(static_cast<std::int64_t>(x), static_cast<std::int64_t>(y));
  return counts.sum_over(rank, std::ssize(table));
}

TEST(JointCounts, InformationIsScikitLearns) {
  const json golden = json::parse(data::read_document(testing::golden_path("evaluation/figures.json")));
  std::vector<double> alone;
  for (const int ranks : {1, 3}) {
    std::vector<double> found;
    testing::run_ranks(ranks, [&](testing::RankWorld& world) {
      Rank rank(world.comm, fmt::format("dp{}", world.size), 1);
      std::vector<double> mine;
      for (const json& expected : golden["tables"]) {
        const JointSums sums = sums_of(expected["table"], rank);
        EXPECT_NEAR(sums.information(), expected["information"].get<double>(), 1e-12);
        EXPECT_NEAR(sums.information_by_chance(), expected["chance"].get<double>(), 1e-12);
        ASSERT_EQ(sums.specialisation().has_value(), expected.contains("specialisation"));
        EXPECT_NEAR(sums.specialisation().value_or(0), expected.value("specialisation", 0.0), 1e-10);
        mine.insert(mine.end(), {sums.information(), sums.specialisation().value_or(-1)});
      }
      if (world.rank == 0) found = mine;
    });
    if (ranks == 1) alone = found;
    EXPECT_EQ(found, alone);
  }
}

TEST(JointCounts, OfNothingNothingIsSaid) {
  testing::run_ranks(1, [&](testing::RankWorld& world) {
    Rank rank(world.comm, fmt::format("dp{}", world.size), 1);
    EXPECT_EQ(JointCounts(3).sum_over(rank, 5).specialisation(), std::nullopt);
    EXPECT_EQ(JointCounts(3).sum_over(rank, 0).information(), 0);
    JointCounts one_row(3);
    for (const std::int64_t y : {0, 0, 2}) one_row.add(1, y);
    EXPECT_EQ(one_row.sum_over(rank, 5).specialisation(), std::nullopt);
  });
}

}  // namespace
}  // namespace limbeck::launch
