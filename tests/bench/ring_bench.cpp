// Attention over one sequence that is cut over ranks, as a share of one rank's work divided by their number. Ranks are
// threads, and what is measured is processor time of each, so that neither cores that they share nor other programs
// count; copies from rank to rank are in it.
//
//     build/release/bin/bench_ring [tokens] [ranks]
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <numeric>
#include <vector>

#include "core/nn/cut_batch.h"
#include "parallel/axes/communicators.h"
#include "parallel/axes/mesh.h"
#include "parallel/threads/run_ranks.h"

namespace {

using namespace limbeck;
using core::DType;
using core::Tensor;

constexpr core::AttentionShape shape{.num_heads = 8, .num_kv_heads = 4, .width = 64, .value_width = 64, .scale = 0.125};

double seconds_of_this_thread() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

Tensor values(const core::MemoryPtr& memory, std::int64_t rows, std::int64_t width, DType dtype) {
  std::vector<float> x(static_cast<std::size_t>(rows * width));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 7919 % 1009) / 1009.F - 0.5F;
  const Tensor wide = Tensor::from<float>(memory, {rows, width}, x);
  return dtype == DType::F32 ? wide : wide.to(dtype);
}

/// Forward and backward: the better of two, of the slowest rank.
double seconds_of(std::int64_t tokens, int ranks, DType dtype) {
  const auto n = static_cast<std::size_t>(tokens);
  std::vector<std::int32_t> position(n), zeros(n);
  std::vector<std::int64_t> index(n);
  std::iota(position.begin(), position.end(), 0);
  std::iota(index.begin(), index.end(), 0);
  const std::vector<std::int64_t> offsets = {0, tokens};
  std::vector<double> worst(2, 0.0);
  std::mutex mutex;
  parallel::run_ranks(
      ranks,
      [&](const std::shared_ptr<parallel::WorldComm>& world) {
        const parallel::Mesh mesh(world, parallel::parse_layout(fmt::format("cp{}", ranks)));
        const nn::Communicators comms = parallel::make_communicators(mesh);
        const auto memory = core::Memory::cpu(1);
        const nn::Batch batch = nn::make_cut_batch(memory,
                                                   {.tokens = zeros,
                                                    .targets = zeros,
                                                    .position = position,
                                                    .document = zeros,
                                                    .sequence = zeros,
                                                    .global_index = index,
                                                    .sequence_offsets = offsets},
                                                   {comms.context->rank(), comms.context->size()});
        const std::int64_t own = batch.num_tokens();
        const core::Var q = core::leaf(values(memory, own, 512, dtype)),
                        k = core::leaf(values(memory, own, 256, dtype)),
                        v = core::leaf(values(memory, own, 256, dtype));
        const Tensor dout = values(memory, own, 512, dtype);
        for (double& most : worst) {
          world->barrier();
          const double before = seconds_of_this_thread();
          core::Tape tape;
          const core::Var out = core::ring_attention(tape, q, k, v, shape, batch.ring, *comms.context);
          core::accumulate(out.slot, dout);
          tape.run();
          const double seconds = seconds_of_this_thread() - before;
          const std::scoped_lock lock(mutex);
          most = std::max(most, seconds);
        }
      },
      std::chrono::minutes(30));
  return *std::min_element(worst.begin(), worst.end());
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t tokens = argc > 1 ? std::atoll(argv[1]) : 16384;
  const int ranks = argc > 2 ? std::atoi(argv[2]) : 4;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const double alone = seconds_of(tokens, 1, dtype), each = seconds_of(tokens, ranks, dtype);
    fmt::print(
        "{} tokens, {}: {:.3f} s of one rank, {:.3f} s of the slowest of {}: {:.3f} of one rank's divided by {}\n",
        tokens, core::name_of(dtype), alone, each, ranks, each * ranks / alone, ranks);
    std::fflush(stdout);
  }
}
