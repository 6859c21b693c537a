// What is wrong with the input of a command is said in one line that names the place and the expectation, or what is
// amiss where that is the same; the exit code is 2 where the command or its config is wrong, 1 where a file is.
#include <gmock/gmock.h>

#include <cstring>
#include <filesystem>

#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Outcome;
using testing::RunFolder;

/// The bytes of numbers and strings one behind the other.
class Bytes {
 public:
  template <class T>
  Bytes& number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Bytes& string(const std::string& value) { return number<std::uint64_t>(value.size()).raw(value); }
  Bytes& raw(const std::string& value) {
    text_ += value;
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

/// A GGUF file's first bytes, up to its keys.
Bytes gguf(std::uint32_t version, std::uint64_t tensors, std::uint64_t keys) {
  return std::move(Bytes().raw("GGUF").number(version).number(tensors).number(keys));
}

/// The last value of a file is no number, be it float32 or bfloat16.
std::string with_nan_at_end(std::string file) {
  file.replace(file.size() - 4, 4, "\xff\x7f\xff\x7f", 4);
  return file;
}

void copy(const RunFolder& folder, const std::string& from, const std::string& to) {
  fs::copy(folder.path() / from, folder.path() / to, fs::copy_options::recursive);
}

void replace(const RunFolder& folder, const std::string& file, const std::string& what, const std::string& with) {
  std::string text = folder.read(file);
  const std::size_t at = text.find(what);
  ASSERT_NE(at, std::string::npos) << file << " has no " << what;
  folder.write(file, text.replace(at, what.size(), with));
}

/// run/: a run of one step; hf/: its model as Hugging Face's files; and files and folders with one mistake each.
void make_files(const RunFolder& folder) {
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 1 --out run").code, 0);
  ASSERT_EQ(folder.limbeck("convert run hf").code, 0);
  ASSERT_EQ(folder.limbeck("tokenize text --tokenizer bytes --out tokens/good").code, 0);

  folder.write("misspelt.textproto", "model {\n  width: 32\n  wdith: 32\n}\n");
  folder.write("unclosed.textproto", "train {\n  steps: 3\n");
  folder.write("ids.txt", "1 2 three");
  folder.write("ids2.txt", "1 2 3");
  folder.write("great.txt", "1 2 70000");

  folder.write("text.gguf", "hello");
  folder.write("version.gguf", gguf(9, 0, 0).text());
  folder.write("tensors.gguf", gguf(3, std::uint64_t{1} << 60U, 0).text());
  folder.write("cut.gguf", gguf(3, 0, 5).text());
  folder.write("type.gguf", gguf(3, 0, 1).string("general.name").number(std::uint32_t{99}).text());
  folder.write("long.gguf",
               gguf(3, 0, 1).string("general.name").number(std::uint32_t{8}).number(std::uint64_t{1} << 62U).text());
  folder.write("architecture.gguf",
               gguf(3, 0, 1).string("general.architecture").number(std::uint32_t{8}).string("mamba").text());

  for (const char* name : {"hf_config", "hf_architecture", "hf_header", "hf_cut", "hf_tokenizer", "hf_merges"})
    copy(folder, "hf", name);
  folder.write("hf_config/config.json", "{\"architectures\": [");
  replace(folder, "hf_architecture/config.json", "MixtralForCausalLM", "BertForMaskedLM");
  folder.write("hf_header/model.safetensors", Bytes().number(std::uint64_t{1} << 50U).raw("{}").text());
  const std::string weights = folder.read("hf/model.safetensors");
  folder.write("hf_cut/model.safetensors", weights.substr(0, weights.size() - 100));
  folder.write("hf_tokenizer/tokenizer.json", "{\"model\": {\"type\": \"WordPiece\"}}");
  folder.write("hf_merges/tokenizer.json",
               R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}, "pre_tokenizer": null})");

  copy(folder, "hf", "hf_nan");
  folder.write("hf_nan/model.safetensors", with_nan_at_end(weights));
  ASSERT_EQ(folder.limbeck("convert run good.gguf").code, 0);
  folder.write("nan.gguf", with_nan_at_end(folder.read("good.gguf")));

  for (const char* name : {"t_cut", "t_type", "t_pointer"})
    for (const char* end : {".idx", ".bin"}) copy(folder, std::string("tokens/good") + end, std::string(name) + end);
  std::string index = folder.read("tokens/good.idx");
  folder.write("t_cut.idx", index.substr(0, index.size() - 9));
  index[17] = 77;
  folder.write("t_type.idx", index);
  folder.write("t_pointer.bin", folder.read("tokens/good.bin").substr(0, 10));

