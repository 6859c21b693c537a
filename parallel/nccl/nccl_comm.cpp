#include <cuda_runtime.h>
#include <nccl.h>
#include <unistd.h>

#include <array>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/cuda/cuda_state.h"
#include "parallel/nccl/device_groups.h"

namespace limbeck::parallel {
namespace {

using core::CommHandle;
using core::DType;
using core::Tensor;
using kernels::check_cuda;
using kernels::Cuda;

void check_nccl(ncclResult_t result, const std::string& what) {
  core::check(result == ncclSuccess, "{}: NCCL says {}", what, ncclGetErrorString(result));
}

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

/// Bytes that every rank of a group gives, in rank order.
std::vector<std::byte> gathered(WorldComm& group, const void* mine, std::int64_t bytes) {
  const auto memory = core::Memory::cpu(1);
  Tensor part = Tensor::empty(memory, DType::U8, {bytes}),
         all = Tensor::empty(memory, DType::U8, {group.size() * bytes});
  std::copy_n(static_cast<const std::byte*>(mine), bytes, part.mutable_host_raw());
  group.all_gather(part, all);
  return {all.host_raw(), all.host_raw() + all.bytes()};
}

/// The stream of a group, and its place among the kernels.
class CommStream {
 public:
  explicit CommStream(Cuda cuda) : cuda_(std::move(cuda)) {
    check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    check_cuda(cudaEventCreateWithFlags(&kernels_, cudaEventDisableTiming));
  }
  ~CommStream() {
    cudaStreamSynchronize(stream_);
    cudaEventDestroy(kernels_);
    cudaStreamDestroy(stream_);
  }
  CommStream(const CommStream&) = delete;
  CommStream& operator=(const CommStream&) = delete;

  cudaStream_t stream() const { return stream_; }
  /// What is queued here from now on begins behind the kernels that are queued by now.
  void begin() {
    check_cuda(cudaEventRecord(kernels_, cuda_.state->stream));
    check_cuda(cudaStreamWaitEvent(stream_, kernels_, 0));
  }
  cudaStream_t kernels() const { return cuda_.state->stream; }

 private:
  Cuda cuda_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t kernels_ = nullptr;
};

/// An operation on a group's stream. It keeps its tensors until kernels wait for it: their memory is then another's
/// only behind it.
class Queued final : public CommHandle::Pending {
 public:
  Queued(std::shared_ptr<CommStream> stream, std::array<Tensor, 2> tensors)
      : stream_(std::move(stream)), tensors_(std::move(tensors)) {
    check_cuda(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
    check_cuda(cudaEventRecord(done_, stream_->stream()));
  }
  ~Queued() override {
    cudaStreamWaitEvent(stream_->kernels(), done_, 0);
    cudaEventDestroy(done_);
  }
  Queued(const Queued&) = delete;
  Queued& operator=(const Queued&) = delete;
  void wait() override { check_cuda(cudaStreamWaitEvent(stream_->kernels(), done_, 0)); }

 private:
  std::shared_ptr<CommStream> stream_;
  std::array<Tensor, 2> tensors_;
  cudaEvent_t done_ = nullptr;
};

class NcclGroup final : public WorldComm {
 public:
  /// Collective over `host`.
  NcclGroup(std::shared_ptr<WorldComm> host, const Cuda& cuda)
      : host_(std::move(host)), cuda_(cuda), stream_(std::make_shared<CommStream>(cuda)) {
    ncclUniqueId id{};
    if (host_->rank() == 0) check_nccl(ncclGetUniqueId(&id), "group " + name());
    const std::vector<std::byte> all = gathered(*host_, &id, sizeof id);
    std::copy_n(all.data(), sizeof id, reinterpret_cast<std::byte*>(&id));
    check_nccl(ncclCommInitRank(&comm_, size(), id, rank()), "group " + name());
  }
  ~NcclGroup() override { ncclCommDestroy(comm_); }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  const std::string& name() const override { return host_->name(); }

  CommHandle all_reduce_async(Tensor x, core::Reduce reduce) override {
    if (is_hosts(x)) return host_->all_reduce_async(std::move(x), reduce);
    const ncclDataType_t type = type_of("all_reduce", x.dtype());
    return queue("all_reduce", {x}, [&] {
      return ncclAllReduce(x.raw(), x.mutable_raw(), count_of(x), type, reduce == core::Reduce::Sum ? ncclSum : ncclMax,
                           comm_, stream_->stream());
    });
  }

  CommHandle all_gather_async(Tensor x, Tensor all) override {
    if (is_hosts(x)) return host_->all_gather_async(std::move(x), std::move(all));
    check_parts("all_gather", x, all);
    return queue("all_gather", {x, all}, [&] {
      return ncclAllGather(x.raw(), all.mutable_raw(), static_cast<std::size_t>(x.bytes()), ncclUint8, comm_,
                           stream_->stream());
    });
  }

