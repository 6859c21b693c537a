// Models, tokenizers and token files that were made elsewhere, or that do not belong together; and that nothing is
// written over unasked.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/nn/student/vocabulary_rows.h"
#include "data/models/gguf.h"
#include "data/models/hugging_face.h"
#include "data/text/token_file.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/run/model_source.h"
#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"
#include "tests/support/teacher_file.h"
#include "tests/support/written_out_run.h"
#include "tests/support/zeros_model.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

/// A model of bytes with experts, trained for two steps, as a Hugging Face directory `hf`.
class OutsideFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    succeed("train tiny.textproto --steps 2 --out run --quiet");
    succeed("convert run hf");
  }
  std::string succeed(const std::string& arguments) {
    const Outcome outcome = folder_.limbeck(arguments);
    EXPECT_EQ(outcome.code, 0) << arguments << "\n" << outcome.output;
    return outcome.output;
  }
  std::string fail_with(int code, const std::string& arguments) {
    const Outcome outcome = folder_.limbeck(arguments);
    EXPECT_EQ(outcome.code, code) << arguments << "\n" << outcome.output;
    const auto lines = outcome.lines_with("limbeck: error");
    EXPECT_THAT(lines, SizeIs(1)) << outcome.output;
    return lines.empty() ? "" : lines[0];
  }
  fs::path at(const std::string& name) const { return folder_.path() / name; }

  RunFolder folder_{"outside"};
};

TEST_F(OutsideFiles, NothingIsWrittenOverUnasked) {
  succeed("convert run a.gguf");
  const std::string before = folder_.read("a.gguf");
  fs::create_hard_link(at("a.gguf"), at("hard.gguf"));
  fs::create_symlink(at("a.gguf"), at("soft.gguf"));
  for (const char* same : {"a.gguf", "./a.gguf", "hard.gguf", "soft.gguf"})
    for (const char* force : {"", " --force"})
      EXPECT_THAT(fail_with(2, fmt::format("convert a.gguf {} --dtype Q8_0{}", same, force)),
                  HasSubstr("is what is read (a.gguf), expected another file to write"));
  EXPECT_EQ(folder_.read("a.gguf"), before);

  folder_.write("other.gguf", "mine");
  EXPECT_THAT(fail_with(2, "convert run other.gguf"),
              HasSubstr("other.gguf: is there already, expected a new file (--force replaces it)"));
  EXPECT_EQ(folder_.read("other.gguf"), "mine");
  succeed("convert run other.gguf --force");
  EXPECT_EQ(folder_.read("other.gguf").substr(0, 4), "GGUF");
  for (const char* device :
       {"convert run zero.gguf --force", "eval hf --tokens ids.txt --logits zero.gguf --force",
        "report run --out zero.gguf --force", "train tiny.textproto --out r --dump-gradients zero.gguf"}) {
    folder_.write("ids.txt", "1 2 3");
    fs::remove(at("zero.gguf"));
    fs::create_symlink("/dev/zero", at("zero.gguf"));
    EXPECT_THAT(fail_with(2, device), HasSubstr("zero.gguf: is a device, expected a file to write"));
  }
  EXPECT_THAT(fail_with(2, "eval hf --tokens ids.txt --logits hf/model.safetensors --force"),
              HasSubstr("hf/model.safetensors: is what is read"));
  EXPECT_THAT(fail_with(2, "convert run run"), HasSubstr("there is config.textproto already"));
  EXPECT_THAT(fail_with(2, "convert run hf"), HasSubstr("already, expected a folder without a model"));

  folder_.write("ids.txt", "1 2 3");
  folder_.write("mine.h5", "mine");
  EXPECT_THAT(fail_with(2, "eval hf --tokens ids.txt --logits mine.h5"), HasSubstr("mine.h5: is there already"));
  EXPECT_EQ(folder_.read("mine.h5"), "mine");
  EXPECT_THAT(fail_with(2, "eval hf --tokens ids.txt --logits ids.txt --force"), HasSubstr("is what is read"));
  succeed("eval hf --tokens ids.txt --logits mine.h5 --force");

  succeed("tokenize text --tokenizer bytes --out t --quiet");
  EXPECT_THAT(fail_with(2, "tokenize text --tokenizer bytes --out t"), HasSubstr("t.bin: is there already"));
  succeed("tokenize text --tokenizer bytes --out t --force --quiet");
  EXPECT_THAT(fail_with(2, "eval hf --tokens t --logits t.bin --force"), HasSubstr("t.bin: is what is read"));
  folder_.write("text/x.bin", "a text");
  EXPECT_THAT(fail_with(2, "tokenize text --tokenizer bytes --out text/x --force"),
              HasSubstr("text/x.bin: is there, in what is read (text)"));
  fs::remove(at("text/x.bin"));
  succeed("tokenize text --train --vocab 260 --out trained --quiet");
  EXPECT_THAT(fail_with(2, "tokenize text --train --vocab 270 --out trained"),
              HasSubstr("tokenizer.json: is there already"));

  EXPECT_THAT(fail_with(2, "train tiny.textproto --out run2 --dump-gradients ids.txt"),
              HasSubstr("ids.txt is there already"));

  succeed("report run");
  succeed("report run");  // its own page is written anew
  succeed("convert hf hf/m.gguf");
  succeed("convert hf hf/m.gguf --force");
  fs::remove(at("hf/m.gguf"));
  folder_.write("page.html", "<html>mine</html>");
  // A folder that convert wrote is written anew, and nothing else in it.
  succeed("convert run mine");
  folder_.write("mine/README.md", "my own");
  EXPECT_THAT(fail_with(2, "convert run mine"), HasSubstr("mine: there is "));
  succeed("convert run mine --dtype float32 --force");
  EXPECT_EQ(folder_.read("mine/README.md"), "my own");
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "mine/.unfinished"));
  EXPECT_THAT(succeed("inspect mine"), HasSubstr("float32"));
  EXPECT_THAT(fail_with(2, "convert mine mine --force"), HasSubstr("mine: is what is read"));
  folder_.write("mine/adapter.safetensors", std::string("\x02\0\0\0\0\0\0\0{}", 10));
  EXPECT_THAT(
      fail_with(2, "convert run mine --force"),
      HasSubstr("mine: there is adapter.safetensors already, expected a folder without a model or with one that "
                "convert wrote"));
  EXPECT_THAT(fail_with(2, "convert hf run --force"), HasSubstr("run: there is config.textproto already"));
  EXPECT_THAT(fail_with(2, "report run --out page.html"), HasSubstr("page.html: is there already"));
  succeed("report run --out page.html --force");
  succeed("report run --out page.html");
}

