// Tokens to experts on two hosts, flat and by two levels: bytes from host to host, and seconds. tests/hosts/hosts.sh
// starts it; it ends with 1 where a limit is missed.
//
//     mpirun ... experts_over_hosts LINK       # the network device by which each host reaches the other
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "parallel/axes/expert_comm.h"
#include "parallel/comm/engine.h"
#include "parallel/mpi/mpi_world.h"

namespace {

using namespace limbeck;
using core::DType;
using core::Tensor;
using parallel::ExpertExchange;

constexpr std::int64_t num_tokens = 4096, width = 1024, num_experts = 32, choices = 6;
constexpr double most_bytes = 0.62, most_seconds = 0.75;  // of what flat takes
constexpr int repetitions = 5;

/// For each token six different experts, each as likely as another.
Tensor even_choices(const core::MemoryPtr& memory, int rank) {
  std::uint64_t state = 88172645463325252ULL + static_cast<std::uint64_t>(rank);
  const auto next = [&state] {  // Marsaglia's xorshift64
    state ^= state << 13U, state ^= state >> 7U, state ^= state << 17U;
    return state;
  };
  std::vector<std::int32_t> all(num_experts), chosen;
  std::iota(all.begin(), all.end(), 0);
  for (std::int64_t t = 0; t < num_tokens; ++t)
    for (std::size_t k = 0; k < choices; ++k) {
      std::swap(all[k], all[k + next() % (num_experts - k)]);
      chosen.push_back(all[k]);
    }
  return Tensor::from<std::int32_t>(memory, {num_tokens, choices}, chosen);
}

/// What this host has sent to others, with all headers, since it has the device.
double bytes_on(const std::string& link) {
  std::ifstream file("/sys/class/net/" + link + "/statistics/tx_bytes");
  double bytes = 0;
  core::check(static_cast<bool>(file >> bytes), "{}: its bytes cannot be read", link);
  return bytes;
}

struct Measured {
  double counted = 0, on_link = 0;  // bytes from host to host, there and back
  double seconds = std::numeric_limits<double>::max();
};

class Route {
 public:
  Route(const std::shared_ptr<parallel::WorldComm>& world, ExpertExchange exchange)
      : world_(world),
        mesh_(world, parallel::parse_layout(fmt::format("ep{}", world->size())), exchange),
        comm_(parallel::make_expert_comm(mesh_.experts_group(), 1, mesh_.expert_nodes())),
        selection_(even_choices(memory_, world->rank())),
        x_(Tensor::zeros(memory_, DType::F32, {num_tokens, width})),
        weights_(Tensor::zeros(memory_, DType::F32, {num_tokens, choices})) {}

  /// As a layer does, forward: its tokens and their weights there, and what experts give back.
  void measure(const std::string& link) {
    parallel::CommTally& tally = world_->engine().tally();
    world_->barrier();
    tally.take();
    const double before = bytes_on(link);
    const auto start = std::chrono::steady_clock::now();
    const auto exchange = comm_->prepare(selection_, num_experts);
    const Tensor here = comm_->dispatch_rows(exchange, x_);
    comm_->dispatch_rows(exchange, weights_);
    comm_->combine_rows(exchange, here);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const parallel::Traffic traffic = tally.take();
    world_->barrier();
    // Whose host it is sends for all of its ranks, the first of which says how much.
    bool is_first = true;
    for (int r = 0; r < world_->rank(); ++r)
      is_first = is_first && world_->node_of(r) != world_->node_of(world_->rank());
    const Tensor sums = Tensor::from<double>(
        memory_, {2},
        std::vector{static_cast<double>(traffic.at(parallel::CommAxis::Ep, parallel::Traffic::BytesAcross)),
                    is_first ? bytes_on(link) - before : 0.0});
    world_->all_reduce(sums, core::Reduce::Sum);
    const Tensor slowest = Tensor::from<double>(memory_, {1}, std::vector{seconds});
    world_->all_reduce(slowest, core::Reduce::Max);
    found_ = {sums.data<double>()[0], sums.data<double>()[1], std::min(found_.seconds, slowest.data<double>()[0])};
  }
  const Measured& found() const { return found_; }

 private:
  core::MemoryPtr memory_ = core::Memory::cpu(1);
  std::shared_ptr<parallel::WorldComm> world_;
  parallel::Mesh mesh_;
  std::shared_ptr<nn::ExpertComm> comm_;
  Tensor selection_, x_, weights_;
  Measured found_;
};

bool is_within(const char* what, double flat, double two_level, double most) {
  const double ratio = two_level / flat;
  fmt::print("{}: flat {:.6g}, two levels {:.6g}, {:.3f} of it, at most {}\n", what, flat, two_level, ratio, most);
  return ratio <= most;
}

int run(const std::string& link) {
  parallel::MpiWorld mpi;
  const auto world = mpi.comm();
  Route flat(world, ExpertExchange::Flat), two_level(world, ExpertExchange::TwoLevel);
  for (int i = 0; i < repetitions; ++i)
    for (Route* route : {&flat, &two_level}) route->measure(link);
  if (world->rank() > 0) return 0;
  const Measured &a = flat.found(), &b = two_level.found();
  const bool few = is_within("bytes from host to host, counted", a.counted, b.counted, most_bytes);
  const bool few_on_link =
      is_within("bytes from host to host, of the network device", a.on_link, b.on_link, most_bytes);
  const bool fast = is_within("seconds, the best of five", a.seconds, b.seconds, most_seconds);
  return few && few_on_link && fast ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    limbeck::core::check(argc == 2, "usage: experts_over_hosts LINK");
    return run(argv[1]);
  } catch (const std::exception& e) {
    fmt::print(stderr, "experts_over_hosts: error: {}\n", e.what());
    return 1;
  }
}
