#include "core/ops/ring_rows.h"

#include <algorithm>

namespace limbeck::core {
namespace {

Tensor room_for(const Tensor& like, std::int64_t rows) {
  Shape shape = like.shape();
  shape[0] = rows;
  return Tensor::empty(like.memory(), like.dtype(), shape);
}

/// f(row of the whole, row of the rank, count) for each piece that a rank has.
template <class F>
void for_each_piece(const RingLayout& ring, std::int64_t rank, F f) {
  std::int64_t at = 0;
  for (const Slice& piece : ring.parts[static_cast<std::size_t>(rank)].pieces) {
    if (piece.count > 0) f(piece.first, at, piece.count);
    at += piece.count;
  }
}

}  // namespace

Tensor whole_rows(const Tensor& rows, const RingLayout& ring, nn::ContextComm& comm) {
  std::int64_t total = 0, most = 0;
  for (std::int64_t r = 0; r < ring.size(); ++r) {
    total += ring.num_tokens(r);
    most = std::max(most, ring.num_tokens(r));
  }
  const std::int64_t own = rows.shape()[0];
  const Tensor even = own == most ? rows : room_for(rows, most);  // of which what is behind its rows is unread
  if (own < most) even.rows(0, own).copy_from(rows);
  const Tensor all = comm.gather(even), whole = room_for(rows, total);
  for (std::int64_t r = 0; r < ring.size(); ++r)
    for_each_piece(ring, r, [&](std::int64_t to, std::int64_t from, std::int64_t count) {
      whole.rows(to, count).copy_from(all.rows(r * most + from, count));
    });
  return whole;
}

Tensor own_rows(const Tensor& whole, const RingLayout& ring, std::int64_t rank) {
  const Tensor own = room_for(whole, ring.num_tokens(rank));
  for_each_piece(ring, rank, [&](std::int64_t from, std::int64_t to, std::int64_t count) {
    own.rows(to, count).copy_from(whole.rows(from, count));
  });
  return own;
}

}  // namespace limbeck::core
