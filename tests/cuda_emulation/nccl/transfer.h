// What ranks of a communicator do together: a collective, or one's send and another's receive. It happens once all that
// take part have come to it on their streams, on the thread of whoever sees that first.
#pragma once

#include <nccl.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/cuda_emulation/races/stream_order.h"

namespace limbeck::emulation {

/// What all that take part have to say alike.
struct TransferKind {
  std::string_view name;  // of the collective; "send and receive"
  std::size_t count = 0;
  ncclDataType_t type = ncclUint8;
  ncclRedOp_t reduce = ncclSum;
  int root = -1;  // -1 where there is none
  friend bool operator==(const TransferKind&, const TransferKind&) = default;
};

struct Participant {
  int rank = 0;
  std::string_view called;  // NCCL's function
  const void* from = nullptr;
  void* to = nullptr;
  bool joined = false;                                    // has called
  bool arrived = false;                                   // its stream has come so far
  std::chrono::steady_clock::time_point arrived_at = {};  // by its GPU's clock
};

struct Transfer {
  TransferKind kind;
  std::vector<Participant> participants;
  enum class State { waiting, running, done } state = State::waiting;
  std::chrono::steady_clock::time_point done_at = {};

  bool all_arrived() const;
  /// When the last of them did.
  std::chrono::steady_clock::time_point all_arrived_at() const;
  /// "ncclAllReduce of 10 float32 (sum) by rank 0".
  std::string text_of(const Participant& participant) const;
  /// Who has not come, such as "rank 1 has not come"; those that have not called before those that wait elsewhere.
  std::string missing() const;
};

std::string text_of(ncclDataType_t type);
std::size_t bytes_of(ncclDataType_t type);
bool is_reduced(ncclDataType_t type);

/// What a participant's buffers cover, null ones nothing.
MemoryRange given_by(const Transfer& transfer, const Participant& participant);
MemoryRange got_by(const Transfer& transfer, const Participant& participant);

/// Moves and combines the data of all; the GPUs' memory is open. Reductions go from rank 0 on, each sum rounded to the
/// type. Fails where a buffer is not memory of a GPU.
void perform(const Transfer& transfer);

}  // namespace limbeck::emulation
