#include "parallel/comm/engine.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "core/start_thread.h"

namespace limbeck::parallel {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto eager = 1ms;  // how long a waited-for operation is polled without a pause
constexpr auto shortest_pause = 20us;
constexpr auto longest_pause = 100us;
constexpr auto idle_pause = 20ms;  // with nothing to do: how soon another rank's word is heard

struct Failure {
  int origin;
  std::string message;
};

}  // namespace

struct Engine::State {
  int rank;
  Deadline deadline;
  World world;

  mutable std::mutex mutex;
  std::condition_variable work;  // for the communication thread
  std::condition_variable done;  // for those who wait
  std::map<QueueKey, std::deque<std::shared_ptr<Ticket>>> queues;
  std::vector<std::shared_ptr<Operation>> unfinished;  // after stop()
  std::optional<Failure> failure;
  std::atomic<bool> has_failed = false;  // beside `failure`, for those who ask often
  std::function<std::optional<Whereabouts>()> elsewhere;
  bool notified = false;
  bool stopping = false;
  std::int64_t step = 0;              // now
  std::int64_t number = 0;            // of operations submitted
  CallName last;                      // of them; none while there were none
  std::vector<const Ticket*> waited;  // those that somebody waits for
  CommTally tally;
  FileWaits file_waits;  // has a lock of its own

  bool is_woken() const { return stopping || failure || notified; }
  std::shared_ptr<Operation> first_in(const QueueKey& key) const;
  void set_failure(int origin, const std::string& message) {
    if (!failure) failure = Failure{origin, message};
    has_failed = true;
  }
  void miss(const std::string& what, const std::string& who) {
    std::unique_lock lock(mutex);
    const std::string when = fmt::format("{} at step {}: no end after {} s (parallel.deadline_s)", what, step,
                                         static_cast<double>(deadline.count()) / 1000);
    lock.unlock();
    world.stop(when + who);
  }
  void look(WaitLimit& limit, const std::string& what, const std::vector<Missing>& missing) {
    const auto since = Clock::now();
    const HeldUp by = missing.empty() ? HeldUp() : world.who_is_missing(missing);
    if (limit.misses(by.only_by_disks, since)) miss(what, by.who);
  }
  [[noreturn]] void throw_failure() const {
    if (failure->origin == rank) throw core::Error(failure->message);
    throw PeerError(failure->message);
  }
};

class Engine::Ticket final : public core::CommHandle::Pending {
 public:
  Ticket(std::shared_ptr<State> state, const QueueKey& queue, CallName called, std::shared_ptr<Operation> work,
         CommAxis axis)
      : key(queue), name(std::move(called)), operation(std::move(work)), state_(std::move(state)), axis_(axis) {}

  void wait() override {
    const auto since = Clock::now();
    WaitLimit limit(state_->deadline, since);
    std::unique_lock lock(state_->mutex);
    state_->waited.push_back(this);
    state_->notified = true;  // the thread may shorten its pauses now
    if (!is_done) state_->work.notify_one();
    while (!state_->done.wait_until(lock, limit.next_look(), [&] { return is_done || state_->failure; }))
      look(lock, limit);
    state_->tally.waited(axis_, Clock::now() - since);
    std::erase(state_->waited, this);
    if (!is_done) state_->throw_failure();
  }

  void wait_patiently() override {
    const auto since = Clock::now();
    std::unique_lock lock(state_->mutex);
    state_->work.notify_one();
    const auto between = WaitLimit::between(state_->deadline);
    while (!state_->done.wait_for(lock, between, [&] { return is_done || state_->failure; })) look_for_life(lock);
    state_->tally.waited(axis_, Clock::now() - since);
    if (!is_done) state_->throw_failure();
  }

  bool wait_for(std::chrono::microseconds limit) override {
    const auto since = Clock::now();
    std::unique_lock lock(state_->mutex);
    state_->waited.push_back(this);
    state_->notified = true;
    if (!is_done) state_->work.notify_one();
    const bool is_over = state_->done.wait_until(lock, since + limit, [&] { return is_done || state_->failure; });
    state_->tally.waited(axis_, Clock::now() - since);
    std::erase(state_->waited, this);
    return is_over;
  }

  QueueKey key;
  CallName name;
  std::int64_t number = 0;               // of the rank's operations
  std::shared_ptr<Operation> operation;  // guarded by the state's mutex
  bool is_done = false;                  // likewise

