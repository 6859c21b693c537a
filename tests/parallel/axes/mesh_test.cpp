#include <gmock/gmock.h>

#include "tests/parallel/axes/mesh_cases.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {
namespace {

using ::testing::HasSubstr;

class ThreadMesh : public ::testing::TestWithParam<std::tuple<CommCase, int>> {};

TEST_P(ThreadMesh, Case) {
  const auto& [test_case, num_ranks] = GetParam();
  run_ranks(num_ranks, [&body = test_case.body](RankWorld& world) { body(*world.comm); });
}

INSTANTIATE_TEST_SUITE_P(All, ThreadMesh, ::testing::Combine(::testing::ValuesIn(mesh_cases()), ::testing::Range(1, 5)),
                         [](const auto& p) {
                           return std::get<0>(p.param).name + "_" + std::to_string(std::get<1>(p.param));
                         });

TEST(Layout, Parses) {
  EXPECT_EQ(parse_layout("dp2ep2").num_ranks(), 4);
  EXPECT_EQ(parse_layout("ep4").num_ranks(), 4);
  EXPECT_EQ(parse_layout("ep4").dp, 0);
  EXPECT_EQ(parse_layout("dp1").num_ranks(), 1);
  EXPECT_EQ(parse_layout("ep2dp16").dp, 16);
  EXPECT_EQ(parse_layout("etp3tp2").etp, 3);
  EXPECT_EQ(parse_layout("etp3tp2").tp, 2);
  EXPECT_EQ(parse_layout("etp3tp2").num_ranks(), 6);
}

TEST(Layout, BadOnesNameThePosition) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"", "expected axes"},
      {"edp2", "'edp' at position 1 is no axis, expected dp, cp, tp, pp, ep or etp"},
      {"dp2xx3", "'xx' at position 4 is no axis"},
      {"dp2,ep2", "',' at position 4 is no axis"},
      {"dp", "expected a size from 1 to 65536 after dp at position 3"},
      {"dp0", "expected a size from 1 to 65536 after dp at position 3"},
      {"ep-2", "expected a size from 1 to 65536 after ep at position 3"},
      {"ep99999999999999", "expected a size from 1 to 65536 after ep at position 3"},
      {"dp65536ep65536", "more than"},
      {"dp65536ep65536tp65536etp65536", "more than"},
      {"ep2ep2", "axis ep at position 4 is named twice"}};
  for (const auto& [text, message] : cases) {
    try {
      parse_layout(text);
      ADD_FAILURE() << "'" << text << "' was taken";
    } catch (const core::UsageError& e) {
      EXPECT_THAT(e.what(), HasSubstr(message));
    }
  }
}

TEST(Layout, MustFitTheWorld) {
  EXPECT_NO_THROW(check_world(parse_layout("ep2"), 4));
  EXPECT_NO_THROW(check_world(parse_layout("dp2ep2"), 4));
  for (const int ranks : {2, 4, 6}) EXPECT_NO_THROW(check_world(parse_layout("tp2ep2"), ranks));
  EXPECT_NO_THROW(check_world(parse_layout("tp2ep3"), 6));
  EXPECT_THROW(check_world(parse_layout("tp2ep3"), 4), core::UsageError);
  EXPECT_THROW(check_world(parse_layout("tp2dp2"), 2), core::UsageError);
  EXPECT_THROW(check_world(parse_layout("ep2etp2"), 2), core::UsageError);
  EXPECT_THROW(check_world(parse_layout("dp2"), 4), core::UsageError);
  EXPECT_THROW(check_world(parse_layout("ep4"), 2), core::UsageError);
  EXPECT_THROW(check_world(parse_layout("ep2"), 3), core::UsageError);
  EXPECT_NO_THROW(check_world(parse_layout("pp2tp2ep2"), 4));
  EXPECT_NO_THROW(check_world(parse_layout("pp2cp2dp2"), 8));
  EXPECT_THROW(check_world(parse_layout("pp2tp2ep4"), 4), core::UsageError);
}

TEST(Layout, ThatDoesNotFitNamesTheDivisionAndItsNeighbours) {
  const auto message = [](const char* layout, int ranks) -> std::string {
    try {
      check_world(parse_layout(layout), ranks);
    } catch (const core::UsageError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message("tp2ep3", 8),
            "layout 'tp2ep3': the world has 8 ranks, expected a multiple of 6, for ep etp pp = 3 does not divide it; "
            "8 ranks can be tp2ep2");
  EXPECT_EQ(message("pp2tp3", 8),
            "layout 'pp2tp3': the world has 8 ranks, expected a multiple of 6, for tp cp pp = 6 does not divide it; "
            "8 ranks can be tp2pp2");
  EXPECT_EQ(message("dp2tp2", 8), "layout 'dp2tp2': the world has 8 ranks, expected 4; 8 ranks can be dp4tp2, dp2tp4");
  EXPECT_EQ(message("tp3ep3", 4),
            "layout 'tp3ep3': the world has 4 ranks, expected a multiple of 3, for tp cp pp = 3 does not divide it; "
            "4 ranks can be dp4");
}

}  // namespace
}  // namespace limbeck::testing
