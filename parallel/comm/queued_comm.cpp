#include "parallel/comm/queued_comm.h"

#include <algorithm>

#include "parallel/comm/reduce.h"

namespace limbeck::parallel {
namespace {

using core::check;
using core::CommHandle;
using core::Tensor;

void check_parts(const char* op, const Tensor& x, const Tensor& all, int size) {
  check(all.dtype() == x.dtype() && all.numel() == size * x.numel(), "{}: {} {} in {} parts of {} {}", op, all.dtype(),
        all.shape(), size, x.dtype(), x.shape());
}

/// A collective over copies on the host: its result goes back to the device when it is waited for.
class Staged final : public CommHandle::Pending {
 public:
  Staged(CommHandle handle, Tensor host, Tensor device)
      : handle_(std::move(handle)), host_(std::move(host)), device_(std::move(device)) {}
  void wait() override {
    handle_.wait();
    device_.copy_from(host_);
  }
  bool wait_for(std::chrono::microseconds limit) override { return handle_.wait_for(limit); }

 private:
  CommHandle handle_;
  Tensor host_, device_;
};

bool is_on_host(const Tensor& x) { return x.memory()->is_host(); }
Tensor copied_to_host(const Tensor& x) { return x.in(x.memory()->host()); }
Tensor room_on_host(const Tensor& x) { return Tensor::empty(x.memory()->host(), x.dtype(), x.shape()); }
CommHandle staged(CommHandle handle, Tensor host, Tensor device) {
  return CommHandle(std::make_shared<Staged>(std::move(handle), std::move(host), std::move(device)));
}

}  // namespace

int WorldComm::node_of(int rank) { return engine().node_of(in_world(rank)); }

void count_sent(WorldComm& group, const Call& call, std::int64_t told_whole) {
  Engine& engine = group.engine();
  const CommAxis axis = axis_of(group.name());
  const bool is_whole = call.signature.kind == CallKind::AllReduce && call.bytes() <= told_whole;
  for (int r = 0; r < group.size(); ++r)
    if (r != group.rank())
      engine.tally().sent(axis, engine.is_near(group.in_world(r)),
                          is_whole ? call.bytes() : call.bytes_for(r, group.rank(), group.size()));
}

QueuedComm::QueuedComm(int group_id, std::string name, int rank, int size)
    : group_id_(group_id), name_(std::make_shared<const std::string>(std::move(name))), rank_(rank), size_(size) {}

CommHandle QueuedComm::start(Call call) {
  const int direction = call.signature.kind == CallKind::Send ? 1 : call.signature.kind == CallKind::Receive ? 2 : 0;
  const QueueKey key{group_id_, direction, call.peer};
  call.step = engine().step();
  call.subject = core::ExchangesOf::now();
  CallName called{call.signature, call.subject, name_, call.rows_sent()};
  count_sent(*this, call, told_whole());
  return engine().submit(key, std::move(called), make_operation(std::move(call), next_[key]++), axis_of(name()));
}

QueuedComm::Split QueuedComm::agree_on_split(int color, int key, std::int64_t note) {
  const auto memory = core::Memory::cpu(1);
  const Tensor mine = Tensor::from<std::int64_t>(memory, {3}, std::vector<std::int64_t>{color, key, note});
  const Tensor all = Tensor::empty(memory, core::DType::I64, {size_, 3});
  all_gather(mine, all);
  const auto* said = all.host<std::int64_t>();
  Split split;
  for (int r = 0; r < size_; ++r) {
    if (said[3 * r] == color) split.ranks.push_back(r);
    split.note = std::max(split.note, said[3 * r + 2]);
  }
  std::stable_sort(split.ranks.begin(), split.ranks.end(),
                   [&](int a, int b) { return said[3 * a + 1] < said[3 * b + 1]; });
  split.rank = static_cast<int>(std::find(split.ranks.begin(), split.ranks.end(), rank_) - split.ranks.begin());
  return split;
}

CommHandle QueuedComm::all_reduce_async(Tensor x, core::Reduce reduce) {
  check_reducible("all_reduce", x.dtype());
  if (size_ == 1) return {};
  if (!is_on_host(x)) {
    const Tensor copy = copied_to_host(x);
    return staged(all_reduce_async(copy, reduce), copy, x);
  }
  Call call{.signature = {CallKind::AllReduce, reduce, x.dtype(), x.numel()}};
  call.out = x.mutable_raw();
  call.in = call.out;
  call.tensors = {std::move(x)};
  return start(std::move(call));
}

CommHandle QueuedComm::all_gather_async(Tensor x, Tensor all) {
  check_parts("all_gather", x, all, size_);
  if (size_ == 1) {
    all.copy_from(x);
    return {};
  }
  if (!is_on_host(x)) {
    const Tensor result = room_on_host(all);
    return staged(all_gather_async(copied_to_host(x), result), result, all);
  }
  Call call{.signature = {CallKind::AllGather, {}, x.dtype(), x.numel()}, .in = x.raw(), .out = all.mutable_raw()};
  call.tensors = {std::move(x), std::move(all)};
  return start(std::move(call));
}

CommHandle QueuedComm::reduce_scatter_async(Tensor all, Tensor x) {
  check_reducible("reduce_scatter", x.dtype());
  check_parts("reduce_scatter", x, all, size_);
  if (size_ == 1) {
    x.copy_from(all);
    return {};
  }
  if (!is_on_host(x)) {
    const Tensor result = room_on_host(x);
    return staged(reduce_scatter_async(copied_to_host(all), result), result, x);
  }
  Call call{.signature = {CallKind::ReduceScatter, {}, x.dtype(), x.numel()}, .in = all.raw(), .out = x.mutable_raw()};
  call.tensors = {std::move(all), std::move(x)};
  return start(std::move(call));
}

CommHandle QueuedComm::all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                          std::span<const std::int64_t> receive_rows) {
  Call call{.signature = {CallKind::AllToAllV, {}, send.dtype(), send.shape().row_size()}};
  call.send_offset = row_offsets("send", send, send_rows, size_);
  call.receive_offset = row_offsets("receive", receive, receive_rows, size_);
  check(send.dtype() == receive.dtype() && send.shape().row_size() == receive.shape().row_size(),
        "all_to_all_v: sends rows of {} {}, receives into {} {}", send.dtype(), send.shape(), receive.dtype(),
        receive.shape());
  if (size_ == 1) {
    check(send_rows[0] == receive_rows[0], "all_to_all_v: sends {} rows to itself, receives {}", send_rows[0],
          receive_rows[0]);
    receive.rows(0, receive_rows[0]).copy_from(send.rows(0, send_rows[0]));
    return {};
  }
  if (!is_on_host(send)) {
    const Tensor result = room_on_host(receive);
    return staged(all_to_all_v_async(copied_to_host(send), send_rows, result, receive_rows), result, receive);
  }
  call.in = send.raw();
  call.out = receive.mutable_raw();
  call.tensors = {std::move(send), std::move(receive)};
  return start(std::move(call));
}

void QueuedComm::check_peer(const char* op, int peer) const {
  check(peer >= 0 && peer < size_ && peer != rank_, "{}: peer {} of rank {} in group {} of {}", op, peer, rank_, name(),
        size_);
}

CommHandle QueuedComm::send_async(Tensor x, int to) {
  check_peer("send", to);
  if (!is_on_host(x)) return send_async(copied_to_host(x), to);
  Call call{.signature = {CallKind::Send, {}, x.dtype(), x.numel()}, .peer = to, .in = x.raw()};
  call.tensors = {std::move(x)};
  return start(std::move(call));
}

CommHandle QueuedComm::receive_async(Tensor x, int from) {
  check_peer("receive", from);
  if (!is_on_host(x)) {
    const Tensor copy = room_on_host(x);
    return staged(receive_async(copy, from), copy, x);
  }
  Call call{.signature = {CallKind::Receive, {}, x.dtype(), x.numel()}, .peer = from, .out = x.mutable_raw()};
  call.tensors = {std::move(x)};
  return start(std::move(call));
}

CommHandle QueuedComm::barrier_async() {
  if (size_ == 1) return {};
  return start(Call{});
}

}  // namespace limbeck::parallel
