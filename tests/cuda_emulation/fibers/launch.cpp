#include "tests/cuda_emulation/fibers/launch.h"

#include <atomic>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <stdexcept>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/fibers/shared_memory.h"
#include "tests/cuda_emulation/races/shadow.h"
#include "tests/cuda_emulation/report.h"
#include "tests/cuda_emulation/signals.h"

namespace limbeck::emulation {

namespace {

std::uint64_t seed_of_environment() {
  const char* text = std::getenv("EMULATION_SEED");
  return text == nullptr ? 1 : std::strtoull(text, nullptr, 10);
}

std::atomic<std::uint64_t>& current_seed() {
  static std::atomic<std::uint64_t> value{seed_of_environment()};
  return value;
}

struct Runner {
  explicit Runner(std::uint64_t the_seed) : seed(the_seed), block(the_seed) {}
  std::uint64_t seed;
  Block block;
};

// Of the seed that is set now.
Block& block_of_thread() {
  thread_local std::optional<Runner> runner;
  if (!runner || runner->seed != seed()) runner.emplace(seed());
  return runner->block;
}

}  // namespace

std::uint64_t seed() { return current_seed(); }

void set_seed(std::uint64_t seed) { current_seed() = seed; }

void check_launch(const Launch& launch) {
  const dim3 g = launch.grid;
  const dim3 b = launch.block;
  const auto refuse = [&](const std::string& what) {
    throw std::runtime_error(fmt::format("launch of {}: {}", code_name(launch.kernel), what));
  };
  if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffU || g.y > 65535 || g.z > 65535)
    refuse(fmt::format("grid [{},{},{}], expected 1 to [2147483647,65535,65535]", g.x, g.y, g.z));
  if (b.x == 0 || b.y == 0 || b.z == 0 || b.x > 1024 || b.y > 1024 || b.z > 64 || b.x * b.y * b.z > 1024)
    refuse(fmt::format("block [{},{},{}], expected 1 to [1024,1024,64] and at most 1024 threads", b.x, b.y, b.z));
  if (launch.shared_bytes > max_shared_bytes)
    refuse(fmt::format("{} bytes of shared memory, expected at most {}", launch.shared_bytes, max_shared_bytes));
}

void run_launch(const Launch& launch) {
  report_signals();
  forget_accesses();
  Block& block = block_of_thread();
  block.prepare(launch);
  blockDim = launch.block;
  gridDim = launch.grid;
  const std::uint64_t count = std::uint64_t{1} * launch.grid.x * launch.grid.y * launch.grid.z;
  const std::uint64_t start = block.random().below(count);
  std::uint64_t stride = block.random().below(count) | 1U;
  while (std::gcd(stride, count) != 1) stride += 2;
  std::uint64_t number = start;
  for (std::uint64_t i = 0; i < count; ++i, number = (number + stride) % count) {
    if (launch.shared_bytes > 0) renew_dynamic_shared(launch.shared_bytes);
    block.run(uint3{static_cast<unsigned>(number % launch.grid.x),
                    static_cast<unsigned>(number / launch.grid.x % launch.grid.y),
                    static_cast<unsigned>(number / launch.grid.x / launch.grid.y)});
  }
}

}  // namespace limbeck::emulation
