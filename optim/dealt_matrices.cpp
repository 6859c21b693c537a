#include "optim/dealt_matrices.h"

#include <algorithm>
#include <numeric>

#include "core/exchanges_of.h"
#include "core/share.h"

namespace limbeck::optim {

using core::Slice;
using core::Tensor;

namespace {

std::int64_t stack_of(const core::Shape& shape) { return shape.rank() == 3 ? shape[0] : 1; }

}  // namespace

bool DealtMatrices::is_dealt(const core::Parameter& parameter, int num_ranks) {
  return num_ranks > 1 && stack_of(parameter.value.shape()) < num_ranks;
}

double DealtMatrices::cost_of(const core::Parameter& parameter) {
  const core::Shape& shape = parameter.global_shape;
  const auto rows = static_cast<double>(shape[shape.rank() - 2]),
             columns = static_cast<double>(shape[shape.rank() - 1]);
  return std::max(rows, columns) * std::min(rows, columns) * std::min(rows, columns);
}

DealtMatrices::DealtMatrices(core::Comm& ranks, std::vector<Fragment> fragments, std::vector<double> loads)
    : ranks_(ranks), fragments_(std::move(fragments)), first_(fragments_.size(), 0) {
  if (!fragments_.empty()) name_ = core::name_of_many(fragments_.front().parameter->name, fragments_.size());
  for (std::size_t i = 0; i < fragments_.size(); ++i)
    for (std::int64_t m = 0; m < stack_of(fragments_[i].parameter->value.shape()); ++m) matrices_.push_back({i, m});
  const auto cost = [&](const Matrix& m) { return cost_of(*fragments_[m.fragment].parameter); };
  std::ranges::stable_sort(matrices_, std::greater(), cost);
  for (Matrix& m : matrices_) {
    m.owner = static_cast<int>(std::ranges::min_element(loads) - loads.begin());
    loads[static_cast<std::size_t>(m.owner)] += cost(m);
  }
  std::ranges::stable_sort(matrices_, {}, &Matrix::owner);

  const auto size = static_cast<std::size_t>(ranks_.size());
  sent_.resize(size);
  received_.resize(size);
  std::int64_t at = 0;
  for (const Matrix& m : matrices_) {
    const Slice own = part_of(m, ranks_.rank());
    if (own.count > 0) first_[m.fragment] = at;  // a share lies in one matrix
    at += own.count;
    sent_[static_cast<std::size_t>(m.owner)] += own.count;
    if (m.owner != ranks_.rank()) continue;
    for (int r = 0; r < ranks_.size(); ++r) received_[static_cast<std::size_t>(r)] += part_of(m, r).count;
  }
}

Slice DealtMatrices::part_of(const Matrix& matrix, int r) const {
  const core::Shape& shape = fragments_[matrix.fragment].parameter->value.shape();
  const Slice share = core::share_of(shape, r, ranks_.size());
  const std::int64_t size = shape.numel() / std::max<std::int64_t>(stack_of(shape), 1);
  const std::int64_t first = std::max(share.first, matrix.number * size);
  const std::int64_t end = std::min(share.first + share.count, (matrix.number + 1) * size);
  return {first - matrix.number * size, std::max<std::int64_t>(end - first, 0)};
}

core::Shape DealtMatrices::shape_of(const Matrix& matrix) const {
  const core::Shape& shape = fragments_[matrix.fragment].parameter->value.shape();
  return {shape[shape.rank() - 2], shape[shape.rank() - 1]};
}

void DealtMatrices::begin(const core::MemoryPtr& memory, core::DType dtype) {
  rows_ = Tensor::empty(memory, dtype, {std::accumulate(sent_.begin(), sent_.end(), std::int64_t{0})});
}

Tensor DealtMatrices::rows_of(std::size_t i) const { return rows_.rows(first_[i], fragments_[i].length); }

void DealtMatrices::change(const std::function<void(std::size_t i, Tensor& matrix)>& f) {
  const core::ExchangesOf scope("updates of", name_);
  const std::int64_t num_received = std::accumulate(received_.begin(), received_.end(), std::int64_t{0});
  Tensor parts = Tensor::empty(rows_.memory(), rows_.dtype(), {num_received});  // by rank, then by matrix
  ranks_.all_to_all_v(rows_, sent_, parts, received_);
  std::vector<std::int64_t> at(received_.size(), 0);
  std::exclusive_scan(received_.begin(), received_.end(), at.begin(), std::int64_t{0});
  for (const Matrix& m : matrices_) {
    if (m.owner != ranks_.rank()) continue;
    const core::Shape shape = shape_of(m);
    Tensor matrix = Tensor::empty(rows_.memory(), rows_.dtype(), shape);
    const Tensor flat = matrix.reshape({shape.numel()});
    const auto for_each_part = [&](const auto& copy) {
      for (int r = 0; r < ranks_.size(); ++r) {
        const Slice part = part_of(m, r);
        if (part.count == 0) continue;
        copy(flat.rows(part.first, part.count), parts.rows(at[static_cast<std::size_t>(r)], part.count));
      }
    };
    for_each_part([](Tensor whole, const Tensor& part) { whole.copy_from(part); });
    f(m.fragment, matrix);
    for_each_part([](const Tensor& whole, Tensor part) { part.copy_from(whole); });
    for (int r = 0; r < ranks_.size(); ++r) at[static_cast<std::size_t>(r)] += part_of(m, r).count;
  }
  ranks_.all_to_all_v(parts, received_, rows_, sent_);
}

}  // namespace limbeck::optim
