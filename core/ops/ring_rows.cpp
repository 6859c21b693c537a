#include "core/ops/ring_rows.h"

#include <utility>
#include <vector>

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
  std::int64_t total = 0;
  for (std::int64_t r = 0; r < ring.size(); ++r) total += ring.num_tokens(r);
  const Tensor whole = room_for(rows, total);
  const auto put = [&](const Tensor& of_rank, std::int64_t rank) {
    for_each_piece(ring, rank, [&](std::int64_t to, std::int64_t from, std::int64_t count) {
      whole.rows(to, count).copy_from(of_rank.rows(from, count));
    });
  };
  const auto behind = [&](std::int64_t step) { return (comm.rank() - step + ring.size()) % ring.size(); };
  std::vector<std::pair<Tensor, CommHandle>> arriving;
  for (std::int64_t step = 1; step < ring.size(); ++step) {
    const Tensor room = room_for(rows, ring.num_tokens(behind(step)));
    arriving.emplace_back(room, comm.start_pass(step, rows, room));
  }
  put(rows, comm.rank());
  for (std::int64_t step = 1; step < ring.size(); ++step) {
    auto& [room, handle] = arriving[static_cast<std::size_t>(step - 1)];
    handle.wait();
    put(room, behind(step));
  }
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
