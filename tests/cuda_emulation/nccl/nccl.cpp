// NCCL's functions for ranks that are threads of one process. Their operations are queued on streams and run when all
// ranks' streams have come so far.
#include <nccl.h>

#include <atomic>
#include <cstring>
#include <string>

#include "tests/cuda_emulation/nccl/group.h"
#include "tests/cuda_emulation/nccl/links.h"
#include "tests/cuda_emulation/runtime/calls.h"

using namespace limbeck::emulation;

struct ncclComm {
  std::shared_ptr<RankOfCommunicator> self;
};

namespace {

/// As runtime/calls.h: call().
template <class F>
ncclResult_t nccl_call(const char* name, F&& f) {
  if (is_to_fail(name)) return ncclInternalError;
  Lock lock(machine().mutex);
  machine().run_some(lock, current_device());
  return f(lock);
}

std::atomic<Links> links_now{Links::Good};
Time links_set_at;  // guarded by the machine's mutex
std::atomic<bool> hanging_mismatches{false};
std::atomic<const char*> spoiled{nullptr};

ncclResult_t join(Lock& lock, ncclComm_t* comm, int num_ranks, const ncclUniqueId& id, int rank, bool blocks) {
  if (comm == nullptr || num_ranks < 1 || rank < 0 || rank >= num_ranks) return ncclInvalidArgument;
  const auto communicator = Communicator::of(id, num_ranks);
  const ncclResult_t joined = communicator->join(rank, current_device());
  machine().notify();
  if (joined != ncclSuccess) return joined;
  if (!blocks) {
    *comm = new ncclComm{std::make_shared<RankOfCommunicator>(RankOfCommunicator{communicator, rank, blocks})};
    return ncclInProgress;
  }
  machine().run_until(
      lock, current_device(), [&] { return communicator->is_complete() || communicator->has_failed(); },
      [&] { return "ncclCommInitRank of rank " + std::to_string(rank) + ": " + communicator->missing(); });
  if (communicator->has_failed()) return ncclInvalidUsage;
  *comm = new ncclComm{std::make_shared<RankOfCommunicator>(RankOfCommunicator{communicator, rank})};
  return ncclSuccess;
}

/// Whether what was called before is done, of which whoever does not block has to make sure.
ncclResult_t ready(const RankOfCommunicator& self) {
  return self.communicator->is_complete() && self.to_be_queued.empty() && !self.finalized ? ncclSuccess
                                                                                          : ncclInvalidArgument;
}

/// Checks what every operation has to have, and adds the part that f makes.
template <class F>
ncclResult_t add(ncclComm_t comm, cudaStream_t stream_handle, const TransferKind& kind, bool has_buffers, F&& f) {
  if (comm == nullptr || kind.type >= ncclNumTypes || (kind.count > 0 && !has_buffers)) return ncclInvalidArgument;
  const auto stream = stream_of(stream_handle);
  const auto& self = comm->self;
  if (stream == nullptr || stream->device != self->communicator->device(self->rank)) return ncclInvalidUsage;
  if (const ncclResult_t state = ready(*self); state != ncclSuccess) return state;
  return add_to_group({self, stream, f(*self->communicator, self->rank)});
}

ncclResult_t collective(ncclComm_t comm, cudaStream_t stream, const TransferKind& kind, const void* from, void* to) {
  if (comm != nullptr && kind.root >= comm->self->communicator->size()) return ncclInvalidArgument;
  const bool has_buffers = kind.root < 0 ? from != nullptr && to != nullptr : from != nullptr || to != nullptr;
  return add(comm, stream, kind, has_buffers,
             [&](Communicator& all, int rank) { return all.collective(rank, kind, from, to); });
}

void wait_for_end(Lock& lock, const RankOfCommunicator& self) {
  machine().run_until(
      lock, self.communicator->device(self.rank), [&] { return self.num_unfinished == 0; },
      [&] { return "the end of the communicator of rank " + std::to_string(self.rank); });
}

bool is_peer(ncclComm_t comm, int rank) {
  return comm != nullptr && rank >= 0 && rank < comm->self->communicator->size();
}

}  // namespace

namespace limbeck::emulation {

Links links() { return links_now; }
std::chrono::steady_clock::time_point links_since() { return links_set_at; }
void set_links(Links links) {
  const Lock lock(machine().mutex);
  links_now = links;
  links_set_at = std::chrono::steady_clock::now();
  machine().notify();
}
bool mismatches_hang() { return hanging_mismatches; }
void set_mismatches_hang(bool hang) { hanging_mismatches = hang; }
const char* spoiled_operations() { return spoiled; }
void spoil_operations(const char* name) { spoiled = name; }

}  // namespace limbeck::emulation

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  return nccl_call("ncclGetVersion", [&](Lock&) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
  });
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  return nccl_call("ncclGetUniqueId", [&](Lock&) {
    static std::uint64_t next = 0;
    if (id == nullptr) return ncclInvalidArgument;
    *id = {};
    const std::uint64_t number = ++next;
    std::memcpy(id->internal, &number, sizeof number);
    return ncclSuccess;
  });
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank) {
  return nccl_call("ncclCommInitRank",
                   [&](Lock& lock) { return join(lock, comm, num_ranks, id, rank, /*blocks=*/true); });
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  return nccl_call("ncclCommInitRankConfig", [&](Lock& lock) {
    return join(lock, comm, num_ranks, id, rank, config == nullptr || config->blocking != 0);
  });
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  return nccl_call("ncclCommFinalize", [&](Lock& lock) {
    if (comm == nullptr) return ncclInvalidArgument;
    RankOfCommunicator& self = *comm->self;
    if (const ncclResult_t state = ready(self); state != ncclSuccess) return state;
    self.finalized = true;
    self.communicator->finalize();
    machine().notify();
    if (self.blocks) wait_for_end(lock, self);
    return state_of(self);
  });
}

