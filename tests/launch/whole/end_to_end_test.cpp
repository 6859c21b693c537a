// The program as its users run it: under mpirun, killed, resumed, evaluated, converted.

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <thread>

#include "data/files/hdf5_file.h"
#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/temporary_folder.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

/// Waits until the run has written `lines` lines of metrics; false after a minute.
bool wait_for_metrics(const RunFolder& folder, const std::string& run, std::size_t lines) {
  for (int i = 0; i < 6000; ++i) {
    const std::string text =
        fs::exists(folder.path() / run / "metrics.jsonl") ? folder.read(run + "/metrics.jsonl") : "";
    if (static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) >= lines) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

std::vector<fs::path> checkpoints(const RunFolder& folder, const std::string& run) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder.path() / run / "checkpoints")) found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  return found;
}

/// The last figure of the one row of cross-entropies: of a training the one after it.
std::string cross_entropy(const Outcome& outcome) {
  const std::vector<std::string> rows = outcome.lines_with("cross-entropy");
  EXPECT_EQ(rows.size(), 1U) << outcome.output;
  return rows.empty() ? "" : rows[0].substr(rows[0].rfind(' ') + 1);
}

TEST(EndToEnd, KilledInMidRunAndResumedIsBitIdentical) {
  const RunFolder folder("kill");
  const std::string train =
      "train tiny.textproto --set parallel.layout=ep2 --set train.steps=400 --set routing.capacity_factor=1"
      " --set routing.jitter=0.1";
  const Outcome whole = folder.limbeck(train + " --steps 24 --out whole", 2);
  ASSERT_EQ(whole.code, 0) << whole.output;

  const std::string killed = (folder.path() / "killed").string();  // no other process of the machine has this argument
  std::thread doomed([&] { folder.limbeck(train + " --out " + killed, 2); });
  EXPECT_TRUE(wait_for_metrics(folder, "killed", 10));
  testing::run_shell(fmt::format("pkill -9 -f -- '--out [{}]{}'", killed.front(), killed.substr(1)));
  doomed.join();
  const auto lines = folder.metrics("killed").size();
  ASSERT_GE(lines, 10U);
  ASSERT_LT(lines, 400U) << "the run ended before it was killed";
  const auto last = folder.metrics("killed").back()["step"].get<std::int64_t>();
  const Outcome resumed =
      folder.limbeck(train + fmt::format(" --steps {} --out killed --resume", std::max<std::int64_t>(24, last + 2)), 2);
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("continuing from"));
  const auto expected = folder.metrics("whole");
  EXPECT_GT(expected.front()["expert_load"][0]["drops"], 0);
  auto actual = folder.metrics("killed");
  ASSERT_GE(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_EQ(actual[i]["step"], i + 1);  // no step twice, none left out
  actual.resize(expected.size());
  EXPECT_EQ(actual, expected);
}

TEST(EndToEnd, SavedOnTwoRanksContinuesOnOneAndFourAndUnderTensorParallelism) {
  const RunFolder folder("reshard");
  const std::string train = "train tiny.textproto ";
  ASSERT_EQ(folder.limbeck(train + "--steps 8 --out two --set parallel.layout=ep2", 2).code, 0);
  for (const char* run : {"one", "four", "tensors"})
    fs::copy(folder.path() / "two", folder.path() / run, fs::copy_options::recursive);
  ASSERT_EQ(folder.limbeck(train + "--steps 13 --out two --resume --set parallel.layout=ep2", 2).code, 0);
  const Outcome one = folder.limbeck(train + "--steps 13 --out one --resume");
  ASSERT_EQ(one.code, 0) << one.output;
  const Outcome four = folder.limbeck(train + "--steps 13 --out four --resume --set parallel.layout=dp2ep2", 4);
  ASSERT_EQ(four.code, 0) << four.output;
  // Three steps in parts of tensors, and what they saved goes on as whole ones.
  const Outcome cut = folder.limbeck(train + "--steps 11 --out tensors --resume --set parallel.layout=tp2ep2", 2);
  ASSERT_EQ(cut.code, 0) << cut.output;
  const Outcome whole = folder.limbeck(train + "--steps 13 --out tensors --resume");
  ASSERT_EQ(whole.code, 0) << whole.output;
  const auto expected = folder.metrics("two");
  ASSERT_EQ(expected.size(), 13U);
  for (const char* run : {"one", "four", "tensors"}) {
    const auto actual = folder.metrics(run);
    ASSERT_EQ(actual.size(), 13U);
    for (std::size_t i = 8; i < 13; ++i) {
      const double loss = expected[i]["loss"];
      EXPECT_NEAR(actual[i]["loss"].get<double>(), loss, 1e-4 * loss) << run << " step " << i + 1;
    }
  }
}