TEST_F(OutsideFiles, WhatIsNoFileIsNamedAndNotWaitedFor) {
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  for (const auto& [path, is] :
       {std::pair("pipe", "pipe: is a pipe"), std::pair("/dev/zero", "/dev/zero: is a device")}) {
    for (const char* command : {"inspect {}", "generate {} --prompt a", "eval {}", "convert {} out"})
      EXPECT_THAT(fail_with(2, fmt::format(fmt::runtime(command), path)), HasSubstr(is));
    EXPECT_THAT(fail_with(2, fmt::format("tokenize text --tokenizer {} --out t", path)), HasSubstr(is));
    EXPECT_THAT(fail_with(1, fmt::format("tokenize {} --tokenizer bytes --out t", path)),
                AllOf(HasSubstr(is), HasSubstr("expected a text file or a folder")));
    EXPECT_THAT(fail_with(1, fmt::format("train tiny.textproto --set data.text={}", path)), HasSubstr(is));
  }
  EXPECT_THAT(fail_with(2, "train pipe"), HasSubstr("pipe: nothing comes of it for ten seconds, expected a config"));
  EXPECT_THAT(fail_with(2, "train /dev/zero"), HasSubstr("/dev/zero: has more than 16 MiB, expected a config"));

  // In a folder from outside, each file that is read.
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
    fs::copy(at("hf"), at("odd"));
    fs::remove(at("odd") / name);
    ASSERT_EQ(::mkfifo((at("odd") / name).c_str(), 0600), 0);
    const Outcome outcome = folder_.limbeck("generate odd --prompt a");
    EXPECT_EQ(outcome.code, 1) << outcome.output;
    EXPECT_THAT(outcome.lines_with("error"), ElementsAre(HasSubstr(name))) << outcome.output;
    fs::remove_all(at("odd"));
  }
}