 private:
  /// Stops the world, which fails this rank's engine, where the limit has passed.
  void look(std::unique_lock<std::mutex>& lock, WaitLimit& limit) {
    std::shared_ptr<Operation> open = state_->first_in(key);
    lock.unlock();
    state_->look(limit, describe(name), open ? open->waits_for() : std::vector<Missing>());
    open.reset();
    lock.lock();
  }

  /// Stops the world likewise, where some that it waits for have been silent for too long.
  void look_for_life(std::unique_lock<std::mutex>& lock) {
    std::shared_ptr<Operation> open = state_->first_in(key);
    if (!open || !state_->world.who_is_silent) return;
    lock.unlock();
    if (const std::string who = state_->world.who_is_silent(open->waits_for()); !who.empty())
      state_->miss(describe(name), who);
    open.reset();
    lock.lock();
  }

  std::shared_ptr<State> state_;
  CommAxis axis_;
};

/// The operation that all of its queue wait for. Null: the queue is just past it, or has ended.
std::shared_ptr<Operation> Engine::State::first_in(const QueueKey& key) const {
  const auto queue = queues.find(key);
  return queue == queues.end() ? nullptr : queue->second.front()->operation;
}

Engine::Engine(int rank, Deadline deadline, World world) : state_(std::make_shared<State>()) {
  state_->rank = rank;
  state_->deadline = deadline;
  state_->world = std::move(world);
}

void Engine::start() {
  thread_ = core::start_thread("communication", [state = state_] { run(state); });
}

Engine::~Engine() {
  stop();
  // Handles that outlive the engine share the state, but not what was transferred.
  std::vector<std::shared_ptr<Operation>> unfinished;
  const std::scoped_lock lock(state_->mutex);
  unfinished.swap(state_->unfinished);
}

core::CommHandle Engine::submit(const QueueKey& key, CallName name, std::shared_ptr<Operation> operation,
                                CommAxis axis) {
  auto ticket = std::make_shared<Ticket>(state_, key, std::move(name), std::move(operation), axis);
  const std::scoped_lock lock(state_->mutex);
  if (state_->failure) state_->throw_failure();
  ticket->number = ++state_->number;
  state_->last = ticket->name;
  state_->queues[key].push_back(ticket);
  state_->notified = true;
  state_->work.notify_one();
  return core::CommHandle(ticket);
}

void Engine::notify() {
  const std::scoped_lock lock(state_->mutex);
  state_->notified = true;
  state_->work.notify_one();
}

void Engine::set_step(std::int64_t step) {
  const std::scoped_lock lock(state_->mutex);
  state_->step = step;
}

std::int64_t Engine::step() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->step;
}

void Engine::note(CallName name) {
  const std::scoped_lock lock(state_->mutex);
  ++state_->number;
  state_->last = std::move(name);
}

void Engine::set_elsewhere(std::function<std::optional<Whereabouts>()> elsewhere) {
  const std::scoped_lock lock(state_->mutex);
  state_->elsewhere = std::move(elsewhere);
}

Deadline Engine::deadline() const { return state_->deadline; }

CommTally& Engine::tally() { return state_->tally; }

int Engine::node_of(int rank) const {
  const std::vector<int>& nodes = state_->world.node_of;
  return nodes.empty() ? 0 : nodes[static_cast<std::size_t>(rank)];
}

bool Engine::is_near(int rank) const { return node_of(rank) == node_of(state_->rank); }

void Engine::look(WaitLimit& limit, const std::string& what, const std::vector<Missing>& missing) {
  state_->look(limit, what, missing);
}

FileWaits& Engine::file_waits() { return state_->file_waits; }

Whereabouts Engine::whereabouts() const {
  Whereabouts here;
  CallName name;
  std::shared_ptr<Operation> operation;
  std::function<std::optional<Whereabouts>()> elsewhere;
  {
    const std::scoped_lock lock(state_->mutex);
    elsewhere = state_->elsewhere;
    here.at.step = state_->step;
    here.at.number = state_->number;
    name = state_->last;
    if (!state_->waited.empty()) {
      const Ticket& ticket = *state_->waited.back();
      here.is_waiting = !ticket.is_done;
      here.at.number = ticket.number;
      name = ticket.name;
      if (!ticket.is_done) operation = state_->first_in(ticket.key);
    }
  }
  if (here.at.number > 0) here.at.operation = describe_here(name);
  if (operation) here.waits_for = operation->waits_for();
  if (!here.is_waiting) here.disk = state_->file_waits.now();
  if (!here.is_waiting && elsewhere) {
    if (std::optional<Whereabouts> there = elsewhere()) {
      there->at.step = here.at.step;
      return *there;
    }
  }
  return here;
}

