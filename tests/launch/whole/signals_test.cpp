// A run that is asked to stop: by Ctrl-C and the other signals, alone and under mpirun.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <csignal>
#include <cstdint>
#include <filesystem>

#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Outcome;
using testing::run_shell;
using testing::RunFolder;

/// Runs a command of limbeck's in the background of a shell with job control (without it, a shell makes what runs there
/// ignore SIGINT), waits until run/ has `lines` lines of metrics and does `then`, in which $p is the process that was
/// started. The code is that of the process.
Outcome run_and(const RunFolder& folder, const std::string& arguments, const std::string& then, int ranks = 1,
                int lines = 3, const std::string& before = "set -m") {
  const std::string command = folder.command(arguments, ranks);  // "cd FOLDER && VARIABLES limbeck ..."
  const std::size_t at = command.find("&& ");
  return run_shell(fmt::format("bash -c '{}; {}; {} & p=$!; {}; {}; wait $p'", before, command.substr(0, at),
                               command.substr(at + 3), testing::until_metrics("run", lines), then));
}

const std::string endless =
    "train tiny.textproto --set train.steps=1000000 --set train.checkpoint_every_steps=0 --out run";

bool has_checkpoint(const RunFolder& folder) {
  const fs::path checkpoints = folder.path() / "run/checkpoints";
  return fs::exists(checkpoints) && !fs::is_empty(checkpoints);
}

TEST(Signals, EachThatAsksToStopSavesAndEndsWithThree) {
  for (const char* signal : {"INT", "TERM", "HUP", "USR1", "USR2"}) {
    const RunFolder folder("stop");
    const Outcome stopped = run_and(folder, endless, fmt::format("kill -{} $p", signal));
    EXPECT_EQ(stopped.code, 3) << signal << stopped.output;
    EXPECT_EQ(stopped.lines_with("stopped at step").size(), 1U) << stopped.output;
    EXPECT_TRUE(has_checkpoint(folder)) << signal;
    // The last line of the metrics is of the step that was saved: nothing is lost.
    const auto last = folder.metrics("run").back()["step"].get<std::int64_t>();
    EXPECT_TRUE(fs::exists(folder.path() / fmt::format("run/checkpoints/step_{}/manifest.json", last)));
    // And the command that it says goes on.
    const auto said = stopped.lines_with(" train run --resume");
    ASSERT_EQ(said.size(), 1U) << stopped.output;
    const Outcome on = run_shell(fmt::format("cd {} && {} --steps {}", folder.path().string(),
                                             said[0].substr(said[0].find("goes on with: ") + 14), last + 1));
    EXPECT_EQ(on.code, 0) << on.output;
  }
}

TEST(Signals, ASecondCtrlCEndsAtOnce) {
  const RunFolder folder("twice");
  // A step of a minute and more: the first signal cannot be obeyed meanwhile.
  const std::string slow = endless + " --set batch.sequences_per_step=200000 --set train.eval_tokens=48";
  const Outcome ended = run_and(folder, slow, "sleep 4; kill -INT $p; sleep 1; kill -INT $p", 1, 0);
  EXPECT_EQ(ended.code, 130) << ended.output;
  EXPECT_FALSE(has_checkpoint(folder));
}

TEST(Signals, TheThreadThatTrainsGetsNone) {
  const RunFolder folder("blocked");
  const Outcome stopped = run_and(folder, endless, "grep SigBlk: /proc/$p/status; kill -TERM $p");
  EXPECT_EQ(stopped.code, 3) << stopped.output;
  const auto lines = stopped.lines_with("SigBlk:");
  ASSERT_EQ(lines.size(), 1U) << stopped.output;
  const std::uint64_t blocked = std::stoull(lines[0].substr(lines[0].find(':') + 1), nullptr, 16);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU, SIGALRM, SIGCHLD})
    EXPECT_EQ(blocked >> (signal - 1) & 1U, 1U) << signal;
}