TEST_F(OutsideFiles, AConfigMayComeThroughAPipe) {
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  std::thread writer([&] { folder_.write("pipe", folder_.read("tiny.textproto")); });
  succeed("train pipe --steps 1 --out piped --quiet");
  writer.join();
  EXPECT_THAT(folder_.read("piped/config.textproto"), HasSubstr("dir: \"piped\""));
}

TEST_F(OutsideFiles, ConvertKeepsWhatItCannotRead) {
  folder_.write("hf/tokenizer.json", R"({"model": {"type": "Unigram"}})");
  folder_.write("hf/tokenizer_config.json", "{ }");
  folder_.write("hf/special_tokens_map.json", "{}");
  folder_.write("hf/generation_config.json", R"({"eos_token_id": [5, 6], "top_k": 3})");
  const std::string said = succeed("convert hf copy");
  EXPECT_THAT(said, AllOf(HasSubstr("its tokenizer's files copied unread: "), HasSubstr("model.type is \"Unigram\"")));
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"})
    EXPECT_EQ(folder_.read(std::string("copy/") + name), folder_.read(std::string("hf/") + name)) << name;
  EXPECT_EQ(nlohmann::json::parse(folder_.read("copy/config.json"))["eos_token_id"], nlohmann::json({5, 6, 256}));
  EXPECT_THAT(succeed("convert hf m.gguf"),
              AllOf(HasSubstr("without a tokenizer: "), HasSubstr("model.type is \"Unigram\"")));
}

TEST_F(OutsideFiles, ConvertKeepsEveryEnd) {
  folder_.write("hf/generation_config.json", R"({"eos_token_id": [256, 65, 66]})");
  succeed("convert hf copy");
  EXPECT_EQ(nlohmann::json::parse(folder_.read("copy/config.json"))["eos_token_id"], nlohmann::json({256, 65, 66}));
  EXPECT_EQ(folder_.read("copy/generation_config.json"), folder_.read("hf/generation_config.json"));
  succeed("convert copy m.gguf");
  const data::GgufFile file(at("m.gguf").string());
  EXPECT_EQ(file.integer("tokenizer.ggml.eot_token_id"), 65);
  EXPECT_EQ(file.integer("tokenizer.ggml.eom_token_id"), 66);
  succeed("convert m.gguf back");
  EXPECT_EQ(nlohmann::json::parse(folder_.read("back/generation_config.json"))["eos_token_id"],
            nlohmann::json({256, 65, 66}));
  EXPECT_EQ(launch::open_model(at("back")).require_tokenizer().stop_ids(), (std::vector<std::int32_t>{256, 65, 66}));
}

TEST_F(OutsideFiles, TheStartOfATextIsKeptWhereAConfigNamesIt) {
  const auto config = [&](const std::string& folder) {
    return nlohmann::json::parse(folder_.read(folder + "/config.json"));
  };
  nlohmann::json named = config("hf");
  ASSERT_TRUE(named["bos_token_id"].is_null()) << "bytes have no start of a text";
  succeed("convert hf without");
  EXPECT_TRUE(config("without")["bos_token_id"].is_null());
  named["bos_token_id"] = 7;
  folder_.write("hf/config.json", named.dump());
  succeed("convert hf with");
  EXPECT_EQ(config("with")["bos_token_id"], 7);
  fs::remove(at("hf/tokenizer.json"));  // a model without a tokenizer too
  succeed("convert hf bare");
  EXPECT_EQ(config("bare")["bos_token_id"], 7);
  for (const nlohmann::json& odd : {nlohmann::json(257), nlohmann::json(-1), nlohmann::json("a")}) {
    named["bos_token_id"] = odd;
    folder_.write("hf/config.json", named.dump());
    fs::remove_all(at("odd"));
    succeed("convert hf odd");
    EXPECT_TRUE(config("odd")["bos_token_id"].is_null()) << odd;
  }
}

