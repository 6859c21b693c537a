#include "parallel/comm/counted_comm.h"

#include <algorithm>
#include <utility>

#include "parallel/comm/call.h"

namespace limbeck::parallel {
namespace {

using core::CommHandle;
using core::Tensor;

class CountedComm final : public WorldComm {
 public:
  CountedComm(std::shared_ptr<WorldComm> group, std::shared_ptr<TrafficLog> log)
      : group_(std::move(group)), log_(std::move(log)) {}

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  const std::string& name() const override { return group_->name(); }
  int in_world(int rank) const override { return group_->in_world(rank); }
  int node_of(int rank) override { return group_->node_of(rank); }
  Engine& engine() override { return group_->engine(); }
  std::shared_ptr<WorldComm> split(int color, int key, const std::string& name) override {
    return counted(group_->split(color, key, name), log_);
  }

  CommHandle all_reduce_async(Tensor x, core::Reduce reduce) override {
    count("all_reduce", {.signature = {CallKind::AllReduce, reduce, x.dtype(), x.numel()}});
    return group_->all_reduce_async(std::move(x), reduce);
  }
  CommHandle all_gather_async(Tensor x, Tensor all) override {
    count("all_gather", {.signature = {CallKind::AllGather, {}, x.dtype(), x.numel()}});
    return group_->all_gather_async(std::move(x), std::move(all));
  }
  CommHandle reduce_scatter_async(Tensor all, Tensor x) override {
    count("reduce_scatter", {.signature = {CallKind::ReduceScatter, {}, x.dtype(), x.numel()}});
    return group_->reduce_scatter_async(std::move(all), std::move(x));
  }
  CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                std::span<const std::int64_t> receive_rows) override {
    count("all_to_all", {.signature = {CallKind::AllToAllV, {}, send.dtype(), send.shape().row_size()},
                         .send_offset = row_offsets("send", send, send_rows, size())});
    return group_->all_to_all_v_async(std::move(send), send_rows, std::move(receive), receive_rows);
  }
  CommHandle send_async(Tensor x, int to) override {
    count("send", {.signature = {CallKind::Send, {}, x.dtype(), x.numel()}, .peer = to});
    return group_->send_async(std::move(x), to);
  }
  CommHandle receive_async(Tensor x, int from) override { return group_->receive_async(std::move(x), from); }
  CommHandle barrier_async() override { return group_->barrier_async(); }

  void note_step(std::int64_t step) override { group_->note_step(step); }
  void abort(const std::string& why) override { group_->abort(why); }

 private:
  void count(const char* operation, const Call& call) {
    log_->add(*group_, operation, call.bytes_sent(rank(), size()));
  }

  std::shared_ptr<WorldComm> group_;
  std::shared_ptr<TrafficLog> log_;
};

}  // namespace

void TrafficLog::add(const WorldComm& group, const char* operation, std::int64_t bytes) {
  if (group.size() == 1) return;
  auto at = std::ranges::find_if(
      entries_, [&](const ExchangeCount& t) { return t.group == group.name() && t.operation == operation; });
  if (at == entries_.end()) {
    std::vector<int> ranks;
    for (int r = 0; r < group.size(); ++r) ranks.push_back(group.in_world(r));
    at = entries_.insert(at, {.group = group.name(), .operation = operation, .ranks = std::move(ranks)});
  }
  ++at->calls;
  at->bytes += bytes;
}

std::shared_ptr<WorldComm> counted(std::shared_ptr<WorldComm> group, std::shared_ptr<TrafficLog> log) {
  return std::make_shared<CountedComm>(std::move(group), std::move(log));
}

}  // namespace limbeck::parallel
