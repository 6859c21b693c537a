// A communicator of ranks that are threads of this process, each with a GPU of its own, and what they have called.
// The machine's lock is held.
#pragma once

#include <nccl.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_emulation/nccl/transfer.h"
#include "tests/cuda_emulation/runtime/machine.h"

namespace limbeck::emulation {

class Communicator {
 public:
  /// The one of an id; who is the first makes it. Fails where another rank was told another number of ranks.
  static std::shared_ptr<Communicator> of(const ncclUniqueId& id, int num_ranks);

  explicit Communicator(int num_ranks) : devices_(static_cast<std::size_t>(num_ranks), -1) {}

  int size() const { return static_cast<int>(devices_.size()); }
  int device(int rank) const { return devices_[static_cast<std::size_t>(rank)]; }
  const std::vector<int>& devices() const { return devices_; }

  /// ncclInvalidUsage where the rank has come already or its GPU is another's.
  ncclResult_t join(int rank, int device);
  bool is_complete() const;
  bool has_failed() const { return has_failed_; }
  void finalize() { ++num_finalized_; }
  bool all_finalized() const { return num_finalized_ >= size(); }
  std::string missing() const;

  /// What takes part in a transfer, and as which of its participants.
  struct Part {
    std::shared_ptr<Transfer> transfer;
    std::size_t place;
    Participant& participant() const { return transfer->participants[place]; }
  };
  /// The rank's next collective; fails, naming both, where another rank's was not of this kind.
  Part collective(int rank, const TransferKind& kind, const void* from, void* to);
  /// The next message from `sender` to `receiver`, by its sender, who gives `from`, or its receiver.
  Part sent(int sender, int receiver, const TransferKind& kind, const void* from);
  Part received(int sender, int receiver, const TransferKind& kind, void* to);

 private:
  struct Sequence {                                           // of collectives, or of messages from one rank to another
    std::map<std::uint64_t, std::shared_ptr<Transfer>> open;  // those that not all have called
    std::map<std::size_t, std::uint64_t> num_called;          // by place
  };
  Part next(Sequence& sequence, const TransferKind& kind, const std::vector<Participant>& participants,
            std::size_t place);

  std::vector<int> devices_;  // -1: has not come
  bool has_failed_ = false;
  int num_finalized_ = 0;
  Sequence collectives_;
  std::map<std::pair<int, int>, Sequence> messages_;
};

}  // namespace limbeck::emulation