TEST(Signals, ACtrlCAfterAnotherSignalIsTheFirst) {
  const RunFolder folder("int_after_term");
  const Outcome stopped = run_and(folder, endless, "kill -TERM $p; kill -INT $p");
  EXPECT_EQ(stopped.code, 3) << stopped.output;
  EXPECT_TRUE(has_checkpoint(folder));
}

TEST(Signals, TheLimitOfProcessorTimeSaves) {
  const RunFolder folder("cpu_time");
  const Outcome stopped = run_shell("( ulimit -S -t 2; " + folder.command(endless) + " )");
  EXPECT_EQ(stopped.code, 3) << stopped.output;
  EXPECT_TRUE(has_checkpoint(folder));
}

TEST(Signals, OneThatWasIgnoredStaysIgnored) {
  const RunFolder folder("nohup");
  const Outcome done = run_and(folder, endless + " --steps 200", "kill -HUP $p", 1, 3, "trap \"\" HUP");
  EXPECT_EQ(done.code, 0) << done.output;
  EXPECT_EQ(folder.metrics("run").size(), 200U);
}

TEST(Signals, MpirunPassesUsr1OnAtOnce) {
  const RunFolder folder("usr1");
  const Outcome stopped = run_and(folder, endless + " --set parallel.layout=ep2", "kill -USR1 $p", 2);
  EXPECT_EQ(stopped.code, 3) << stopped.output;
  EXPECT_THAT(stopped.output, AllOf(HasSubstr("stopped at step"), Not(HasSubstr("limbeck: error"))));
  EXPECT_TRUE(has_checkpoint(folder));
}

/// The last ranks have the teacher alone, in stages of which the last one answers.
TEST(Signals, ATermOfTheTeachersFirstStageStopsAll) {
  const RunFolder folder("teachers");
  folder.succeed("train tiny.textproto --steps 1 --out teacher");
  folder.write("distill.textproto", R"(
    teacher { source: "teacher" }
    student_init { num_layers: 1 choice: LIST layers: [0] }
    data { text: "text" sequence_length: 48 held_out_fraction: 0.2 }
    batch { sequences_per_step: 4 }
    train { steps: 1000000 checkpoint_every_steps: 0 eval_tokens: 96 log_every_steps: 1 threads: 1 }
    parallel { teacher_ranks: 2 teacher_layout: "pp2" }
  )");
  const Outcome stopped =
      run_and(folder, "distill distill.textproto --out run", "kill -TERM $(pgrep -P $p | tail -2 | head -1)", 3);
  EXPECT_EQ(stopped.code, 3) << stopped.output;
  EXPECT_THAT(stopped.output, AllOf(HasSubstr("stopped at step"), Not(HasSubstr("limbeck: error"))));
  EXPECT_TRUE(has_checkpoint(folder));
}

TEST(Signals, ATermOfOneRankStopsAll) {
  const RunFolder folder("one");
  const Outcome stopped =
      run_and(folder, endless + " --set parallel.layout=ep2", "kill -TERM $(pgrep -P $p | tail -1)", 2);
  EXPECT_EQ(stopped.code, 3) << stopped.output;
  EXPECT_THAT(stopped.output, AllOf(HasSubstr("stopped at step"), Not(HasSubstr("limbeck: error"))));
  EXPECT_TRUE(has_checkpoint(folder));
}

