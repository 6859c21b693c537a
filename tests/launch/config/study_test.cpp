// The study's arms are configs that there are: examples/study/study.py says what it tells limbeck. Its results are
// known by their caches, and its labels are as soft as it says.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "data/teacher_cache/cache_manifest.h"
#include "launch/config/config.h"
#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/temporary_folder.h"

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

/// What an expression of Python is, where `s` is the study with results in `out` beside its own.
nlohmann::json value_of(const std::filesystem::path& out, const std::string& expression) {
  const testing::Outcome said = testing::run_shell(fmt::format(
      "cd {} && python3 -B -c 'import argparse, json, pathlib, study; s = study.Study(argparse.Namespace(out=\"{}\", "
      "steps=104, smoothing=0.25)); print(json.dumps({}))'",
      (testing::source_folder() / "examples/study").string(), out.string(), expression));
  EXPECT_EQ(said.code, 0) << said.output;
  return nlohmann::json::parse(said.output, nullptr, /*allow_exceptions=*/false);
}

TEST(Study, KnowsAResultByItsCache) {
  const testing::TemporaryFolder folder;
  std::filesystem::create_directories(folder / "results");
  std::filesystem::create_directories(folder / "cache");
  data::CacheManifest manifest;
  manifest.identity.teacher = "0123";
  manifest.identity.teacher_source = "downloads/SmolLM2-135M-Instruct.Q4_1.gguf";
  manifest.identity.window = 256;
  manifest.identity.stride = 128;
  manifest.identity.contents = {.kind = data::CacheKind::TopK, .kept = 8, .vocabulary = 49152};
  data::write_cache_manifest(folder / "cache", manifest);
  const nlohmann::json said =
      value_of(folder.path(), fmt::format("study.said_by(pathlib.Path(\"{}\"))", (folder / "cache").string()));
  int seed = 10;
  const auto add = [&](const nlohmann::json& cache) {
    nlohmann::json result = {{"arm", "top_8"}, {"seed", seed}, {"settings", nlohmann::json::array()}};
    result["reference_steps"] = 104;
    if (!cache.is_null()) result["cache"] = cache;
    testing::write_file(folder / fmt::format("results/top_8_{}.json", seed++), result.dump());
  };
  add(nullptr);  // from before caches were told apart
  add(said);
  for (const auto& [field, other] : {std::pair<const char*, nlohmann::json>{"teacher", "another.gguf"},
                                     {"window", 128},
                                     {"kind", "SAMPLED"},
                                     {"tokens", 9},
                                     {"temperatures", {1, 2}}}) {
    nlohmann::json cache = said;
    cache[field] = other;
    add(cache);
  }
  EXPECT_EQ(value_of(folder.path(), "sorted(x for x in s.results(\"top_8\") if x > 9)"),
            nlohmann::json::array({10, 11}))
      << said;
}

TEST(Study, LabelsAreAsSoftAsItSays) {
  const testing::TemporaryFolder folder;
  const double others = 4 * (0.4 / 5) * std::log(0.4 / 5), target = (0.6 + 0.4 / 5) * std::log(0.6 + 0.4 / 5);
  const nlohmann::json both = value_of(folder.path(), "[study.smoothed_entropy(0.4, 5), study.entropies(s)]");
  EXPECT_NEAR(both.at(0).get<double>(), -others - target, 1e-12);
  const std::string before = both.at(1).get<std::string>();
  EXPECT_NE(before.find("labels smoothed by 0.25 3.263; of the teacher's"), std::string::npos) << before;
  testing::write_file(folder / "teacher_entropy.json", R"({"entropy": 3.25, "error": 0.01, "positions": 4096})");
  const std::string behind = value_of(folder.path(), "study.entropies(s)").get<std::string>();
  EXPECT_NE(behind.find("3.250 in the mean, with a standard error of 0.010, of 4096 positions"), std::string::npos)
      << behind;
}

}  // namespace
}  // namespace limbeck::launch