TEST_F(OutsideFiles, AFileThatCannotBeFinishedLeavesTheOneBefore) {
  const auto expect_as_before = [&] {
    EXPECT_EQ(folder_.read("old.gguf"), "mine");
    EXPECT_FALSE(fs::exists(at("old.gguf.tmp")));
  };
  folder_.write("old.gguf", "mine");
  const Outcome full = run_shell("ulimit -f 16; " + folder_.command("convert run old.gguf --force"));
  EXPECT_EQ(full.code, 1);
  EXPECT_THAT(full.lines_with("limbeck: error"),
              ElementsAre(HasSubstr("old.gguf.tmp: cannot be written: File too large")));
  expect_as_before();

  write_zeros_model(at("large"), {.width = 512, .inner = 2, .tied_head = true});
  for (const char* signal : {"TERM", "INT"}) {
    fs::remove(at("old.gguf.tmp"));  // whose coming says that signals are caught
    const Outcome stopped = run_shell(fmt::format(
        "cd {}; exec env --default-signal=INT {} convert large old.gguf --force & "  // else ignored in the background
        "while ! [ -e old.gguf.tmp ] && kill -0 $!; do :; done; "
        "kill -STOP $!; kill -{} $!; kill -CONT $!; wait $!; echo code $?",
        folder_.path().string(), program().string(), signal));
    EXPECT_THAT(stopped.output, AllOf(HasSubstr("stopped, and what is written is kept; the same command goes on"),
                                      HasSubstr("code 3")));
    EXPECT_EQ(folder_.read("old.gguf"), "mine");
  }
  EXPECT_THAT(succeed("convert large old.gguf --force --no-verify"), HasSubstr("going on where it was interrupted: "));
  EXPECT_FALSE(fs::exists(at("old.gguf.tmp")));
  EXPECT_FALSE(fs::exists(at("old.gguf.journal")));
  folder_.write("old.gguf", "mine");
  fs::create_symlink("nowhere", at("broken.gguf"));
  EXPECT_THAT(fail_with(2, "convert run broken.gguf"), HasSubstr("broken.gguf: is there already"));
  succeed("convert run broken.gguf --force");
  EXPECT_FALSE(fs::is_symlink(at("broken.gguf")));
  succeed("convert run old.gguf --force");
  EXPECT_EQ(folder_.read("old.gguf").substr(0, 4), "GGUF");
}

TEST_F(OutsideFiles, TheReadableTokenizerOfSeveralIsTaken) {
  folder_.write("hf/tokenizer.model", "AA== 0\nAQ== 1\n");  // tiktoken's, as Meta ships it
  EXPECT_THAT(succeed("generate hf --prompt a --max-tokens 1"), Not(HasSubstr("tiktoken")));
  succeed("convert hf copy");
  EXPECT_EQ(folder_.read("copy/tokenizer.model"), folder_.read("hf/tokenizer.model"));
  folder_.write("hf/tokenizer.json", "<!DOCTYPE html>");
  EXPECT_THAT(fail_with(1, "generate hf --prompt a"), AllOf(HasSubstr("tokenizer.json: "), HasSubstr("tiktoken")));
  fs::remove(at("hf/tokenizer_config.json"));  // of the other tokenizer
  fs::copy_file(golden_path("sentencepiece/bpe.model"), at("hf/tokenizer.model"), fs::copy_options::overwrite_existing);
  const launch::ModelSource source = launch::open_model(at("hf"));
  EXPECT_EQ(source.require_tokenizer().id_of("</s>"), 2);
  ASSERT_THAT(source.notices, SizeIs(1));
  const auto warns = AllOf(HasSubstr("tokenizer.json: "), HasSubstr("tokenizer.model is taken"));
  EXPECT_THAT(source.notices[0], warns);
  fs::create_directories(at("tokenizer"));
  for (const char* file : {"tokenizer.json", "tokenizer.model"}) fs::copy_file(at("hf") / file, at("tokenizer") / file);
  EXPECT_THAT(succeed("tokenize text --tokenizer tokenizer --out named"), warns);
  EXPECT_THAT(succeed("train tiny.textproto --steps 1 --out named_run --set data.tokenizer=tokenizer"), warns);
  EXPECT_THAT(succeed("inspect named --tokenizer tokenizer"), warns);
  EXPECT_THAT(succeed("inspect named --tokenizer tokenizer --quiet"), Not(warns));
}

