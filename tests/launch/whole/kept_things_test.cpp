// What a run keeps, and what others do to it meanwhile: tokens in the cache, the run directory, the state of another
// optimizer; and the commands that it recommends.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <thread>

#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::run_shell;
using testing::RunFolder;

/// The one file of the cache with this ending, from the folder.
std::string cached(const RunFolder& folder, const std::string& extension) {
  for (const auto& entry : fs::directory_iterator(folder.path() / "cache"))
    if (entry.path().extension() == extension) return fs::relative(entry.path(), folder.path()).string();
  return "none";
}

TEST(TokenCache, ADamagedOneIsNamedAndMadeAgain) {
  const RunFolder folder("cache");
  const std::string train = "train tiny.textproto --set data.cache_dir=cache --out ";
  ASSERT_EQ(folder.limbeck(train + "run --steps 2").code, 0);
  const std::string bin = cached(folder, ".bin"), idx = cached(folder, ".idx");
  const std::string tokens = folder.read(bin), index = folder.read(idx);
  int runs = 0;
  for (const int ranks : {1, 2})
    for (const bool is_index : {false, true})
      for (const bool is_short : {false, true}) {
        std::string damaged = is_index ? index : tokens;
        if (is_short)
          damaged.resize(100);
        else
          damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
        const std::string& file = is_index ? idx : bin;
        folder.write(file, damaged);
        const std::string run = fmt::format("again{}", runs++);
        const Outcome again = folder.limbeck(train + run + " --steps 2", ranks);
        EXPECT_EQ(again.code, 0) << again.output;
        EXPECT_THAT(again.lines_with("the tokens are made again"), ElementsAre(HasSubstr(file))) << again.output;
        EXPECT_EQ(folder.read(bin), tokens);
        EXPECT_EQ(folder.read(idx), index);
        if (ranks == 1) {
          EXPECT_EQ(folder.metrics(run), folder.metrics("run"));
        }
      }
  EXPECT_TRUE(folder.limbeck(train + "whole --steps 1").lines_with("made again").empty());
  // A run to be resumed goes on.
  folder.write(bin, tokens.substr(0, 64));
  EXPECT_EQ(folder.limbeck(train + "run --resume --steps 3").code, 0);
}

TEST(RunDirectory, OneThatIsRemovedWhileItsRunGoesOnIsMadeAgain) {
  const RunFolder folder("removed");
  folder.write("config.textproto", folder.read("tiny.textproto"));
  for (const char* removed : {"run", "run/run.lock", "run/config.textproto", "run/metrics.jsonl", "run/checkpoints"}) {
    fs::remove_all(folder.path() / "run");
    const std::string train =
        folder.command("train tiny.textproto --set train.checkpoint_every_steps=100 --set train.steps=600 --out run");
    const Outcome run =
        run_shell(fmt::format("bash -c 'cd {} && {{ {} & p=$!; {}; rm -rf {}; wait $p; }}'", folder.path().string(),
                              train, testing::until_metrics("run", 1), removed));
    EXPECT_EQ(run.code, 0) << run.output;
    EXPECT_EQ(run.lines_with("was renamed or removed while the run went on").size(), 1U) << run.output;
    for (const char* next : {"generate run --prompt x --max-tokens 2", "report run", "eval run",
                             "train tiny.textproto --set train.steps=600 --out run --resume"}) {
      const Outcome outcome = folder.limbeck(next);
      EXPECT_EQ(outcome.code, 0) << removed << ": " << next << outcome.output;
    }
  }
}

