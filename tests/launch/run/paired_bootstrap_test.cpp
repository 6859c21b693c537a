// Against NumPy with the same random numbers (tests/golden/evaluation/make_bootstrap.py).
#include "launch/run/paired_bootstrap.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/support/golden_lines.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using nlohmann::json;
using Sums = std::span<const double>;

const std::vector<SampleFigure> figures = {{"mean", [](Sums s) { return s[1] / s[0]; }},
                                           {"exp", [](Sums s) { return std::exp(s[1] / s[0]); }}};

std::vector<FigureDifference> differences_of(const json& expected, int ranks) {
  PairedSample sample{.columns = 2};
  for (const auto& [rows, to] :
       {std::pair(&expected["model"], &sample.model), std::pair(&expected["against"], &sample.against)})
    for (const json& row : *rows) to->insert(to->end(), {row[0].get<double>(), row[1].get<double>()});
  std::vector<SampleFigure> wanted = figures;
  wanted.resize(expected["expected"].size());
  std::vector<FigureDifference> found;
  testing::run_ranks(ranks, [&](testing::RankWorld& world) {
    Rank rank(world.comm, fmt::format("dp{}", world.size), 1);
    const auto mine = paired_bootstrap(rank, sample, wanted);
    if (world.rank == 0) found = mine;
  });
  return found;
}

TEST(PairedBootstrap, IsNumPysUnderAnyNumberOfRanks) {
  const json golden = json::parse(data::read_document(testing::golden_path("evaluation/bootstrap.json")));
  for (const char* name : {"texts", "questions", "same"}) {
    const std::vector<FigureDifference> alone = differences_of(golden[name], 1);
    const json& expected = golden[name]["expected"];
    ASSERT_EQ(alone.size(), expected.size());
    for (std::size_t f = 0; f < alone.size(); ++f) {
      const auto near = [&](double actual, const char* what) {
        EXPECT_NEAR(actual, expected[f][what].get<double>(), 1e-11) << name << " " << f << " " << what;
      };
      near(alone[f].model, "model");
      near(alone[f].against, "against");
      near(alone[f].difference, "difference");
      near(alone[f].low, "low");
      near(alone[f].high, "high");
      near(alone[f].p_value, "p_value");
    }
    const std::vector<FigureDifference> of_three = differences_of(golden[name], 3);
    for (std::size_t f = 0; f < alone.size(); ++f) {
      EXPECT_EQ(of_three[f].low, alone[f].low);
      EXPECT_EQ(of_three[f].high, alone[f].high);
      EXPECT_EQ(of_three[f].p_value, alone[f].p_value);
    }
  }
}

TEST(PairedBootstrap, OfOneUnitNothingIsSaid) {
  EXPECT_TRUE(differences_of({{"model", {{1, 2}}}, {"against", {{1, 3}}}, {"expected", {0}}}, 1).empty());
}

}  // namespace
}  // namespace limbeck::launch
