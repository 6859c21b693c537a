// The GPUs that the process sees, and what is queued on their streams. Work runs on the threads of the host that wait
// for it, or ask how far it is, or now and then on one that calls for anything else: in any order that streams and
// events allow. How early is drawn by the seed: seeds 2, 5, 8... run all that can run at each call, seeds 3, 6, 9...
// nothing that nobody waits for, the others something now and then.
//
//     Lock lock(machine().mutex);
//     machine().enqueue(stream, {"copy", {}, [=] { std::memcpy(to, from, bytes); }});
//     machine().run_until(lock, stream->device, [&] { return stream->is_done(); });
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/cuda_emulation/races/stream_order.h"
#include "tests/cuda_emulation/random.h"
#include "tests/cuda_emulation/runtime/device_memory.h"

namespace limbeck::emulation {

using Lock = std::unique_lock<std::mutex>;
/// Of a GPU's clock, which is the host's, but that streams go on side by side there, however the threads that run them
/// take turns: work begins once it is queued and what it comes after is done, and takes as long as it runs.
using Time = std::chrono::steady_clock::time_point;

struct Stream;

/// The first of a stream's operations runs once it is ready; then the next may.
struct Operation {
  std::function<std::string()> what;                 // for messages
  std::function<bool()> ready = {};                  // with the lock held; null: at once. Who is told so runs it.
  std::function<void()> run = {};                    // without it, the GPU's memory open; null: nothing
  std::function<void()> finish = {};                 // with it; null: nothing
  std::vector<int> devices = {};                     // beside the stream's own whose memory it needs
  std::vector<MemoryRange> reads = {}, writes = {};  // but those of kernels
  std::vector<std::pair<std::shared_ptr<Stream>, std::uint64_t>> before = {};  // so many of other streams come first
  Clock known = {};                                                            // to the host when it was queued
  Time queued_at = {};
};

/// What is queued on a stream instead of being run.
struct Capture {
  std::vector<Operation> operations;
  bool is_valid = true;  // nothing was asked meanwhile that cannot be
};

struct Stream {
  int device = 0;
  std::uint64_t number = 0;  // in the order of their making
  bool blocking = true;      // in order with the default stream
  bool running = false;
  std::uint64_t rank = 0;  // a lower one goes on first
  std::deque<Operation> queue;
  std::uint64_t num_queued = 0, num_done = 0;
  std::shared_ptr<Capture> capture;  // null: it runs
  Clock clock;                       // what its last operation came after
  Time at;                           // the end of its last operation, and the begin of the next once that may run
  bool is_done() const { return num_done == num_queued; }
};

struct Device {
  explicit Device(int ordinal) : memory(ordinal) {}
  DeviceMemory memory;
  std::shared_ptr<Stream> default_stream;
  std::vector<std::shared_ptr<Stream>> streams;  // those that were not destroyed, or are not done
  Clock known_to_host;                           // to threads that queue work here
  StreamOrder order;
};

class Machine {
 public:
  static constexpr int max_devices = 8;

  std::mutex mutex;  // of all that is here

  Device& device(int ordinal);
  /// The GPU in whose memory the address is, or -1.
  int device_of(const void* address) const;

  std::shared_ptr<Stream> make_stream(int device, bool blocking);
  /// Or captured.
  void enqueue(const std::shared_ptr<Stream>& stream, Operation operation);

  /// Runs work, of `device` first, until `done`. Fails where nothing has gone on for deadline(), naming what is queued
  /// and, if it is not null, what waits.
  void run_until(Lock& lock, int device, const std::function<bool()>& done,
                 const std::function<std::string()>& what = nullptr);
  /// Until the first `count` operations of a stream are done; the host knows of it from then on.
  void wait_for(Lock& lock, const Stream& stream, std::uint64_t count);
  /// The host has seen that what the clock says is done.
  void host_knows(int device, const Clock& clock);
  /// Threads that wait look again.
  void notify() { changed_.notify_all(); }
  /// What runs at a call that waits for nothing.
  void run_some(Lock& lock, int device);
  /// What runs at one that asks how far work is, so that who asks again and again comes to an end; fails as run_until.
  void run_one(Lock& lock, int device);

 private:
  bool others_work() const;
  bool step(Lock& lock, int device);
  bool step_any(Lock& lock, int device);
  void run_front(Lock& lock, std::shared_ptr<Stream> stream);
  Time::duration run_open(Lock& lock, const Operation& operation, int device);  // how long it ran
  void note_order(Stream& stream, const Operation& operation);
  [[noreturn]] void fail_waiting(const std::function<std::string()>& what) const;
  Random& random();

  std::vector<std::unique_ptr<Device>> devices_ = std::vector<std::unique_ptr<Device>>(max_devices);
  std::condition_variable changed_;
  std::uint64_t num_streams_ = 0;
  std::uint64_t random_seed_ = 0;
  Random random_{0};
  std::chrono::steady_clock::time_point went_on_at_ = std::chrono::steady_clock::now();
};

Machine& machine();

/// Where the stream is captured, the capture is spoiled: what is asked of it cannot be part of one.
bool spoils_capture(Stream& stream);
/// The same of any stream of a GPU, all of which are to be waited for.
bool spoils_captures(int device);

/// What this thread of the host runs for a GPU, or "".
std::string running_operation();

}  // namespace limbeck::emulation
