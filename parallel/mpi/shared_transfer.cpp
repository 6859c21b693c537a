#include "parallel/mpi/shared_transfer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <utility>

#include "core/slice.h"
#include "parallel/comm/reduce.h"

namespace limbeck::parallel {
namespace {

constexpr std::int64_t alignment = 64;  // of slots: whole elements of any dtype, and no two writers' in a cache line

std::int64_t pieces_of(std::int64_t all, std::int64_t piece) { return (all + piece - 1) / piece; }

std::int64_t elements_of_piece(core::DType dtype) { return SharedSegment::piece_bytes / core::bytes_of(dtype, 1); }

std::int64_t room_of(const ExchangedParts& parts) {
  const std::int64_t num_slots = parts.is_same_for_all ? 1 : static_cast<std::int64_t>(parts.sent.size()) - 1;
  return SharedSegment::piece_bytes / std::max<std::int64_t>(num_slots, 1) / alignment * alignment;
}

void copy_bytes(std::byte* to, const std::byte* from, std::int64_t bytes) {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

}  // namespace

SharedTransfer::SharedTransfer(SharedSegment& segment, std::int64_t num_rounds, bool reduces)
    : segment_(segment),
      reduces_(reduces),
      base_(segment.progress(segment.rank()).out.load()),
      end_(base_ + num_rounds) {}

bool SharedTransfer::progress() {
  using Progress = SharedSegment::Progress;
  const auto least = [&](std::atomic<std::int64_t> Progress::*counter) {
    std::int64_t n = std::numeric_limits<std::int64_t>::max();
    for (int r = 0; r < size(); ++r) n = std::min(n, (segment_.progress(r).*counter).load(std::memory_order_acquire));
    return n;
  };
  Progress& mine = segment_.progress(rank());
  const auto advance = [](std::atomic<std::int64_t>& counter) { counter.fetch_add(1, std::memory_order_release); };
  if (mine.in < end_ && mine.in < least(&Progress::out) + SharedSegment::num_pieces) {
    copy_in(mine.in - base_);
    advance(mine.in);
    if (!reduces_) advance(mine.reduced);
  }
  if (mine.reduced < mine.in && mine.reduced < least(&Progress::in)) {
    reduce_slice(mine.reduced - base_);
    advance(mine.reduced);
  }
  if (mine.out < mine.reduced && mine.out < least(&Progress::reduced)) {
    copy_out(mine.out - base_);
    advance(mine.out);
  }
  return mine.out == end_;
}

std::vector<int> SharedTransfer::behind() const {
  const auto done = [&](int r) {
    const SharedSegment::Progress& p = segment_.progress(r);
    return p.in + p.reduced + p.out;
  };
  std::vector<int> ranks;
  for (int r = 0; r < size(); ++r)
    if (done(r) < done(rank())) ranks.push_back(r);
  return ranks;
}

SharedReduction::SharedReduction(SharedSegment& segment, core::DType dtype, core::Reduce reduction, std::byte* data,
                                 std::int64_t count)
    : SharedTransfer(segment, pieces_of(count, elements_of_piece(dtype)), true),
      dtype_(dtype),
      reduce_(reduction),
      data_(data),
      count_(count) {}

SharedReduction::Piece SharedReduction::piece_of(std::int64_t round) const {
  const std::int64_t first = round * elements_of_piece(dtype_);
  return {first, std::min(elements_of_piece(dtype_), count_ - first)};
}

void SharedReduction::copy_in(std::int64_t round) {
  const Piece p = piece_of(round);
  copy_bytes(piece(rank(), round), data_ + core::bytes_of(dtype_, p.first), core::bytes_of(dtype_, p.count));
}

void SharedReduction::reduce_slice(std::int64_t round) {
  const core::Slice slice = core::slice_of(piece_of(round).count, rank(), size());
  const std::int64_t first = core::bytes_of(dtype_, slice.first);
  std::vector<const std::byte*> from;
  for (int r = 0; r < size(); ++r) from.push_back(piece(r, round) + first);
  std::byte* to = piece(rank(), round) + first;  // where nobody else reads before it is done
  reduce(dtype_, reduce_, from, std::span(&to, 1), slice.count);
}

void SharedReduction::copy_out(std::int64_t round) {
  const Piece p = piece_of(round);
  for (int r = 0; r < size(); ++r) {
    const core::Slice slice = core::slice_of(p.count, r, size());
    copy_bytes(data_ + core::bytes_of(dtype_, p.first + slice.first),
               piece(r, round) + core::bytes_of(dtype_, slice.first), core::bytes_of(dtype_, slice.count));
  }
}

SharedExchange::SharedExchange(SharedSegment& segment, ExchangedParts parts, std::int64_t longest)
    : SharedTransfer(segment, pieces_of(longest, room_of(parts)), false),
      parts_(std::move(parts)),
      room_(room_of(parts_)) {}

Part SharedExchange::portion(std::int64_t round, const Part& part) const {
  const std::int64_t done = std::min(round * room_, part.bytes);
  return {part.first + done, std::min(room_, part.bytes - done)};
}

std::byte* SharedExchange::slot(int writer, int reader, std::int64_t round) const {
  const int number = parts_.is_same_for_all ? 0 : reader < writer ? reader : reader - 1;
  return piece(writer, round) + number * room_;
}

const std::byte* SharedExchange::source(int writer, std::int64_t round) const {
  if (writer != rank()) return slot(writer, rank(), round);
  return parts_.from + portion(round, parts_.sent[static_cast<std::size_t>(rank())]).first;
}

void SharedExchange::copy_in(std::int64_t round) {
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    const Part p = portion(round, parts_.sent[static_cast<std::size_t>(r)]);
    copy_bytes(slot(rank(), r, round), parts_.from + p.first, p.bytes);
    if (parts_.is_same_for_all) return;
  }
}

void SharedExchange::copy_out(std::int64_t round) {
  for (int r = 0; r < size(); ++r) {
    const Part p = portion(round, parts_.received[static_cast<std::size_t>(r)]);
    copy_bytes(parts_.to + p.first, source(r, round), p.bytes);
  }
}

SharedReduceScatter::SharedReduceScatter(SharedSegment& segment, ExchangedParts parts, core::DType dtype)
    : SharedExchange(segment, parts, parts.sent[0].bytes), dtype_(dtype) {}

void SharedReduceScatter::copy_out(std::int64_t round) {
  const Part p = portion(round, {0, parts().sent[0].bytes});
  std::vector<const std::byte*> from;
  for (int r = 0; r < size(); ++r) from.push_back(source(r, round));
  std::byte* to = parts().to + p.first;
  reduce(dtype_, core::Reduce::Sum, from, std::span(&to, 1), p.bytes / core::bytes_of(dtype_, 1));
}

}  // namespace limbeck::parallel
