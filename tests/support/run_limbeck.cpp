#include "tests/support/run_limbeck.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/random.h"
#include "tests/support/places.h"

namespace limbeck::testing {
namespace {

namespace fs = std::filesystem;

/// Sentences of a few dozen words in changing order: enough structure for a loss to fall.
std::string document(std::uint64_t seed) {
  static constexpr std::array<const char*, 16> words = {"the",   "still", "drips", "slowly", "into",  "a",
                                                        "glass", "and",   "what",  "was",    "large", "becomes",
                                                        "small", "but",   "keeps", "spirit"};
  const core::RandomStream random(seed, 0, "document");
  std::string text;
  for (std::uint64_t i = 0; i < 400; ++i) {
    text += words[random.below(i, words.size())];
    text += i % 9 == 8 ? ".\n" : " ";
  }
  return text;
}

constexpr const char* config = R"(
model {
  width: 32 num_layers: 2 num_heads: 4 num_kv_heads: 2 mlp_width: 48 max_positions: 128
  moe { num_experts: 4 experts_per_token: 2 expert_width: 24 }
}
data { text: "text" tokenizer: "bytes" sequence_length: 48 held_out_fraction: 0.2 }
optimizer { rate: 3e-3 }
batch { sequences_per_step: 4 }
train { steps: 24 checkpoint_every_steps: 4 keep_checkpoints: 3 eval_tokens: 384 log_every_steps: 1 threads: 1 }
generation { prompt: "the still " max_tokens: 12 }
)";

}  // namespace

std::vector<std::string> Outcome::lines_with(const std::string& text) const {
  std::vector<std::string> lines;
  std::istringstream in(output);
  for (std::string line; std::getline(in, line);)
    if (line.find(text) != std::string::npos) lines.push_back(line);
  return lines;
}

Outcome run_shell(const std::string& command) {
  Outcome outcome;
  FILE* pipe = ::popen(("( " + command + " ) 2>&1").c_str(), "r");
  core::check(pipe != nullptr, "cannot run: {}", command);
  std::array<char, 4096> buffer{};
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe))
    outcome.output.append(buffer.data(), n);
  const int status = ::pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

std::string until_metrics(const std::string& run, int lines) {
  return fmt::format(
      "for i in $(seq 3000); do [ $(cat {}/metrics.jsonl 2>/dev/null | wc -l) -ge {} ] && break; sleep 0.02; done", run,
      lines);
}

std::string slow_calls() {
  return fmt::format("LD_PRELOAD={}", (program().parent_path().parent_path() / "tests/slow_calls.so").string());
}

RunFolder::RunFolder(const std::string& name)
    : path_(fs::temp_directory_path() / fmt::format("limbeck_{}_{}", name, ::getpid())) {
  fs::remove_all(path_);
  fs::create_directories(path_ / "text");
  for (std::uint64_t i = 0; i < 6; ++i) write(fmt::format("text/{}.txt", i), document(i));
  write("tiny.textproto", config);
}

RunFolder::~RunFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void RunFolder::write(const std::string& file, const std::string& contents) const {
  std::ofstream(path_ / file, std::ios::binary) << contents;
}

std::string RunFolder::read(const std::string& file) const {
  std::ostringstream out;
  out << std::ifstream(path_ / file, std::ios::binary).rdbuf();
  return out.str();
}

std::string RunFolder::command(const std::string& arguments, int ranks) const {
  std::string launcher;
  if (ranks > 1)  // without TCP: OpenMPI 5 prints a line for each pair of ranks that has no network
    launcher = fmt::format(
        "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl=^tcp mpirun --oversubscribe "
        "--bind-to none -n {} ",
        ranks);
  return fmt::format("cd {0} && XDG_CACHE_HOME={0}/cache LIMBECK_POWERCAP=${{LIMBECK_POWERCAP-none}} OMP_NUM_THREADS=1 {1}{2} {3}", path_.string(), launcher,
                     program().string(), arguments);
}

std::string RunFolder::succeed(const std::string& arguments, int ranks) const {
  const Outcome outcome = limbeck(arguments, ranks);
  EXPECT_EQ(outcome.code, 0) << arguments << '\n' << outcome.output;
  return outcome.output;
}

std::vector<nlohmann::json> RunFolder::metrics(const std::string& run) const {
  std::vector<nlohmann::json> lines;
  std::istringstream in(read(run + "/metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    nlohmann::json values = nlohmann::json::parse(line);
    for (const char* field : {"time", "seconds", "tokens_per_s", "mfu", "rss_bytes", "cache_wait_s", "teacher_wait_s",
                              "exposed_s", "sent_bytes", "save_stall_s", "save_s", "memory_bytes", "joules"})
      values.erase(field);
    lines.push_back(std::move(values));
  }
  return lines;
}

}  // namespace limbeck::testing
