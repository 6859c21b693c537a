// What a thread calls between ncclGroupStart and ncclGroupEnd, or at once: on each stream one operation, whose
// transfers go on together.
#pragma once

#include <nccl.h>

#include <memory>
#include <vector>

#include "tests/cuda_emulation/nccl/communicator.h"

namespace limbeck::emulation {

/// A rank's own side of a communicator.
struct RankOfCommunicator {
  std::shared_ptr<Communicator> communicator;
  int rank = 0;
  bool aborted = false;  // its operations end without having done anything
};

struct GroupedPart {
  std::shared_ptr<RankOfCommunicator> self;
  std::shared_ptr<Stream> stream;
  Communicator::Part part;
};

/// Whether this thread is between the two.
bool in_group();
void start_group();
/// Queues what was added where this was the outermost end. ncclInvalidUsage where no group was begun.
ncclResult_t end_group();

/// Queues it, or keeps it for the end of the group.
void add_to_group(GroupedPart part);

}  // namespace limbeck::emulation
