#include "parallel/axes/end_values.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "core/exchanges_of.h"
#include "core/share.h"

namespace limbeck::parallel {

using core::Parameter;
using core::Slice;
using core::Tensor;

namespace {

Slice share_of(const Parameter& parameter, const WorldComm& sharers, int rank) {
  return core::share_of(parameter.value.shape(), rank, sharers.size());
}

/// What of a share lies in a piece of all of them.
Slice part_of(const Slice& share, std::int64_t first, std::int64_t count) {
  return {share.first + first, std::clamp<std::int64_t>(share.count - first, 0, count)};
}

}  // namespace

EndValues::EndValues(const core::ParameterList& parameters, const GradientGroups& groups, std::int64_t bytes_at_once)
    : bytes_at_once_(bytes_at_once) {
  for (Parameter* p : parameters) {
    const std::optional<nn::End> end = nn::end_of(*p);
    WorldComm& sharers = *groups.of(*p).sharers;
    if (!end || p->is_frozen() || sharers.size() == 1 || lies_on_both_ends(*p)) continue;
    const Tensor& value = p->value;
    at(*end).all.push_back(
        {p, core::name_of_many(p->name, 1), &sharers,
         Tensor::empty(value.memory(), value.dtype(), {share_of(*p, sharers, sharers.rank()).count})});
  }
}

void EndValues::Table::part_from_value() {
  const Tensor& value = parameter->value;
  if (value.storage()->is_empty()) return;
  const Slice own = share_of(*parameter, *sharers, sharers->rank());
  share.copy_from(value.reshape({value.numel()}).rows(own.first, own.count));
  value.storage()->release();
}

void EndValues::part_from_values() {
  for (Tables& tables : ends_)
    for (Table& table : tables.all) table.part_from_value();
}

void EndValues::filled(Parameter& parameter) {
  for (Tables& tables : ends_)
    for (Table& table : tables.all)
      if (table.parameter == &parameter) table.part_from_value();
}

Tensor EndValues::share(const Parameter& parameter) const {
  for (const Tables& tables : ends_)
    for (const Table& table : tables.all)
      if (table.parameter == &parameter) return table.share;
  return {};
}

void EndValues::bring(nn::End end) {
  Tables& tables = at(end);
  if (tables.uses == 0)
    for (const Table& table : tables.all) gather(table);
  ++tables.uses;  // none where that failed, which nobody frees
}

void EndValues::free(nn::End end) {
  Tables& tables = at(end);
  if (--tables.uses > 0) return;
  for (const Table& table : tables.all) table.parameter->value.storage()->release();
}

/// One piece travels while the one before is taken over.
void EndValues::gather(const Table& table) const {
  const Tensor& value = table.parameter->value;
  if (value.numel() > 0) value.storage()->refill();
  const int size = table.sharers->size();
  const std::int64_t longest = share_of(*table.parameter, *table.sharers, size - 1).count,
                     count = std::max<std::int64_t>(1, bytes_at_once_ / core::bytes_of(value.dtype(), size));
  std::optional<Piece> before;
  for (std::int64_t first = 0; first < longest; first += count) {
    Piece next = start(table, first, std::min(count, longest - first));
    if (before) take(table, std::move(*before));
    before = std::move(next);
  }
  if (before) take(table, std::move(*before));
}

EndValues::Piece EndValues::start(const Table& table, std::int64_t first, std::int64_t count) {
  const Tensor& value = table.parameter->value;
  const int size = table.sharers->size();
  Piece piece{first, Tensor::empty(value.memory(), value.dtype(), {count}),
              Tensor::empty(value.memory(), value.dtype(), {size, count}), {}};
  const Slice own = part_of(share_of(*table.parameter, *table.sharers, table.sharers->rank()), first, count);
  if (own.count > 0) piece.sent.rows(0, own.count).copy_from(table.share.rows(first, own.count));
  const core::ExchangesOf scope("values of", table.name);
  piece.handle = table.sharers->all_gather_async(piece.sent, piece.received);
  return piece;
}

// As with the layers' values, the version stays.
void EndValues::take(const Table& table, Piece piece) {
  piece.handle.wait();
  const Tensor& value = table.parameter->value;
  const std::int64_t count = piece.sent.numel();
  auto* const to = static_cast<std::byte*>(value.storage()->refill()) + value.byte_offset();
  core::on_device(piece.received, [&](const auto& device) {
    for (int r = 0; r < table.sharers->size(); ++r) {
      const Slice part = part_of(share_of(*table.parameter, *table.sharers, r), piece.first, count);
      if (part.count == 0) continue;
      kernels::copy_bytes(device, piece.received.raw() + core::bytes_of(value.dtype(), r * count),
                          to + core::bytes_of(value.dtype(), part.first), core::bytes_of(value.dtype(), part.count));
    }
  });
}

}  // namespace limbeck::parallel
