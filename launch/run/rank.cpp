#include "launch/run/rank.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "core/start_thread.h"
#include "launch/run/threads.h"
#include "parallel/axes/communicators.h"
#include "parallel/mpi/mpi_world.h"

namespace limbeck::launch {

using core::DType;
using core::Tensor;

namespace {

std::unique_ptr<parallel::Mesh> make_mesh(const std::shared_ptr<parallel::WorldComm>& world, const std::string& text) {
  const parallel::Layout layout = parallel::parse_layout(text);
  parallel::check_world(layout, world->size());
  return std::make_unique<parallel::Mesh>(world, layout);
}

}  // namespace

Rank::Rank(std::shared_ptr<parallel::WorldComm> world, const std::string& layout, int threads, bool sequence_parallel)
    : world_(std::move(world)),
      mesh_(make_mesh(world_, layout)),
      memory_(core::Memory::cpu(threads)),
      comms_(parallel::make_communicators(*mesh_)),
      sequence_parallel_(sequence_parallel) {}

nn::ModelOptions Rank::sharded(core::DType dtype) const {
  return {.memory = memory_,
          .dtype = dtype,
          .comms = comms_,
          .place = [this](core::Parameter& p, const core::Cut& cut) { parallel::place(p, *mesh_, cut); },
          .sequence_parallel = sequence_parallel_};
}

nn::ModelOptions Rank::frozen_copy(core::DType dtype) const {
  nn::Communicators comms = nn::single_communicators();
  comms.tensor = comms_.tensor;
  return {.memory = memory_,
          .dtype = dtype,
          .frozen = true,
          .comms = comms,
          .place = [this](core::Parameter& p, const core::Cut& cut) {
            if (!cut.is_expert) parallel::place(p, *mesh_, cut);
          }};
}

void in_world(const RunConfig& config, const std::function<void(Rank&)>& f, const char* axis) {
  parallel::MpiWorld world({.deadline = std::chrono::milliseconds(std::llround(config.parallel.deadline_s * 1000))});
  try {
    const std::string& named = config.parallel.layout;
    const std::string layout = named.empty() ? fmt::format("{}{}", axis, world.comm()->size()) : named;
    Rank rank(world.comm(), layout, threads_of_rank(config.train.threads), config.parallel.sequence_parallel);
    f(rank);
  } catch (const parallel::PeerError&) {
    throw;  // everybody has heard it
  } catch (const std::exception& e) {
    world.comm()->abort(e.what());
    throw;
  }
}

std::vector<std::string> gather_strings(Rank& rank, const std::string& mine) {
  core::Comm& world = rank.world();
  const auto size = static_cast<std::int64_t>(world.size());
  Tensor lengths = Tensor::zeros(rank.memory(), DType::I64, {size});
  lengths.mutable_data<std::int64_t>()[world.rank()] = static_cast<std::int64_t>(mine.size());
  world.all_reduce(lengths, core::Reduce::Sum);
  const std::vector<std::int64_t> n = core::host_values<std::int64_t>(lengths);
  const std::int64_t longest = std::max<std::int64_t>(1, *std::max_element(n.begin(), n.end()));

  Tensor padded = Tensor::zeros(rank.memory(), DType::U8, {longest});
  std::copy(mine.begin(), mine.end(), padded.mutable_data<std::uint8_t>());
  Tensor all = Tensor::zeros(rank.memory(), DType::U8, {longest * size});
  world.all_gather(padded, all);
  std::vector<std::string> result;
  const auto* bytes = reinterpret_cast<const char*>(all.data<std::uint8_t>());
  for (std::int64_t r = 0; r < size; ++r)
    result.emplace_back(bytes + r * longest, static_cast<std::size_t>(n[static_cast<std::size_t>(r)]));
  return result;
}

namespace {

constexpr auto alive_every = std::chrono::milliseconds(100);

/// Collective: whether the first rank says that it is at work.
bool first_is_at_work(Rank& rank, bool says_so) {
  Tensor flag = Tensor::zeros(rank.memory(), DType::I64, {1});
  *flag.mutable_data<std::int64_t>() = says_so ? 1 : 0;
  rank.world().all_reduce(flag, core::Reduce::Max);
  return core::host_values<std::int64_t>(flag)[0] != 0;
}

/// Collective: the first rank does `work`, which throws nothing; the others hear from it until it is done.
void while_others_hear(Rank& rank, const std::function<void()>& work) {
  if (!rank.is_first()) {
    while (first_is_at_work(rank, false)) {
    }
    return;
  }
  {
    const std::jthread alive = core::start_thread("signs of life", [&](const std::stop_token& stop) {
      std::mutex mutex;
      std::condition_variable_any timer;
      std::unique_lock lock(mutex);
      try {
        while (!timer.wait_for(lock, stop, alive_every, [] { return false; }) && !stop.stop_requested())
          first_is_at_work(rank, true);
      } catch (const std::exception&) {
        // The next collective of this rank throws the same.
      }
    });
    work();
  }
  first_is_at_work(rank, false);
}

}  // namespace

void on_first_rank(Rank& rank, const std::function<void()>& work) {
  // One character says how it ended: done, failed, wrong use.
  std::string outcome = "d";
  while_others_hear(rank, [&] {
    try {
      work();
    } catch (const core::UsageError& e) {
      outcome = std::string("u") + e.what();
    } catch (const std::exception& e) {
      outcome = std::string("f") + e.what();
    }
  });
  outcome = gather_strings(rank, outcome).front();
  if (outcome[0] == 'u') throw core::UsageError(outcome.substr(1));
  if (outcome[0] == 'f') throw core::Error(outcome.substr(1));
}

}  // namespace limbeck::launch
