// docs/config.md is what its script makes of the schema.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <memory>
#include <string>

#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck {
namespace {

std::string output_of(const std::string& command) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  std::string text;
  std::array<char, 4096> buffer{};
  for (std::size_t n = 0; (n = std::fread(buffer.data(), 1, buffer.size(), pipe.get())) > 0;)
    text.append(buffer.data(), n);
  return text;
}

TEST(ConfigReference, IsWhatTheSchemaSays) {
  const auto docs = testing::source_folder() / "docs";
  const std::string made = output_of(fmt::format("'{}'", (docs / "config_reference.sh").string()));
  EXPECT_EQ(made, testing::read_file(docs / "config.md")) << "make it anew: docs/config_reference.sh > docs/config.md";
}

TEST(ConfigReference, NamesEveryFieldWithItsMeaning) {
  const std::string page = testing::read_file(testing::source_folder() / "docs" / "config.md");
  EXPECT_NE(page.find("| `student_init.upcycle.experts` | int64 | 8 | E, a multiple of the slices"), std::string::npos);
  EXPECT_NE(page.find("\n## `output`\n"), std::string::npos);
}

}  // namespace
}  // namespace limbeck
