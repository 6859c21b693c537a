#include "parallel/axes/expert_comm.h"

#include <limits>
#include <numeric>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/permute.h"

namespace limbeck::parallel {
namespace {

using core::check;
using core::DType;
using core::Tensor;
using nn::Exchange;
using nn::ExchangePtr;

class RankExchange final : public Exchange {
 public:
  std::vector<std::int64_t> send_rows, receive_rows;  // one a rank; those that share experts get the same rows
  std::vector<std::int64_t> received;                 // [source][local expert]
  std::vector<std::int64_t> part_rows;                // this rank's, one a part of the experts
  std::int64_t num_local = 0;                         // experts here
  std::int64_t num_rows = 0;                          // of what is dispatched; those behind num_sent are nobody's
  std::int64_t num_received = 0;

  /// [num_received] int32: for each row by [expert][source] its row by [source][expert], and the other way round.
  /// Undefined where both orders are the same.
  Tensor to_experts, to_sources;

  void make_orders(const core::MemoryPtr& memory) {
    const auto num_sources = static_cast<std::int64_t>(receive_rows.size());
    if (num_local == 1 || num_sources == 1) return;
    check(num_received <= std::numeric_limits<std::int32_t>::max(), "expert exchange: {} rows, expected below 2^31",
          num_received);
    std::vector<std::int64_t> first(received.size() + 1, 0);  // by [source][expert]
    std::partial_sum(received.begin(), received.end(), first.begin() + 1);
    std::vector<std::int32_t> by_expert(static_cast<std::size_t>(num_received)), by_source(by_expert.size());
    std::int32_t at = 0;
    for (std::int64_t e = 0; e < num_local; ++e)
      for (std::int64_t s = 0; s < num_sources; ++s)
        for (std::int64_t row = first[s * num_local + e]; row < first[s * num_local + e + 1]; ++row) {
          by_expert[at] = static_cast<std::int32_t>(row);
          by_source[row] = at++;
        }
    to_experts = Tensor::from<std::int32_t>(memory, {num_received}, by_expert);
    to_sources = Tensor::from<std::int32_t>(memory, {num_received}, by_source);
  }
};

class GroupExpertComm final : public nn::ExpertComm {
 public:
  GroupExpertComm(std::shared_ptr<core::Comm> group, int ranks_an_expert, RowsKnown rows_known)
      : group_(std::move(group)), sharers_(ranks_an_expert), rows_known_(std::move(rows_known)) {
    check(sharers_ > 0 && group_->size() % sharers_ == 0, "expert exchange: {} ranks, expected a multiple of {}",
          group_->size(), sharers_);
  }

  std::int64_t size() const override { return group_->size() / sharers_; }
  std::int64_t rank() const override { return group_->rank() / sharers_; }

  ExchangePtr prepare(const Tensor& counts, std::int64_t num_rows, Tensor& offsets) override {
    const std::int64_t num_experts = counts.numel();
    check_experts(num_experts, size());
    auto exchange = std::make_shared<RankExchange>();
    exchange->num_local = num_experts / size();
    exchange->num_rows = num_rows;
    check(offsets.numel() == exchange->num_local + 1, "expert exchange: offsets are {}, expected [{}]", offsets.shape(),
          exchange->num_local + 1);

    const std::int64_t num_ranks = group_->size();
    const std::vector<std::int64_t> parts(static_cast<std::size_t>(size()), exchange->num_local);
    const std::vector<std::int64_t> one_each(static_cast<std::size_t>(num_ranks), exchange->num_local);
    const std::int64_t num_counts = num_ranks * exchange->num_local;
    Tensor both = Tensor::empty(counts.memory(), DType::I64, {2 * num_counts});  // sent, received: one copy to the host
    both.rows(0, num_counts).copy_from(for_each_sharer(counts.reshape({num_experts}), parts));
    group_->all_to_all_v(both.rows(0, num_counts), one_each, both.rows(num_counts, num_counts), one_each);
    const std::vector<std::int64_t> on_host =
        rows_known_ ? rows_known_(num_experts, num_rows) : core::host_values<std::int64_t>(both);
    const auto* sent = on_host.data();
    const auto* received = sent + num_counts;
    exchange->received.assign(received, received + num_counts);
    for (std::int64_t r = 0; r < num_ranks; ++r) {
      const std::int64_t first = r * exchange->num_local, last = first + exchange->num_local;
      exchange->send_rows.push_back(std::accumulate(sent + first, sent + last, std::int64_t{0}));
      exchange->receive_rows.push_back(std::accumulate(received + first, received + last, std::int64_t{0}));
      if (r % sharers_ == 0) exchange->part_rows.push_back(exchange->send_rows.back());
      exchange->num_received += exchange->receive_rows.back();
    }
    exchange->num_sent = std::accumulate(exchange->part_rows.begin(), exchange->part_rows.end(), std::int64_t{0});
    std::vector<std::int64_t> o(static_cast<std::size_t>(offsets.numel()), 0);
    for (std::int64_t e = 0; e < exchange->num_local; ++e) {
      o[e + 1] = o[e];
      for (std::int64_t s = 0; s < num_ranks; ++s) o[e + 1] += received[s * exchange->num_local + e];
    }
    offsets.copy_from(Tensor::from<std::int64_t>(counts.memory()->host(), offsets.shape(), o));
    exchange->make_orders(counts.memory());
    return exchange;
  }

