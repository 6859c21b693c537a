#include "parallel/axes/expert_steps.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/permute.h"

namespace limbeck::parallel {
namespace {

using core::check;
using core::DType;
using core::Tensor;

Tensor with_rows(const Tensor& like, std::int64_t num_rows) {
  core::Shape shape = like.shape();
  shape[0] = num_rows;
  return Tensor::empty(like.memory(), like.dtype(), shape);
}

std::int64_t sum_of(const std::vector<std::int64_t>& rows) {
  return std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
}

/// The rows that go to each rank of a group, ascending.
std::vector<std::vector<std::int32_t>> rows_by_rank(int num_ranks, const ExpertChoices& choices,
                                                    const std::vector<std::vector<int>>& ranks_of_expert) {
  std::vector<std::vector<std::int32_t>> rows(static_cast<std::size_t>(num_ranks));
  for (std::int64_t t = 0; t < choices.num_tokens; ++t)
    for (std::int64_t k = 0; k < choices.a_token; ++k) {
      const std::int32_t expert = choices.experts[static_cast<std::size_t>(t * choices.a_token + k)];
      if (expert < 0) continue;
      check(expert < std::ssize(ranks_of_expert), "expert exchange: token {} goes to expert {}, expected one in [0,{})",
            t, expert, ranks_of_expert.size());
      for (const int rank : ranks_of_expert[static_cast<std::size_t>(expert)]) {
        auto& there = rows[static_cast<std::size_t>(rank)];
        if (there.empty() || there.back() != t) there.push_back(static_cast<std::int32_t>(t));
      }
    }
  return rows;
}

}  // namespace

ExpertStep::ExpertStep(std::shared_ptr<core::Comm> group, const ExpertChoices& choices,
                       const std::vector<std::vector<int>>& ranks_of_expert, const core::MemoryPtr& memory)
    : group_(std::move(group)), num_rows_(choices.num_tokens) {
  check(choices.num_tokens * group_->size() <= std::numeric_limits<std::int32_t>::max(),
        "expert exchange: {} tokens to {} ranks, expected below 2^31 together", choices.num_tokens, group_->size());
  const auto by_rank = rows_by_rank(group_->size(), choices, ranks_of_expert);
  std::vector<std::int32_t> source;
  std::vector<std::int64_t> copies_of(static_cast<std::size_t>(num_rows_), 0);
  for (const auto& rows : by_rank) {
    send_rows_.push_back(std::ssize(rows));
    source.insert(source.end(), rows.begin(), rows.end());
    for (const std::int32_t row : rows) ++copies_of[static_cast<std::size_t>(row)];
  }
  num_sent_ = std::ssize(source);
  const std::int64_t most = copies_of.empty() ? 1 : std::max<std::int64_t>(1, *std::ranges::max_element(copies_of));
  std::vector<std::int32_t> copies(static_cast<std::size_t>(num_rows_ * most), -1);
  std::ranges::fill(copies_of, 0);
  for (std::int32_t at = 0; at < num_sent_; ++at) {
    const std::int32_t row = source[static_cast<std::size_t>(at)];
    copies[static_cast<std::size_t>(row * most + copies_of[static_cast<std::size_t>(row)]++)] = at;
  }
  source_ = Tensor::from<std::int32_t>(memory, {num_sent_}, source);
  copies_ = Tensor::from<std::int32_t>(memory, {num_rows_, most}, copies);
  exchange_numbers();
  exchange_choices(choices, source);
}

ExpertStep::ExpertStep(std::shared_ptr<core::Comm> group, std::int64_t num_rows, std::vector<std::int64_t> send_rows,
                       std::vector<std::int64_t> receive_rows, std::int64_t choices, const core::MemoryPtr& memory)
    : group_(std::move(group)),
      num_rows_(num_rows),
      send_rows_(std::move(send_rows)),
      receive_rows_(std::move(receive_rows)),
      num_sent_(sum_of(send_rows_)),
      num_received_(sum_of(receive_rows_)),
      source_(Tensor::empty(memory, DType::I32, {num_sent_})),
      copies_(Tensor::empty(memory, DType::I32,
                            {num_rows, std::max<std::int64_t>(1, std::min<std::int64_t>(choices, group_->size()))})),
      choices_here_{num_received_, choices} {
  // As those that are told: what they are is sent all the same.
  const Tensor numbers = Tensor::empty(memory->host(), DType::I64, {group_->size()});
  const std::vector<std::int64_t> one_each(send_rows_.size(), 1);
  group_->all_to_all_v(numbers, one_each, numbers, one_each);
  group_->all_to_all_v(Tensor::empty(memory->host(), DType::I32, {num_sent_, choices}), send_rows_,
                       Tensor::empty(memory->host(), DType::I32, {num_received_, choices}), receive_rows_);
}

void ExpertStep::exchange_numbers() {
  const auto memory = source_.memory()->host();
  const core::Shape shape{group_->size()};
  const Tensor received = Tensor::empty(memory, DType::I64, shape);
  const std::vector<std::int64_t> one_each(send_rows_.size(), 1);
  const core::ExchangesOf scope(core::part_of(of_, "numbers of tokens"));
  group_->all_to_all_v(Tensor::from<std::int64_t>(memory, shape, send_rows_), one_each, received, one_each);
  receive_rows_ = core::host_values<std::int64_t>(received);
  num_received_ = sum_of(receive_rows_);
}

void ExpertStep::exchange_choices(const ExpertChoices& choices, const std::vector<std::int32_t>& source) {
  const auto memory = source_.memory()->host();
  Tensor told = Tensor::empty(memory, DType::I32, {num_sent_, choices.a_token});
  for (std::int64_t at = 0; at < num_sent_; ++at)
    std::copy_n(choices.experts.data() + source[static_cast<std::size_t>(at)] * choices.a_token, choices.a_token,
                told.mutable_host<std::int32_t>() + at * choices.a_token);
  const Tensor heard = Tensor::empty(memory, DType::I32, {num_received_, choices.a_token});
  const core::ExchangesOf scope(core::part_of(of_, "choices of tokens"));
  group_->all_to_all_v(told, send_rows_, heard, receive_rows_);
  choices_here_ = {num_received_, choices.a_token, core::host_values<std::int32_t>(heard)};
}

nn::RowsUnderWay ExpertStep::start(const Tensor& x) const {
  check(x.shape().rank() > 0 && x.shape()[0] == num_rows_, "expert dispatch: rows are {}, expected {} of them",
        x.shape(), num_rows_);
  Tensor sent = with_rows(x, num_sent_), received = with_rows(x, num_received_);
  if (sent.numel() > 0)
    core::dispatch_activation("expert dispatch", x.dtype(), [&]<class T>() {
      core::on_device(x, [&](const auto& device) {
        kernels::permute_rows(device, x.data<T>(), source_.data<std::int32_t>(), sent.mutable_data<T>(), num_sent_,
                              /*selected=*/1, x.shape().row_size());
      });
    });
  const core::ExchangesOf scope(core::part_of(of_, "dispatch"));
  core::CommHandle handle = group_->all_to_all_v_async(sent, send_rows_, received, receive_rows_);
  return [handle, received]() mutable {
    handle.wait();
    return received;
  };
}

nn::RowsUnderWay ExpertStep::start_back(const Tensor& y) const {
  check(y.shape().rank() > 0 && y.shape()[0] == num_received_, "expert combine: rows are {}, expected {} of them",
        y.shape(), num_received_);
  const Tensor copies = with_rows(y, num_sent_);
  const core::ExchangesOf scope(core::part_of(of_, "combine"));
  core::CommHandle handle = group_->all_to_all_v_async(y, receive_rows_, copies, send_rows_);
  return [handle, copies, where = copies_, num_rows = num_rows_]() mutable {
    handle.wait();
    Tensor sum = with_rows(copies, num_rows);
    if (sum.numel() > 0)
      core::dispatch_activation("expert combine", sum.dtype(), [&]<class T>() {
        core::on_device(sum, [&](const auto& device) {
          kernels::unpermute_rows(device, copies.data<T>(), where.data<std::int32_t>(), nullptr, sum.mutable_data<T>(),
                                  num_rows, where.shape()[1], sum.shape().row_size());
        });
      });
    return sum;
  };
}

}  // namespace limbeck::parallel
