// What a thread calls between ncclGroupStart and ncclGroupEnd, or at once: on each stream one operation, whose
// transfers go on together.
#pragma once

#include <nccl.h>

#include <memory>
#include <vector>

#include "tests/cuda_emulation/nccl/communicator.h"

namespace limbeck::emulation {

struct RankOfCommunicator;

struct GroupedPart {
  std::shared_ptr<RankOfCommunicator> self;
  std::shared_ptr<Stream> stream;
  Communicator::Part part;
};

/// A rank's own side of a communicator.
struct RankOfCommunicator {
  std::shared_ptr<Communicator> communicator;
  int rank = 0;
  bool blocks = true;    // its calls return when they are done; else they may say ncclInProgress
  bool aborted = false;  // its operations end without having done anything
  bool finalized = false;
  std::int64_t num_unfinished = 0;                          // operations that were called
  std::vector<std::vector<GroupedPart>> to_be_queued = {};  // where it does not block: when it is asked how far it is
  int times_asked = 0;
};

/// How far what was called last is, as ncclCommGetAsyncError tells, which takes it further.
ncclResult_t state_of(RankOfCommunicator& self);

/// Whether this thread is between the two.
bool in_group();
void start_group();
/// Queues what was added where this was the outermost end. ncclInvalidUsage where no group was begun.
ncclResult_t end_group(Lock& lock);

/// Queues it, or keeps it for the end of the group.
ncclResult_t add_to_group(GroupedPart part);
/// Its operations end, at once; what it holds is freed at the end of the group, which waits for the GPU.
void abort_in_group(Lock& lock, RankOfCommunicator& self);

}  // namespace limbeck::emulation