Whereabouts Engine::answer() {
  Whereabouts here = whereabouts();
  if (!here.disk.empty() && state_->world.warn && state_->file_waits.becomes_long(state_->deadline))
    state_->world.warn(fmt::format(
        "rank {} has waited for a disk for more than {} s (parallel.deadline_s): it {}; the others wait for "
        "it, as long as that takes",
        state_->rank, static_cast<double>(state_->deadline.count()) / 1000, here.disk));
  return here;
}

void Engine::fail(int origin, const std::string& message) {
  const std::scoped_lock lock(state_->mutex);
  state_->set_failure(origin, message);
  state_->work.notify_one();
  state_->done.notify_all();
}

bool Engine::has_failed() const { return state_->has_failed; }

void Engine::check() const {
  if (!state_->has_failed) return;
  const std::scoped_lock lock(state_->mutex);
  state_->throw_failure();
}

bool Engine::stop() {
  {
    const std::scoped_lock lock(state_->mutex);
    state_->stopping = true;
    state_->work.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  std::map<QueueKey, std::deque<std::shared_ptr<Ticket>>> dropped;
  const std::scoped_lock lock(state_->mutex);
  state_->set_failure(state_->rank, "the communication thread has ended");
  dropped.swap(state_->queues);
  for (const auto& [key, queue] : dropped)
    for (const auto& ticket : queue) state_->unfinished.push_back(ticket->operation);
  state_->done.notify_all();
  return state_->unfinished.empty();
}

void Engine::run(const std::shared_ptr<State>& state) {
  State& s = *state;
  std::vector<std::pair<QueueKey, std::shared_ptr<Ticket>>> fronts;
  auto pause = shortest_pause;
  auto quiet_since = Clock::now();
  std::unique_lock lock(s.mutex);
  while (!s.stopping && !s.failure) {
    if (s.queues.empty()) {
      const auto is_called = [&] { return s.stopping || s.failure || !s.queues.empty(); };
      if (!s.world.poll) {
        s.work.wait(lock, is_called);
      } else if (!s.work.wait_for(lock, idle_pause, is_called)) {
        lock.unlock();
        s.world.poll();
        lock.lock();
      }
      pause = shortest_pause;
      quiet_since = Clock::now();
      continue;
    }
    s.notified = false;
    fronts.clear();
    for (const auto& [key, queue] : s.queues) fronts.emplace_back(key, queue.front());
    lock.unlock();

    bool any_done = false, any_hot = false;
    try {
      for (auto& [key, ticket] : fronts) {
        if (!ticket->operation->progress()) {
          any_hot = any_hot || ticket->operation->is_hot();
          continue;
        }
        any_done = true;
        lock.lock();
        std::shared_ptr<Operation> finished = std::move(ticket->operation);
        lock.unlock();
        finished.reset();  // its tensors are free before anybody hears that it is done
        lock.lock();
        ticket->is_done = true;
        const auto queue = s.queues.find(key);
        queue->second.pop_front();
        if (queue->second.empty()) s.queues.erase(queue);
        s.done.notify_all();
        lock.unlock();
      }
      fronts.clear();
      if (s.world.poll) s.world.poll();
    } catch (const std::exception& error) {
      s.world.stop(error.what());
    }

    lock.lock();
    if (any_done) {
      pause = shortest_pause;
      quiet_since = Clock::now();
    } else if (!s.world.poll) {
      s.work.wait(lock, [&] { return s.is_woken(); });
    } else if (any_hot || (!s.waited.empty() && Clock::now() - quiet_since < eager)) {
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    } else {
      // A pause is cut short when an operation comes or when the rank begins to wait; then polling is eager again.
      if (s.work.wait_for(lock, pause, [&] { return s.is_woken(); })) {
        pause = shortest_pause;
        quiet_since = Clock::now();
      } else {
        pause = std::min<std::chrono::microseconds>(2 * pause, longest_pause);
      }
    }
  }
}

}  // namespace limbeck::parallel