TEST_F(OutsideFiles, SpecialTokensInTextAreCountedOrParsed) {
  folder_.write("chat.jsonl", R"({"text": "<|endoftext|>hi<|endoftext|>"})");
  EXPECT_THAT(succeed("tokenize chat.jsonl --tokenizer bytes --out plain"),
              AllOf(HasSubstr("taken as ordinary text: 2 names of a special token"), HasSubstr("--parse-special")));
  EXPECT_EQ(data::TokenFile(at("plain").string()).num_tokens(), 2 * 13 + 2 + 1);
  EXPECT_THAT(succeed("tokenize chat.jsonl --tokenizer bytes --out parsed --parse-special"),
              HasSubstr("taken by name from the text: 2 special tokens"));
  // The end of the document is there already.
  EXPECT_EQ(data::TokenFile(at("parsed").string()).read(0), (std::vector<std::int32_t>{256, 'h', 'i', 256}));
  EXPECT_THAT(folder_.read("parsed.meta.json"), HasSubstr("\"parse_special\": true"));
  // In a config it is a field, and the kept tokens are others.
  std::string lines;
  for (int i = 0; i < 99; ++i)
    lines += R"({"text": "<|endoftext|>and so on, and so on, and so on, and so on, and so on"})"
             "\n";
  folder_.write("chat.jsonl", lines);
  const std::string train =
      "train tiny.textproto --steps 1 --set data.text=chat.jsonl --set data.cache_dir=cache --out ";
  EXPECT_THAT(succeed(train + "r1"), HasSubstr("taken as ordinary text: 99 names of a special token"));
  EXPECT_THAT(succeed(train + "r2 --set data.parse_special=true"),
              HasSubstr("taken by name from the text: 99 special tokens"));
}

TEST_F(OutsideFiles, IdsOfAnotherTokenizerAreRefused) {
  succeed("tokenize text --train --vocab 260 --special '<end>' --out mine --quiet");
  folder_.write("distill.textproto",
                R"(teacher { source: "hf" } student_init { num_layers: 1 choice: EVENLY_SPACED }
                   data { text: "text" tokenizer: "mine" sequence_length: 48 held_out_fraction: 0.2 }
                   batch { sequences_per_step: 2 } train { steps: 1 eval_tokens: 96 threads: 1 })");
  // Of fewer tokens than the teacher's model has rows, so that nothing else is in the way.
  auto document = nlohmann::json::parse(folder_.read("mine/tokenizer.json"));
  document["model"]["merges"] = nlohmann::json::array();
  const nlohmann::json vocabulary = document["model"]["vocab"];
  for (const auto& [token, id] : vocabulary.items())
    if (id >= 257) document["model"]["vocab"].erase(token);
  folder_.write("mine/tokenizer.json", document.dump());
  EXPECT_THAT(fail_with(2, "distill distill.textproto --out d"),
              AllOf(HasSubstr("data.tokenizer (mine) is another tokenizer than the teacher's (hf)"),
                    HasSubstr("differ; and tokens cannot be matched by their text: the rules differ by which they"),
                    HasSubstr("objective.bridge learns from such a teacher")));
  folder_.write("train.textproto", R"(model { source: "hf" }
                   data { text: "text" tokenizer: "mine" sequence_length: 48 held_out_fraction: 0.2 }
                   batch { sequences_per_step: 2 } train { steps: 1 eval_tokens: 96 threads: 1 })");
  EXPECT_THAT(fail_with(2, "train train.textproto --out d"),
              HasSubstr("data.tokenizer (mine) is another tokenizer than model.source's (hf)"));

  // Token files: of the same tokenizer, of another, and from elsewhere.
  const std::string tokens = "train tiny.textproto --steps 1 --set data.text=[] --set data.tokens=";
  succeed("tokenize text --tokenizer bytes --out ours --quiet");
  EXPECT_THAT(succeed(tokens + "ours --out t1"), Not(HasSubstr("is not known")));
  succeed("tokenize text --tokenizer mine --out theirs --quiet");
  EXPECT_THAT(fail_with(2, tokens + "theirs --out t2"), HasSubstr("theirs: was made by another tokenizer"));
  EXPECT_THAT(fail_with(1, "eval hf --tokens theirs --logits l.h5"),
              HasSubstr("theirs: was made by another tokenizer"));
  EXPECT_THAT(succeed("inspect theirs --tokenizer bytes"), HasSubstr("another than that given"));
  EXPECT_THAT(succeed("inspect ours --tokenizer bytes"), HasSubstr("that given"));
  fs::remove(at("theirs.meta.json"));
  EXPECT_THAT(
      succeed(tokens + "theirs --out t3"),
      HasSubstr(
          "theirs: there is no theirs.meta.json of it: whether its ids are those of data.tokenizer is not known"));
}

