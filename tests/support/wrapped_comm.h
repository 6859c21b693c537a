// A world of ranks around another one, for tests that see what its groups exchange.
//
//     class Counting final : public WrappedComm {
//       World around(World group) const override { return std::make_shared<Counting>(std::move(group)); }
//       void begins() override { ++count; }
//     };
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "core/tensor.h"
#include "parallel/comm/world.h"

namespace limbeck::testing {

/// A group, which does what the one within does; those that are cut from it are wrapped likewise.
class WrappedComm : public parallel::WorldComm {
 public:
  using World = std::shared_ptr<parallel::WorldComm>;
  using CommHandle = core::CommHandle;
  using Tensor = core::Tensor;

  explicit WrappedComm(World group) : group_(std::move(group)) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  const std::string& name() const override { return group_->name(); }
  int in_world(int rank) const override { return group_->in_world(rank); }
  parallel::Engine& engine() override { return group_->engine(); }
  void note_step(std::int64_t step) override { group_->note_step(step); }
  void abort(const std::string& why) override { group_->abort(why); }
  World split(int color, int key, const std::string& name) override { return around(group_->split(color, key, name)); }

  CommHandle all_reduce_async(Tensor x, core::Reduce reduce) override {
    begins();
    return group_->all_reduce_async(std::move(x), reduce);
  }
  CommHandle all_gather_async(Tensor x, Tensor all) override {
    begins();
    return group_->all_gather_async(std::move(x), std::move(all));
  }
  CommHandle reduce_scatter_async(Tensor all, Tensor x) override {
    begins();
    return group_->reduce_scatter_async(std::move(all), std::move(x));
  }
  CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                std::span<const std::int64_t> receive_rows) override {
    begins();
    return group_->all_to_all_v_async(std::move(send), send_rows, std::move(receive), receive_rows);
  }
  CommHandle send_async(Tensor x, int to) override {
    begins();
    return group_->send_async(std::move(x), to);
  }
  CommHandle receive_async(Tensor x, int from) override {
    begins();
    return group_->receive_async(std::move(x), from);
  }
  CommHandle barrier_async() override {
    begins();
    return group_->barrier_async();
  }

 protected:
  virtual World around(World group) const = 0;
  /// An exchange.
  virtual void begins() {}

  const World& within() const { return group_; }

 private:
  World group_;
};

}  // namespace limbeck::testing
