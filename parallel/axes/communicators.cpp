#include "parallel/axes/communicators.h"

#include <vector>

#include "core/exchanges_of.h"
#include "core/slice.h"
#include "parallel/axes/expert_comm.h"
#include "parallel/axes/replica_comm.h"

namespace limbeck::parallel {
namespace {

using core::Tensor;

class GroupTensorComm final : public nn::TensorComm {
 public:
  explicit GroupTensorComm(std::shared_ptr<core::Comm> group) : group_(std::move(group)) {}

  std::int64_t size() const override { return group_->size(); }
  std::int64_t rank() const override { return group_->rank(); }
  void max(Tensor& x) override { group_->all_reduce(x, core::Reduce::Max); }

  nn::RowsUnderWay start_sum(Tensor x) override {
    return [handle = group_->all_reduce_async(x, core::Reduce::Sum), x]() mutable {
      handle.wait();
      return x;
    };
  }

  nn::RowsUnderWay start_gather(const Tensor& part, int dimension, std::int64_t total) override {
    core::Shape shape = part.shape();
    const core::Slice mine = core::slice_of(total, rank(), size());
    core::check(dimension < shape.rank() && shape[dimension] == mine.count,
                "gather: the part of rank {} of {} is {}, expected {} of {} in dimension {}", rank(), size(), shape,
                mine.count, total, dimension);
    shape[dimension] = total;
    Tensor whole = Tensor::empty(part.memory(), part.dtype(), shape);
    if (whole.numel() == 0) return [whole] { return whole; };

    // The whole is `outer` blocks of `total` rows, and a part has some rows of each.
    std::int64_t outer = 1;
    for (int d = 0; d < dimension; ++d) outer *= shape[d];
    const std::int64_t row = core::bytes_of(part.dtype(), whole.numel() / (outer * total));
    if (outer == 1 && total % size() == 0)
      return [handle = group_->all_gather_async(part, whole), whole]() mutable {
        handle.wait();
        return whole;
      };
    const std::int64_t longest = outer * ((total + size() - 1) / size()) * row;  // equal on every rank
    Tensor sent = Tensor::zeros(part.memory(), core::DType::U8, {longest});
    sent.rows(0, part.bytes()).copy_from(part_bytes(part));
    const Tensor all = Tensor::empty(part.memory(), core::DType::U8, {size() * longest});
    return [handle = group_->all_gather_async(sent, all), all, whole, ranks = size(), outer, total, row,
            longest]() mutable {
      handle.wait();
      for (std::int64_t r = 0; r < ranks; ++r) {
        const core::Slice theirs = core::slice_of(total, r, ranks);
        core::on_device(whole, [&](const auto& device) {
          kernels::copy_rows(device, all.raw() + r * longest, theirs.count * row,
                             whole.mutable_raw() + theirs.first * row, total * row, theirs.count * row, outer);
        });
      }
      return whole;
    };
  }

  nn::RowsUnderWay start_sum_share(const Tensor& x) override {
    const std::int64_t total = x.shape()[0], longest = (total + size() - 1) / size();  // equal on every rank
    core::Shape shape = x.shape();
    shape[0] = core::slice_of(total, rank(), size()).count;
    Tensor share = Tensor::empty(x.memory(), x.dtype(), shape);
    if (x.numel() == 0) return [share] { return share; };
    if (total % size() == 0)
      return [handle = group_->reduce_scatter_async(x, share), share]() mutable {
        handle.wait();
        return share;
      };
    const Tensor even = in_even_shares(x, longest);
    shape[0] = longest;
    const Tensor sum = Tensor::empty(x.memory(), x.dtype(), shape);  // of which what is behind the share is unread
    return [handle = group_->reduce_scatter_async(even, sum), share, sum]() mutable {
      handle.wait();
      share.copy_from(sum.rows(0, share.shape()[0]));
      return share;
    };
  }

 private:
  /// The rows of each rank, and zeros up to so many.
  Tensor in_even_shares(const Tensor& x, std::int64_t longest) const {
    const std::int64_t total = x.shape()[0];
    core::Shape shape = x.shape();
    shape[0] = size() * longest;
    Tensor even = Tensor::zeros(x.memory(), x.dtype(), shape);
    for (std::int64_t r = 0; r < size(); ++r) {
      const core::Slice theirs = core::slice_of(total, r, size());
      even.rows(r * longest, theirs.count).copy_from(x.rows(theirs.first, theirs.count));
    }
    return even;
  }

  static Tensor part_bytes(const Tensor& part) {
    return {part.storage(), part.byte_offset(), core::DType::U8, {part.bytes()}};
  }