/// A model times `factor` in one tensor.
class Scaled : public core::StateReader {
 public:
  Scaled(const core::StateReader& of, std::string name, float factor)
      : of_(of), name_(std::move(name)), factor_(factor) {}
  std::string source() const override { return of_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return of_.tensors(); }

 private:
  void fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const override {
    of_.read(name, entry);
    if (name != name_) return;
    auto* values = entry.tensor.mutable_data<float>();
    for (std::int64_t i = 0; i < entry.tensor.numel(); ++i) values[i] *= factor_;
  }

  const core::StateReader& of_;
  std::string name_;
  float factor_;
};

constexpr const char* pair = R"(teacher { source: "hf" } model { source: "student" }
    data { text: "text" tokenizer: "bytes" sequence_length: 48 held_out_fraction: 0.2 }
    batch { sequences_per_step: 2 } train { steps: 1 eval_tokens: 96 threads: 1 })";

// Qwen2.5 has 151,936 rows in the small models and 152,064 in the large, for one tokenizer of 151,665.
TEST_F(OutsideFiles, VocabulariesFilledUpToOtherSizesAreDistilled) {
  const launch::ModelSource teacher = launch::open_model(at("hf"));
  for (const std::int64_t rows : {260, 300}) {
    nn::ModelConfig config = teacher.config;
    config.vocabulary = rows;
    fs::remove_all(at("student"));
    data::export_hugging_face(nn::VocabularyRows(*teacher.reader, rows), config, at("student"),
                              {.dtype = core::DType::F32});
    folder_.write("pair.textproto", pair);
    for (const int ranks : {1, 2}) {
      const Outcome outcome = folder_.limbeck(fmt::format("distill pair.textproto --out pair_{}_{}{}", rows, ranks,
                                                          ranks > 1 ? " --set parallel.layout=tp2" : ""),
                                              ranks);
      ASSERT_EQ(outcome.code, 0) << outcome.output;
      const auto kl = outcome.lines_with("KL to the teacher, mean");
      ASSERT_THAT(kl, SizeIs(1));
      EXPECT_THAT(kl[0], HasSubstr("      0.0000")) << rows;  // the same model: and no -0.0000
    }
  }
}

