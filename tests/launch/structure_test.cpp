// The house stands: includes point the right way, and no file chooses its contents by the preprocessor.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support/places.h"

namespace {

namespace fs = std::filesystem;

struct SourceLine {
  std::string file;  // from the root
  int number;
  std::string text;
};

const std::map<std::string, std::set<std::string>>& may_include() {
  static const std::map<std::string, std::set<std::string>> allowed{
      {"kernels", {"kernels"}},
      {"core", {"core", "kernels"}},
      {"parallel", {"parallel", "core", "kernels"}},
      {"optim", {"optim", "core", "kernels"}},
      {"data", {"data", "core", "kernels"}},
      {"launch", {"launch", "parallel", "optim", "data", "core", "kernels"}},
  };
  return allowed;
}

/// What is wrong with a line of a file, or nothing.
std::string fault(const SourceLine& line) {
  static const std::regex include(R"re(^\s*#\s*include\s*["<]([^">]+)[">])re");
  static const std::regex branch(R"(^\s*#\s*(if|ifdef|ifndef|elif|else)\b)");
  const std::string place = line.file + ":" + std::to_string(line.number) + ": ";
  if (std::regex_search(line.text, branch)) return place + "a preprocessor branch: " + line.text;
  std::smatch match;
  if (!std::regex_search(line.text, match, include)) return "";
  const std::string included = match[1];
  const std::string folder = line.file.substr(0, line.file.find('/'));
  const std::string target = included.substr(0, included.find('/'));
  if (may_include().contains(target) && !may_include().at(folder).contains(target))
    return place + folder + " includes " + included;
  if (folder != "launch" &&
      (included.starts_with("google/protobuf") || included.starts_with("CLI/") || included.ends_with(".pb.h")))
    return place + "only launch may include " + included;
  return "";
}

std::vector<SourceLine> all_lines() {
  const fs::path root = limbeck::testing::source_folder();
  std::vector<SourceLine> lines;
  for (const auto& [folder, targets] : may_include())
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
      std::ifstream in(entry.path());
      std::string text;
      for (int number = 1; std::getline(in, text); ++number)
        lines.push_back({fs::relative(entry.path(), root).generic_string(), number, text});
    }
  return lines;
}

TEST(Structure, IncludesPointTheRightWayAndNothingBranches) {
  const auto lines = all_lines();
  ASSERT_GT(lines.size(), 1000U);
  for (const SourceLine& line : lines) EXPECT_EQ(fault(line), "");
}

TEST(Structure, FaultsWouldBeSeen) {
  const auto is_fault = [](const char* file, const char* text) { return !fault({file, 1, text}).empty(); };
  EXPECT_TRUE(is_fault("kernels/cpu/a.cpp", "#include \"core/tensor.h\""));
  EXPECT_TRUE(is_fault("core/a.h", "# include \"data/models/gguf.h\""));
  EXPECT_TRUE(is_fault("parallel/a.h", "#include \"optim/adamw.h\""));
  EXPECT_TRUE(is_fault("optim/a.h", "#include <launch/config/config.h>"));
  EXPECT_TRUE(is_fault("data/a.cpp", "#include <google/protobuf/message.h>"));
  EXPECT_TRUE(is_fault("core/a.cpp", "#include <CLI/CLI.hpp>"));
  EXPECT_TRUE(is_fault("core/a.cpp", "#ifdef LIMBECK_CUDA"));
  EXPECT_TRUE(is_fault("launch/a.cpp", "#  if 0"));
  EXPECT_FALSE(is_fault("data/a.cpp", "#include \"core/nn/model_config.h\""));
  EXPECT_FALSE(is_fault("launch/a.cpp", "#include <CLI/CLI.hpp>"));
  EXPECT_FALSE(is_fault("core/a.cpp", "#include <vector>"));
  EXPECT_FALSE(is_fault("core/a.h", "#pragma once"));
}

}  // namespace
