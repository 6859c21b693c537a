#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/cuda/gpu_facts.h"
#include "parallel/comm/queued_comm.h"
#include "parallel/nccl/device_groups.h"
#include "parallel/nccl/nccl_rank.h"

namespace limbeck::parallel {
namespace {

using core::CommHandle;
using core::DType;
using core::Tensor;
using kernels::Cuda;

ncclDataType_t type_of(const char* op, DType dtype) {
  switch (dtype) {
    case DType::F32:
      return ncclFloat32;
    case DType::F64:
      return ncclFloat64;
    case DType::BF16:
      return ncclBfloat16;
    case DType::I64:
      return ncclInt64;
    default:
      core::fail("{}: {} is not reduced, expected float32, float64, bfloat16 or int64", op, dtype);
  }
}

std::size_t count_of(const Tensor& x) { return static_cast<std::size_t>(x.numel()); }

/// Keeps an operation's tensors until kernels wait for it: their memory is then another's only behind it.
class Queued final : public CommHandle::Pending {
 public:
  Queued(std::shared_ptr<NcclOperation> operation, std::array<Tensor, 2> tensors)
      : operation_(std::move(operation)), tensors_(std::move(tensors)) {}
  ~Queued() override {
    try {
      wait();
    } catch (const std::exception&) {
      // The device has failed, which its next use tells.
    }
  }
  Queued(const Queued&) = delete;
  Queued& operator=(const Queued&) = delete;
  void wait() override {
    if (const auto operation = std::exchange(operation_, nullptr)) operation->hold_kernels();
  }

 private:
  std::shared_ptr<NcclOperation> operation_;
  std::array<Tensor, 2> tensors_;
};

class NcclGroup final : public WorldComm {
 public:
  /// Collective over `host`.
  NcclGroup(std::shared_ptr<WorldComm> host, std::shared_ptr<NcclRank> nccl)
      : host_(std::move(host)),
        nccl_(std::move(nccl)),
        channel_(nccl_->open(*host_)),
        name_(std::make_shared<const std::string>(host_->name())) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  const std::string& name() const override { return *name_; }

  CommHandle all_reduce_async(Tensor x, core::Reduce reduce) override {
    if (is_hosts(x)) return host_->all_reduce_async(std::move(x), reduce);
    const ncclDataType_t type = type_of("all_reduce", x.dtype());
    return queue({.signature = {CallKind::AllReduce, reduce, x.dtype(), x.numel()}}, {x},
                 [&](ncclComm_t comm, cudaStream_t stream) {
                   return ncclAllReduce(x.raw(), x.mutable_raw(), count_of(x), type,
                                        reduce == core::Reduce::Sum ? ncclSum : ncclMax, comm, stream);
                 });
  }

  CommHandle all_gather_async(Tensor x, Tensor all) override {
    if (is_hosts(x)) return host_->all_gather_async(std::move(x), std::move(all));
    check_parts("all_gather", x, all);
    return queue({.signature = {CallKind::AllGather, {}, x.dtype(), x.numel()}}, {x, all},
                 [&](ncclComm_t comm, cudaStream_t stream) {
                   return ncclAllGather(x.raw(), all.mutable_raw(), static_cast<std::size_t>(x.bytes()), ncclUint8,
                                        comm, stream);
                 });
  }

  CommHandle reduce_scatter_async(Tensor all, Tensor x) override {
    if (is_hosts(x)) return host_->reduce_scatter_async(std::move(all), std::move(x));
    check_parts("reduce_scatter", x, all);
    const ncclDataType_t type = type_of("reduce_scatter", x.dtype());
    return queue({.signature = {CallKind::ReduceScatter, {}, x.dtype(), x.numel()}}, {all, x},
                 [&](ncclComm_t comm, cudaStream_t stream) {
                   return ncclReduceScatter(all.raw(), x.mutable_raw(), count_of(x), type, ncclSum, comm, stream);
                 });
  }

  CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                std::span<const std::int64_t> receive_rows) override {
    if (is_hosts(send)) return host_->all_to_all_v_async(std::move(send), send_rows, std::move(receive), receive_rows);
    const std::vector<std::size_t> sent = bytes_of_rows("send", send, send_rows);
    const std::vector<std::size_t> received = bytes_of_rows("receive", receive, receive_rows);
    Call call{.signature = {CallKind::AllToAllV, {}, send.dtype(), send.shape().row_size()}};
    call.send_offset.assign(1, 0);
    for (const std::size_t bytes : sent)
      call.send_offset.push_back(call.send_offset.back() + static_cast<std::int64_t>(bytes));
    return queue(call, {send, receive}, [&](ncclComm_t comm, cudaStream_t stream) {
      const std::byte* from = send.raw();
      std::byte* to = receive.mutable_raw();
      check_nccl(ncclGroupStart(), name());
      for (int r = 0; r < size(); ++r) {
        const auto at = static_cast<std::size_t>(r);
        if (sent[at] > 0) check_nccl(ncclSend(from, sent[at], ncclUint8, r, comm, stream), name());
        if (received[at] > 0) check_nccl(ncclRecv(to, received[at], ncclUint8, r, comm, stream), name());
        from += sent[at];
        to += received[at];
      }
      return ncclGroupEnd();
    });
  }