// A teacher whose bytes have other ids, and who has no <new>, beside a student that is the same model of these ids.
TEST_F(OutsideFiles, ATeacherOfOtherIdsIsMatchedByTheTextOfTokens) {
  const launch::ModelSource teacher = launch::open_model(at("hf"));
  const std::int64_t last = num_byte_tokens - 1;
  auto document = nlohmann::json::parse(folder_.read("hf/tokenizer.json"));
  const auto turn = [&](nlohmann::json& id) { id = last - id.get<std::int64_t>(); };
  for (auto& id : document["model"]["vocab"]) turn(id);
  for (auto& added : document["added_tokens"]) turn(added["id"]);
  nlohmann::json more = document["added_tokens"][0];
  more["id"] = last + 1;
  more["content"] = "<new>";
  document["added_tokens"].push_back(more);
  nn::TokenRows rows;
  for (std::int64_t id = 0; id <= last; ++id) rows.rows.push_back(last - id);
  rows.rows.push_back(-1);
  for (const char c : std::string("<new>")) rows.pieces[last + 1].push_back(c);
  nn::ModelConfig config = teacher.config;
  config.vocabulary = 260;
  data::export_hugging_face(nn::VocabularyRows(*teacher.reader, 260, rows), config, at("student"),
                            {.dtype = core::DType::F32,
                             .files = {{"tokenizer.json", document.dump()},
                                       {"tokenizer_config.json", folder_.read("hf/tokenizer_config.json")}}});
  folder_.write("pair.textproto", pair);
  const std::string run = "distill pair.textproto --set data.tokenizer=model ";
  for (const int ranks : {1, 2}) {
    const Outcome outcome = folder_.limbeck(
        fmt::format("{} --out pair_{}{}", run, ranks, ranks > 1 ? " --set parallel.layout=tp2" : ""), ranks);
    ASSERT_EQ(outcome.code, 0) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("matched by their text: 256 of 258 have another id"));
    EXPECT_THAT(outcome.output, HasSubstr("the teacher has no token \"<new>\": it reads the mean of its parts"));
    const auto kl = outcome.lines_with("KL to the teacher, mean");
    ASSERT_THAT(kl, SizeIs(1));
    EXPECT_THAT(kl[0], HasSubstr("      0.0000"));
    const auto step = folder_.metrics(fmt::format("pair_{}", ranks)).at(0);
    EXPECT_LT(step["kl"], 1e-6);
    // The student's own cross-entropy is over all of its tokens, the new one too.
    EXPECT_GT(step["ce"].get<double>(), step["teacher_ce"].get<double>() + 1e-4);
  }
  // Ranks of a teacher's own would read the text's ids as theirs.
  EXPECT_THAT(fail_with(2, "plan pair.textproto --ranks 2 --set data.tokenizer=model --set parallel.teacher_ranks=1"),
              HasSubstr("parallel.teacher_ranks is 1, expected 0: data.tokenizer has other ids than hf"));
  // Figures of a text too.
  const auto figures = nlohmann::json::parse(
      run_shell(folder_.command("eval student --text text --teacher hf --json") + " 2>/dev/null").output);
  EXPECT_LT(figures["all"]["kl"], 1e-6);
  // A start from the teacher has its weights by the text's ids.
  folder_.write("start.textproto", R"(teacher { source: "hf" } student_init { num_layers: 0 choice: EVENLY_SPACED }
      data { text: "text" tokenizer: "student" sequence_length: 48 held_out_fraction: 0.2 }
      batch { sequences_per_step: 2 } train { steps: 1 eval_tokens: 96 threads: 1 })");
  succeed("distill start.textproto --out start");
  EXPECT_LT(folder_.metrics("start").at(0)["kl"], 1e-6);
  EXPECT_THAT(fail_with(2, "cache-teacher start.textproto --out cache"), HasSubstr("the teacher lacks tokens"));
}

TEST_F(OutsideFiles, ATeacherWithoutFiniteLogitsIsNamedBeforeTheTable) {
  const launch::ModelSource good = launch::open_model(at("hf"));
  fs::rename(at("hf"), at("student"));
  data::export_hugging_face(Scaled(*good.reader, "norm.weight", 3e38F), good.config, at("hf"),
                            {.dtype = core::DType::F32});
  folder_.write("pair.textproto", pair);
  EXPECT_THAT(fail_with(1, "distill pair.textproto --out bad"),
              HasSubstr("the teacher, hf, has no finite loss on the held-out text"));
  EXPECT_FALSE(fs::exists(at("bad/metrics.jsonl")));
  EXPECT_THAT(fail_with(1, "eval pair.textproto"), HasSubstr("has no finite loss on the held-out text"));
  folder_.write("ids.txt", "1 2 3");
  EXPECT_THAT(fail_with(1, "eval hf --tokens ids.txt --logits l.h5"), HasSubstr("hf: its logits are not finite"));
  EXPECT_FALSE(fs::exists(at("l.h5")));
}

}  // namespace
}  // namespace limbeck::testing
