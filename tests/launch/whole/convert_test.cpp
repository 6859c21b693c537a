// `limbeck convert` as its users run it: how much memory it takes, and that it reads back what it wrote.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/places.h"
#include "tests/support/run_limbeck.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

/// A Llama of zeros, most of them an embedding and a head of 205 MB each, of which the disk holds nothing.
void write_zeros(const fs::path& folder) {
  constexpr std::int64_t vocabulary = 50000, width = 1024;
  fs::create_directories(folder);
  std::ofstream(folder / "config.json") << nlohmann::json({{"architectures", {"LlamaForCausalLM"}},
                                                           {"vocab_size", vocabulary},
                                                           {"hidden_size", width},
                                                           {"intermediate_size", 32},
                                                           {"num_hidden_layers", 1},
                                                           {"num_attention_heads", 1},
                                                           {"head_dim", 32},
                                                           {"max_position_embeddings", 8},
                                                           {"tie_word_embeddings", false}})
                                               .dump();
  nlohmann::json tensors;
  std::int64_t bytes = 0;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape) {
    std::int64_t size = 4;
    for (const auto extent : shape) size *= extent;
    tensors[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {bytes, bytes + size}}};
    bytes += size;
  };
  const std::string layer = "model.layers.0.";
  add("model.embed_tokens.weight", {vocabulary, width});
  add("lm_head.weight", {vocabulary, width});
  for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) add(layer + norm + ".weight", {width});
  for (const char* part : {"q", "k", "v"}) add(layer + "self_attn." + part + "_proj.weight", {32, width});
  for (const char* part : {"gate", "up"}) add(layer + "mlp." + part + "_proj.weight", {32, width});
  add(layer + "self_attn.o_proj.weight", {width, 32});
  add(layer + "mlp.down_proj.weight", {width, 32});
  add("model.norm.weight", {width});
  const std::string head = tensors.dump();
  const std::uint64_t size = head.size();
  std::ofstream file(folder / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&size), sizeof size) << head;
  file.close();
  fs::resize_file(folder / "model.safetensors", sizeof size + head.size() + static_cast<std::uintmax_t>(bytes));
}

/// The most memory, mapped pages of files included, in MB, that the program took.
double peak_of(std::vector<std::string> arguments) {
  std::string program_path = program().string();
  std::vector<char*> argv = {program_path.data()};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  struct rusage usage {};
  EXPECT_EQ(::wait4(child, &status, 0, &usage), child);
  EXPECT_EQ(status, 0);
  return static_cast<double>(usage.ru_maxrss) / 1000;
}

TEST(Convert, TakesLittleMemoryWhateverTheModelsSize) {
  const RunFolder folder("convert_memory");
  const std::string model = (folder.path() / "model").string();
  write_zeros(model);
  for (const char* dtype : {"float32", "bfloat16", "Q8_0"}) {
    const std::string out = (folder.path() / (dtype[0] == 'Q' ? "out.gguf" : "out")).string();
    EXPECT_LT(peak_of({"convert", model, out, "--dtype", dtype, "--no-verify", "--threads", "2"}), 120) << dtype;
    fs::remove_all(out);
  }
  const std::string file = (folder.path() / "m.gguf").string();
  EXPECT_LT(peak_of({"convert", model, file, "--dtype", "bfloat16", "--threads", "2"}), 260);  // checked, too
  // From a mapped file of blocks, which are copied as they are.
  EXPECT_LT(peak_of({"convert", file, (folder.path() / "again.gguf").string(), "--dtype", "bfloat16", "--no-verify"}),
            120);
}

TEST(Convert, ReadsBackWhatItWrote) {
  const RunFolder folder("convert_check");
  ASSERT_EQ(folder.limbeck("train tiny.textproto --steps 2 --out run").code, 0);
  const Outcome exact = folder.limbeck("convert run same");
  EXPECT_EQ(exact.code, 0) << exact.output;
  EXPECT_THAT(exact.output,
              HasSubstr("read back: every value is the same, logits of 16 tokens within 0 of the largest"));
  for (const char* dtype : {"Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"}) {
    const Outcome rounded = folder.limbeck(fmt::format("convert run {}.gguf --dtype {}", dtype, dtype));
    EXPECT_EQ(rounded.code, 0) << rounded.output;
    EXPECT_THAT(rounded.output, HasSubstr("read back: every value is the same but for its rounding, logits of 16"));
    EXPECT_THAT(folder.limbeck(fmt::format("inspect {}.gguf", dtype)).output, HasSubstr("parameters"));
  }
  const Outcome blind = folder.limbeck("convert run blind --no-verify");
  EXPECT_EQ(blind.code, 0) << blind.output;
  EXPECT_THAT(blind.output, Not(HasSubstr("read back")));
}

}  // namespace
}  // namespace limbeck::testing