  CommHandle reduce_scatter_async(Tensor all, Tensor x) override {
    if (is_hosts(x)) return host_->reduce_scatter_async(std::move(all), std::move(x));
    check_parts("reduce_scatter", x, all);
    const ncclDataType_t type = type_of("reduce_scatter", x.dtype());
    return queue("reduce_scatter", {all, x}, [&] {
      return ncclReduceScatter(all.raw(), x.mutable_raw(), count_of(x), type, ncclSum, comm_, stream_->stream());
    });
  }

  CommHandle all_to_all_v_async(Tensor send, std::span<const std::int64_t> send_rows, Tensor receive,
                                std::span<const std::int64_t> receive_rows) override {
    if (is_hosts(send)) return host_->all_to_all_v_async(std::move(send), send_rows, std::move(receive), receive_rows);
    const std::vector<std::size_t> sent = bytes_of_rows("send", send, send_rows);
    const std::vector<std::size_t> received = bytes_of_rows("receive", receive, receive_rows);
    return queue("all_to_all_v", {send, receive}, [&] {
      const std::byte* from = send.raw();
      std::byte* to = receive.mutable_raw();
      check_nccl(ncclGroupStart(), "all_to_all_v in group " + name());
      for (int r = 0; r < size(); ++r) {
        const auto at = static_cast<std::size_t>(r);
        if (sent[at] > 0)
          check_nccl(ncclSend(from, sent[at], ncclUint8, r, comm_, stream_->stream()),
                     "all_to_all_v in group " + name());
        if (received[at] > 0)
          check_nccl(ncclRecv(to, received[at], ncclUint8, r, comm_, stream_->stream()),
                     "all_to_all_v in group " + name());
        from += sent[at];
        to += received[at];
      }
      return ncclGroupEnd();
    });
  }

  CommHandle send_async(Tensor x, int to) override {
    if (is_hosts(x)) return host_->send_async(std::move(x), to);
    return queue("send", {x}, [&] {
      return ncclSend(x.raw(), static_cast<std::size_t>(x.bytes()), ncclUint8, to, comm_, stream_->stream());
    });
  }

  CommHandle receive_async(Tensor x, int from) override {
    if (is_hosts(x)) return host_->receive_async(std::move(x), from);
    return queue("receive", {x}, [&] {
      return ncclRecv(x.mutable_raw(), static_cast<std::size_t>(x.bytes()), ncclUint8, from, comm_, stream_->stream());
    });
  }

  CommHandle barrier_async() override { return host_->barrier_async(); }
  void note_step(std::int64_t step) override { host_->note_step(step); }
  void abort(const std::string& why) override { host_->abort(why); }

  std::shared_ptr<WorldComm> split(int color, int key, const std::string& name) override {
    return std::make_shared<NcclGroup>(host_->split(color, key, name), cuda_);
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

  template <class F>
  CommHandle queue(const char* op, std::array<Tensor, 2> tensors, F&& start) {
    stream_->begin();
    check_nccl(start(), std::string(op) + " in group " + name());
    return CommHandle(std::make_shared<Queued>(stream_, std::move(tensors)));
  }

  std::shared_ptr<WorldComm> host_;
  Cuda cuda_;
  std::shared_ptr<CommStream> stream_;
  ncclComm_t comm_ = nullptr;
};

/// Which GPU of which machine a rank has.
struct Place {
  char host[64] = {};
  char bus[32] = {};
};

bool have_gpus_of_their_own(WorldComm& world, const Cuda& cuda) {
  Place mine;
  ::gethostname(mine.host, sizeof mine.host - 1);
  check_cuda(cudaDeviceGetPCIBusId(mine.bus, sizeof mine.bus, cuda.ordinal));
  const std::vector<std::byte> all = gathered(world, &mine, sizeof mine);
  std::set<std::string> places;
  for (int r = 0; r < world.size(); ++r)
    places.emplace(reinterpret_cast<const char*>(all.data()) + r * static_cast<std::int64_t>(sizeof mine), sizeof mine);
  return static_cast<int>(places.size()) == world.size();
}

}  // namespace

std::shared_ptr<WorldComm> device_groups(std::shared_ptr<WorldComm> world, const core::MemoryPtr& memory) {
  const auto* cuda = std::get_if<Cuda>(&memory->device());
  if (cuda == nullptr || world->size() == 1 || !have_gpus_of_their_own(*world, *cuda)) return world;
  return std::make_shared<NcclGroup>(std::move(world), *cuda);
}

}  // namespace limbeck::parallel
