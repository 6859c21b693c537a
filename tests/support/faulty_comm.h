// A world of ranks in which one collective of one group is wrong.
//
//     const auto faulty = std::make_shared<FaultyComm>(
//         world.comm, world.comm, Fault{"dp gradients", Fault::Op::AllReduce, Fault::Kind::Scaled});
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>

#include "core/tensor.h"
#include "tests/support/wrapped_comm.h"

namespace limbeck::testing {

/// What is wrong, of floating-point numbers alone.
struct Fault {
  enum class Op : std::uint8_t { None, AllReduce, AllGather, ReduceScatter, AllToAll, Send };
  enum class Kind : std::uint8_t {
    Scaled,      // what comes is a hundredth too large
    Dropped,     // nothing comes from other ranks
    WrongGroup,  // the ranks of the group are others
    OfOneRank,   // what comes to the last rank is a hundredth too large
    Late,        // a rank gives what it should have given the time before
    Slow,        // nothing is: a rank comes later than the others to whatever it does
  };
  std::string group = {};
  Op op = Op::None;  // any of a wrong group, and where a rank is slow
  Kind kind = Kind::Scaled;
  int dimensions = 0;  // of the tensors that it is of; 0: of all
};

/// A group of a world of four ranks, and those that are cut from it, with one fault.
class FaultyComm final : public WrappedComm {
 public:
  using Op = Fault::Op;
  using Kind = Fault::Kind;

  FaultyComm(World group, World root, const Fault& fault)
      : WrappedComm(std::move(group)), root_(std::move(root)), fault_(fault) {}

  World split(int color, int key, const std::string& name) override {
    const bool is_wrong = fault_.kind == Kind::WrongGroup && name == fault_.group;
    return around(is_wrong ? root_->split(wrong_color(name), root_->rank(), name) : within()->split(color, key, name));
  }

  CommHandle all_reduce_async(Tensor x, core::Reduce reduce) override {
    if (!strikes(Op::AllReduce, x)) return within()->all_reduce_async(x, reduce);
    if (fault_.kind == Kind::Dropped) return {};
    if (is_late()) x.copy_from(given_before(x));
    return spoiled(within()->all_reduce_async(x, reduce), x);
  }
  CommHandle all_gather_async(Tensor x, Tensor all) override {
    if (!strikes(Op::AllGather, x)) return within()->all_gather_async(x, all);
    if (is_late()) x = given_before(x);
    return spoiled(within()->all_gather_async(x, all), all);
  }
  CommHandle reduce_scatter_async(Tensor all, Tensor x) override {
    if (!strikes(Op::ReduceScatter, x)) return within()->reduce_scatter_async(all, x);
    if (is_late()) all = given_before(all);
    return spoiled(within()->reduce_scatter_async(all, x), x);
  }
  CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                std::span<const std::int64_t> receive_rows) override {
    if (!strikes(Op::AllToAll, send)) return within()->all_to_all_v_async(send, send_rows, receive, receive_rows);
    if (is_late()) send = given_before(send);
    return spoiled(within()->all_to_all_v_async(send, send_rows, receive, receive_rows), receive);
  }
  CommHandle send_async(Tensor x, int to) override {
    if (strikes(Op::Send, x) && is_late()) x = given_before(x);
    return within()->send_async(x, to);
  }
  CommHandle receive_async(Tensor x, int from) override {
    if (!strikes(Op::Send, x)) return within()->receive_async(x, from);
    return spoiled(within()->receive_async(x, from), x);
  }

 private:
  World around(World group) const override { return std::make_shared<FaultyComm>(std::move(group), root_, fault_); }

  /// Does something more once an operation is done.
  class Afterwards final : public CommHandle::Pending {
   public:
    Afterwards(CommHandle handle, std::function<void()> then) : handle_(std::move(handle)), then_(std::move(then)) {}
    void wait() override {
      handle_.wait();
      if (then_) std::exchange(then_, nullptr)();
    }
    bool wait_for(std::chrono::microseconds limit) override { return handle_.wait_for(limit); }

   private:
    CommHandle handle_;
    std::function<void()> then_;
  };

  /// Neighbours in the place of those that are two apart, and the other way round; on the way between two stages of two
  /// ranks the rank that has the other's place.
  int wrong_color(const std::string& name) const {
    static const std::set<std::string> of_stages = {"pp streams 0", "pp gradients 1", "pp taught"},
                                       of_neighbours = {"tp", "experts", "etp", "experts moves"};
    const int rank = root_->rank();
    if (of_stages.contains(name)) return rank < 2 ? rank : 3 - rank;
    return of_neighbours.contains(name) ? rank % 2 : rank / 2;
  }

  /// Whether the fault is of this operation, which a slow rank comes to later.
  bool strikes(Op op, const Tensor& x) const {
    if (fault_.kind == Kind::Slow && root_->rank() == 1) std::this_thread::sleep_for(std::chrono::microseconds(200));
    return fault_.kind != Kind::WrongGroup && op == fault_.op && name() == fault_.group && is_float(x) &&
           (fault_.dimensions == 0 || x.shape().rank() == fault_.dimensions);
  }
  /// Sharers gather values as bytes (parallel/axes/value_parts.h), of float64 here.
  bool is_float(const Tensor& x) const {
    return x.dtype() == core::DType::F32 || x.dtype() == core::DType::F64 ||
           (x.dtype() == core::DType::U8 && name().ends_with(" sharers"));
  }
  static void scale(Tensor x, double by) {
    if (x.dtype() == core::DType::U8) x = Tensor(x.storage(), x.byte_offset(), core::DType::F64, {x.bytes() / 8});
    if (x.numel() == 0) return;
    core::dispatch_float("fault", x.dtype(), [&]<class T>() {
      T* values = x.mutable_host<T>();
      for (std::int64_t i = 0; i < x.numel(); ++i) values[i] *= static_cast<T>(by);
    });
  }
  /// Of a group its second rank, of a way who sends.
  bool is_late() const { return fault_.kind == Kind::Late && (fault_.op == Op::Send || rank() == 1); }
  /// What was given in the place of x the time before; zeros the first time.
  Tensor given_before(const Tensor& x) {
    const Tensor before = std::exchange(given_[x.numel()], x.clone());
    return before.defined() ? before.reshape(x.shape()) : core::zeros_like(x);
  }
  /// What has come, `result`, is made wrong.
  CommHandle spoiled(CommHandle handle, Tensor result) const {
    return CommHandle(std::make_shared<Afterwards>(
        std::move(handle), [kind = fault_.kind, is_last = rank() == size() - 1, result]() mutable {
          if (kind == Kind::Scaled || (kind == Kind::OfOneRank && is_last)) scale(result, 1.01);
          if (kind == Kind::Dropped) result.fill_zero();
        }));
  }

  World root_;
  Fault fault_;
  std::map<std::int64_t, Tensor> given_;  // by its size
};

}  // namespace limbeck::testing
