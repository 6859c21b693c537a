// Times of a GPU's kernels beside their floors: a line of JSON for each case, and two for what the GPU's memory and its
// tensor cores gave in the same run. tests/gpu/table.py makes a table of them.
//
//     bench_gpu [--tiny] [--json FILE] [REGEX]       # cases whose kind, a colon and name match: "memory:", "grouped"
//     bench_gpu --floors                             # needs no GPU: what there is to be moved and computed
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/cuda/cuda_state.h"
#include "tests/gpu/bench/cases.h"
#include "tests/gpu/bench/measured.h"

namespace limbeck::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  Sizes sizes = Sizes::Whole;
  bool floors = false;
  std::string json;
  std::regex chosen{""};
};

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  for (auto a = arguments.begin(); a != arguments.end(); ++a) {
    if (*a == "--tiny")
      options.sizes = Sizes::Tiny;
    else if (*a == "--floors")
      options.floors = true;
    else if (*a == "--json" && a + 1 != arguments.end())
      options.json = *++a;
    else if (!a->starts_with("-"))
      options.chosen = *a;
    else
      core::fail_usage("unknown option {}, expected [--tiny] [--floors] [--json FILE] [REGEX]", *a);
  }
  return options;
}

/// Lines on standard output, and in a file as they come.
class Lines {
 public:
  explicit Lines(const std::string& file) {
    if (file.empty()) return;
    file_.open(file);
    core::check(file_.is_open(), "{}: cannot be written", file);
  }
  void add(const Json& line) {
    fmt::print("{}\n", line.dump());
    if (file_.is_open()) file_ << line.dump() << std::endl;
  }

 private:
  std::ofstream file_;
};

Json describe(const Case& one) {
  Json of;
  for (const auto& [letter, value] : one.of) of[letter] = value;
  Json line = {{"kind", one.kind},
               {"name", one.name},
               {"of", of},
               {"bytes_formula", one.bytes},
               {"flops_formula", one.flops},
               {"bytes", value_of(one.bytes, one.of)},
               {"flops", value_of(one.flops, one.of)}};
  if (!one.rows.empty()) line["rows"] = one.rows;
  return line;
}

void measure(const std::vector<Case>& cases, const Options& options, Lines& lines) {
  const auto memory = std::make_shared<core::Memory>(kernels::make_cuda(0));
  cudaDeviceProp properties{};
  kernels::check_cuda(cudaGetDeviceProperties(&properties, 0));
  const Stopwatch stopwatch(memory, options.sizes);
  lines.add({{"kind", "card"},
             {"name", properties.name},
             {"copy_bytes_per_s", copy_rate(memory, stopwatch, options.sizes)},
             {"product_flops_per_s", product_rate(memory, stopwatch, options.sizes)}});
  for (const Case& one : cases) {
    Json line = describe(one);
    line["side"] = "limbeck";
    try {
      const Work work = one.prepare(Buffers(memory));
      line["seconds"] = stopwatch.seconds(work);
      line["working_bytes"] = stopwatch.working_bytes(work);
    } catch (const std::exception& error) {
      line["error"] = error.what();
    }
    lines.add(line);
  }
}

int run(const Options& options) {
  Lines lines(options.json);
  std::vector<Case> cases;
  for (Case& one : all_cases(options.sizes))
    if (std::regex_search(one.kind + ":" + one.name, options.chosen)) cases.push_back(std::move(one));
  core::check(!cases.empty(), "no case matches");
  if (!options.floors) {
    measure(cases, options, lines);
    return 0;
  }
  for (const Case& one : cases) lines.add(describe(one));
  return 0;
}

}  // namespace
}  // namespace limbeck::bench

int main(int argc, char** argv) try {
  return limbeck::bench::run(limbeck::bench::parse({argv + 1, argv + argc}));
} catch (const limbeck::core::UsageError& error) {
  fmt::print(stderr, "bench_gpu: error: {}\n", error.what());
  return 2;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_gpu: error: {}\n", error.what());
  return 1;
}
