// What a rank has of NCCL: for each of its groups a communicator and a stream, and a thread that watches what is under
// way there. NCCL waits for ever for a rank that has not come, and the GPU's queue with it. Where an operation has
// missed the deadline, which is a wait's (wait_limit.h), or NCCL reports an error, the thread stops the world; where
// that has stopped, it aborts all communicators together, upon which the GPU comes to the end of its queue, and what
// the host waits for throws.
//
//     auto nccl = std::make_shared<NcclRank>(world, cuda);
//     NcclChannel& channel = nccl->open(*group);                              // collective
//     auto sum = channel.queue(call_name, [&](ncclComm_t comm, cudaStream_t stream) {
//       return ncclAllReduce(x, x, 8, ncclFloat32, ncclSum, comm, stream);
//     });
//     sum->hold_kernels();                                                    // those that are queued from now on
//
// Communicators do not block (config.blocking = 0), without which NCCL does not let them be aborted at any time; each
// call is waited for until NCCL has queued what it asks for, under one lock that keeps the two threads apart.
#pragma once

#include <cuda_runtime.h>
#include <nccl.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/cuda_state.h"
#include "kernels/cuda/timed_waits.h"
#include "parallel/comm/engine.h"
#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// Bytes that every rank of a group gives, in rank order. Collective, between hosts.
std::vector<std::byte> gathered(WorldComm& group, const void* mine, std::int64_t bytes);

/// Throws an Error with NCCL's words unless all went well.
void check_nccl(ncclResult_t result, const std::string& what);

struct NcclState;

/// An operation on a group's stream.
class NcclOperation {
 public:
  /// `waits` are those of `kernels`, the rank's stream.
  NcclOperation(CallName name, cudaStream_t kernels, std::shared_ptr<kernels::TimedWaits> waits, CommAxis axis);
  ~NcclOperation();
  NcclOperation(const NcclOperation&) = delete;
  NcclOperation& operator=(const NcclOperation&) = delete;

  /// Kernels that are queued from now on begin behind it.
  void hold_kernels() const;

 private:
  friend struct NcclState;
  friend class NcclChannel;

  CallName called_;
  cudaStream_t kernels_;
  std::shared_ptr<kernels::TimedWaits> waits_;
  CommAxis axis_;
  cudaEvent_t begins_ = nullptr, done_ = nullptr;
  std::optional<WaitLimit> limit_;  // since it was seen to begin; of the thread that watches
};

/// Of a group. Used by the thread that opened it alone.
class NcclChannel {
 public:
  using Start = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;

  NcclChannel(NcclState& state, WorldComm& group);
  ~NcclChannel();
  NcclChannel(const NcclChannel&) = delete;
  NcclChannel& operator=(const NcclChannel&) = delete;

  /// What `start` asks of NCCL, behind the kernels that are queued by now. Throws where the world has failed.
  std::shared_ptr<NcclOperation> queue(const CallName& called, const Start& start);

 private:
  friend struct NcclState;

  NcclState& state_;
  std::string name_;
  CommAxis axis_;
  std::vector<int> others_;  // of the group, in the world
  cudaStream_t stream_ = nullptr;
  ncclComm_t comm_ = nullptr;
  std::deque<std::shared_ptr<NcclOperation>> under_way_;
};

class NcclRank {
 public:
  NcclRank(std::shared_ptr<WorldComm> world, const kernels::Cuda& cuda);
  /// Ends the communicators: all ranks come to it. Where the world has failed or an exception is under way they are
  /// aborted; where that takes longer than two seconds the GPU is given up (CudaState) and the thread left behind, for
  /// the process is to end.
  ~NcclRank();
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;

  /// Collective over the group; the channel stays until the rank goes.
  NcclChannel& open(WorldComm& group);

 private:
  std::shared_ptr<NcclState> state_;
  std::jthread watch_;
  int exceptions_at_start_;
};

}  // namespace limbeck::parallel
