// Runs of several configs and of other lengths than steps, and run directories that are used from elsewhere.
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
using testing::Outcome;
using testing::run_shell;
using testing::RunFolder;

/// A command of limbeck's from another folder below the run folder's.
Outcome from(const RunFolder& folder, const std::string& where, const std::string& arguments) {
  fs::create_directories(folder.path() / where);
  return run_shell(fmt::format("cd {} && OMP_NUM_THREADS=1 {} {}", (folder.path() / where).string(),
                               testing::program().string(), arguments));
}

/// The held-out cross-entropy at the end, as a table has it; "" where there is none.
std::string last_cross_entropy(const Outcome& outcome) {
  const auto lines = outcome.lines_with("cross-entropy");
  return lines.size() == 1 ? lines[0].substr(lines[0].rfind(' ') + 1) : "";
}

TEST(SeveralConfigs, MakeOneRunWhoseConfigIsOneFile) {
  const RunFolder folder("several");
  folder.write("more.textproto", "train { steps: 6 } schedule { kind: linear }");
  const Outcome two = folder.limbeck("train tiny.textproto more.textproto --set train.checkpoint_every_steps=0");
  ASSERT_EQ(two.code, 0) << two.output;
  EXPECT_THAT(folder.read("runs/tiny+more/config.textproto"),
              AllOf(HasSubstr("steps: 6"), HasSubstr("kind: LINEAR"), HasSubstr("checkpoint_every_steps: 0")));
  folder.write("six.textproto", folder.read("tiny.textproto") + "schedule { kind: LINEAR }");
  ASSERT_EQ(folder.limbeck("train six.textproto --set train.steps=6 --out one").code, 0);
  EXPECT_EQ(folder.metrics("runs/tiny+more"), folder.metrics("one"));
  const Outcome eval = folder.limbeck("eval tiny.textproto more.textproto");
  EXPECT_EQ(eval.code, 0) << eval.output;
  EXPECT_NE(last_cross_entropy(eval), "");
  EXPECT_EQ(last_cross_entropy(eval), last_cross_entropy(two));
  folder.write("wrong.textproto", "\ntrain { stepz: 6 }");
  const Outcome wrong = folder.limbeck("train tiny.textproto wrong.textproto");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.lines_with("limbeck: error"), ElementsAre(HasSubstr("wrong.textproto:2:9: there is no field")));
}

TEST(SeveralConfigs, EvalLaysThemOverARunAndOverACheckpoint) {
  const RunFolder folder("eval_composed");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 4 --set output.dir=run").code, 0);
  folder.write("more.textproto", "evaluation { set { name: 'first' text: 'text/0.txt' } } output { dir: 'no_run' }");
  folder.write("last.textproto", "evaluation { set { name: 'second' text: 'text/1.txt' } } train { eval_tokens: 96 }");
  const std::string of_last = " more.textproto last.textproto --set train.eval_tokens=48 --json --quiet";
  const Outcome plain = folder.limbeck("eval run --set train.eval_tokens=48 --json --quiet");
  const Outcome run = folder.limbeck("eval run" + of_last);
  ASSERT_EQ(run.code, 0) << run.output;
  const auto json = nlohmann::json::parse(run.output);
  EXPECT_EQ(json["held_out"], nlohmann::json::parse(plain.output)["held_out"]) << run.output;  // the run's model
  EXPECT_EQ(json["step"], 4);
  ASSERT_EQ(json["sets"].size(), 2U) << run.output;
  const Outcome alone = folder.limbeck("eval run --text text/1.txt --json --quiet");
  EXPECT_EQ(json["sets"]["second"], nlohmann::json::parse(alone.output)["all"]);
  const Outcome longer = folder.limbeck("eval run/checkpoints/step_4 last.textproto --json --quiet");
  ASSERT_EQ(longer.code, 0) << longer.output;
  EXPECT_GT(nlohmann::json::parse(longer.output)["held_out"]["tokens"], json["held_out"]["tokens"]);
  // From another folder, where the files are that its own folder does not know.
  fs::create_directory(folder.path() / "away");
  folder.write("away/more.textproto", "evaluation { set { name: 'own' text: 'own.txt' } }");
  folder.write("away/own.txt", folder.read("text/1.txt"));
  const Outcome away = from(folder, "away", "eval ../run more.textproto --json --quiet");
  ASSERT_EQ(away.code, 0) << away.output;
  EXPECT_EQ(nlohmann::json::parse(away.output)["sets"]["own"], json["sets"]["second"]);
  const Outcome wrong = folder.limbeck("eval run gone.textproto");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_THAT(wrong.lines_with("limbeck: error"), ElementsAre(HasSubstr("gone.textproto: cannot be read")));
}