TEST(EndToEnd, ADamagedCheckpointIsNamedAndTheOneBeforeIsUsed) {
  const RunFolder folder("damage");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 8 --out run").code, 0);
  const fs::path newest = folder.path() / "run/checkpoints/step_8/rank_00000.h5";
  ASSERT_TRUE(fs::exists(newest));
  {
    std::fstream file(newest, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(5000);
    const char byte = static_cast<char>(file.get() ^ 4);
    file.seekp(5000);
    file.put(byte);
  }
  const Outcome generated = folder.limbeck("generate run --prompt a --max-tokens 1 --quiet");
  EXPECT_EQ(generated.code, 0) << generated.output;
  EXPECT_EQ(generated.lines_with("step_8/rank_00000.h5: is corrupt").size(), 1U) << generated.output;
  const std::string resume =
      "train tiny.textproto --out run --resume --set train.checkpoint_every_steps=0 --set train.keep_checkpoints=2";
  const Outcome resumed = folder.limbeck(resume + " --steps 9 --quiet");
  ASSERT_EQ(resumed.code, 0) << resumed.output;
  EXPECT_EQ(resumed.lines_with("step_8/rank_00000.h5: is corrupt").size(), 1U) << resumed.output;
  EXPECT_EQ(folder.metrics("run").size(), 9U);
  std::vector<std::string> kept;
  for (const fs::path& checkpoint : checkpoints(folder, "run")) kept.push_back(checkpoint.filename().string());
  EXPECT_THAT(kept, ::testing::UnorderedElementsAre("step_4", "step_9"));  // the damaged one counts for nothing
}

TEST(EndToEnd, ARunDoesNotGoOnOverAnotherText) {
  const RunFolder folder("other_text");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out run").code, 0);
  folder.write("text/0.txt", "another text");
  const Outcome resumed = folder.limbeck("train tiny.textproto --steps 4 --out run --resume");
  EXPECT_EQ(resumed.code, 1) << resumed.output;
  EXPECT_THAT(resumed.output, HasSubstr("step_2: its run read a text of fingerprint"));
  EXPECT_EQ(folder.metrics("run").size(), 2U);
}

TEST(EndToEnd, SigtermSavesAndEndsWithThree) {
  const RunFolder folder("sigterm");
  Outcome stopped;
  const std::string out = (folder.path() / "stopped").string();
  std::thread run([&] {
    stopped = folder.limbeck(
        "train tiny.textproto --set train.steps=100000 --set train.checkpoint_every_steps=0 --out " + out, 2);
  });
  EXPECT_TRUE(wait_for_metrics(folder, "stopped", 5));
  testing::run_shell(fmt::format("pkill -TERM -f -- '^[^ ]*/bin/limbeck .*--out {}$'", out));
  run.join();
  EXPECT_EQ(stopped.code, 3) << stopped.output;
  EXPECT_THAT(stopped.output, HasSubstr("--resume"));
  const auto saved = checkpoints(folder, "stopped");
  ASSERT_EQ(saved.size(), 1U);
  EXPECT_EQ(saved[0].filename(), fmt::format("step_{}", folder.metrics("stopped").size()));
}

TEST(EndToEnd, ALossThatIsNotFiniteStopsTheRunAndNamesTheStep) {
  const RunFolder folder("nan");
  for (const int ranks : {1, 2}) {
    const Outcome outcome = folder.limbeck(
        fmt::format("train tiny.textproto --set optimizer.rate=1e30 --set optimizer.clip_norm=0 --out nan{}", ranks),
        ranks);
    EXPECT_EQ(outcome.code, 1) << outcome.output;
    const auto errors = outcome.lines_with("limbeck: error");
    ASSERT_EQ(errors.size(), 1U) << outcome.output;
    EXPECT_THAT(errors[0], HasSubstr("not finite at step "));
  }
}

TEST(EndToEnd, EvaluatingACheckpointGivesTheRowOfItsRunAgain) {
  const RunFolder folder("eval");
  const Outcome train = folder.limbeck("train tiny.textproto --steps 8 --out run");
  ASSERT_EQ(train.code, 0) << train.output;
  const std::string after = cross_entropy(train);
  EXPECT_EQ(cross_entropy(folder.limbeck("eval run")), after);
  EXPECT_EQ(cross_entropy(folder.limbeck("eval run/checkpoints/step_8", 2)), after);
  fs::copy(folder.path() / "tiny.textproto", folder.path() / "my.cfg");
  const Outcome by_config = folder.limbeck("eval my.cfg --set output.dir=run");
  EXPECT_EQ(cross_entropy(by_config), after);
  EXPECT_THAT(train.output, HasSubstr("\"the still \" goes on"));
  EXPECT_THAT(train.output, HasSubstr(testing::program().string() + " generate run "));
}

TEST(EndToEnd, ATrainedTokenizerTokenizes) {
  const RunFolder folder("trained_tokenizer");
  const Outcome train = folder.limbeck("tokenize text --train --vocab 300 --special '<end>' --out mine");
  ASSERT_EQ(train.code, 0) << train.output;
  const Outcome tokenize = folder.limbeck("tokenize text --tokenizer mine --out tokens/mine");
  EXPECT_EQ(tokenize.code, 0) << tokenize.output;
  const Outcome again = folder.limbeck("tokenize text --tokenizer mine/tokenizer.json --out tokens/again");
  EXPECT_EQ(again.code, 0) << again.output;
  EXPECT_EQ(folder.read("tokens/mine.bin"), folder.read("tokens/again.bin"));
  const Outcome run =
      folder.limbeck("train tiny.textproto --set data.tokenizer=mine --steps 2 --out run");  // and a model on it
  ASSERT_EQ(run.code, 0) << run.output;
  ASSERT_EQ(folder.limbeck("convert run hf").code, 0);
  EXPECT_EQ(folder.read("hf/tokenizer.json"), folder.read("mine/tokenizer.json"));
  const Outcome generate = folder.limbeck("generate hf --prompt a --max-tokens 2");
  EXPECT_EQ(generate.code, 0) << generate.output;
  EXPECT_EQ(folder.limbeck("tokenize text --train --vocab 300 --pretokenizer nobody --out x").code, 2);
}

TEST(EndToEnd, ConvertedModelHasTheSameLogits) {
  const RunFolder folder("convert");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 4 --out run").code, 0);
  const Outcome convert = folder.limbeck("convert run hf --dtype float32");
  ASSERT_EQ(convert.code, 0) << convert.output;
  EXPECT_EQ(nlohmann::json::parse(folder.read("hf/config.json"))["torch_dtype"], "float32");
  const Outcome narrow = folder.limbeck("convert run narrow --dtype bfloat16");
  ASSERT_EQ(narrow.code, 0) << narrow.output;
  EXPECT_EQ(nlohmann::json::parse(folder.read("narrow/config.json"))["torch_dtype"], "bfloat16");
  EXPECT_NEAR(static_cast<double>(fs::file_size(folder.path() / "narrow/model.safetensors")),
              static_cast<double>(fs::file_size(folder.path() / "hf/model.safetensors")) / 2, 8192);  // and its head
  EXPECT_TRUE(fs::exists(folder.path() / "hf/tokenizer.json"));
  const Outcome gguf = folder.limbeck("convert run out.gguf");
  ASSERT_EQ(gguf.code, 0) << gguf.output;
  EXPECT_THAT(gguf.output, HasSubstr("run -> out.gguf: a GGUF file, float32"));
  folder.write("ids.txt", "104 101 108 108 111 32 256 0 17 200 31 7");
  for (const char* model : {"run", "hf", "out.gguf"}) {
    const Outcome eval = folder.limbeck(fmt::format("eval {0} --tokens ids.txt --logits {0}.h5", model));
    ASSERT_EQ(eval.code, 0) << eval.output;
  }
  const auto memory = core::Memory::cpu(1);
  const auto logits = [&](const char* model) {
    return core::host_values<float>(data::Hdf5File::open(folder.path() / fmt::format("{}.h5", model))
                                        .read_dataset("/logits", memory, core::DType::F32));
  };
  const std::vector<float> a = logits("run");
  ASSERT_EQ(a.size(), 12U * 257U);
  EXPECT_EQ(a, logits("hf"));

  // Two ranks cut the model, and gather the logits.
  const Outcome two = folder.limbeck("eval run --tokens ids.txt --logits two.h5", 2);
  ASSERT_EQ(two.code, 0) << two.output;
  const std::vector<float> b = logits("two");
  ASSERT_EQ(b.size(), a.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(b[i], a[i], 1e-4) << i;

  // The file holds norm_eps and rope_base as float32.
  const std::vector<float> read_back = logits("out.gguf");
  float largest = 0;
  for (const float x : a) largest = std::max(largest, std::abs(x));
  ASSERT_EQ(read_back.size(), a.size());
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], read_back[i], 1e-5 * largest);

  // Rounded weights, under mpirun; and text by the tokenizer that the file holds.
  const Outcome rounded = folder.limbeck("convert run small.gguf --dtype q8_0", 2);
  ASSERT_EQ(rounded.code, 0) << rounded.output;
  EXPECT_EQ(rounded.lines_with("small.gguf: a GGUF file, Q8_0").size(), 1U) << rounded.output;
  const Outcome said = folder.limbeck("generate small.gguf --prompt 'the still' --max-tokens 4");
  EXPECT_EQ(said.code, 0) << said.output;
  EXPECT_THAT(said.output, HasSubstr("the still"));
}