  ASSERT_EQ(folder.limbeck("tokenize text --train --vocab 260 --out grows").code, 0);
  nlohmann::json grows = nlohmann::json::parse(folder.read("grows/tokenizer.json"));
  grows["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(1000, 'b')}};
  folder.write("grows/tokenizer.json", grows.dump());
  folder.write("grown.txt", std::string(1000, 'a'));
  folder.write("field.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n");
  folder.write("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\n");
  folder.write("rubbish.txt.gz", "\x1f\x8b\x08 rubbish");

  for (const char* name : {"manifest", "json", "weights", "state", "empty"})
    copy(folder, "run", std::string("run_") + name);
  const std::string step = "checkpoints/step_1/";
  folder.write("run_manifest/" + step + "manifest.json", "{\"files\": 3}");
  folder.write("run_json/" + step + "manifest.json", "{\"extra\": \"" + std::string(3000000, 'x'));
  folder.write("rubbish.h5", "\x89HDF rubbish");
  for (const auto& entry : fs::directory_iterator(folder.path() / "run_weights" / step))
    if (entry.path().extension() == ".h5") {
      const std::string file = fs::relative(entry.path(), folder.path()).string();
      std::string damaged = folder.read(file);
      damaged[damaged.size() / 2] = static_cast<char>(damaged[damaged.size() / 2] ^ 1);
      folder.write(file, damaged);
    }
  fs::remove_all(folder.path() / "run_empty/checkpoints");
}

struct Case {
  const char* arguments;
  int code;
  const char* place;
  const char* expectation;
};

TEST(EndToEnd, EveryBadInputIsOneLineThatNamesThePlaceAndTheExpectation) {
  const RunFolder folder("bad_inputs");
  make_files(folder);
  if (HasFatalFailure()) return;
  const std::string before = folder.read("run/config.textproto");
  for (const Case& c : std::initializer_list<Case>{
           // configs
           {"train misspelt.textproto", 2, "misspelt.textproto:3:3: ", "did you mean width"},
           {"train unclosed.textproto", 2, "unclosed.textproto:3:", "Expected"},
           {"train missing.textproto", 2, "missing.textproto", "expected"},
           {"train text", 2, "text", "expected"},
           {"train tiny.textproto --set train.stepps=3", 2, "--set train.stepps=3", "did you mean train.steps"},
           {"train tiny.textproto --set train.steps=many", 2, "--set train.steps=many", "expected a whole number"},
           {"train tiny.textproto --set train.steps=0", 2, "--set train.steps=0", "expected 1 or more"},
           {"train tiny.textproto --set model.num_kv_heads=3", 2, "model.num_kv_heads is 3", "expected a divisor"},
           {"train tiny.textproto --set model.moe.experts_per_token=5", 2, "experts_per_token is 5", "expected 1 to"},
           {"train tiny.textproto --set model.width=1000000000000", 2, "model.width", "expected 1 to 16777216"},
           {"train tiny.textproto --set data.sequence_length=100000 --out a", 2, "sequence_length", "expected"},
           {"train tiny.textproto --set data.tokenizer=teacher --out a", 2, "data.tokenizer", "expected"},
           {"train tiny.textproto --set student_init.num_layers=2", 2, "student_init", "expected none"},
           {"train tiny.textproto --set generation.max_tokens=1000 --out a", 2, "generation.max_tokens", "expected"},
           {"distill tiny.textproto", 2, "teacher", "expected"},
           {"train tiny.textproto --set train.steps=010", 2, "--set train.steps=010", "without zeros in front"},
           {"train tiny.textproto --dump-gradients text --out a", 2, "text: is a folder", "expected a file to write"},
           {"train tiny.textproto --dump-gradients= --out a", 2, "'' is given", "expected the name of a file to write"},
           {"train tiny.textproto --dump-gradients g.h5 --out run --resume --steps 1", 2, "--dump-gradients",
            "the run has done all"},
           // layouts
           {"train tiny.textproto --set parallel.layout=dp3", 2, "dp3", "expected"},
           {"train tiny.textproto --set parallel.layout=xp2", 2, "xp2", "expected"},
           {"train tiny.textproto --set parallel.layout=tp0", 2, "tp0", "expected"},
           {"train tiny.textproto --set parallel.layout=tp2tp2", 2, "tp2tp2", "axis tp at position 4 is named twice"},
           // the command line
           {"train tiny.textproto --out run", 2, "run", "--resume"},
           {"train tiny.textproto --dump-gradients nowhere/x.h5", 2, "nowhere", "expected"},
           {"train tiny.textproto --steps -3", 2, "--steps", "expected"},
           {"eval run --tokens ids.txt", 1, "ids.txt: \"three\" at place 2", "expected a token id below 257"},
           {"convert run hf2 --dtype float7", 2, "--dtype: float7",
            "not in {float32,float16,bfloat16,Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0,MXFP4}"},
           {"convert run hf2 --dtype Q8_0", 2, "--dtype is Q8_0", "expected float32, bfloat16 or MXFP4"},
           {"convert run x.gguf --dtype Q4_1", 2, "--dtype: Q4_1",
            "not in {float32,float16,bfloat16,Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q4_0,MXFP4}"},
           {"convert run tiny.textproto", 2, "tiny.textproto", "folder cannot be made: Not a directory"},
           {"generate nowhere --prompt x", 2, "nowhere", "expected"},
           // GGUF
           {"inspect text.gguf", 2, "text.gguf", "expected GGUF, HDF5"},
           {"inspect version.gguf", 1, "version.gguf", "expected"},
           {"inspect tensors.gguf", 1, "tensors.gguf: byte 8: ", "hold at most"},
           {"inspect cut.gguf", 1, "cut.gguf: byte 16: ", "hold at most"},
           {"inspect type.gguf", 1, "type.gguf", "expected"},
           {"inspect long.gguf", 1, "long.gguf", "expected"},
           {"convert nan.gguf hf2", 1, "nan.gguf: ", "holds NaN or an infinity at ["},
           {"eval nan.gguf --tokens ids2.txt --logits o.h5", 1, "nan.gguf: ", "holds NaN or an infinity at ["},
           {"convert architecture.gguf hf2", 1, "architecture.gguf", "expected"},
           // Hugging Face's files
           {"convert hf_config hf2", 1, "hf_config/config.json", "expected"},
           {"convert hf_architecture hf2", 1, "architectures is BertForMaskedLM", "expected one of LlamaForCausalLM"},
           {"convert hf_header hf2", 1, "hf_header/model.safetensors", "expected"},
           {"convert hf_cut hf2", 1, "hf_cut/model.safetensors", "expected"},
           {"convert hf_nan x.gguf", 1, "hf_nan: ", "holds NaN or an infinity at ["},
           {"generate hf_nan --prompt a", 1, "hf_nan: ", "holds NaN or an infinity at ["},
           {"tokenize text --tokenizer hf_tokenizer --out tokens/x", 1, "hf_tokenizer/tokenizer.json", "expected"},
           {"tokenize text --tokenizer hf_merges --out tokens/x", 1, "hf_merges/tokenizer.json", "expected"},
           // tokens and text
           {"eval run --tokens ids.txt --logits o.h5", 1, "ids.txt", "expected"},
           {"eval run --tokens great.txt --logits o.h5", 1, "70000", "expected"},
           {"eval run --tokens nowhere --logits o.h5", 1, "nowhere", "expected"},
           {"inspect t_cut", 1, "t_cut.idx", "expected"},
           {"inspect t_type", 1, "t_type.idx", "expected"},
           {"inspect t_pointer", 1, "t_pointer", "expected"},
           {"train tiny.textproto --set data.text=[/no/such/folder] --out a", 1, "/no/such/folder", "expected"},
           {"tokenize grown.txt --tokenizer grows --out tokens/x", 1, "grown.txt: ", "its normalizer makes more than"},
           {"train tiny.textproto --set data.text=field.jsonl --out a", 1, "field.jsonl:2: ", "expected a string"},
           {"train tiny.textproto --set data.text=broken.jsonl --out a", 1, "broken.jsonl:2: ", "expected"},
           {"train tiny.textproto --set data.text=rubbish.txt.gz --out a", 1, "rubbish.txt.gz", "unknown header flags"},
           // checkpoints and runs
           {"eval run --set model.num_heads=2", 1, "step_", "model.num_heads = 4, the config says 2"},
           {"eval run --set no.such=1 --tokens ids.txt --logits o.h5", 2, "--set",
            "not read where a text or tokens are given"},
           {"tokenize text --tokenizer bytes --out tokens/", 2, "--out is 'tokens/'", "expected the prefix"},
           {"report run --out=", 2, "'' is given", "expected the name of a file to write"},
           {"report run --out run/metrics.jsonl --force", 2, "run/metrics.jsonl: is what is read", "expected"},
           {"eval run_manifest", 1, "manifest.json", "expected"},
           {"inspect run_json/checkpoints/step_1", 1, "manifest.json: is no manifest", "missing closing quote"},
           {"inspect rubbish.h5", 1, "rubbish.h5", "was not opened as an HDF5 file"},
           {"eval run_weights/checkpoints/step_1", 1, ".h5", "expected"},
           {"eval run_empty", 2, "run_empty", "expected"},
           {"train tiny.textproto --out run --resume --set data.seed=9", 1, "data.seed", "expected"},
           {"train tiny.textproto --out run --resume --set data.text=[text/1.txt,text/2.txt]", 1, "data.text",
            "expected the same text"},
           {"train tiny.textproto --out run --resume --set model.width=64", 1, "width = 32, the config says 64",
            "expected the same"},
           {"train tiny.textproto --out text --resume", 2, "text", "no run directory"},
           {"report text", 2, "text", "expected"},
       }) {
    const Outcome outcome = folder.limbeck(c.arguments);
    EXPECT_EQ(outcome.code, c.code) << c.arguments << "\n" << outcome.output;
    const auto errors = outcome.lines_with("limbeck: error");
    EXPECT_LT(outcome.output.size(), 1000U) << c.arguments;
    EXPECT_THAT(errors, ElementsAre(AllOf(HasSubstr(c.place), HasSubstr(c.expectation)))) << c.arguments << "\n"
                                                                                          << outcome.output;
  }
  EXPECT_EQ(folder.read("run/config.textproto"), before);  // what was refused left no trace
  EXPECT_FALSE(fs::exists(folder.path() / "hf2"));
  const Outcome two = folder.limbeck("train misspelt.textproto", 2);
  EXPECT_EQ(two.code, 2) << two.output;
  EXPECT_EQ(two.lines_with("limbeck: error").size(), 1U) << two.output;
}

}  // namespace
}  // namespace limbeck