TEST(RunLength, TokensAndEpochsAreStepsThatTheScheduleFollows) {
  const RunFolder folder("length");
  const Outcome steps = folder.limbeck("train tiny.textproto --set train.steps=7 --out steps");
  ASSERT_EQ(steps.code, 0) << steps.output;
  // A step reads 4 sequences of 48 tokens: 1153 tokens need a seventh one.
  const Outcome tokens = folder.limbeck("train tiny.textproto --set train.tokens=1153 --out tokens");
  ASSERT_EQ(tokens.code, 0) << tokens.output;
  EXPECT_EQ(tokens.lines_with("train.tokens 1153: 7 steps of 4 sequences").size(), 1U) << tokens.output;
  EXPECT_EQ(folder.metrics("tokens"), folder.metrics("steps"));
  EXPECT_THAT(folder.read("tokens/config.textproto"), HasSubstr("  steps: 7\n"));
  const auto said = tokens.lines_with("an epoch is ");
  ASSERT_EQ(said.size(), 1U);
  const int sequences = std::stoi(said[0].substr(said[0].find("an epoch is ") + 12));
  EXPECT_EQ(tokens.lines_with(fmt::format("text: {} training tokens", 48 * sequences)).size(), 1U) << tokens.output;
  const std::string epochs = fmt::format("train tiny.textproto --set train.epochs={} --out epochs", 26.5 / sequences);
  const Outcome cut = folder.limbeck(epochs + " --steps 3");
  ASSERT_EQ(cut.code, 0) << cut.output;
  EXPECT_EQ(folder.metrics("epochs").size(), 3U);
  const Outcome on = folder.limbeck(epochs + " --resume");
  ASSERT_EQ(on.code, 0) << on.output;
  EXPECT_EQ(folder.metrics("epochs"), folder.metrics("steps"));
  EXPECT_TRUE(on.lines_with("its run had another").empty()) << on.output;
  folder.write("both.textproto", "train {\n steps: 3\n epochs: 1 }");
  const Outcome both = folder.limbeck("train both.textproto");
  EXPECT_EQ(both.code, 2);
  EXPECT_THAT(both.lines_with("limbeck: error"),
              ElementsAre(AllOf(HasSubstr("both.textproto:3:"), HasSubstr("\"epochs\""), HasSubstr("\"steps\""))));
}

TEST(Groups, SayAtTheStartWhatBelongsToThem) {
  const RunFolder folder("groups");
  const Outcome run = folder.limbeck(
      "train tiny.textproto --steps 1 --set 'optimizer.groups={ pattern: \"embed.*\" frozen: true }'"
      " --set 'optimizer.groups={ pattern: \"*norm*\" rate_factor: 0.5 weight_decay: 0 }' --set parallel.layout=ep2",
      2);
  ASSERT_EQ(run.code, 0) << run.output;
  EXPECT_EQ(run.lines_with("group embed.*: 1 tensor, 8224 parameters: frozen").size(), 1U) << run.output;  // 257 * 32
  EXPECT_EQ(run.lines_with("group *norm*: 5 tensors, 160 parameters: rate times 0.5, weight decay 0").size(), 1U)
      << run.output;
}

TEST(TokenizerOfTheModel, IsTheOneInModelSource) {
  const RunFolder folder("model_tokenizer");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out first").code, 0);
  folder.write("second.textproto", R"(
    model { source: "first" } data { text: "text" tokenizer: "model" sequence_length: 48 held_out_fraction: 0.2 }
    batch { sequences_per_step: 4 } train { steps: 2 threads: 1 })");
  const Outcome second = folder.limbeck("train second.textproto");
  EXPECT_EQ(second.code, 0) << second.output;
  const Outcome distilled =
      folder.limbeck("distill second.textproto --set teacher.source=first --out distilled --set train.eval_tokens=96");
  EXPECT_EQ(distilled.code, 0) << distilled.output;
  const Outcome none = folder.limbeck("train tiny.textproto --set data.tokenizer=model --out none");
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.output, HasSubstr("data.tokenizer is \"model\" but model.source is empty"));
}

