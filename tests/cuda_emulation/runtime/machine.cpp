#include "tests/cuda_emulation/runtime/machine.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <utility>

#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/races/shadow.h"
#include "tests/cuda_emulation/report.h"
#include "tests/cuda_emulation/signals.h"

namespace limbeck::emulation {

namespace {

std::atomic<double>& deadline_seconds() {
  const char* text = std::getenv("EMULATION_DEADLINE_S");
  static std::atomic<double> seconds{text == nullptr ? 60 : std::strtod(text, nullptr)};
  return seconds;
}

thread_local const Operation* running = nullptr;

/// A thread of the host, to a GPU.
struct HostThread {
  bool queues = false;  // work, now and then
  Clock seen;           // to be done, before it queued any
};

HostThread& thread_of_host(int device) {
  thread_local std::array<HostThread, Machine::max_devices> threads;
  return threads[static_cast<std::size_t>(device)];
}

/// Its first operation may run, but for what that itself waits for.
void come_to_next(Stream& stream) {
  const Operation& next = stream.queue.front();
  stream.at = std::max(stream.at, next.queued_at);
  for (const auto& before : next.before) stream.at = std::max(stream.at, before.first->at);
}

}  // namespace

std::string running_operation() { return running == nullptr ? "" : running->what(); }

Machine& machine() {
  static auto* the_machine = new Machine;  // never destroyed: what is queued may outlive main()
  return *the_machine;
}

bool spoils_capture(Stream& stream) {
  if (stream.capture == nullptr) return false;
  stream.capture->is_valid = false;
  return true;
}

bool spoils_captures(int device) {
  bool any = false;
  for (const auto& stream : machine().device(device).streams) any = spoils_capture(*stream) || any;
  return any;
}

std::chrono::duration<double> deadline() { return std::chrono::duration<double>(deadline_seconds()); }
void set_deadline(std::chrono::duration<double> seconds) { deadline_seconds() = seconds.count(); }

Device& Machine::device(int ordinal) {
  auto& device = devices_[static_cast<std::size_t>(ordinal)];
  if (device == nullptr) {
    report_signals();
    device = std::make_unique<Device>(ordinal);
    device->default_stream = make_stream(ordinal, /*blocking=*/true);
  }
  return *device;
}

int Machine::device_of(const void* address) const {
  for (std::size_t i = 0; i < devices_.size(); ++i)
    if (devices_[i] != nullptr && devices_[i]->memory.holds(address)) return static_cast<int>(i);
  return -1;
}

Random& Machine::random() {
  if (random_seed_ != seed()) {
    random_seed_ = seed();
    random_ = Random(random_seed_);
  }
  return random_;
}

std::shared_ptr<Stream> Machine::make_stream(int ordinal, bool blocking) {
  auto stream = std::make_shared<Stream>();
  stream->device = ordinal;
  stream->blocking = blocking;
  stream->number = ++num_streams_;
  stream->rank = random().next();
  device(ordinal).streams.push_back(stream);
  return stream;
}

// The default stream waits for what the blocking ones had before, and they for what it had.
void Machine::enqueue(const std::shared_ptr<Stream>& stream, Operation operation) {
  if (stream->capture != nullptr) {
    stream->capture->operations.push_back(std::move(operation));
    return;
  }
  Device& own = device(stream->device);
  HostThread& thread = thread_of_host(stream->device);
  thread.queues = true;
  merge(own.known_to_host, std::exchange(thread.seen, {}));
  operation.known = own.known_to_host;
  const auto comes_after = [&](const std::shared_ptr<Stream>& other) {
    if (other->is_done())
      merge(operation.known, other->clock);
    else
      operation.before.emplace_back(other, other->num_queued);
  };
  if (stream != own.default_stream) {
    if (stream->blocking) comes_after(own.default_stream);
  } else {
    for (const auto& other : own.streams)
      if (other != stream && other->blocking) comes_after(other);
  }
  went_on_at_ = operation.queued_at = std::chrono::steady_clock::now();
  stream->queue.push_back(std::move(operation));
  ++stream->num_queued;
  changed_.notify_all();
}

void Machine::run_front(Lock& lock, std::shared_ptr<Stream> stream) {
  Operation& operation = stream->queue.front();
  stream->running = true;
  if (operation.run != nullptr) stream->at += run_open(lock, operation, stream->device);
  note_order(*stream, operation);
  if (operation.finish != nullptr) operation.finish();
  stream->queue.pop_front();
  ++stream->num_done;
  stream->running = false;
  went_on_at_ = std::chrono::steady_clock::now();
  changed_.notify_all();
}

Time::duration Machine::run_open(Lock& lock, const Operation& operation, int ordinal) {
  std::vector<int> open = operation.devices;
  open.push_back(ordinal);
  for (const int i : open) device(i).memory.open();
  lock.unlock();
  running = &operation;
  const Time begin = std::chrono::steady_clock::now();
  operation.run();
  const Time::duration took = std::chrono::steady_clock::now() - begin;
  running = nullptr;
  lock.lock();
  for (const int i : open) {
    DeviceMemory& memory = device(i).memory;
    if (const std::string what = memory.written_beyond_end(); !what.empty())
      fail("something was written {} of GPU {}, by {}", what, i, operation.what());
    memory.close();
  }
  return took;
}

void Machine::note_order(Stream& stream, const Operation& operation) {
  merge(stream.clock, operation.known);
  for (const auto& [other, count] : operation.before) merge(stream.clock, other->clock);
  stream.clock[stream.number] = stream.num_done + 1;
  if (operation.run == nullptr) return;
  Footprint footprint = take_noted();
  footprint.add(operation.reads, /*written=*/false);
  footprint.add(operation.writes, /*written=*/true);
  const std::string wrong =
      device(stream.device).order.note(stream.number, stream.clock, std::move(footprint), operation.what);
  if (!wrong.empty()) fail("GPU {}: {}", stream.device, wrong);
}

// Streams have ranks, drawn anew now and then, and the first that can go on does: one may be far behind another.
bool Machine::step(Lock& lock, int ordinal) {
  auto& streams = device(ordinal).streams;
  std::erase_if(streams, [&](const auto& stream) {
    const bool is_over = stream.use_count() == 1 && stream->is_done();
    if (is_over) merge(device(ordinal).default_stream->clock, stream->clock);
    return is_over;
  });
  if (random().below(16) == 0)
    for (const auto& stream : streams) stream->rank = random().next();
  std::sort(streams.begin(), streams.end(), [](const auto& a, const auto& b) { return a->rank < b->rank; });
  for (const auto& stream : streams) {
    if (stream->running || stream->queue.empty()) continue;
    const Operation& front = stream->queue.front();
    const auto is_done = [](const auto& before) { return before.first->num_done >= before.second; };
    if (!std::all_of(front.before.begin(), front.before.end(), is_done)) continue;
    come_to_next(*stream);
    if (front.ready != nullptr && !front.ready()) continue;
    run_front(lock, stream);
    return true;
  }
  return false;
}

// Those of other GPUs only where this one's wait, perhaps for them.
bool Machine::step_any(Lock& lock, int ordinal) {
  if (step(lock, ordinal)) return true;
  for (int i = 1; i < max_devices; ++i) {
    const int other = (ordinal + i) % max_devices;
    if (devices_[static_cast<std::size_t>(other)] != nullptr && step(lock, other)) return true;
  }
  return false;
}

void Machine::run_until(Lock& lock, int ordinal, const std::function<bool()>& done,
                        const std::function<std::string()>& what) {
  if (done()) return;
  DeviceMemory& memory = device(ordinal).memory;
  memory.open();  // once for all
  while (!done()) {
    if (step_any(lock, ordinal)) continue;
    const bool work = others_work();
    if (changed_.wait_for(lock, deadline()) == std::cv_status::timeout && !work && !done()) fail_waiting(what);
  }
  memory.close();
}

void Machine::wait_for(Lock& lock, const Stream& stream, std::uint64_t count) {
  run_until(lock, stream.device, [&] { return stream.num_done >= count; });
  host_knows(stream.device, stream.clock);
}

// What a thread sees that only looks on orders nothing of what others queue.
void Machine::host_knows(int ordinal, const Clock& clock) {
  Device& own = device(ordinal);
  HostThread& thread = thread_of_host(ordinal);
  if (!thread.queues) return merge(thread.seen, clock);
  merge(own.known_to_host, clock);
  Clock known = own.known_to_host;  // to all that is still to run, too
  for (const auto& stream : own.streams)
    for (const Operation& operation : stream->queue) keep_common(known, operation.known);
  own.order.forget(known);
}

void Machine::run_some(Lock& lock, int ordinal) {
  const std::uint64_t kind = seed() % 3;
  if (kind == 0) return;
  if (kind == 1 && random().below(4) != 0) return;
  for (std::uint64_t n = kind == 2 ? ~std::uint64_t{0} : random().below(4); n > 0; --n)
    if (!step(lock, ordinal)) return;
}

void Machine::run_one(Lock& lock, int ordinal) {
  if (random().below(2) == 0 && step_any(lock, ordinal)) return;
  const auto& streams = device(ordinal).streams;
  const bool waits = std::any_of(streams.begin(), streams.end(), [](const auto& s) { return !s->queue.empty(); });
  if (waits && !others_work() && std::chrono::steady_clock::now() - went_on_at_ > deadline()) fail_waiting(nullptr);
}

bool Machine::others_work() const {
  return std::any_of(devices_.begin(), devices_.end(), [](const auto& d) {
    return d != nullptr && std::any_of(d->streams.begin(), d->streams.end(), [](const auto& s) { return s->running; });
  });
}

void Machine::fail_waiting(const std::function<std::string()>& what) const {
  std::string text = what == nullptr ? "" : what();
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i] == nullptr) continue;
    for (const auto& stream : devices_[i]->streams)
      if (!stream->queue.empty())
        text += fmt::format("{}stream {} of GPU {} at {}", text.empty() ? "" : "; ", stream->number, i,
                            stream->queue.front().what());
  }
  fail("nothing has gone on for {:g} s: {}", deadline().count(),
       text.empty() ? "nothing is queued, and something waits for it" : text);
}

}  // namespace limbeck::emulation
