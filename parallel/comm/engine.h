// A rank's communication thread. Operations wait in queues; the front of every queue progresses, so that one group's
// collective never stands behind another group's.
//
//     Engine engine(rank, deadline, {.stop = [&](const std::string& why) { world.abort(rank, why); }, ...});
//     CommHandle h = engine.submit({group_id, 0, 0}, call_name, std::make_shared<MyOperation>(...));
//     h.wait();    // sleeps; throws after the deadline or when fail() was called
#pragma once

#include <compare>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "parallel/comm/call.h"
#include "parallel/comm/file_waits.h"
#include "parallel/comm/traffic.h"
#include "parallel/comm/wait_limit.h"
#include "parallel/comm/whereabouts.h"
#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// Work in small steps. progress() is called by the communication thread alone.
class Operation {
 public:
  virtual ~Operation() = default;
  /// Does what can be done without waiting; true once all is done. What it throws stops the world.
  virtual bool progress() = 0;
  /// True while all ranks are known to take part, so that the next step is due at once.
  virtual bool is_hot() const { return false; }
  /// The ranks without which it cannot go on, from any thread.
  virtual std::vector<Missing> waits_for() const { return {}; }
};

/// Operations of equal key are first-in first-out.
struct QueueKey {
  int group = 0;
  int direction = 0;  // 0 collectives, 1 sends, 2 receives
  int peer = 0;
  friend auto operator<=>(const QueueKey&, const QueueKey&) = default;
};

class Engine {
 public:
  /// What the engine asks of its world.
  struct World {
    /// Called, from the thread that met it, with the message of an error or a missed deadline; it is to call fail().
    std::function<void(const std::string&)> stop;
    /// Called a few times in each deadline of a wait: who holds up an operation that waits for these, as tell_missing.
    std::function<HeldUp(const std::vector<Missing>&)> who_is_missing;
    /// Called a few times in each deadline of a patient wait: the same of those of these that have given no sign of
    /// life for a whole deadline, upon which the wait has missed it; empty: none. Null: ranks are not lost singly.
    std::function<std::string(const std::vector<Missing>&)> who_is_silent = {};
    /// Called by the communication thread, which then polls with a growing pause, also while it has nothing to do;
    /// without it the thread sleeps until notify().
    std::function<void()> poll = {};
    /// By rank, a number that is equal on one node; empty: there is but one.
    std::vector<int> node_of = {};
    /// Called by answer() with what the user should know, a line.
    std::function<void(const std::string&)> warn = {};
  };
  Engine(int rank, Deadline deadline, World world);
  /// Begins: everything that the world's functions use is there.
  void start();
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Messages call the operation `name`; waits for it are counted with `axis`. Throws if the world has failed.
  core::CommHandle submit(const QueueKey& key, CallName name, std::shared_ptr<Operation> operation,
                          CommAxis axis = CommAxis::World);
  /// Something that an operation waits for may have happened.
  void notify();
  /// The training step that operations belong to from now on.
  void set_step(std::int64_t step);
  std::int64_t step() const;
  /// From any thread.
  Whereabouts whereabouts() const;
  /// The same, for another rank that asks. Where this one has waited for a disk for longer than the deadline, it says
  /// so by World::warn, once.
  Whereabouts answer();
  /// Where the rank says that it waits for a disk.
  FileWaits& file_waits();

  // For operations that go elsewhere than by the communication thread, such as those of a device. From any thread.
  /// Such an operation begins, for the messages of others.
  void note(CallName name);
  /// Where the rank waits while it waits for no operation of the engine's, if it does; asked from other threads. Null:
  /// nowhere.
  void set_elsewhere(std::function<std::optional<Whereabouts>()> elsewhere);
  /// Throws where the world has failed, as a wait does.
  void check() const;
  Deadline deadline() const;
  /// Of this rank's waits, for operations of the engine and those of a device, and of what it hands out in all groups.
  CommTally& tally();
  /// The node of a rank of the world: a number that is equal on one node.
  int node_of(int rank) const;
  /// Whether a rank of the world is on this one's node.
  bool is_near(int rank) const;
  /// At limit.next_look() of a wait for `what`, which waits for these: where the deadline has passed, stops the world
  /// with a message that says so.
  void look(WaitLimit& limit, const std::string& what, const std::vector<Missing>& missing);

  /// Every wait, now and later, throws: Error if this rank is the `origin`, else PeerError. The first call counts.
  void fail(int origin, const std::string& message);
  bool has_failed() const;
  /// Ends the thread; waits for what is unfinished throw. True if nothing was. Unfinished operations live as long as
  /// the engine: the transport may still read and write their memory.
  bool stop();

 private:
  struct State;
  class Ticket;
  static void run(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;
  std::jthread thread_;
};

}  // namespace limbeck::parallel
