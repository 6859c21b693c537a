#include "parallel/axes/expert_moves.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/share.h"

namespace limbeck::parallel {

using core::Slice;
using core::Tensor;

// Sharers are neighbours, and consecutive ranks hold all experts together.
ExpertMoves::ExpertMoves(const Mesh& mesh, int sharers)
    : num_parts_(mesh.ep().size),
      group_(mesh.stage().split(mesh.edp().rank() / sharers * mesh.etp().size + mesh.etp().rank, mesh.stage().rank(),
                                "experts moves")) {
  core::check(group_->size() == num_parts_ * sharers, "expert moves: {} ranks hold {} parts of {} shares each",
              group_->size(), num_parts_, sharers);
}

void ExpertMoves::move(const Tensor& kept, const core::Shape& stack, bool is_dealt,
                       std::span<const std::int64_t> from) const {
  const std::int64_t num_local = stack[0], size = stack.row_size();  // elements of an expert
  core::check(std::ssize(from) == num_local * num_parts_, "expert moves: {} experts, expected {} of {} parts each",
              from.size(), num_local, num_parts_);
  const auto part_of = [&](int rank) { return rank % num_parts_; };
  const auto share_of = [&](int rank) {
    return is_dealt ? core::share_of(stack, rank / num_parts_, group_->size() / num_parts_) : Slice{0, stack.numel()};
  };
  // Elements of the expert in a row of the stack that a rank has.
  const auto held = [&](int rank, std::int64_t row) {
    const Slice share = share_of(rank);
    const std::int64_t first = std::max(share.first, row * size),
                       end = std::min(share.first + share.count, (row + 1) * size);
    return Slice{first - row * size, std::max<std::int64_t>(end - first, 0)};
  };
  // f(first here at the source, first there at the target, count) for each run of elements that goes there.
  const auto for_each_run = [&](int source, int target, const auto& f) {
    if (!is_dealt && source / num_parts_ != target / num_parts_) return;
    for (std::int64_t row = 0; row < num_local; ++row) {
      const std::int64_t to = part_of(target) * num_local + row, at = from[static_cast<std::size_t>(to)];
      if (at == to || at / num_local != part_of(source)) continue;
      const Slice here = held(source, at % num_local), there = held(target, row);
      const std::int64_t first = std::max(here.first, there.first),
                         end = std::min(here.first + here.count, there.first + there.count);
      if (first < end)
        f(at % num_local * size + first - share_of(source).first, row * size + first - share_of(target).first,
          end - first);
    }
  };

  const int me = group_->rank();
  std::vector<std::int64_t> sent(static_cast<std::size_t>(group_->size())), received(sent.size());
  for (int r = 0; r < group_->size(); ++r) {
    const auto i = static_cast<std::size_t>(r);
    for_each_run(me, r, [&](std::int64_t, std::int64_t, std::int64_t count) { sent[i] += count; });
    for_each_run(r, me, [&](std::int64_t, std::int64_t, std::int64_t count) { received[i] += count; });
  }
  const auto room_for = [&](const std::vector<std::int64_t>& counts) {
    return Tensor::empty(kept.memory(), kept.dtype(), {std::reduce(counts.begin(), counts.end())});
  };
  const Tensor flat = kept.reshape({kept.numel()}), leaving = room_for(sent), arriving = room_for(received);
  std::int64_t at = 0;
  const auto take = [&](const Tensor& travelling, std::int64_t count) {
    at += count;
    return travelling.rows(at - count, count);
  };
  for (int r = 0; r < group_->size(); ++r)
    for_each_run(me, r, [&](std::int64_t first, std::int64_t, std::int64_t count) {
      take(leaving, count).copy_from(flat.rows(first, count));
    });
  group_->all_to_all_v(leaving, sent, arriving, received);
  at = 0;
  for (int r = 0; r < group_->size(); ++r)
    for_each_run(r, me, [&](std::int64_t, std::int64_t first, std::int64_t count) {
      flat.rows(first, count).copy_from(take(arriving, count));
    });
}

}  // namespace limbeck::parallel
