// Collectives among the ranks of one node: through memory that they share, by messages, and MPI's own, in turns. Bus
// bandwidth is what a rank hands out for others in the time of one call (Call::bytes_for): of the median time, and of
// the least, which is what counts where the cores have other work too.
//
//     mpirun --bind-to none -n 2 build/release/bin/bench_exchange [rounds] [kind]
#include <fmt/format.h>
#include <mpi.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "parallel/mpi/mpi_world.h"

namespace {

using namespace limbeck;
using core::DType;
using core::Reduce;
using core::Tensor;

struct Buffers {
  Tensor whole, other, part;  // float32: [N], [N], [N / ranks]
  int count() const { return static_cast<int>(whole.numel()); }
  int share() const { return static_cast<int>(part.numel()); }
  /// As a product would: what is sent lies in the caches of who wrote it.
  void write() const {
    for (Tensor t : {whole, part}) std::fill_n(t.mutable_data<float>(), t.numel(), 1.F);
  }
};

struct Kind {
  std::string name;
  double handed_out;  // times the whole, of P ranks times (P - 1) / P
  std::function<void(core::Comm&, const Buffers&)> ours;
  std::function<void(const Buffers&)> mpi;
};

std::vector<std::int64_t> even(const Buffers& b) {
  return std::vector<std::int64_t>(static_cast<std::size_t>(b.count() / b.share()), b.share());
}

float* at(Tensor t) { return t.mutable_data<float>(); }

std::vector<Kind> kinds() {
  return {
      {"all_reduce", 2, [](core::Comm& c, const Buffers& b) { c.all_reduce(b.whole, Reduce::Sum); },
       [](const Buffers& b) {
         MPI_Allreduce(MPI_IN_PLACE, at(b.whole), b.count(), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
       }},
      {"reduce_scatter", 1, [](core::Comm& c, const Buffers& b) { c.reduce_scatter(b.whole, b.part); },
       [](const Buffers& b) {
         MPI_Reduce_scatter_block(at(b.whole), at(b.part), b.share(), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
       }},
      {"all_gather", 1, [](core::Comm& c, const Buffers& b) { c.all_gather(b.part, b.whole); },
       [](const Buffers& b) {
         MPI_Allgather(at(b.part), b.share(), MPI_FLOAT, at(b.whole), b.share(), MPI_FLOAT, MPI_COMM_WORLD);
       }},
      {"all_to_all_v", 1, [](core::Comm& c, const Buffers& b) { c.all_to_all_v(b.whole, even(b), b.other, even(b)); },
       [](const Buffers& b) {
         MPI_Alltoall(at(b.whole), b.share(), MPI_FLOAT, at(b.other), b.share(), MPI_FLOAT, MPI_COMM_WORLD);
       }},
  };
}

/// A group that has been refused memory: its first large collective agrees on messages.
std::shared_ptr<parallel::WorldComm> group_of_messages(parallel::WorldComm& world) {
  auto group = world.split(0, world.rank(), "messages");
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit none{.rlim_cur = 4096, .rlim_max = before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &none);
  group->all_reduce(Tensor::zeros(core::Memory::cpu(1), DType::F32, {1 << 20}), Reduce::Sum);
  world.barrier();
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, handler);
  return group;
}

/// 0: the least; 0.5: the median.
double quantile(std::vector<double> values, double of) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(of * static_cast<double>(values.size()))];
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 11;
  parallel::MpiWorld mpi({.reads_directly = false});  // all that is large goes through memory, to see what it costs
  const auto world = mpi.comm();
  const auto messages = group_of_messages(*world), memory = world->split(0, world->rank(), "memory");
  const auto cpu = core::Memory::cpu(1);
  const double others = static_cast<double>(world->size() - 1) / world->size();
  if (world->rank() == 0)
    fmt::print("{} ranks, {} rounds, GB/s of the median and of the best: memory, messages, MPI; memory to messages\n",
               world->size(), rounds);
  for (const Kind& kind : kinds()) {
    if (argc > 2 && kind.name != argv[2]) continue;
    for (std::int64_t bytes = std::int64_t{64} << 10; bytes <= std::int64_t{64} << 20; bytes *= 4) {
      const std::int64_t n = bytes / 4;
      const Buffers b{Tensor::zeros(cpu, DType::F32, {n}), Tensor::zeros(cpu, DType::F32, {n}),
                      Tensor::zeros(cpu, DType::F32, {n / world->size()})};
      std::array<std::vector<double>, 3> seconds;
      for (int round = -2; round < rounds; ++round)
        for (std::size_t way = 0; way < seconds.size(); ++way) {
          b.write();
          world->barrier();
          const auto since = std::chrono::steady_clock::now();
          if (way < 2)
            kind.ours(way == 0 ? *memory : *messages, b);
          else
            kind.mpi(b);
          const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
          if (round >= 0) seconds[way].push_back(took);
        }
      if (world->rank() != 0) continue;
      std::string line;
      for (const double of : {0.5, 0.0}) {
        std::array<double, 3> least{};
        for (std::size_t way = 0; way < least.size(); ++way) {
          least[way] = quantile(seconds[way], of);
          line += fmt::format(" {:6.2f}", kind.handed_out * others * static_cast<double>(bytes) / least[way] / 1e9);
        }
        line += fmt::format(" {:7.2f}   ", least[1] / least[0]);
      }
      fmt::print("{:>14} {:>6} KiB {}\n", kind.name, bytes >> 10, line);
      std::fflush(stdout);
    }
  }
}
