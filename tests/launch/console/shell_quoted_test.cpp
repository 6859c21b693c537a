#include "launch/console/shell_quoted.h"

#include <gtest/gtest.h>

#include "tests/support/run_limbeck.h"

namespace limbeck::launch {
namespace {

TEST(ShellQuoted, AShellGivesEachWordBack) {
  for (const std::string word :
       {"runs/first", "r u n", "it's", "'", "$HOME", "a;b", "~x", "*", "a\\b", "", "-x=1", "é"}) {
    const std::string quoted = shell_quoted(word);
    EXPECT_EQ(testing::run_shell("printf %s " + quoted).output, word) << quoted;
  }
}

TEST(ShellQuoted, APlainWordStaysAsItIs) {
  EXPECT_EQ(shell_quoted("build/release/bin/limbeck"), "build/release/bin/limbeck");
  EXPECT_EQ(shell_quoted("runs/a-b_2.1"), "runs/a-b_2.1");
}

TEST(ShellQuoted, APathIsNoOption) {
  EXPECT_EQ(shell_path("-run"), "./-run");
  EXPECT_EQ(shell_path("-r n"), "'./-r n'");
  EXPECT_EQ(shell_path("a-b"), "a-b");
}

}  // namespace
}  // namespace limbeck::launch