// What has work that nobody comes to waits for ever.
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  return nccl_call("ncclCommDestroy", [&](Lock& lock) {
    if (comm == nullptr) return ncclSuccess;
    wait_for_end(lock, *comm->self);
    delete comm;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  return nccl_call("ncclCommAbort", [&](Lock& lock) {
    if (comm == nullptr) return ncclSuccess;
    abort_in_group(lock, *comm->self);
    delete comm;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  return nccl_call("ncclCommGetAsyncError", [&](Lock&) {
    if (comm == nullptr || error == nullptr) return ncclInvalidArgument;
    *error = state_of(*comm->self);
    return ncclSuccess;
  });
}

ncclResult_t ncclCommCount(ncclComm_t comm, int* count) {
  return nccl_call("ncclCommCount", [&](Lock&) {
    if (comm == nullptr || count == nullptr) return ncclInvalidArgument;
    *count = comm->self->communicator->size();
    return ncclSuccess;
  });
}

ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  return nccl_call("ncclCommUserRank", [&](Lock&) {
    if (comm == nullptr || rank == nullptr) return ncclInvalidArgument;
    *rank = comm->self->rank;
    return ncclSuccess;
  });
}

ncclResult_t ncclCommCuDevice(ncclComm_t comm, int* device) {
  return nccl_call("ncclCommCuDevice", [&](Lock&) {
    if (comm == nullptr || device == nullptr) return ncclInvalidArgument;
    *device = comm->self->communicator->device(comm->self->rank);
    return ncclSuccess;
  });
}

ncclResult_t ncclGroupStart() {
  return nccl_call("ncclGroupStart", [](Lock&) {
    start_group();
    return ncclSuccess;
  });
}

ncclResult_t ncclGroupEnd() {
  return nccl_call("ncclGroupEnd", [](Lock& lock) { return end_group(lock); });
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t reduce,
                           ncclComm_t comm, cudaStream_t stream) {
  return nccl_call("ncclAllReduce", [&](Lock&) {
    if (!is_reduced(type) || reduce > ncclAvg) return ncclInvalidArgument;
    return collective(comm, stream, {"ncclAllReduce", count, type, reduce}, from, to);
  });
}

ncclResult_t ncclReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t reduce,
                        int root, ncclComm_t comm, cudaStream_t stream) {
  return nccl_call("ncclReduce", [&](Lock&) {
    if (!is_reduced(type) || reduce > ncclAvg || root < 0) return ncclInvalidArgument;
    return collective(comm, stream, {"ncclReduce", count, type, reduce, root}, from, to);
  });
}

ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t reduce,
                               ncclComm_t comm, cudaStream_t stream) {
  return nccl_call("ncclReduceScatter", [&](Lock&) {
    if (!is_reduced(type) || reduce > ncclAvg) return ncclInvalidArgument;
    return collective(comm, stream, {"ncclReduceScatter", count, type, reduce}, from, to);
  });
}

ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return nccl_call("ncclAllGather", [&](Lock&) {
    return collective(comm, stream, {"ncclAllGather", count, type}, from, to);
  });
}

ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return nccl_call("ncclBroadcast", [&](Lock&) {
    if (root < 0) return ncclInvalidArgument;
    return collective(comm, stream, {"ncclBroadcast", count, type, ncclSum, root}, from, to);
  });
}

ncclResult_t ncclSend(const void* from, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return nccl_call("ncclSend", [&](Lock&) {
    if (!is_peer(comm, peer)) return ncclInvalidArgument;
    const TransferKind kind{"send and receive", count, type};
    return add(comm, stream, kind, from != nullptr,
               [&](Communicator& all, int rank) { return all.sent(rank, peer, kind, from); });
  });
}

ncclResult_t ncclRecv(void* to, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return nccl_call("ncclRecv", [&](Lock&) {
    if (!is_peer(comm, peer)) return ncclInvalidArgument;
    const TransferKind kind{"send and receive", count, type};
    return add(comm, stream, kind, to != nullptr,
               [&](Communicator& all, int rank) { return all.received(peer, rank, kind, to); });
  });
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error";
    case ncclSystemError:
      return "unhandled system error";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "operation in progress";
  }
}

const char* ncclGetLastError(ncclComm_t) { return ""; }

}  // extern "C"
