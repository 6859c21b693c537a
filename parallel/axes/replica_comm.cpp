#include "parallel/axes/replica_comm.h"

#include <algorithm>

#include "core/exchanges_of.h"
#include "core/slice.h"
#include "kernels/elementwise.h"

namespace limbeck::parallel {
namespace {

using core::Tensor;
using Experts = std::span<const std::int64_t>;

class GroupReplicaComm final : public nn::ReplicaComm {
 public:
  explicit GroupReplicaComm(std::shared_ptr<core::Comm> group) : group_(std::move(group)) {}

  nn::RowsUnderWay start_gather(const Tensor& stack, Experts experts, std::int64_t num_experts) override {
    const std::int64_t num_local = core::slice_of(num_experts, group_->rank(), group_->size()).count;
    core::check(stack.shape().rank() > 0 && stack.shape()[0] == num_local,
                "replicas: the stack is {}, expected {} of {} experts", stack.shape(), num_local, num_experts);
    const std::vector<std::int64_t> mine = own(experts, num_experts);
    const Tensor sent = with_rows(stack, std::ssize(mine) * group_->size());  // to each rank the same
    std::int64_t row = 0;
    for (int r = 0; r < group_->size(); ++r)
      for (const std::int64_t e : mine) sent.rows(row++, 1).copy_from(stack.rows(e, 1));
    Tensor all = with_rows(stack, std::ssize(experts));
    const core::ExchangesOf scope(core::part_of(core::ExchangesOf::now(), "copies"));
    core::CommHandle handle = group_->all_to_all_v_async(sent, std::vector<std::int64_t>(ranks(), std::ssize(mine)),
                                                         all, of_ranks(experts, num_experts));
    return [handle, all]() mutable {
      handle.wait();
      return all;
    };
  }

  Tensor sum_of_own(const Tensor& x, Experts experts, std::int64_t num_experts) override {
    const std::int64_t num_own = std::ssize(own(experts, num_experts));
    Tensor parts = with_rows(x, num_own * group_->size());
    const core::ExchangesOf scope("gradients of experts' copies");
    group_->all_to_all_v(x, of_ranks(experts, num_experts), parts, std::vector<std::int64_t>(ranks(), num_own));
    Tensor sum = with_rows(x, num_own);
    if (num_own == 0) return sum;
    core::dispatch_activation("replicas", sum.dtype(), [&]<class T>() {
      core::on_device(sum, [&](const auto& device) {
        kernels::sum_of_parts(device, parts.data<T>(), group_->size(), sum.mutable_data<T>(), sum.numel());
      });
    });
    return sum;
  }

  std::vector<std::int64_t> own(Experts experts, std::int64_t num_experts) const override {
    return on_rank(group_->rank(), experts, num_experts);
  }

 private:
  std::size_t ranks() const { return static_cast<std::size_t>(group_->size()); }

  /// Where those that lie on a rank are in its stack.
  std::vector<std::int64_t> on_rank(int rank, Experts experts, std::int64_t num_experts) const {
    const auto [first, num_local] = core::slice_of(num_experts, rank, group_->size());
    std::vector<std::int64_t> places;
    for (const std::int64_t e : experts)
      if (e >= first && e < first + num_local) places.push_back(e - first);
    return places;
  }

  /// How many of them each rank has.
  std::vector<std::int64_t> of_ranks(Experts experts, std::int64_t num_experts) const {
    core::check(std::ranges::is_sorted(experts) &&
                    (experts.empty() || (experts.front() >= 0 && experts.back() < num_experts)),
                "replicas: experts that do not ascend within [0,{})", num_experts);
    std::vector<std::int64_t> counts;
    for (int r = 0; r < group_->size(); ++r) counts.push_back(std::ssize(on_rank(r, experts, num_experts)));
    return counts;
  }

  static Tensor with_rows(const Tensor& like, std::int64_t num_rows) {
    core::Shape shape = like.shape();
    shape[0] = num_rows;
    return Tensor::empty(like.memory(), like.dtype(), shape);
  }

  std::shared_ptr<core::Comm> group_;
};

}  // namespace

std::shared_ptr<nn::ReplicaComm> make_replica_comm(std::shared_ptr<core::Comm> group) {
  return std::make_shared<GroupReplicaComm>(std::move(group));
}

}  // namespace limbeck::parallel