  std::shared_ptr<core::Comm> group_;
};

class GroupBatchComm final : public nn::BatchComm {
 public:
  explicit GroupBatchComm(std::shared_ptr<core::Comm> group) : group_(std::move(group)) {}
  void sum(Tensor& x) override { group_->all_reduce(x, core::Reduce::Sum); }

 private:
  std::shared_ptr<core::Comm> group_;
};

class GroupContextComm final : public nn::ContextComm {
 public:
  explicit GroupContextComm(std::shared_ptr<core::Comm> group) : group_(std::move(group)) {}

  std::int64_t size() const override { return group_->size(); }
  std::int64_t rank() const override { return group_->rank(); }
  void sum(Tensor& x) override { group_->all_reduce(x, core::Reduce::Sum); }

  Tensor gather(const Tensor& rows) override {
    core::Shape shape = rows.shape();
    shape[0] *= size();
    const Tensor all = Tensor::empty(rows.memory(), rows.dtype(), shape);
    if (all.numel() > 0) group_->all_gather(rows, all);
    return all;
  }

  core::CommHandle start_pass(std::int64_t by, const Tensor& rows, const Tensor& arriving) override {
    std::vector<std::int64_t> sent(static_cast<std::size_t>(size())), received(sent);
    sent[static_cast<std::size_t>(place(rank() + by))] = rows.shape()[0];
    received[static_cast<std::size_t>(place(rank() - by))] = arriving.shape()[0];
    return group_->all_to_all_v_async(rows, sent, arriving, received);
  }

 private:
  std::int64_t place(std::int64_t rank) const { return (rank % size() + size()) % size(); }

  std::shared_ptr<core::Comm> group_;
};

class GroupPipelineComm final : public nn::PipelineComm {
 public:
  explicit GroupPipelineComm(const Mesh& mesh) : stages_(mesh.pp_group()), ways_(mesh.pp_ways()) {}

  std::int64_t size() const override { return stages_->size(); }
  std::int64_t rank() const override { return stages_->rank(); }
  void sum(Tensor& x) override { stages_->all_reduce(x, core::Reduce::Sum); }
  core::CommHandle send(Kind kind, const Tensor& x, std::int64_t to) override {
    if (x.numel() == 0) return {};
    const core::ExchangesOf scope(core::part_of(core::ExchangesOf::now(), part(kind)));
    return way(kind, rank()).send_async(x, static_cast<int>(to));
  }
  core::CommHandle start_receiving(Kind kind, const Tensor& x, std::int64_t from) override {
    if (x.numel() == 0) return {};
    const core::ExchangesOf scope(core::part_of(core::ExchangesOf::now(), part(kind)));
    return way(kind, from).receive_async(x, static_cast<int>(from));
  }

 private:
  static const char* part(Kind kind) {
    if (kind == Kind::Taught) return "what the teacher says";
    return kind == Kind::Stream ? "stream to the next stage" : "gradient to the stage before";
  }
  core::Comm& way(Kind kind, std::int64_t from) const {
    if (kind == Kind::Taught) return *ways_->taught;
    return (kind == Kind::Stream ? ways_->streams : ways_->gradients).of(static_cast<int>(from));
  }

  std::shared_ptr<core::Comm> stages_;
  std::shared_ptr<const PipelineWays> ways_;
};

}  // namespace

std::shared_ptr<nn::TensorComm> make_tensor_comm(std::shared_ptr<core::Comm> group) {
  return std::make_shared<GroupTensorComm>(std::move(group));
}

nn::Communicators make_communicators(const Mesh& mesh) {
  const nn::Communicators single = nn::single_communicators();
  return {.tensor = mesh.tp().size() == 1 ? single.tensor : make_tensor_comm(mesh.tp_group()),
          .expert = mesh.experts_group()->size() == 1
                        ? single.expert
                        : make_expert_comm(mesh.experts_group(), mesh.etp().size, mesh.expert_nodes()),
          .replicas = mesh.experts_group()->size() == 1 || mesh.etp().size > 1
                          ? nullptr
                          : make_replica_comm(mesh.experts_group()),
          .batch = std::make_shared<GroupBatchComm>(mesh.data_group()),
          .context = mesh.cp().size() == 1 ? single.context : std::make_shared<GroupContextComm>(mesh.cp_group())};
}

std::shared_ptr<nn::PipelineComm> make_pipeline_comm(const Mesh& mesh) {
  if (mesh.pp().size() == 1) return nn::single_pipeline();
  return std::make_shared<GroupPipelineComm>(mesh);
}

}  // namespace limbeck::parallel
