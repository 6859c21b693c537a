#include "tests/cuda_emulation/nccl/group.h"

#include <algorithm>
#include <string>
#include <utility>

#include "tests/cuda_emulation/nccl/links.h"

namespace limbeck::emulation {

namespace {

struct Group {
  int depth = 0;
  std::vector<GroupedPart> parts;
  std::vector<int> to_wait_for;  // GPUs
};

Group& group_of_thread() {
  thread_local Group group;
  return group;
}

/// The transfers that a stream has to see done before it goes on.
class Together {
 public:
  explicit Together(std::vector<GroupedPart> parts) : parts_(std::move(parts)) {}

  /// Tells the others that this stream has come so far. True once all is done, or this stream is to do the rest.
  bool is_ready() {
    if (is_aborted()) return has_left();
    if (links() != Links::Good) return false;
    bool all_arrived = true;
    bool others_run = false;
    for (const GroupedPart& p : parts_) {
      Transfer& transfer = *p.part.transfer;
      if (!p.part.participant().arrived) {
        p.part.participant().arrived = true;
        p.part.participant().arrived_at = p.stream->at;
        machine().notify();
      }
      all_arrived &= transfer.all_arrived();
      others_run |= transfer.state == Transfer::State::running;
    }
    if (!all_arrived || others_run) return false;
    for (const GroupedPart& p : parts_)
      if (Transfer& transfer = *p.part.transfer; transfer.state == Transfer::State::waiting) {
        transfer.state = Transfer::State::running;
        mine_.push_back(p.part.transfer);
        p.stream->at = std::max({p.stream->at, transfer.all_arrived_at(), links_since()});
      }
    return true;
  }

  void run() const {
    for (const auto& transfer : mine_) perform(*transfer);
  }

  void finish() {
    for (const auto& transfer : mine_) {
      transfer->state = Transfer::State::done;
      transfer->done_at = parts_.front().stream->at;
    }
    for (const GroupedPart& p : parts_) {
      --p.self->num_unfinished;
      p.stream->at = std::max(p.stream->at, p.part.transfer->done_at);
    }
  }

  std::string text() const {
    const Communicator::Part& first = parts_.front().part;
    std::string text = first.transfer->text_of(first.participant());
    if (parts_.size() > 1) text += " and " + std::to_string(parts_.size() - 1) + " more of its group";
    for (const GroupedPart& p : parts_)
      if (const std::string missing = p.part.transfer->missing(); !missing.empty()) return text + ": " + missing;
    return text;
  }

  std::vector<MemoryRange> ranges(MemoryRange (*of)(const Transfer&, const Participant&)) const {
    std::vector<MemoryRange> all;
    for (const GroupedPart& p : parts_) all.push_back(of(*p.part.transfer, p.part.participant()));
    return all;
  }

  std::vector<int> devices() const {
    std::vector<int> all;
    for (const GroupedPart& p : parts_)
      for (const int device : p.self->communicator->devices())
        if (std::find(all.begin(), all.end(), device) == all.end()) all.push_back(device);
    return all;
  }

 private:
  bool is_aborted() const {
    return std::any_of(parts_.begin(), parts_.end(), [](const GroupedPart& p) { return p.self->aborted; });
  }
  /// What has not begun never does without this stream, whose memory may go; what others do has to end first.
  bool has_left() {
    bool others_run = false;
    for (const GroupedPart& p : parts_) {
      const Transfer::State state = p.part.transfer->state;
      if (state == Transfer::State::waiting) p.part.participant().arrived = false;
      others_run |= state == Transfer::State::running;
    }
    return !others_run;
  }

  std::vector<GroupedPart> parts_;
  std::vector<std::shared_ptr<Transfer>> mine_;
};

void queue_now(std::vector<GroupedPart> parts) {
  const auto stream = parts.front().stream;
  const auto together = std::make_shared<Together>(std::move(parts));
  Operation operation;
  operation.what = [together] { return together->text(); };
  operation.ready = [together] { return together->is_ready(); };
  operation.run = [together] { together->run(); };
  operation.finish = [together] { together->finish(); };
  operation.devices = together->devices();
  operation.reads = together->ranges(given_by);
  operation.writes = together->ranges(got_by);
  machine().enqueue(stream, std::move(operation));
}

ncclResult_t queue(std::vector<GroupedPart> parts) {
  RankOfCommunicator& self = *parts.front().self;
  for (const GroupedPart& p : parts) ++p.self->num_unfinished;
  if (self.blocks) {
    queue_now(std::move(parts));
    return ncclSuccess;
  }
  self.to_be_queued.push_back(std::move(parts));
  return ncclInProgress;
}

// As CUDA's own freeing does.
void wait_for_gpu(Lock& lock, int device) {
  const auto streams = machine().device(device).streams;
  std::vector<std::uint64_t> queued;
  for (const auto& stream : streams) queued.push_back(stream->num_queued);
  for (std::size_t i = 0; i < streams.size(); ++i) machine().wait_for(lock, *streams[i], queued[i]);
}

}  // namespace

ncclResult_t state_of(RankOfCommunicator& self) {
  if (links() == Links::Broken) return ncclRemoteError;
  if (self.communicator->has_failed()) return ncclInvalidUsage;
  if (!self.communicator->is_complete()) return ncclInProgress;
  if (!self.to_be_queued.empty() && ++self.times_asked % 2 == 0)
    for (auto& parts : std::exchange(self.to_be_queued, {})) queue_now(std::move(parts));
  if (!self.to_be_queued.empty()) return ncclInProgress;
  if (self.finalized && (self.num_unfinished > 0 || !self.communicator->all_finalized())) return ncclInProgress;
  return ncclSuccess;
}

bool in_group() { return group_of_thread().depth > 0; }

void start_group() { ++group_of_thread().depth; }

ncclResult_t end_group(Lock& lock) {
  Group& group = group_of_thread();
  if (group.depth == 0) return ncclInvalidUsage;
  if (--group.depth > 0) return ncclSuccess;
  for (const int device : std::exchange(group.to_wait_for, {})) wait_for_gpu(lock, device);
  ncclResult_t result = ncclSuccess;
  while (!group.parts.empty()) {
    const auto stream = group.parts.front().stream;
    const auto others = std::stable_partition(group.parts.begin(), group.parts.end(),
                                              [&](const auto& p) { return p.stream == stream; });
    if (queue({group.parts.begin(), others}) == ncclInProgress) result = ncclInProgress;
    group.parts.erase(group.parts.begin(), others);
  }
  return result;
}

ncclResult_t add_to_group(GroupedPart part) {
  if (!in_group()) return queue({std::move(part)});
  group_of_thread().parts.push_back(std::move(part));
  return ncclSuccess;
}

void abort_in_group(Lock& lock, RankOfCommunicator& self) {
  self.aborted = true;
  self.to_be_queued.clear();
  machine().notify();
  const int device = self.communicator->device(self.rank);
  if (in_group())
    group_of_thread().to_wait_for.push_back(device);
  else
    wait_for_gpu(lock, device);
}

}  // namespace limbeck::emulation
