// A rank's communication thread. Operations wait in queues; the front of every queue progresses, so that one group's
// collective never stands behind another group's.
//
//     Engine engine(rank, deadline, Engine::Idle::Sleep, [&](const std::string& why) { world.abort(rank, why); });
//     CommHandle h = engine.submit({group_id, 0, 0}, "all_reduce of ...", std::make_shared<MyOperation>(...));
//     h.wait();    // sleeps; throws after the deadline or when fail() was called
#pragma once

#include <compare>
#include <functional>
#include <memory>
#include <string>
#include <thread>

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
  /// For the message of a missed deadline, from any thread: "; ranks 1, 3 have not arrived", or nothing.
  virtual std::string waits_for() const { return {}; }
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
  /// What the thread does when no operation can go on: sleep until notify(), or poll with a growing pause.
  enum class Idle { Sleep, Poll };
  /// `stop_world` is called, from the thread that met it, with the message of an error or a missed deadline; it is to
  /// call fail(). `poll` is called once a round in mode Poll.
  Engine(int rank, Deadline deadline, Idle idle, std::function<void(const std::string&)> stop_world,
         std::function<void()> poll = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// `what` names the operation and its group in messages. Throws if the world has failed.
  core::CommHandle submit(const QueueKey& key, std::string what, std::shared_ptr<Operation> operation);
  /// Something that an operation waits for may have happened.
  void notify();
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
