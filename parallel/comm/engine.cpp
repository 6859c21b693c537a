#include "parallel/comm/engine.h"

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

struct Failure {
  int origin;
  std::string message;
};

}  // namespace

struct Engine::State {
  int rank;
  Deadline deadline;
  Idle idle;
  std::function<void(const std::string&)> stop_world;
  std::function<void()> poll;

  mutable std::mutex mutex;
  std::condition_variable work;  // for the communication thread
  std::condition_variable done;  // for those who wait
  std::map<QueueKey, std::deque<std::shared_ptr<Ticket>>> queues;
  std::vector<std::shared_ptr<Operation>> unfinished;  // after stop()
  std::optional<Failure> failure;
  bool notified = false;
  bool stopping = false;
  int num_waiting = 0;

  [[noreturn]] void throw_failure() const {
    if (failure->origin == rank) throw core::Error(failure->message);
    throw PeerError(failure->message);
  }
};

class Engine::Ticket final : public core::CommHandle::Pending {
 public:
  Ticket(std::shared_ptr<State> state, std::string what, std::shared_ptr<Operation> work)
      : operation(std::move(work)), state_(std::move(state)), what_(std::move(what)) {}

  void wait() override {
    std::unique_lock lock(state_->mutex);
    ++state_->num_waiting;
    state_->notified = true;  // the thread may shorten its pauses now
    if (!is_done) state_->work.notify_one();
    const bool in_time =
        state_->done.wait_until(lock, Clock::now() + state_->deadline, [&] { return is_done || state_->failure; });
    --state_->num_waiting;
    if (is_done) return;
    if (in_time) state_->throw_failure();
    const std::shared_ptr<Operation> late = operation;
    lock.unlock();
    const std::string why =
        fmt::format("rank {}: {}: no end after {} s (parallel.deadline_s){}", state_->rank, what_,
                    static_cast<double>(state_->deadline.count()) / 1000, late ? late->waits_for() : std::string());
    state_->stop_world(why);
    lock.lock();
    if (state_->failure) state_->throw_failure();
    throw core::Error(why);
  }

  std::shared_ptr<Operation> operation;  // guarded by the state's mutex
  bool is_done = false;                  // likewise

 private:
  std::shared_ptr<State> state_;
  std::string what_;
};

Engine::Engine(int rank, Deadline deadline, Idle idle, std::function<void(const std::string&)> stop_world,
               std::function<void()> poll)
    : state_(std::make_shared<State>()) {
  state_->rank = rank;
  state_->deadline = deadline;
  state_->idle = idle;
  state_->stop_world = std::move(stop_world);
  state_->poll = std::move(poll);
  thread_ = core::start_thread("communication", [state = state_] { run(state); });
}

Engine::~Engine() {
  stop();
  // Handles that outlive the engine share the state, but not what was transferred.
  std::vector<std::shared_ptr<Operation>> unfinished;
  const std::scoped_lock lock(state_->mutex);
  unfinished.swap(state_->unfinished);
}

core::CommHandle Engine::submit(const QueueKey& key, std::string what, std::shared_ptr<Operation> operation) {
  auto ticket = std::make_shared<Ticket>(state_, std::move(what), std::move(operation));
  const std::scoped_lock lock(state_->mutex);
  if (state_->failure) state_->throw_failure();
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

void Engine::fail(int origin, const std::string& message) {
  const std::scoped_lock lock(state_->mutex);
  if (!state_->failure) state_->failure = Failure{origin, message};
  state_->work.notify_one();
  state_->done.notify_all();
}

bool Engine::has_failed() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->failure.has_value();
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
  if (!state_->failure) state_->failure = Failure{state_->rank, "the communication thread has ended"};
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
      s.work.wait(lock, [&] { return s.stopping || s.failure || !s.queues.empty(); });
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
      if (s.poll) s.poll();
    } catch (const std::exception& error) {
      s.stop_world(error.what());
    }

    lock.lock();
    if (any_done) {
      pause = shortest_pause;
      quiet_since = Clock::now();
    } else if (s.idle == Idle::Sleep) {
      s.work.wait(lock, [&] { return s.stopping || s.failure || s.notified; });
    } else if (any_hot || (s.num_waiting > 0 && Clock::now() - quiet_since < eager)) {
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    } else {
      // A pause is cut short when an operation comes or when the rank begins to wait; then polling is eager again.
      if (s.work.wait_for(lock, pause, [&] { return s.stopping || s.failure || s.notified; })) {
        pause = shortest_pause;
        quiet_since = Clock::now();
      } else {
        pause = std::min<std::chrono::microseconds>(2 * pause, longest_pause);
      }
    }
  }
}

}  // namespace limbeck::parallel
