// Every config of examples/ and examples/layouts trains, as its first lines say, in few steps on a small text.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <set>

#include "tests/support/golden_lines.h"
#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/teacher_file.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

/// The golden's of Qwen2.5, as a folder.
void write_chat_tokenizer(const RunFolder& folder) {
  fs::create_directories(folder.path() / "chat_tokenizer");
  for (const nlohmann::json& line : testing::golden_lines("chat/chat.jsonl.gz")) {
    if (line.value("tokenizer", "") == "qwen" && line.contains("tokenizer_json"))
      folder.write("chat_tokenizer/tokenizer.json", line["tokenizer_json"]);
    if (line.value("name", "") == "Qwen2.5")
      folder.write("chat_tokenizer/tokenizer_config.json",
                   nlohmann::json{{"eos_token", line["eos"]}, {"chat_template", line["template"]}}.dump());
  }
}

TEST(EndToEnd, EveryExampleRuns) {
  const RunFolder folder("examples");
  std::set<std::string> left;
  for (const std::string below : {"", "layouts/"})
    for (const auto& entry : fs::directory_iterator(testing::source_folder() / "examples" / below))
      if (entry.path().extension() == ".textproto") left.insert(below + entry.path().stem().string());

  const auto run_over = [&](const std::string& command, const std::string& under, const std::string& name,
                            const std::string& more, int ranks, const std::string& text = "text") {
    EXPECT_EQ(left.erase(name), 1U) << name;
    const std::string examples = testing::source_folder().string() + "/examples/";
    const Outcome outcome = folder.limbeck(
        fmt::format("{} {} {}{}.textproto --steps 2 --out runs/{} --set data.text={} "
                    "--set data.held_out_fraction=0.4 --set train.eval_tokens=256 --set generation.max_tokens=4 {}",
                    command, under.empty() ? "" : examples + under + ".textproto", examples, name, name, text, more),
        ranks);
    EXPECT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_TRUE(fs::exists(folder.path() / "runs" / name / "checkpoints/step_2")) << outcome.output;
  };
  const auto run = [&](const std::string& command, const std::string& name, const std::string& more, int ranks,
                       const std::string& text = "text") { run_over(command, "", name, more, ranks, text); };
  run("train", "tiny_dense", "", 1);
  run("train", "tiny_moe", "--set parallel.layout=ep2", 2);
  run("train", "predict_moe", "--set parallel.layout=tp2", 2);
  run("train", "sharded_moe", "", 2);
  run("train", "hybrid_moe", "--set data.sequence_length=64 --set batch.sequences_per_step=2", 1);
  run("train", "pipeline_moe", "", 2);
  const Outcome drafted = folder.limbeck("generate runs/predict_moe --speculative --prompt 'the still' --max-tokens 6");
  EXPECT_EQ(drafted.code, 0) << drafted.output;
  EXPECT_THAT(drafted.output, HasSubstr(" drafts accepted, "));
  run("train", "long_sequences", "--set data.sequence_length=250", 2);
  run("train", "offline_teacher", "", 2);
  run("distill", "distill_offline_teacher", "", 2);
  run("distill", "distill_all_axes", "--set data.sequence_length=128", 4);
  for (const char* layout : {"dp", "cp", "tp", "pp", "ep", "etp"})
    run_over("train", "tiny_moe", fmt::format("layouts/{}", layout), "", 2);
  run_over("train", "tiny_moe", "layouts/hybrid_shard", "", 4);
  run_over("train", "tiny_moe", "layouts/all", "", 8);
  run_over("distill", "distill_offline_teacher", "layouts/teacher_ranks", "", 4);
  run_over("distill", "distill_offline_teacher", "layouts/teacher_layout", "", 2);
  run("distill", "distill_smollm2", "--set teacher.source=runs/offline_teacher --set student_init.num_layers=3", 2);
  const std::string small = "--set teacher.source=runs/offline_teacher --set student_init.num_layers=3 ";
  run("distill", "distill_quick", small, 1);
  run("distill", "distill_smollm2_long", small, 2);
  const std::string cached = small + "--set teacher.cache=cache --set teacher.cache_tokens=16";
  folder.succeed(fmt::format("cache-teacher {}/examples/distill_from_cache.textproto --set data.text=text {}",
                             testing::source_folder().string(), cached),
                 2);
  run("distill", "distill_from_cache", cached, 2);
  run("distill", "distill_on_policy", small + "--set objective.sampled_text.first_step=2", 2);
  const auto run_two_texts = [&](const std::string& name, const std::string& more) {
    EXPECT_EQ(left.erase(name), 1U) << name;
    folder.succeed(
        fmt::format("distill {}/examples/{}.textproto --steps 2 --out runs/{} --set data.held_out_fraction=0.4 "
                    "--set train.eval_tokens=256 --set 'data.sources[0].text=text' --set "
                    "'data.sources[1].text=text' {}",
                    testing::source_folder().string(), name, name, more),
        2);
  };
  run_two_texts("distill_two_teachers",
                small + "--set 'teacher.others[0].source=runs/offline_teacher' --set data.sequence_length=64");
  run("distill", "distill_mixtral",
      "--set teacher.source=runs/tiny_moe --set student_init.num_layers=1 --set data.sequence_length=32 "
      "--set batch.sequences_per_step=8 --set batch.micro_batches=2 --set parallel.layout=ep2",
      2);
  run("distill", "distill_gemma3", "--set teacher.source=runs/offline_teacher --set student_init.layers=[0,3]", 2);
  run("distill", "distill_qwen_coder", "--set teacher.source=runs/offline_teacher --set student_init.num_layers=3", 2);
  run("train", "continue_training", "--set model.source=runs/offline_teacher", 1);
  write_chat_tokenizer(folder);
  const Outcome chat = folder.limbeck(
      "train tiny.textproto --steps 2 --out chat_model --set data.tokenizer=chat_tokenizer --set "
      "model.max_positions=2048");
  EXPECT_EQ(chat.code, 0) << chat.output;
  const std::string examples = (testing::source_folder() / "examples").string();
  run("train", "finetune_chat", "--set model.source=chat_model", 2, examples + "/chats.jsonl");
  folder.write("questions.txt",
               "Why?\nHow does a still drip?\nWhat is rain?\nWho are you?\nWhere?\nWhen is it over?\n");
  const std::string loop = fmt::format(
      "cd {} && LIMBECK={} QUESTIONS=questions.txt TOKENS=8 {}/critique/critique_and_revise.sh chat_model "
      "critique --steps 1 --set data.sequence_length=2048",
      folder.path().string(), testing::program().string(), examples);
  for (const char* more : {"", " --resume"}) {  // what the model said is not asked again
    const Outcome revised = testing::run_shell(loop + more);
    EXPECT_EQ(revised.code, 0) << revised.output;
    EXPECT_EQ(revised.output.find("== answer") == std::string::npos, *more != 0) << revised.output;
  }
  run("train", "preferences", "--set model.source=chat_model --set data.sequence_length=2048", 2,
      "critique/pairs.jsonl");
  run("train", "reward", "--set model.source=chat_model --set data.sequence_length=2048", 2, "critique/pairs.jsonl");
  run("train", "lora", "--set model.source=runs/offline_teacher --set parallel.layout=tp2", 2);
  const Outcome trained = folder.limbeck("tokenize text --train --vocab 300 --out my_tokenizer");
  EXPECT_EQ(trained.code, 0) << trained.output;
  run("train", "own_text", "--set data.tokenizer=my_tokenizer", 2);
  run("distill", "distill_other_tokenizer", "--set data.tokenizer=my_tokenizer", 2);
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

/// An example with its own teacher, whose student goes on with a text.
struct RealTeacher {
  const char *example, *file;
  bool has_format;  // the student is a model of a family
};

class RealTeachers : public ::testing::TestWithParam<RealTeacher> {};

TEST_P(RealTeachers, TwentyStepsMakeAStudentThatGoesOn) {
  const auto file = testing::fetched_file(GetParam().file);
  if (!file) GTEST_SKIP() << "SKIPPED: no downloads/" << GetParam().file << " (launch/fetch_teacher.sh)";
  const RunFolder folder(std::string(GetParam().example));
  const auto succeed = [&](const std::string& arguments, int ranks = 1) { return folder.succeed(arguments, ranks); };
  succeed(fmt::format("distill {}/examples/{}.textproto --out run --set teacher.source={} --set data.text=text "
                      "--set data.sequence_length=64 --set data.held_out_fraction=0.4 --set train.eval_tokens=128 "
                      "--set generation.max_tokens=4",
                      testing::source_folder().string(), GetParam().example, *file),
          2);
  const auto metrics = folder.metrics("run");
  ASSERT_FALSE(metrics.empty());
  EXPECT_LT(metrics.back().at("kl").get<double>(), metrics.front().at("kl").get<double>());
  const std::string greedy = " --prompt 'The still' --max-tokens 8 --temperature 0 --quiet";
  const std::string text = succeed("generate run" + greedy);
  EXPECT_THAT(text, HasSubstr("The still"));
  const Outcome converted = folder.limbeck("convert run exported --dtype float32");
  EXPECT_EQ(converted.code == 0, GetParam().has_format) << converted.output;
  if (GetParam().has_format)
    EXPECT_EQ(succeed("generate exported" + greedy), text);
  else
    EXPECT_THAT(converted.output, HasSubstr("but a Limbeck checkpoint"));
}

INSTANTIATE_TEST_SUITE_P(Models, RealTeachers,
                         ::testing::Values(RealTeacher{"distill_gemma3", "gemma-3-270m.Q4_K_M.gguf", false},
                                           RealTeacher{"distill_qwen_coder", "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
                                                       true}),
                         [](const auto& of) { return std::string(of.param.example); });

}  // namespace
}  // namespace limbeck