TEST(EndToEnd, ASentencePieceTokenizerGoesThroughEveryCommand) {
  const RunFolder folder("sentencepiece");
  folder.write("bpe.model", testing::read_file(testing::golden_folder() / "sentencepiece/bpe.model"));
  const Outcome train = folder.limbeck("train tiny.textproto --set data.tokenizer=bpe.model --steps 2 --out run");
  ASSERT_EQ(train.code, 0) << train.output;
  const Outcome eval = folder.limbeck("eval run");
  EXPECT_EQ(cross_entropy(eval), cross_entropy(train));
  fs::remove(folder.path() / "bpe.model");  // the checkpoint carries it
  ASSERT_EQ(folder.limbeck("convert run hf --dtype float32").code, 0);
  EXPECT_FALSE(fs::exists(folder.path() / "hf/tokenizer.json"));
  EXPECT_TRUE(fs::exists(folder.path() / "hf/tokenizer.model"));
  const nlohmann::json config = nlohmann::json::parse(folder.read("hf/config.json"));
  EXPECT_EQ(config["bos_token_id"], 1);
  EXPECT_EQ(config["eos_token_id"], 2);
  const std::string rest = " --prompt 'The still' --max-tokens 12 --seed 3 --quiet";
  const Outcome generated = folder.limbeck("generate run" + rest);
  EXPECT_THAT(generated.output, HasSubstr("The still"));
  EXPECT_EQ(folder.limbeck("generate hf" + rest).output, generated.output);
  ASSERT_EQ(folder.limbeck("convert run out.gguf").code, 0);
  EXPECT_EQ(folder.limbeck("generate out.gguf" + rest).output, generated.output);
}

