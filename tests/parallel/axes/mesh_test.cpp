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

/// Whether the first rank of `ranks` sends by two levels.
bool has_two_levels(const char* layout, int ranks, int ranks_a_node, parallel::ExpertExchange exchange) {
  bool found = false;
  run_ranks(
      ranks,
      [&](RankWorld& world) {
        const Mesh mesh(world.comm, parse_layout(layout), exchange);
        if (world.rank == 0) found = !mesh.expert_nodes().of.empty();
      },
      std::chrono::seconds(60), ranks_a_node);
  return found;
}

TEST(ExpertNodes, AreWhereTheyMakeADifference) {
  using parallel::ExpertExchange;
  EXPECT_TRUE(has_two_levels("ep4", 4, 2, ExpertExchange::Auto));
  EXPECT_TRUE(has_two_levels("ep2etp2", 4, 2, ExpertExchange::Auto));
  EXPECT_TRUE(has_two_levels("ep3", 3, 2, ExpertExchange::Auto));
  EXPECT_FALSE(has_two_levels("ep4", 4, 0, ExpertExchange::Auto)) << "one node";
  EXPECT_FALSE(has_two_levels("ep4", 4, 1, ExpertExchange::Auto)) << "one rank a node";
  EXPECT_FALSE(has_two_levels("ep2", 4, 2, ExpertExchange::Auto)) << "each group has one node";
  EXPECT_FALSE(has_two_levels("ep4", 4, 2, ExpertExchange::Flat));
  EXPECT_TRUE(has_two_levels("ep4", 4, 0, ExpertExchange::TwoLevel));
}

// Four ranks, one expert each, two on a node; T tokens of C float32, which choose all four. Of what is agreed on a rank
// tells each rank that it may send to a number of 8 bytes, and of each token there 4 bytes a choice.
TEST(ExpertNodes, TokensCrossOnceANode) {
  constexpr std::int64_t T = 50, C = 8, K = 4;
  constexpr std::int64_t a_token = 4 * C + 4 * K;
  struct Bytes {
    std::int64_t inside, across;
  };
  const auto sent = [&](parallel::ExpertExchange exchange) {
    Bytes bytes{};
    run_ranks(
        4,
        [&](RankWorld& world) {
          const auto memory = Memory::cpu(1);
          const Mesh mesh(world.comm, parse_layout("ep4"), exchange);
          const auto comm = parallel::make_expert_comm(mesh.experts_group(), 1, mesh.expert_nodes());
          std::vector<std::int32_t> all;
          for (std::int64_t i = 0; i < T * K; ++i) all.push_back(static_cast<std::int32_t>(i % K));
          parallel::CommTally& tally = world.comm->engine().tally();
          tally.take();
          const auto agreed = comm->prepare(Tensor::from<std::int32_t>(memory, {T, K}, all), 4);
          comm->dispatch_rows(agreed, Tensor::zeros(memory, DType::F32, {T, C}));
          const parallel::Traffic traffic = tally.take();
          if (world.rank == 0)
            bytes = {traffic.at(parallel::CommAxis::Ep, parallel::Traffic::BytesInside),
                     traffic.at(parallel::CommAxis::Ep, parallel::Traffic::BytesAcross)};
        },
        std::chrono::seconds(60), /*ranks_a_node=*/2);
    return bytes;
  };
  const Bytes flat = sent(parallel::ExpertExchange::Flat), two_level = sent(parallel::ExpertExchange::TwoLevel);
  EXPECT_EQ(flat.across, 2 * (T * a_token + 8));
  EXPECT_EQ(flat.inside, T * a_token + 8);
  EXPECT_EQ(two_level.across, T * a_token + 2 * 8);
  EXPECT_EQ(two_level.inside, 2 * T * a_token + 8 + 8);  // its own tokens and its peer's; on both steps a number
}

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
  EXPECT_EQ(message("dp2tp2", 8),
            "layout 'dp2tp2': the world has 8 ranks, expected 4, for dp is 2, and 8 / (tp cp pp ep etp) = 4; "
            "8 ranks can be dp4tp2, dp2tp4");
  EXPECT_EQ(message("dp2tp3", 8),
            "layout 'dp2tp3': the world has 8 ranks, expected 6, for tp cp pp ep etp = 3 does not divide it; "
            "8 ranks can be dp2tp4");
  EXPECT_EQ(message("tp3ep3", 4),
            "layout 'tp3ep3': the world has 4 ranks, expected a multiple of 3, for tp cp pp = 3 does not divide it; "
            "4 ranks can be tp2ep2, dp4");
  EXPECT_EQ(message("tp3ep3", 8),
            "layout 'tp3ep3': the world has 8 ranks, expected a multiple of 3, for tp cp pp = 3 does not divide it; "
            "8 ranks can be tp2ep2, dp8");
  EXPECT_EQ(message("tp3ep5", 16),
            "layout 'tp3ep5': the world has 16 ranks, expected a multiple of 15, for tp cp pp = 3 does not divide it; "
            "16 ranks can be tp2ep4, dp16");
  EXPECT_EQ(message("dp3tp3", 8),
            "layout 'dp3tp3': the world has 8 ranks, expected 9, for tp cp pp ep etp = 3 does not divide it; "
            "8 ranks can be dp2tp4, dp8");
  EXPECT_THAT(message("tp3", 5), ::testing::EndsWith("; 5 ranks can be dp5"));
  EXPECT_THAT(message("tp3ep3", 7), ::testing::EndsWith("; 7 ranks can be dp7"));
  // Of three that are wrong no two help.
  EXPECT_EQ(message("cp3tp3ep3", 8),
            "layout 'cp3tp3ep3': the world has 8 ranks, expected a multiple of 9, for tp cp pp = 9 does not divide it; "
            "8 ranks can be dp8");
}

}  // namespace
}  // namespace limbeck::testing