TEST(MovedRun, WorksFromAnotherFolder) {
  const RunFolder folder("elsewhere");
  const Outcome train = folder.limbeck("train tiny.textproto --steps 4 --out run");
  ASSERT_EQ(train.code, 0) << train.output;
  const std::string figure = last_cross_entropy(train);
  EXPECT_NE(figure, "");
  fs::create_directories(folder.path() / "archive");
  fs::rename(folder.path() / "run", folder.path() / "archive/moved");
  for (const char* model :
       {"../archive/moved", "../archive/moved/checkpoints/step_4", "../archive/moved/config.textproto"}) {
    const Outcome eval = from(folder, "other", fmt::format("eval {}", model));
    ASSERT_EQ(eval.code, 0) << eval.output;
    EXPECT_EQ(last_cross_entropy(eval), figure) << eval.output;
    EXPECT_TRUE(eval.lines_with("tokenizing").empty()) << eval.output;  // the cache was found too
  }
  for (const char* command : {"generate ../archive/moved --prompt x --max-tokens 2", "report ../archive/moved",
                              "inspect ../archive/moved", "convert ../archive/moved out"}) {
    const Outcome outcome = from(folder, "other", command);
    EXPECT_EQ(outcome.code, 0) << command << outcome.output;
  }
  const Outcome on = from(folder, "other", "train ../archive/moved --resume");
  ASSERT_EQ(on.code, 0) << on.output;
  EXPECT_EQ(folder.metrics("archive/moved").size(), 24U);
  EXPECT_FALSE(fs::exists(folder.path() / "run"));
  ASSERT_EQ(folder.limbeck("train tiny.textproto --out whole").code, 0);
  EXPECT_EQ(folder.metrics("archive/moved"), folder.metrics("whole"));
  // What was continued elsewhere still knows its start.
  EXPECT_THAT(folder.read("archive/moved/config.textproto"),
              AllOf(HasSubstr("  text: \"text\"\n"), HasSubstr("started_in: \"" + folder.path().string() + "\"")));
}

TEST(MovedRun, WhatIsNotFoundIsSaidWithEveryPlace) {
  const RunFolder folder("lost");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  fs::rename(folder.path() / "text", folder.path() / "texts");
  const Outcome lost = from(folder, "other", "eval ../run");
  EXPECT_EQ(lost.code, 2);
  EXPECT_THAT(lost.lines_with("limbeck: error"),
              ElementsAre(AllOf(HasSubstr("data.text is text"), HasSubstr(folder.path().string() + ", where"),
                                HasSubstr("the run directory"), HasSubstr(folder.path().string() + "/other"))));
  const Outcome set = from(folder, "other", "eval ../run --set data.text=../texts");
  EXPECT_EQ(set.code, 0) << set.output;
}

TEST(Ranks, OneLineSaysThreadsCoresAndBinding) {
  const RunFolder folder("ranks");
  const Outcome run =
      folder.limbeck("train tiny.textproto --steps 1 --out run --threads 2 --set parallel.layout=ep2", 2);
  ASSERT_EQ(run.code, 0) << run.output;
  const auto lines = run.lines_with("ranks: 2, layout ep2; threads a rank: 2; cores of this machine: ");
  EXPECT_THAT(lines, ElementsAre(HasSubstr(", shared by 2 ranks; binding: none"))) << run.output;
}

TEST(Ranks, AProgramAloneIsBoundByNoMpirun) {
  const RunFolder folder("alone");
  const Outcome run = run_shell(fmt::format("cd {} && taskset -c 0 {} train tiny.textproto --steps 1 --out run",
                                            folder.path().string(), testing::program().string()));
  ASSERT_EQ(run.code, 0) << run.output;
  EXPECT_EQ(run.lines_with("binding: none").size(), 1U) << run.output;
  EXPECT_THAT(run.lines_with("mpirun"), ElementsAre()) << run.output;
}

TEST(Ranks, TooNarrowABindingIsWarnedOfWithTheRemedy) {
  if (run_shell("env -u OMP_NUM_THREADS nproc").output == "1\n") GTEST_SKIP() << "one core";
  const RunFolder folder("bound");
  const std::string run = folder.path().string();
  const Outcome bound = run_shell(fmt::format(
      "cd {} && OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=^tcp OMP_NUM_THREADS=1 mpirun "
      "--bind-to core -n 1 {} train tiny.textproto --steps 1 --set train.threads=0",
      run, testing::program().string()));
  ASSERT_EQ(bound.code, 0) << bound.output;
  if (!bound.lines_with("binding: none").empty()) GTEST_SKIP() << "mpirun binds nothing here";
  EXPECT_THAT(bound.lines_with("rank 0 is bound to 1 core, its share of the machine is "),
              ElementsAre(AllOf(HasSubstr("--bind-to none"), HasSubstr("--map-by slot:PE="))))
      << bound.output;
  EXPECT_EQ(bound.lines_with("threads a rank: 1;").size(), 1U) << bound.output;
}

}  // namespace
}  // namespace limbeck
