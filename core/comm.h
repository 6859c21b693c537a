// Raw collectives over a group of ranks. parallel/ implements them over threads of one process and over MPI; here is
// the group of one. Every rank of a group calls the same collectives in the same order, from one thread.
//
//     comm.all_reduce(x, Reduce::Sum);                       // in place
//     CommHandle h = comm.all_reduce_async(bucket, Reduce::Sum);
//     ...                                                    // compute meanwhile
//     h.wait();                                              // throws if a rank aborted or the deadline passed
//
// Tensors are contiguous, of equal dtype on every rank. A reduction adds in an order that depends on the
// group's size alone, so that a run repeats bit by bit.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/tensor.h"

namespace limbeck::core {

enum class Reduce : std::uint8_t { Sum, Max };

/// A collective under way. Its tensors must not be touched before wait(). A default-constructed one is done.
class CommHandle {
 public:
  class Pending {
   public:
    virtual ~Pending() = default;
    virtual void wait() = 0;
    /// Without a deadline, where there is one.
    virtual void wait_patiently() { wait(); }
    virtual bool wait_for(std::chrono::microseconds /*limit*/) { return true; }
  };
  CommHandle() = default;
  explicit CommHandle(std::shared_ptr<Pending> pending) : pending_(std::move(pending)) {}
  void wait() {
    if (pending_) pending_->wait();
    pending_.reset();
  }
  /// For what another rank may have to do much before: no deadline counts, but a stop of the world throws.
  void wait_patiently() {
    if (pending_) pending_->wait_patiently();
    pending_.reset();
  }
  /// No longer than so long; whether the host has nothing to wait for any more: of what lies in a device's queue that is
  /// so at once. wait() follows all the same.
  bool wait_for(std::chrono::microseconds limit) { return !pending_ || pending_->wait_for(limit); }

 private:
  std::shared_ptr<Pending> pending_;
};

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual const std::string& name() const = 0;  // of the group, for messages: "world", "edp"

  /// x <- reduction of every rank's x. float32, float64, int64.
  virtual CommHandle all_reduce_async(Tensor x, Reduce reduce) = 0;
  /// all [size * n, ...] <- every rank's x [n, ...], in rank order.
  virtual CommHandle all_gather_async(Tensor x, Tensor all) = 0;
  /// x [n, ...] <- this rank's part of the sum of every rank's all [size * n, ...].
  virtual CommHandle reduce_scatter_async(Tensor all, Tensor x) = 0;
  /// Sends send_rows[i] rows of `send` to rank i, in rank order, and fills `receive` likewise; a row is all but the
  /// first dimension. The counts are copied.
  virtual CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                        std::span<const std::int64_t> receive_rows) = 0;
  virtual CommHandle send_async(Tensor x, int to) = 0;
  virtual CommHandle receive_async(Tensor x, int from) = 0;
  virtual CommHandle barrier_async() = 0;

  void all_reduce(Tensor x, Reduce reduce) { all_reduce_async(std::move(x), reduce).wait(); }
  void all_gather(Tensor x, Tensor all) { all_gather_async(std::move(x), std::move(all)).wait(); }
  void reduce_scatter(Tensor all, Tensor x) { reduce_scatter_async(std::move(all), std::move(x)).wait(); }
  void all_to_all_v(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                    std::span<const std::int64_t> receive_rows) {
    all_to_all_v_async(std::move(send), send_rows, std::move(receive), receive_rows).wait();
  }
  void send(Tensor x, int to) { send_async(std::move(x), to).wait(); }
  void receive(Tensor x, int from) { receive_async(std::move(x), from).wait(); }
  void barrier() { barrier_async().wait(); }

  /// The training step that this rank is at, for the messages of others that wait for it.
  virtual void note_step(std::int64_t step) = 0;
  /// Wakes every rank that waits or will wait in any group of this world with an error that holds `why`.
  virtual void abort(const std::string& why) = 0;
};

/// The group of one rank.
std::shared_ptr<Comm> single_comm();

}  // namespace limbeck::core
