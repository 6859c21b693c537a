// The study's arms are configs that there are: examples/study/study.py says what it tells limbeck.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "launch/config/config.h"
#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"

namespace limbeck::launch {
namespace {

TEST(Study, EveryArmIsAConfigOfItsCommand) {
  const testing::Outcome said =
      testing::run_shell((testing::source_folder() / "examples/study/study.py").string() + " --words");
  ASSERT_EQ(said.code, 0) << said.output;
  std::set<std::string> commands;
  std::istringstream lines(said.output);
  int num_lines = 0;
  for (std::string line; std::getline(lines, line); ++num_lines) {
    SCOPED_TRACE(line);
    const auto words = nlohmann::json::parse(line).get<std::vector<std::string>>();
    std::vector<ConfigPart> configs;
    std::vector<std::string> sets;
    for (std::size_t i = 1; i < words.size(); ++i)
      if (words[i] == "--set")
        sets.push_back(words.at(++i));
      else
        configs.push_back({.path = words[i]});
    commands.insert(words.at(0));
    EXPECT_NO_THROW({
      const RunConfig config = load_config(configs, sets);
      words[0] == "train" ? check_for_train(config) : check_for_distill(config);
    });
  }
  EXPECT_EQ(commands, (std::set<std::string>{"cache-teacher", "distill", "train"}));
  EXPECT_GT(num_lines, 20);
}

}  // namespace
}  // namespace limbeck::launch
