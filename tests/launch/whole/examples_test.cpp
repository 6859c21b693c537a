// Every config of examples/ trains, as its first lines say, in few steps on a small text.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <set>

#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

TEST(EndToEnd, EveryExampleRuns) {
  const RunFolder folder("examples");
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(testing::source_folder() / "examples"))
    if (entry.path().extension() == ".textproto") left.insert(entry.path().stem());

  const auto run = [&](const std::string& command, const std::string& name, const std::string& more, int ranks) {
    EXPECT_EQ(left.erase(name), 1U) << name;
    const Outcome outcome = folder.limbeck(
        fmt::format("{} {}/examples/{}.textproto --steps 2 --out runs/{} --set data.text=text "
                    "--set data.held_out_fraction=0.4 --set train.eval_tokens=256 --set generation.max_tokens=4 {}",
                    command, testing::source_folder().string(), name, name, more),
        ranks);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_TRUE(fs::exists(folder.path() / "runs" / name / "checkpoints/step_2")) << outcome.output;
  };
  run("train", "tiny_dense", "", 1);
  run("train", "tiny_moe", "--set parallel.layout=ep2", 2);
  run("train", "offline_teacher", "", 2);
  run("distill", "distill_offline_teacher", "", 2);
  run("distill", "distill_smollm2", "--set teacher.source=runs/offline_teacher --set student_init.num_layers=3", 2);
  run("train", "continue_training", "--set model.source=runs/offline_teacher", 1);
  const Outcome trained = folder.limbeck("tokenize text --train --vocab 300 --out my_tokenizer");
  EXPECT_EQ(trained.code, 0) << trained.output;
  run("train", "own_text", "--set data.tokenizer=my_tokenizer", 2);
  const Outcome generated = folder.limbeck("generate runs/own_text --prompt 'the still' --max-tokens 4");
  EXPECT_EQ(generated.code, 0) << generated.output;
  EXPECT_THAT(generated.output, HasSubstr("the still"));
  const Outcome converted = folder.limbeck("convert runs/own_text own.gguf");
  EXPECT_EQ(converted.code, 0) << converted.output;
  const std::string greedy = " --prompt 'the still' --max-tokens 4 --temperature 0 --quiet";
  const Outcome from_gguf = folder.limbeck("generate own.gguf" + greedy);
  EXPECT_EQ(from_gguf.code, 0) << from_gguf.output;
  EXPECT_EQ(from_gguf.output, folder.limbeck("generate runs/own_text" + greedy).output);
  EXPECT_THAT(left, ::testing::IsEmpty()) << "examples that no line above runs";
}

}  // namespace
}  // namespace limbeck
