#include "tests/cuda_emulation/nccl/group.h"

#include <algorithm>
#include <string>

namespace limbeck::emulation {

namespace {

struct Group {
  int depth = 0;
  std::vector<GroupedPart> parts;
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
    if (is_aborted()) return true;
    bool all_arrived = true;
    bool others_run = false;
    for (const GroupedPart& p : parts_) {
      Transfer& transfer = *p.part.transfer;
      if (!p.part.participant().arrived) {
        p.part.participant().arrived = true;
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
      }
    return true;
  }

  void run() const {
    for (const auto& transfer : mine_) perform(*transfer);
  }

  void finish() {
    for (const auto& transfer : mine_) transfer->state = Transfer::State::done;
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

  std::vector<GroupedPart> parts_;
  std::vector<std::shared_ptr<Transfer>> mine_;
};

void queue(std::vector<GroupedPart> parts) {
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

}  // namespace

bool in_group() { return group_of_thread().depth > 0; }

void start_group() { ++group_of_thread().depth; }

ncclResult_t end_group() {
  Group& group = group_of_thread();
  if (group.depth == 0) return ncclInvalidUsage;
  if (--group.depth > 0) return ncclSuccess;
  while (!group.parts.empty()) {
    const auto stream = group.parts.front().stream;
    const auto others = std::stable_partition(group.parts.begin(), group.parts.end(),
                                              [&](const auto& p) { return p.stream == stream; });
    queue({group.parts.begin(), others});
    group.parts.erase(group.parts.begin(), others);
  }
  return ncclSuccess;
}

void add_to_group(GroupedPart part) {
  if (in_group())
    group_of_thread().parts.push_back(std::move(part));
  else
    queue({std::move(part)});
}

}  // namespace limbeck::emulation
