// What the communicators of all worlds share: arguments are checked and written down as a Call, numbered, and handed to
// the rank's communication thread. A group of one does its work at once. What lies where the host cannot read goes by
// way of the host's memory.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/call.h"
#include "parallel/comm/engine.h"
#include "parallel/comm/world.h"

namespace limbeck::parallel {

/// Counts what this rank of the group hands out in the call: Call::bytes_for, or where that makes it an all_reduce of
/// at most `told_whole` bytes, all of it to everybody.
void count_sent(WorldComm& group, const Call& call, std::int64_t told_whole = 0);

class QueuedComm : public WorldComm {
 public:
  QueuedComm(int group_id, std::string name, int rank, int size);

  int rank() const final { return rank_; }
  int size() const final { return size_; }
  const std::string& name() const final { return *name_; }

  core::CommHandle all_reduce_async(core::Tensor x, core::Reduce reduce) final;
  core::CommHandle all_gather_async(core::Tensor x, core::Tensor all) final;
  core::CommHandle reduce_scatter_async(core::Tensor all, core::Tensor x) final;
  core::CommHandle all_to_all_v_async(core::Tensor send, std::span<const std::int64_t> send_rows, core::Tensor receive,
                                      std::span<const std::int64_t> receive_rows) final;
  core::CommHandle send_async(core::Tensor x, int to) final;
  core::CommHandle receive_async(core::Tensor x, int from) final;
  core::CommHandle barrier_async() final;
  void note_step(std::int64_t step) final { engine().set_step(step); }

 protected:
  /// What the ranks of this group say at a split.
  struct Split {
    std::vector<int> ranks;  // of the new group, in its order, numbered as in this one
    int rank = 0;            // this one's in the new group
    std::int64_t note = 0;   // the greatest that a rank of this group gave
  };
  /// Collective, with the deadline of any operation.
  Split agree_on_split(int color, int key, std::int64_t note);
  /// An operation for the call, which is the `sequence`-th of its queue.
  virtual std::shared_ptr<Operation> make_operation(Call call, std::int64_t sequence) = 0;
  /// The bytes up to which an all_reduce tells everybody all numbers.
  virtual std::int64_t told_whole() const { return 0; }

 private:
  core::CommHandle start(Call call);
  void check_peer(const char* op, int peer) const;

  int group_id_;
  std::shared_ptr<const std::string> name_;
  int rank_;
  int size_;
  std::map<QueueKey, std::int64_t> next_;  // sequence number of each queue
};

}  // namespace limbeck::parallel