  CommHandle send_async(Tensor x, int to) override {
    if (is_hosts(x)) return host_->send_async(std::move(x), to);
    return queue({.signature = {CallKind::Send, {}, x.dtype(), x.numel()}, .peer = to}, {x},
                 [&](ncclComm_t comm, cudaStream_t stream) {
                   return ncclSend(x.raw(), static_cast<std::size_t>(x.bytes()), ncclUint8, to, comm, stream);
                 });
  }

  CommHandle receive_async(Tensor x, int from) override {
    if (is_hosts(x)) return host_->receive_async(std::move(x), from);
    return queue({.signature = {CallKind::Receive, {}, x.dtype(), x.numel()}, .peer = from}, {x},
                 [&](ncclComm_t comm, cudaStream_t stream) {
                   return ncclRecv(x.mutable_raw(), static_cast<std::size_t>(x.bytes()), ncclUint8, from, comm, stream);
                 });
  }

  CommHandle barrier_async() override { return host_->barrier_async(); }
  void note_step(std::int64_t step) override { host_->note_step(step); }
  void abort(const std::string& why) override { host_->abort(why); }
  Engine& engine() override { return host_->engine(); }
  int in_world(int rank) const override { return host_->in_world(rank); }

  std::shared_ptr<WorldComm> split(int color, int key, const std::string& name) override {
    auto group = host_->split(color, key, name);
    if (group->size() == 1) return group;
    return std::make_shared<NcclGroup>(std::move(group), nccl_);
  }

 private:
  static bool is_hosts(const Tensor& x) { return x.memory()->is_host(); }

  void check_parts(const char* op, const Tensor& x, const Tensor& all) const {
    core::check(all.dtype() == x.dtype() && all.numel() == size() * x.numel(), "{}: {} {} in {} parts of {} {}", op,
                all.dtype(), all.shape(), size(), x.dtype(), x.shape());
  }

  std::vector<std::size_t> bytes_of_rows(const char* what, const Tensor& t, std::span<const std::int64_t> rows) const {
    core::check(static_cast<int>(rows.size()) == size(), "all_to_all_v: {} {} counts in a group of {}", rows.size(),
                what, size());
    const std::int64_t row = core::bytes_of(t.dtype(), t.shape().row_size());
    std::int64_t total = 0;
    std::vector<std::size_t> bytes;
    for (const std::int64_t n : rows) {
      core::check(n >= 0, "all_to_all_v: {} count {} is negative", what, n);
      total += n;
      bytes.push_back(static_cast<std::size_t>(n * row));
    }
    core::check(total <= t.shape()[0], "all_to_all_v: {} counts sum to {} rows, the tensor is {}", what, total,
                t.shape());
    return bytes;
  }

  CommHandle queue(const Call& call, std::array<Tensor, 2> tensors, const NcclChannel::Start& start) {
    count_sent(*this, call);
    auto operation = channel_.queue({call.signature, core::ExchangesOf::now(), name_, call.rows_sent()}, start);
    return CommHandle(std::make_shared<Queued>(std::move(operation), std::move(tensors)));
  }

  std::shared_ptr<WorldComm> host_;
  std::shared_ptr<NcclRank> nccl_;
  NcclChannel& channel_;
  std::shared_ptr<const std::string> name_;  // of its own: operations keep it, and the group keeps them
};

/// Which GPU of which machine a rank has.
struct Place {
  char host[64] = {};
  char bus[32] = {};
};

bool have_gpus_of_their_own(WorldComm& world, const Cuda& cuda) {
  Place mine;
  ::gethostname(mine.host, sizeof mine.host - 1);
  kernels::bus_of_cuda(cuda.ordinal).copy(mine.bus, sizeof mine.bus - 1);
  const std::vector<std::byte> all = gathered(world, &mine, sizeof mine);
  std::set<std::string> places;
  for (int r = 0; r < world.size(); ++r)
    places.emplace(reinterpret_cast<const char*>(all.data()) + r * static_cast<std::int64_t>(sizeof mine), sizeof mine);
  return static_cast<int>(places.size()) == world.size();
}

}  // namespace

const char* why_by_way_of_the_host() { return "ranks share a GPU, which NCCL refuses"; }

std::shared_ptr<WorldComm> device_groups(std::shared_ptr<WorldComm> world, const core::MemoryPtr& memory) {
  const auto* cuda = std::get_if<Cuda>(&memory->device());
  if (cuda == nullptr || world->size() == 1 || !have_gpus_of_their_own(*world, *cuda)) return world;
  auto nccl = std::make_shared<NcclRank>(world, *cuda);
  return std::make_shared<NcclGroup>(std::move(world), std::move(nccl));
}

}  // namespace limbeck::parallel
