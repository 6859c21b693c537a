// The machine fails under a command: each time one line with the right reason, and exit code 1.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>

#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Outcome;
using testing::run_shell;
using testing::RunFolder;

constexpr const char* no_space = "limbeck: error: standard output cannot be written: No space left on device";

TEST(Machine, ResultsThatCannotBeWrittenAreAnError) {
  const RunFolder folder("full");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  ASSERT_EQ(folder.limbeck("tokenize text --tokenizer bytes --out tokens").code, 0);
  folder.write("ids.txt", "1 2 3");
  for (const char* arguments : {"--help", "--version", "train --help", "inspect run", "inspect tokens", "eval run",
                                "generate run --prompt x", "eval run --tokens ids.txt --logits o.h5", "convert run hf",
                                "report run", "train tiny.textproto --steps 1 --quiet --out other"}) {
    const Outcome full = run_shell(folder.command(arguments) + " >/dev/full");
    EXPECT_EQ(full.code, 1) << arguments << full.output;
    EXPECT_THAT(full.lines_with("limbeck: error"), ElementsAre(no_space)) << arguments << full.output;
  }
  const Outcome two = run_shell(folder.command("eval run", 2) + " >/dev/full");  // mpirun writes, and says so
  EXPECT_THAT(two.output, Not(HasSubstr("limbeck: error")));
  // A reader that has gone is no error.
  const Outcome gone = run_shell("bash -c '" + folder.command("train --help") + " | true; echo ${PIPESTATUS[0]}'");
  EXPECT_THAT(gone.output, ::testing::AnyOf("141\n", "0\n"));
}

TEST(Machine, ThreadsWaitBrieflyUnlessOneSaysOtherwise) {
  const RunFolder folder("waits");
  // What libgomp says of itself, and that what follows the new start is as it was.
  const auto said = [&](const std::string& environment) {
    return run_shell("unset GOMP_SPINCOUNT OMP_WAIT_POLICY; export OMP_DISPLAY_ENV=verbose " + environment + "; " +
                     folder.command("nocommand 'a b'"));
  };
  const Outcome unset = said("");
  EXPECT_EQ(unset.code, 2);
  EXPECT_THAT(unset.lines_with("there is no command 'nocommand'"), ::testing::SizeIs(1)) << unset.output;
  if (unset.lines_with("GOMP_SPINCOUNT").empty()) GTEST_SKIP() << "this build's OpenMP is not libgomp";
  EXPECT_THAT(unset.output, HasSubstr("GOMP_SPINCOUNT = '10000'"));
  EXPECT_THAT(said("GOMP_SPINCOUNT=77").output, HasSubstr("GOMP_SPINCOUNT = '77'"));
  EXPECT_THAT(said("OMP_WAIT_POLICY=passive").output, HasSubstr("GOMP_SPINCOUNT = '0'"));
  EXPECT_EQ(run_shell("unset GOMP_SPINCOUNT OMP_WAIT_POLICY; " + folder.command("--version", 2)).code, 0);
  // A loader that is given the program would be what is started again.
  const Outcome loaded = run_shell("unset GOMP_SPINCOUNT OMP_WAIT_POLICY; /lib64/ld-linux-x86-64.so.2 " +
                                   testing::program().string() + " --version");
  EXPECT_THAT(loaded.output, HasSubstr("limbeck "));
}

TEST(Machine, ALogThatCannotBeWrittenStopsNothing) {
  const RunFolder folder("log");
  const Outcome run = run_shell(folder.command("train tiny.textproto --steps 3 --verbose --out run") + " 2>/dev/full");
  EXPECT_EQ(run.code, 0) << run.output;
  EXPECT_TRUE(fs::exists(folder.path() / "run/checkpoints/step_3"));
  EXPECT_EQ(run_shell(folder.command("tokenize text --tokenizer bytes --out tokens") + " 2>/dev/full").code, 0);
  EXPECT_EQ(run_shell(folder.command("train nowhere") + " 2>/dev/full").code, 2);
}

TEST(Machine, ClosedStreamsAreNoPlaceForTokens) {
  const RunFolder folder("closed");
  ASSERT_EQ(folder.limbeck("tokenize text --tokenizer bytes --out good").code, 0);
  for (const char* closed : {">&- 2>&-", "<&- >&-", "<&- 2>&-", "<&- >&- 2>&-"}) {
    const Outcome run = run_shell(folder.command("tokenize text --tokenizer bytes --out bad --force ") + closed);
    EXPECT_EQ(run.code, 0) << closed << run.output;
    EXPECT_EQ(folder.read("bad.bin"), folder.read("good.bin")) << closed;
    EXPECT_EQ(folder.read("bad.idx"), folder.read("good.idx")) << closed;
    fs::remove_all(folder.path() / "run");
    EXPECT_EQ(run_shell(folder.command("train tiny.textproto --steps 1 --out run ") + closed).code, 0) << closed;
    EXPECT_EQ(folder.limbeck("eval run").code, 0) << closed;
  }
}

/// A command that cannot write, and a file that it must not leave.
struct Unwritable {
  const char* arguments;
  const char* leftover;
};

