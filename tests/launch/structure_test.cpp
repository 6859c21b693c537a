// The house stands: includes point the right way, no file chooses its contents by the preprocessor, and what may fail
// in a hidden way (errno beside a call, printing) has one place.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
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
  static const std::regex printing(R"(^[^/]*\b(fmt::print|printf|fputs|cout|cerr)\s*[(<])");
  if (line.file != "core/system_error.h" && line.text.find("strerror") != std::string::npos)
    return place + "expected check_system of core/system_error.h: " + line.text;
  if (std::regex_search(line.text, printing))
    return place + "expected print_result or print_note of launch/console/streams.h: " + line.text;
  std::smatch match;
  if (!std::regex_search(line.text, match, include)) return "";
  const std::string included = match[1];
  const std::string folder = line.file.substr(0, line.file.find('/'));
  const std::string target = included.substr(0, included.find('/'));
  if (may_include().contains(target) && !may_include().at(folder).contains(target))
    return place + folder + " includes " + included;
  if (line.file.starts_with("core/ops/") && included.starts_with("core/nn/"))
    return place + "an operation includes a layer: " + included;
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

/// Reductions and what such a loop declares stay out of memory (kernels/cpu/larger.h).
bool takes_references(const std::string& text) {
  static const std::regex extremum(R"(\bstd::(max|min|clamp|minmax)\b)");
  return std::regex_search(text, extremum);
}

/// The loops under `#pragma omp simd`.
std::vector<SourceLine> vector_loops(const std::vector<SourceLine>& lines) {
  std::vector<SourceLine> result;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (!lines[i].text.starts_with("#pragma omp simd")) continue;
    for (std::ptrdiff_t depth = 0; ++i < lines.size();) {
      const std::string& text = lines[i].text;
      depth += std::count(text.begin(), text.end(), '{') - std::count(text.begin(), text.end(), '}');
      result.push_back(lines[i]);
      if (depth == 0 && (text.ends_with(';') || text.ends_with('}'))) break;
    }
  }
  return result;
}

TEST(Structure, VectorLoopsTakeNoReferences) {
  const auto loops = vector_loops(all_lines());
  ASSERT_GT(loops.size(), 50U);
  for (const SourceLine& line : loops) EXPECT_FALSE(takes_references(line.text)) << line.file << ":" << line.number;
  const std::vector<SourceLine> sample = {{"", 1, "  x = std::max(x, y);"},
                                          {"", 2, "#pragma omp simd"},
                                          {"", 3, "  for (;;) {"},
                                          {"", 4, "    m = std::max(m, y[j]);"},
                                          {"", 5, "  }"},
                                          {"", 6, "  x = std::max(x, y);"}};
  const auto seen = vector_loops(sample);
  ASSERT_EQ(seen.size(), 3U);
  EXPECT_TRUE(takes_references(seen[1].text));
}

/// Calls of on_device that give no value, each with what stands in its parentheses.
std::vector<std::string> kernel_calls(const std::string& text) {
  static const std::string name = "on_device(";
  std::vector<std::string> calls;
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const std::string before = text.substr(at < 20 ? 0 : at - 20, std::min<std::size_t>(at, 20));
    std::size_t end = at + name.size();
    for (int depth = 1; depth > 0 && end < text.size(); ++end) depth += (text[end] == '(') - (text[end] == ')');
    static const std::regex gives_value(R"((return|=|\()\s*(core::)?$)");
    if (!std::regex_search(before, gives_value)) calls.push_back(text.substr(at, end - at));
  }
  return calls;
}

bool takes_memory_or_asks_ranks(const std::string& call) {
  static const std::regex other(
      R"(Tensor::(empty|zeros|from)\b|(empty|zeros)_like\(|\.(clone|to)\(|\b(open_)?gradient\(|\b(comm|ranks|vocabulary_?)\.(sum|max|gather)\(|all_(reduce|gather|to_all))");
  return std::regex_search(call, other);
}

// In an imagined memory such calls are left out (core/tensor.h), and what is planned would lack the rest.
TEST(Structure, KernelsAloneRunOnDevices) {
  std::map<std::string, std::string> files;
  for (const SourceLine& line : all_lines()) files[line.file] += line.text + "\n";
  std::size_t num_calls = 0;
  for (const auto& [file, text] : files)
    for (const std::string& call : kernel_calls(text)) {
      ++num_calls;
      EXPECT_FALSE(takes_memory_or_asks_ranks(call)) << file << ": " << call;
    }
  EXPECT_GT(num_calls, 100U);
  const auto is_fault = [](const char* text) { return takes_memory_or_asks_ranks(kernel_calls(text).at(0)); };
  EXPECT_TRUE(is_fault("  on_device(x, [&](const auto& d) { run(d, (1)); comm.sum(counts); });"));
  EXPECT_TRUE(is_fault("  core::on_device(x, [&](const auto& d) { Tensor y = Tensor::empty(m, t, {n}); });"));
  EXPECT_TRUE(is_fault("  on_device(x, [&](const auto& d) { auto dx = open_gradient(to, x); run(d, dx); });"));
  EXPECT_TRUE(is_fault("  on_device(x, [&](const auto& d) { run(d, gradient(slot, like), x.to(dtype)); });"));
  EXPECT_FALSE(is_fault("  on_device(x, [&](const auto& d) { kernels::weight_gradient(d, y); });"));
  EXPECT_FALSE(is_fault("  on_device(x, [&](const auto& d) { run(d); }); ranks.sum(y);"));
  EXPECT_TRUE(kernel_calls("  const auto n = on_device(x, [&](const auto& d) { return parts(d); });").empty());
}

TEST(Structure, ReadmeNamesEveryPageOfTheDocs) {
  const fs::path root = limbeck::testing::source_folder();
  std::ifstream in(root / "README.md");
  const std::string readme((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::string table = readme.substr(readme.find("\n## Docs\n"));
  for (const auto& entry : fs::directory_iterator(root / "docs")) {
    if (entry.path().extension() != ".md") continue;
    const std::string name = "`docs/" + entry.path().filename().string() + "`";
    EXPECT_NE(table.find(name), std::string::npos) << name;
  }
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
  EXPECT_TRUE(is_fault("data/a.cpp", "  check(::close(file) == 0, \"{}\", std::strerror(errno));"));
  EXPECT_TRUE(is_fault("launch/a.cpp", "  fmt::print(\"{}\", text);"));
  EXPECT_FALSE(is_fault("launch/a.h", "//     fmt::print(\"{}\", text);"));
  EXPECT_TRUE(is_fault("core/ops/a.cpp", "#include \"core/nn/layers.h\""));
  EXPECT_FALSE(is_fault("core/nn/a.cpp", "#include \"core/ops/add.h\""));
  EXPECT_FALSE(is_fault("data/a.cpp", "#include \"core/nn/model_config.h\""));
  EXPECT_FALSE(is_fault("launch/a.cpp", "#include <CLI/CLI.hpp>"));
  EXPECT_FALSE(is_fault("core/a.cpp", "#include <vector>"));
  EXPECT_FALSE(is_fault("core/a.h", "#pragma once"));
}

}  // namespace