TEST(EndToEnd, ATextThatEndsStopsTheContinuation) {
  const RunFolder folder("stops");
  std::string lines;
  for (int i = 0; i < 40; ++i) lines += "{\"text\": \"ab\"}\n";
  folder.write("ab.jsonl", lines);
  const Outcome train = folder.limbeck(
      "train tiny.textproto --steps 20 --out run --set data.text=ab.jsonl --set optimizer.rate=2e-2 "
      "--set schedule.warmup_steps=0 --set generation.prompt=a --set generation.temperature=0");
  ASSERT_EQ(train.code, 0) << train.output;
  EXPECT_EQ(nlohmann::json::parse(folder.read("run/end.json"))["student_text"], "b");
  EXPECT_EQ(folder.limbeck("generate run --prompt a --temperature 0 --max-tokens 12 --quiet").output, "ab\n");
}

TEST(EndToEnd, GenerationIsSeededAndTheSameUnderTwoRanks) {
  const RunFolder folder("generate");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 8 --out run").code, 0);
  const std::string generate = "generate run --prompt 'the still' --max-tokens 24 --quiet --seed ";
  const Outcome once = folder.limbeck(generate + "5");
  ASSERT_EQ(once.code, 0) << once.output;
  EXPECT_THAT(once.output, HasSubstr("the still"));
  EXPECT_EQ(folder.limbeck(generate + "5").output, once.output);
  EXPECT_NE(folder.limbeck(generate + "6").output, once.output);
  EXPECT_EQ(folder.limbeck(generate + "5", 2).output, once.output);
}

/// Two ranks, the second with another option. (By a shell: Debian 13's mpirun crashes when it is given two programs.)
Outcome with_another_option(const RunFolder& folder, const std::string& option) {
  const std::string program = testing::program().string();
  std::string command = folder.command("", 2);  // "... mpirun ... -n 2 limbeck "
  command.resize(command.rfind(program));
  return testing::run_shell(
      fmt::format("{}sh -c '[ $OMPI_COMM_WORLD_RANK = 0 ] || set -- {}; exec {} train tiny.textproto --out run --quiet "
                  "\"$@\"' sh",
                  command, option, program));
}