  nn::RowsUnderWay start_dispatch(const ExchangePtr& opaque, const Tensor& rows) override {
    const auto& exchange = dynamic_cast<const RankExchange&>(*opaque);
    check(rows.shape().rank() > 0 && rows.shape()[0] == exchange.num_rows && exchange.num_sent <= exchange.num_rows,
          "expert dispatch: rows are {}, expected {} of them, of which {} are sent", rows.shape(), exchange.num_rows,
          exchange.num_sent);
    Tensor received = with_rows(rows, exchange.num_received);
    core::CommHandle handle = group_->all_to_all_v_async(for_each_sharer(rows, exchange.part_rows), exchange.send_rows,
                                                         received, exchange.receive_rows);
    return [handle, received, opaque, &exchange]() mutable {
      handle.wait();
      return in_order(received, exchange.to_experts, exchange.num_received);
    };
  }

  nn::RowsUnderWay start_combine(const ExchangePtr& opaque, const Tensor& rows) override {
    const auto& exchange = dynamic_cast<const RankExchange&>(*opaque);
    check(rows.shape().rank() > 0 && rows.shape()[0] >= exchange.num_received,
          "expert combine: rows are {}, expected {} of them", rows.shape(), exchange.num_received);
    const Tensor by_source = in_order(rows, exchange.to_sources, exchange.num_received);
    Tensor result = with_rows(rows, exchange.num_rows);
    result.rows(exchange.num_sent, exchange.num_rows - exchange.num_sent).fill_zero();
    const Tensor copies = sharers_ == 1 ? result : with_rows(rows, exchange.num_sent * sharers_);
    core::CommHandle handle = group_->all_to_all_v_async(by_source, exchange.receive_rows, copies, exchange.send_rows);
    return [this, handle, copies, result, opaque, &exchange]() mutable {
      handle.wait();
      if (sharers_ > 1) sum_sharers(copies, exchange.part_rows, result);
      return result;
    };
  }

 private:
  static Tensor with_rows(const Tensor& like, std::int64_t num_rows) {
    core::Shape shape = like.shape();
    shape[0] = num_rows;
    return Tensor::empty(like.memory(), like.dtype(), shape);
  }

  /// Each part's rows, as often as there are ranks that share it.
  Tensor for_each_sharer(const Tensor& rows, const std::vector<std::int64_t>& part_rows) const {
    if (sharers_ == 1) return rows;
    Tensor copies = with_rows(rows, rows.shape()[0] * sharers_);
    for_each_part(part_rows, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t s = 0; s < sharers_; ++s)
        copies.rows(first * sharers_ + s * count, count).copy_from(rows.rows(first, count));
    });
    return copies;
  }

  /// The transpose: the sum of each part's copies, in rank order.
  void sum_sharers(const Tensor& copies, const std::vector<std::int64_t>& part_rows, Tensor& sum) const {
    core::dispatch_activation("expert exchange", sum.dtype(), [&]<class T>() {
      for_each_part(part_rows, [&](std::int64_t first, std::int64_t count) {
        const Tensor from = copies.rows(first * sharers_, count * sharers_);
        Tensor to = sum.rows(first, count);
        core::on_device(sum, [&](const auto& device) {
          kernels::sum_of_parts(device, from.data<T>(), sharers_, to.mutable_data<T>(), to.numel());
        });
      });
    });
  }

  /// f(first row, rows) for the rows of each part.
  template <class F>
  static void for_each_part(const std::vector<std::int64_t>& part_rows, F&& f) {
    std::int64_t first = 0;
    for (const std::int64_t n : part_rows) {
      if (n > 0) f(first, n);
      first += n;
    }
  }

  /// The first num_rows rows in another order, or where that is undefined all as they are.
  static Tensor in_order(const Tensor& rows, const Tensor& order, std::int64_t num_rows) {
    if (!order.defined()) return rows;
    Tensor result = with_rows(rows, num_rows);
    core::dispatch_activation("expert exchange", rows.dtype(), [&]<class T>() {
      core::on_device(rows, [&](const auto& device) {
        kernels::permute_rows(device, rows.data<T>(), order.data<std::int32_t>(), result.mutable_data<T>(), num_rows,
                              /*selected=*/1, rows.shape().row_size());
      });
    });
    return result;
  }

  std::shared_ptr<core::Comm> group_;
  int sharers_;  // ranks that hold a part of the same experts
  RowsKnown rows_known_;
};

}  // namespace

std::shared_ptr<nn::ExpertComm> make_expert_comm(std::shared_ptr<core::Comm> group, int ranks_an_expert,
                                                 RowsKnown rows_known) {
  return std::make_shared<GroupExpertComm>(std::move(group), ranks_an_expert, std::move(rows_known));
}

}  // namespace limbeck::parallel