/// Waits (no longer than a minute) until a checkpoint begins in `run` and gives the run directory another name at that
/// instant.
void rename_at_the_next_checkpoint(const fs::path& run, const fs::path& to) {
  constexpr int most_ms = 60'000;
  for (int i = 0; i < most_ms && !fs::exists(run / "checkpoints"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const int watch = ::inotify_init();
  ASSERT_GE(::inotify_add_watch(watch, (run / "checkpoints").c_str(), IN_CREATE), 0);
  std::array<char, 4096> event{};
  pollfd created{.fd = watch, .events = POLLIN, .revents = 0};
  ASSERT_EQ(::poll(&created, 1, most_ms), 1);
  ASSERT_GT(::read(watch, event.data(), event.size()), 0);
  fs::rename(run, to);
  ::close(watch);
}

TEST(RunDirectory, OneThatIsRenamedWhileACheckpointIsWrittenIsMadeAgain) {
  for (const int ranks : {1, 2}) {
    const RunFolder folder("renamed");
    Outcome run;
    {
      const std::jthread trains([&] {
        run = folder.limbeck("train tiny.textproto --set train.checkpoint_every_steps=2 --set train.steps=40 --out run",
                             ranks);
      });
      rename_at_the_next_checkpoint(folder.path() / "run", folder.path() / "renamed");
      rename_at_the_next_checkpoint(folder.path() / "run", folder.path() / "renamed_again");
    }
    EXPECT_EQ(run.code, 0) << run.output;
    EXPECT_EQ(run.lines_with("was renamed or removed while the run went on").size(), 2U) << run.output;
    EXPECT_EQ(run.lines_with("limbeck: error").size(), 0U) << run.output;
    EXPECT_TRUE(fs::exists(folder.path() / "run/checkpoints/step_40/manifest.json")) << run.output;
    EXPECT_EQ(folder.metrics("run").back()["step"], 40);
    const Outcome resumed = folder.limbeck("train run --resume --steps 41 --set train.steps=41", ranks);
    EXPECT_EQ(resumed.code, 0) << resumed.output;
  }
}

TEST(Resume, AnotherOptimizerIsNamed) {
  const RunFolder folder("optimizer");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out run").code, 0);
  const std::string resume = "train tiny.textproto --steps 3 --out run --resume ";
  const Outcome muon = folder.limbeck(resume + "--set optimizer.kind=MUON");
  EXPECT_EQ(muon.code, 1);
  EXPECT_THAT(muon.lines_with("limbeck: error"),
              ElementsAre(HasSubstr("optimizer.kind = ADAMW, the config says MUON, expected the same")));
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out muon --set optimizer.kind=MUON").code, 0);
  const Outcome group = folder.limbeck(
      "train tiny.textproto --steps 3 --out muon --resume --set optimizer.kind=MUON "
      "--set 'optimizer.groups={ pattern: \"layers.*.attention.q.weight\" adamw: true }'");
  EXPECT_EQ(group.code, 1);
  EXPECT_THAT(group.lines_with("limbeck: error"), ElementsAre(HasSubstr("its run had another optimizer")))
      << group.output;
  const Outcome shape = folder.limbeck(resume + "--set model.moe.num_experts=2");
  EXPECT_THAT(shape.lines_with("limbeck: error"),
              ElementsAre(HasSubstr("model.moe.num_experts = 4, the config says 2")));
}

TEST(Commands, ThoseRecommendedCanBeGivenToAShell) {
  const RunFolder folder("quoted");
  const Outcome run = folder.limbeck("train tiny.textproto --steps 1 --quiet --out \"r u'n\"");
  ASSERT_EQ(run.code, 0) << run.output;
  const auto commands = run.lines_with(" report ");
  ASSERT_EQ(commands.size(), 1U) << run.output;
  const Outcome report = run_shell("cd " + folder.path().string() + " && " + commands[0]);
  EXPECT_EQ(report.code, 0) << report.output;
}

TEST(Commands, WhatDivergesIsNotSavedOverWhatIsGood) {
  const RunFolder folder("diverged");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out run").code, 0);
  const Outcome weights = folder.limbeck("train tiny.textproto --steps 3 --out run --resume --set optimizer.rate=1e39");
  EXPECT_EQ(weights.code, 1) << weights.output;
  EXPECT_THAT(weights.lines_with("limbeck: error"), ElementsAre(HasSubstr("step 3: "))) << weights.output;
  EXPECT_EQ(folder.limbeck("train tiny.textproto --steps 3 --out run --resume").code, 0);
}

TEST(Commands, ADistillationDoesNotGoOnFromATraining) {
  const RunFolder folder("no_teacher");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out run").code, 0);
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out teacher").code, 0);
  const std::string before = folder.read("run/config.textproto");
  const Outcome refused =
      folder.limbeck("distill tiny.textproto --set teacher.source=teacher --steps 3 --out run --resume");
  EXPECT_EQ(refused.code, 1) << refused.output;
  EXPECT_THAT(refused.lines_with("limbeck: error"), ElementsAre(HasSubstr("its run had no teacher")));
  EXPECT_EQ(folder.read("run/config.textproto"), before);
}

TEST(Commands, ARunMayHaveAnyName) {
  const RunFolder folder("names");
  for (const char* name : {"-run", "a\nb"}) {
    const std::string train = fmt::format("train tiny.textproto --quiet --out='{}' ", name);
    const Outcome run = folder.limbeck(train + "--steps 1");
    ASSERT_EQ(run.code, 0) << run.output;
    const std::size_t report = run.output.find(" report ");
    ASSERT_NE(report, std::string::npos) << run.output;
    const std::string recommended = testing::program().string() + run.output.substr(report);
    const Outcome written = run_shell("cd " + folder.path().string() + " && " + recommended);
    EXPECT_EQ(written.code, 0) << recommended << written.output;
    EXPECT_EQ(folder.limbeck(train + "--resume --steps 2").code, 0);
  }
}

TEST(Commands, EvalTellsAnotherTokenizerAndText) {
  const RunFolder folder("eval_others");
  const std::string train_tokenizer = "tokenize {} --train --vocab 270 --quiet --force --out mine";
  folder.write("numbers.txt", std::string(300, '1') + std::string(300, '2') + std::string(300, '3'));
  ASSERT_EQ(folder.limbeck(fmt::format(fmt::runtime(train_tokenizer), "text")).code, 0);
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run --set data.tokenizer=mine").code, 0);
  const Outcome same = folder.limbeck("eval run");
  EXPECT_EQ(same.code, 0) << same.output;
  EXPECT_TRUE(same.lines_with("held out here").empty()) << same.output;
  EXPECT_EQ(folder.limbeck("eval run --set data.held_out_fraction=0.5").lines_with("held out here").size(), 1U);
  fs::remove(folder.path() / "text/1.txt");
  const Outcome text = folder.limbeck("eval run");
  EXPECT_EQ(text.code, 0) << text.output;
  EXPECT_EQ(text.lines_with("what is held out here is not what it was").size(), 1U) << text.output;
  ASSERT_EQ(folder.limbeck(fmt::format(fmt::runtime(train_tokenizer), "numbers.txt --pretokenizer gpt-2")).code, 0);
  const Outcome tokenizer = folder.limbeck("eval run");
  EXPECT_NE(tokenizer.code, 0) << tokenizer.output;
  EXPECT_THAT(tokenizer.lines_with("limbeck: error"), ElementsAre(HasSubstr("is another tokenizer than that of")));
}

TEST(Commands, OneRanksWorkIsLeftToTheFirstAloud) {
  const RunFolder folder("one_rank");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  for (const char* command :
       {"inspect run", "report run", "compare run", "convert run hf", "tokenize text --tokenizer bytes --out t"}) {
    const Outcome left = run_shell("export PMIX_RANK=1; " + folder.command(command));
    EXPECT_EQ(left.code, 0) << left.output;
    EXPECT_EQ(left.lines_with("to rank 0").size(), 1U) << left.output;
  }
}

TEST(Commands, GenerateAddsAsManyTokensAsFit) {
  const RunFolder folder("positions");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run --set model.max_positions=50").code, 0);
  for (const char* prompt : {"x", "the still drips slowly into a glass and what wa"}) {
    const Outcome fits = folder.limbeck(fmt::format("generate run --quiet --prompt \"{}\"", prompt));
    EXPECT_EQ(fits.code, 0) << fits.output;
    EXPECT_THAT(fits.output, ::testing::StartsWith(prompt));
  }
  const Outcome wanted = folder.limbeck("generate run --prompt x --max-tokens 64");
  EXPECT_EQ(wanted.code, 1);
  EXPECT_THAT(wanted.output, AllOf(HasSubstr("64 new ones"), HasSubstr("50 positions")));
  EXPECT_EQ(folder.limbeck("generate run --prompt x --max-tokens 49").code, 0);
}

TEST(Commands, TokensTakeThePlaceOfText) {
  const RunFolder folder("tokens");
  ASSERT_EQ(folder.limbeck("tokenize text --tokenizer bytes --out tokens/mine").code, 0);
  const Outcome run =
      folder.limbeck("train tiny.textproto --steps 1 --out run --set data.text= --set data.tokens=tokens/mine");
  EXPECT_EQ(run.code, 0) << run.output;
}

TEST(ForeignFiles, AreNamedAsWhatTheyAre) {
  const RunFolder folder("foreign");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  ASSERT_EQ(folder.limbeck("convert run hf").code, 0);
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n";
  const std::string page = "<!DOCTYPE html>\n<html><body>Not found</body></html>\n";
  for (const auto& [bytes, what] :
       {std::pair{pointer, "is a pointer of Git LFS"}, std::pair{page, "is an HTML page"}}) {
    folder.write("x.gguf", bytes);
    folder.write("x.model", bytes);
    folder.write("x.json", bytes);
    folder.write("x.idx", bytes);
    folder.write("x.bin", bytes);
    folder.write("x.textproto", bytes);
    folder.write("x.jsonl", bytes);
    std::vector<std::string> commands = {"inspect x.gguf",
                                         "convert x.gguf out",
                                         "inspect x",
                                         "tokenize text --tokenizer x.model --out t",
                                         "tokenize text --tokenizer x.json --out t",
                                         "tokenize x.jsonl --tokenizer bytes --out t",
                                         "eval run --tokens x.json --logits o.h5"};
    for (const char* file : {"model.safetensors", "config.json", "tokenizer.json"}) {
      fs::remove_all(folder.path() / file);
      fs::copy(folder.path() / "hf", folder.path() / file, fs::copy_options::recursive);
      folder.write(fmt::format("{0}/{0}", file), bytes);
      commands.push_back(fmt::format("{} {}{}", file == std::string("tokenizer.json") ? "generate" : "convert", file,
                                     file == std::string("tokenizer.json") ? " --prompt x" : " out"));
    }
    for (const std::string& command : commands) {
      const Outcome outcome = folder.limbeck(command);
      EXPECT_NE(outcome.code, 0) << command;
      EXPECT_THAT(outcome.lines_with("limbeck: error"), ElementsAre(HasSubstr(what))) << command << "\n"
                                                                                      << outcome.output;
    }
  }
}

TEST(ForeignFiles, AByteOrderMarkIsPassedOver) {
  const RunFolder folder("mark");
  const std::string mark = "\xef\xbb\xbf";
  folder.write("marked.textproto", mark + folder.read("tiny.textproto"));
  const Outcome run = folder.limbeck("train marked.textproto --steps 1 --out run");
  ASSERT_EQ(run.code, 0) << run.output;
  folder.write("ids.txt", mark + "1 2 3");
  EXPECT_EQ(folder.limbeck("eval run --tokens ids.txt --logits o.h5").code, 0);
  ASSERT_EQ(folder.limbeck("convert run hf").code, 0);
  for (const char* file : {"hf/config.json", "hf/tokenizer.json", "hf/tokenizer_config.json"})
    folder.write(file, mark + folder.read(file));
  EXPECT_EQ(folder.limbeck("generate hf --prompt x --max-tokens 2").code, 0);
  folder.write("wide.textproto", "\xff\xfe" + std::string("t\0r\0a\0", 6));
  EXPECT_THAT(folder.limbeck("train wide.textproto").output, HasSubstr("wide.textproto: is text in UTF-16"));
  folder.write("a.txt", mark + "abc");
  EXPECT_THAT(folder.limbeck("tokenize a.txt --tokenizer bytes --out t").output, HasSubstr("3 bytes, 4 tokens"));
}

}  // namespace
}  // namespace limbeck