TEST(EndToEnd, RanksWithOtherConfigsAreRefused) {
  const RunFolder folder("other_configs");
  for (const auto& [set, message] :
       {std::pair("--set optimizer.rate=0.5", "optimizer.rate is 0.5 on rank 1 and 0.003 on rank 0"),
        std::pair("--set train.seed=9", "train.seed is 9 on rank 1 and 1 on rank 0"),
        std::pair("--set data.seed=9", "data.seed is 9 on rank 1 and 1 on rank 0"),
        std::pair("--set parallel.layout=ep2", "parallel.layout is \"ep2\" on rank 1 and \"\" on rank 0"),
        std::pair("--steps 3", "steps is 3 on rank 1 and 0 on rank 0")}) {
    const Outcome outcome = with_another_option(folder, set);
    EXPECT_EQ(outcome.code, 2) << outcome.output;
    const auto errors = outcome.lines_with("limbeck: error");
    ASSERT_EQ(errors.size(), 1U) << outcome.output;
    EXPECT_THAT(errors[0], HasSubstr(std::string(message) + ", expected the same on all ranks"));
    EXPECT_FALSE(fs::exists(folder.path() / "run"));
  }
}

TEST(EndToEnd, StepsAreRecordedOfOneRankOnAGpuAlone) {
  const RunFolder folder("recorded");
  const Outcome two = folder.limbeck("train tiny.textproto --steps 2 --out run --set train.cuda_graph=true", 2);
  EXPECT_EQ(two.code, 2) << two.output;
  const auto errors = two.lines_with("limbeck: error");
  ASSERT_EQ(errors.size(), 1U) << two.output;
  EXPECT_THAT(errors[0], HasSubstr("train.cuda_graph is true, expected one rank for it: 2 are running"));
  EXPECT_FALSE(fs::exists(folder.path() / "run"));
  const Outcome one = folder.limbeck(
      "train tiny.textproto --steps 4 --out one --set train.cuda_graph=true "
      "--set train.device=CPU");
  ASSERT_EQ(one.code, 0) << one.output;
  EXPECT_EQ(one.lines_with("train.cuda_graph: a CPU has no queue of work to record").size(), 1U) << one.output;
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 4 --out other").code, 0);
  EXPECT_EQ(folder.metrics("one")[3]["loss"], folder.metrics("other")[3]["loss"]);
}

TEST(EndToEnd, AnErrorOfOneRankIsOneLineAndEndsAll) {
  const RunFolder folder("one_rank");
  // The first rank alone cannot write this file; the others wait for it meanwhile.
  const Outcome outcome = folder.limbeck(
      "train tiny.textproto --steps 2 --out run --set parallel.layout=ep2 --dump-gradients /proc/x.h5", 2);
  EXPECT_EQ(outcome.code, 1) << outcome.output;
  const auto errors = outcome.lines_with("limbeck: error");
  ASSERT_EQ(errors.size(), 1U) << outcome.output;
  EXPECT_THAT(errors[0], HasSubstr("/proc/x.h5"));
}

TEST(EndToEnd, TrainsOnFromAModel) {
  const RunFolder folder("continued");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 4 --out run").code, 0);
  folder.write("on.textproto",
               "model { source: \"run\" } data { text: \"text\" sequence_length: 48 held_out_fraction: 0.2 }\n"
               "batch { sequences_per_step: 4 } train { steps: 2 eval_tokens: 384 threads: 1 }\n");
  const Outcome on = folder.limbeck("train on.textproto --out on --dump-gradients dump.h5");
  ASSERT_EQ(on.code, 0) << on.output;
  const double first = folder.metrics("run")[0]["loss"];
  EXPECT_LT(folder.metrics("on")[0]["loss"].get<double>(), first);
  const data::Hdf5File dump = data::Hdf5File::open(folder.path() / "dump.h5");
  EXPECT_EQ(dump.dataset_info("/gradients/layers/1/moe/experts/down").shape, (core::Shape{4, 32, 24}));
  EXPECT_EQ(dump.dataset_info("/tokens").shape, (core::Shape{4, 48}));
  EXPECT_TRUE(dump.contains("/loss/total"));
}

}  // namespace
}  // namespace limbeck