void expect_told(const RunFolder& folder, const Unwritable& c, const std::string& before, const char* reason) {
  const Outcome outcome = run_shell(before + folder.command(c.arguments));
  EXPECT_EQ(outcome.code, 1) << c.arguments << outcome.output;
  EXPECT_THAT(outcome.lines_with("limbeck: error"), ElementsAre(HasSubstr(reason))) << outcome.output;
  EXPECT_THAT(outcome.output, AllOf(Not(HasSubstr("HDF5-DIAG")), Not(HasSubstr("errno =")))) << outcome.output;
  EXPECT_FALSE(fs::exists(folder.path() / c.leftover)) << c.leftover;
}

TEST(Machine, ALimitOfAFilesSizeIsTold) {
  const RunFolder folder("limit");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  for (const Unwritable& c : {Unwritable{"convert run hf", "hf"},
                              {"convert run x.gguf", "x.gguf.tmp"},
                              {"tokenize text --tokenizer bytes --out tokens", "tokens.bin"}})
    expect_told(folder, c, "ulimit -f 4; ", "cannot be written: File too large");
}

TEST(Machine, AFullDiskIsTold) {
  const RunFolder folder("disk");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  std::string ids;
  for (int i = 0; i < 100; ++i) ids += "7 ";
  folder.write("ids.txt", ids);
  const std::string small = (folder.path() / "small").string();
  fs::create_directory(small);
  if (run_shell("mount -t tmpfs -o size=16k tmpfs " + small).code != 0) GTEST_SKIP() << "mounting needs root";
  for (const Unwritable& c : {Unwritable{"convert run small/hf", "small/hf"},
                              {"convert run small/x.gguf", "small/x.gguf.tmp"},
                              {"tokenize text text text --tokenizer bytes --out small/tokens", "small/tokens.bin"},
                              {"eval run --tokens ids.txt --logits small/o.h5", "small/o.h5"},
                              {"eval run --tokens ids.txt --logits small/p.h5", "small/p.h5.tmp"},
                              {"report run --out small/report.html", "small/report.html.tmp"},
                              {"train tiny.textproto --steps 1 --out a --dump-gradients small/g.h5", "small/g.h5.tmp"},
                              {"train tiny.textproto --steps 1 --out small/run", "small/run/checkpoints/step_1"}}) {
    run_shell("rm -rf " + small + "/*");
    expect_told(folder, c, "", "No space left on device");
  }
  run_shell("umount " + small);
}

TEST(Machine, AFolderThatCannotBeMadeIsToldWithItsReason) {
  const RunFolder folder("folder");
  folder.write("file", "x");
  for (const char* arguments : {"tokenize text --tokenizer bytes --out file/below/x",
                                "train tiny.textproto --steps 1 --out run --set data.cache_dir=file/cache"}) {
    const Outcome outcome = folder.limbeck(arguments);
    EXPECT_EQ(outcome.code, 1) << outcome.output;
    EXPECT_THAT(outcome.lines_with("limbeck: error"),
                ElementsAre(AllOf(HasSubstr("file/"), HasSubstr("Not a directory"))))
        << outcome.output;
  }
}

/// Several pages of tokens, and a run on them that does not end by itself.
std::string run_on_tokens(const RunFolder& folder, int ranks) {
  for (int i = 0; i < 40; ++i)
    folder.write(fmt::format("more/{}.txt", i), std::string(4000, static_cast<char>('a' + i % 26)));
  EXPECT_EQ(folder.limbeck("tokenize more --tokenizer bytes --out tok").code, 0);
  return folder.command(
      "train tiny.textproto --set data.text= --set data.tokens=tok --set train.steps=1000000 --out run", ranks);
}

TEST(Machine, ATokenFileThatIsShortenedIsNamed) {
  for (const int ranks : {1, 2}) {
    const RunFolder folder("shortened");
    fs::create_directories(folder.path() / "more");
    const std::string train = run_on_tokens(folder, ranks);
    const Outcome outcome = run_shell(fmt::format("{} & p=$!; {}; truncate -s 10 {}; wait $p", train,
                                                  testing::until_metrics((folder.path() / "run").string(), 1),
                                                  (folder.path() / "tok.bin").string()));
    EXPECT_EQ(outcome.code, 1) << outcome.output;
    EXPECT_THAT(outcome.lines_with("limbeck: error"),
                ElementsAre(AllOf(HasSubstr("tok.bin: was shortened while it was read"))))
        << outcome.output;
    EXPECT_THAT(outcome.output, Not(HasSubstr("Signal: Bus error")));
  }
}

TEST(Machine, MemoryThatEndsIsOneLine) {
  const RunFolder folder("memory");
  const std::string train = folder.command("train tiny.textproto --steps 2 --quiet --out ");
  for (int mib = 150; mib <= 650; mib += 25) {
    const Outcome limited = run_shell(fmt::format("ulimit -v {}; {}m{}", mib * 1024, train, mib));
    if (limited.code == 0 || limited.code == 127) continue;  // enough, or too little to load the program
    EXPECT_EQ(limited.code, 1) << mib << limited.output;
    EXPECT_EQ(limited.lines_with("limbeck: error: ").size(), 1U) << mib << limited.output;
    EXPECT_THAT(limited.output, Not(HasSubstr("Signal:"))) << mib << limited.output;
  }
}

}  // namespace
}  // namespace limbeck