TEST(Signals, TokenizingSavesAndTheSameCommandGoesOn) {
  const RunFolder folder("tokenize");
  std::string lines;
  for (int i = 0; i < 200'000; ++i) lines += fmt::format("{{\"text\": \"the still drips {} into a glass\"}}\n", i);
  folder.write("big.jsonl", lines);
  ASSERT_EQ(folder.limbeck("tokenize text --train --vocab 300 --out mine").code, 0);
  const std::string tokenize = "tokenize big.jsonl --tokenizer mine --threads 1 --out ";
  ASSERT_EQ(folder.limbeck(tokenize + "whole").code, 0);
  for (const char* signal : {"INT", "TERM", "USR1"}) {
    const std::string command = folder.command(tokenize + signal);
    const std::size_t at = command.find("&& ");
    const Outcome stopped = run_shell(
        fmt::format("bash -c 'set -m; {}; {} & p=$!; for i in $(seq 5000); do [ -s {}.bin.partial ] && break; "
                    "sleep 0.001; done; kill -{} $p; wait $p'",
                    command.substr(0, at), command.substr(at + 3), signal, signal));
    EXPECT_EQ(stopped.code, 3) << stopped.output;
    EXPECT_EQ(stopped.lines_with("the same command goes on").size(), 1U) << stopped.output;
    EXPECT_FALSE(fs::exists(folder.path() / (std::string(signal) + ".idx")));
    const Outcome on = folder.limbeck(tokenize + signal);
    EXPECT_EQ(on.code, 0) << on.output;
    EXPECT_EQ(on.lines_with("of an interrupted tokenizing").size(), 1U) << on.output;
    EXPECT_EQ(folder.read(std::string(signal) + ".bin"), folder.read("whole.bin"));
  }
}

TEST(Signals, WhileTrainingTokenizesNothingIsLeftButWhatGoesOn) {
  struct Case {
    int ranks;
    const char* kill;
  };
  for (const Case& c : {Case{1, "kill -INT $p"}, Case{1, "kill -TERM $p"}, Case{2, "kill -USR1 $p"},
                        Case{2, "kill -TERM $(pgrep -P $p | tail -1)"}}) {  // a rank that only waits
    const RunFolder folder("tokenizes");
    std::string lines;
    for (int i = 0; i < 200'000; ++i) lines += fmt::format("{{\"text\": \"the still drips {} into a glass\"}}\n", i);
    folder.write("big.jsonl", lines);
    ASSERT_EQ(folder.limbeck("tokenize text --train --vocab 300 --out mine").code, 0);
    const std::string train =
        "train tiny.textproto --set data.text=big.jsonl --set data.tokenizer=mine --set data.cache_dir=cache "
        "--steps 1 --out run";
    const std::string begun = "for i in $(seq 5000); do [ -s cache/*.bin.partial ] && break; sleep 0.001; done; ";
    const Outcome stopped = run_and(folder, train, begun + c.kill, c.ranks, 0);
    EXPECT_EQ(stopped.code, 3) << c.kill << stopped.output;
    EXPECT_EQ(stopped.lines_with("before training began: nothing was trained yet").size(), 1U) << stopped.output;
    EXPECT_EQ(stopped.lines_with("limbeck: error").size(), 0U) << stopped.output;
    EXPECT_FALSE(fs::exists(folder.path() / "run/config.textproto"));
    for (const auto& entry : fs::directory_iterator(folder.path() / "cache"))
      EXPECT_NE(entry.path().extension(), ".idx") << "a cache that is not whole";
    const Outcome on = folder.limbeck(train, c.ranks);
    EXPECT_EQ(on.code, 0) << on.output;
    EXPECT_EQ(on.lines_with("of an interrupted tokenizing").size(), 1U) << on.output;
  }
}

TEST(Signals, TheReaderOfTheLogMayGoFirst) {
  // As Ctrl-C on `limbeck ... 2>&1 | tee log` does: tee is gone before the run has saved.
  const RunFolder folder("tee");
  const std::string train = folder.command("train tiny.textproto --out run");
  const Outcome done = run_shell("bash -c '(" + train + ") 2>&1 | head -2; echo the code is ${PIPESTATUS[0]}'");
  EXPECT_THAT(done.output, HasSubstr("the code is "));
  EXPECT_TRUE(fs::exists(folder.path() / "run/checkpoints/step_24/manifest.json")) << done.output;
}

}  // namespace
}  // namespace limbeck
