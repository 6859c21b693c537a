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
#include "tests/support/zeros_model.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

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

// The program and its libraries, which is most of it, are what a model of a thirtieth of the size takes, too.
TEST(Convert, TakesLittleMemoryWhateverTheModelsSize) {
  const RunFolder folder("convert_memory");
  const auto in_folder = [&](const char* name) { return (folder.path() / name).string(); };
  const std::string model = in_folder("model"), small = in_folder("small");
  write_zeros_model(model, {.width = 1024, .inner = 32, .tied_head = false});
  write_zeros_model(small, {.width = 32, .inner = 32, .tied_head = false});
  const auto peak = [](const std::string& from, const std::string& to, const char* dtype,
                       std::vector<std::string> more = {"--no-verify"}) {
    more.insert(more.begin(), {"convert", from, to, "--dtype", dtype, "--threads", "2"});
    return peak_of(more);
  };
  const double program = peak(small, in_folder("small.gguf"), "Q8_0");
  for (const char* dtype : {"float32", "bfloat16", "Q8_0"}) {
    const std::string out = in_folder(dtype[0] == 'Q' ? "out.gguf" : "out");
    EXPECT_LT(peak(model, out, dtype) - program, 60) << dtype;
    fs::remove_all(out);
  }
  const std::string file = in_folder("m.gguf");
  EXPECT_LT(peak(model, file, "bfloat16", {}) - program, 180);  // checked, too
  // From a mapped file of blocks, which are copied as they are.
  EXPECT_LT(peak(file, in_folder("again.gguf"), "bfloat16") - program, 60);
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
