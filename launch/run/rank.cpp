#include "launch/run/rank.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

#include "core/exchanges_of.h"
#include "core/start_thread.h"
#include "device_groups.h"
#include "launch/console/error_line.h"
#include "launch/console/log.h"
#include "launch/run/devices.h"
#include "launch/run/pipeline.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/stop_flag.h"
#include "launch/run/teacher_ranks.h"
#include "launch/run/threads.h"
#include "parallel/axes/communicators.h"
#include "parallel/axes/warm_up.h"
#include "parallel/mpi/mpi_world.h"

namespace limbeck::launch {

using core::DType;
using core::Tensor;

namespace {

std::unique_ptr<parallel::Mesh> make_mesh(const std::shared_ptr<parallel::WorldComm>& world, const std::string& text,
                                          parallel::ExpertExchange exchange) {
  const parallel::Layout layout = parallel::parse_layout(text);
  parallel::check_world(layout, world->size());
  return std::make_unique<parallel::Mesh>(world, layout, exchange);
}

}  // namespace

static_assert(static_cast<int>(ExpertExchange::Flat) == static_cast<int>(parallel::ExpertExchange::Flat));
static_assert(static_cast<int>(ExpertExchange::TwoLevel) == static_cast<int>(parallel::ExpertExchange::TwoLevel));

parallel::ExpertExchange expert_exchange_of(const ParallelConfig& config) {
  return static_cast<parallel::ExpertExchange>(config.expert_exchange);
}

Rank::Rank(std::shared_ptr<parallel::WorldComm> world, const std::string& layout, int threads, bool sequence_parallel,
           core::MemoryPtr memory, parallel::ExpertExchange exchange)
    : memory_(memory ? std::move(memory) : core::Memory::cpu(threads)),
      world_(parallel::device_groups(world, memory_)),
      mesh_(make_mesh(world_, layout, exchange)),
      comms_(parallel::make_communicators(*mesh_)),
      pipeline_(parallel::make_pipeline_comm(*mesh_)),
      sequence_parallel_(sequence_parallel) {
  if (memory_->is_host() || memory_->is_imagined()) return;
  if (world_ == world && world->size() > 1) why_by_way_of_the_host_ = parallel::why_by_way_of_the_host();
  parallel::warm_up(*mesh_, memory_);
}

Rank::Rank(const Rank& other, const std::string& layout, parallel::ExpertExchange exchange)
    : memory_(other.memory_),
      world_(other.mesh_->world().split(0, other.world_->rank(), "teacher")),
      mesh_(make_mesh(world_, layout, exchange)),
      comms_(parallel::make_communicators(*mesh_)),
      pipeline_(parallel::make_pipeline_comm(*mesh_)),
      sequence_parallel_(false),
      why_by_way_of_the_host_(other.why_by_way_of_the_host_) {
  if (memory_->is_host() || memory_->is_imagined()) return;
  parallel::warm_up(*mesh_, memory_);
  parallel::warm_up_rows(mesh_->world(), memory_);  // what the model gives, to where it is wanted
}

int Rank::num_processes() const { return teacher_ranks_ != nullptr ? teacher_ranks_->world().size() : world_->size(); }

nn::ModelOptions Rank::sharded(core::DType dtype) const {
  return {.memory = memory_,
          .dtype = dtype,
          .comms = comms_,
          .pipeline = pipeline_,
          .place = [this](core::Parameter& p, const core::Cut& cut) { parallel::place(p, *mesh_, cut); },
          .sequence_parallel = sequence_parallel_};
}

nn::ModelOptions Rank::frozen_copy(core::DType dtype) const {
  nn::Communicators comms = nn::single_communicators();
  comms.tensor = comms_.tensor;
  comms.context = comms_.context;
  return {.memory = memory_,
          .dtype = dtype,
          .frozen = true,
          .comms = comms,
          .place = [this](core::Parameter& p, const core::Cut& cut) {
            if (!cut.is_expert) parallel::place(p, *mesh_, cut);
          }};
}

nn::ModelOptions Rank::frozen_as_kept() const {
  nn::ModelOptions options = frozen_copy(core::DType::F32);
  options.as_kept = true;
  return options;
}

nn::ModelOptions Rank::frozen_shard(core::DType dtype) const {
  nn::ModelOptions options = sharded(dtype);
  options.frozen = true;
  options.sequence_parallel = false;  // whole rows stand beside the student's
  options.pipeline = nn::single_pipeline();
  return options;
}

namespace {

using World = std::shared_ptr<parallel::WorldComm>;

std::string layout_of(const std::string& named, const char* axis, int ranks) {
  return named.empty() ? fmt::format("{}{}", axis, ranks) : named;
}

Rank rank_of(const World& world, const RunConfig& config, const std::string& layout, bool sequence_parallel,
             int thread) {
  const int threads = threads_of_rank(config.train.threads);
  return {world,
          layout,
          threads,
          sequence_parallel,
          memory_of_rank(config.train.device, threads, thread),
          expert_exchange_of(config.parallel)};
}

/// Of the first rank of the world, once.
void say_way(const Rank& rank, const World& world) {
  if (const std::string& why = rank.why_by_way_of_the_host(); !why.empty())
    make_log(world->rank())
        ->warn("tensors go from GPU to GPU by way of the host's memory, which is slower, for {}", why);
}

/// Where no rank is the teacher's alone.
void on_only_side(const World& world, const RunConfig& config, const char* axis, int thread,
                  const std::function<void(Rank&)>& f) {
  Rank rank = rank_of(world, config, layout_of(config.parallel.layout, axis, world->size()),
                      config.parallel.sequence_parallel, thread);
  say_way(rank, world);
  f(rank);
}

/// f on a rank whose teacher is cut by a layout of its own.
void with_teacher_side(Rank& rank, const ParallelConfig& config, const std::function<void(Rank&)>& f) {
  check_teacher_layout(config, rank.world().size());
  Rank side(rank, config.teacher_layout, expert_exchange_of(config));
  rank.set_teacher_side(side);
  f(rank);
}

}  // namespace

void with_world(const RunConfig& config, const std::string& command, const std::function<void(const World&)>& f) {
  parallel::MpiWorld world({.deadline = std::chrono::milliseconds(std::llround(config.parallel.deadline_s * 1000)),
                            .warn = [](const std::string& line) { make_log(0)->warn("{}", line); }});
  try {
    if (world.size() > 1) check_same_everywhere(*world.comm(), run_identity(config, command));
    f(world.comm());
  } catch (const parallel::PeerError&) {
    throw;  // everybody has heard it
  } catch (const std::exception& e) {
    world.comm()->abort(e.what());
    throw;
  }
}

void in_world(const RunConfig& config, const std::string& command, const std::function<void(Rank&)>& f,
              const char* axis) {
  with_world(config, command, [&](const World& world) { on_only_side(world, config, axis, /*thread=*/0, f); });
}

void in_world(const RunConfig& config, const std::string& command, const std::function<void(Rank&)>& f,
              const std::function<void(Rank&, const TeacherRanks&)>& serve) {
  with_world(config, command, [&](const World& world) { in_world(world, config, f, serve); });
}

void in_world(const World& world, const RunConfig& config, const std::function<void(Rank&)>& f,
              const std::function<void(Rank&, const TeacherRanks&)>& serve, int thread) {
  const ParallelConfig& c = config.parallel;
  if (c.teacher_ranks == 0)
    return on_only_side(world, config, "dp", thread, [&](Rank& rank) {
      if (c.teacher_layout.empty())
        f(rank);
      else
        with_teacher_side(rank, c, f);
    });
  const auto num_teachers = static_cast<int>(c.teacher_ranks);
  const std::string student = layout_of(c.layout, "dp", std::max(world->size() - num_teachers, 1)),
                    teacher = layout_of(c.teacher_layout, "dp", num_teachers);
  TeacherRanks ranks(world, num_teachers, parallel::parse_layout(student), parallel::parse_layout(teacher));
  Rank rank = rank_of(ranks.side(), config, ranks.is_teacher() ? teacher : student,
                      c.sequence_parallel && !ranks.is_teacher(), thread);
  say_way(rank, world);
  if (ranks.is_teacher()) return serve(rank, ranks);
  rank.reach_teacher(ranks);
  f(rank);
  ranks.dismiss();
}

std::vector<std::string> gather_strings(Rank& rank, const std::string& mine) {
  return gather_strings(rank.world(), mine);
}

namespace {

constexpr auto alive_every = std::chrono::milliseconds(100);

/// Collective: whether any rank says that it is at work. A stop that any was asked for is that of all from here on.
bool anybody_is_at_work(Rank& rank, bool says_so) {
  const std::int64_t mine[] = {says_so ? 1 : 0, stop_requested() ? 1 : 0};
  Tensor flags = Tensor::from<std::int64_t>(rank.host_memory(), {2}, mine);
  const core::ExchangesOf scope("whether any rank is at work");
  rank.world().all_reduce(flags, core::Reduce::Max);
  const std::vector<std::int64_t> of_any = core::host_values<std::int64_t>(flags);
  if (of_any[1] != 0) request_stop();
  return of_any[0] != 0;
}

}  // namespace

bool stop_is_agreed(Rank& rank, std::initializer_list<std::span<std::int64_t>> numbers) {
  std::vector<std::int64_t> greatest;
  for (const auto some : numbers) greatest.insert(greatest.end(), some.begin(), some.end());
  greatest.push_back(stop_requested() ? 1 : 0);
  Tensor of_any = Tensor::from<std::int64_t>(rank.host_memory(), {std::ssize(greatest)}, greatest);
  const core::ExchangesOf scope("whether to stop, and what ranks waited");
  rank.world().all_reduce(of_any, core::Reduce::Max);
  greatest = core::host_values<std::int64_t>(of_any);
  auto next = greatest.begin();
  for (const auto some : numbers)
    for (std::int64_t& number : some) number = *next++;
  return *next != 0;
}

void stop_if_asked(Rank& rank) {
  if (stop_is_agreed(rank)) throw Stopped();
}

void while_others_hear(Rank& rank, const std::function<void()>& work) {
  {
    const std::jthread alive = core::start_thread("signs of life", [&](const std::stop_token& stop) {
      std::mutex mutex;
      std::condition_variable_any timer;
      std::unique_lock lock(mutex);
      try {
        while (!timer.wait_for(lock, stop, alive_every, [] { return false; }) && !stop.stop_requested())
          anybody_is_at_work(rank, true);
      } catch (const std::exception&) {
        // The next collective of this rank throws the same.
      }
    });
    work();
  }
  while (anybody_is_at_work(rank, false)) {
  }
}

void on_every_rank(Rank& rank, const std::function<void()>& work) {
  // One character says how it ended: done, failed, wrong use, stopped.
  std::string outcome = "d";
  while_others_hear(rank, [&] {
    try {
      work();
    } catch (const std::bad_alloc&) {
      throw;  // whose words main() knows
    } catch (const Stopped&) {
      outcome[0] = 's';
    } catch (const core::UsageError& e) {
      outcome = std::string("u") + e.what();
    } catch (const std::exception& e) {
      outcome = "f" + message_of(e);
    }
  });
  for (const std::string& end : gather_strings(rank, outcome)) {
    if (end[0] == 's') throw Stopped();
    if (end[0] == 'u') throw core::UsageError(end.substr(1));
    if (end[0] == 'f') throw core::Error(end.substr(1));
  }
}

void on_first_rank(Rank& rank, const std::function<void()>& work) {
  on_every_rank(rank, [&] {
    if (rank.is_first()) work();
  });
}

}  // namespace limbeck::launch
