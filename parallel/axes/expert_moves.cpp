#include "parallel/axes/expert_moves.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/exchanges_of.h"
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
  const std::int64_t size = stack.row_size();  // elements of an expert
  const auto places_of = [&](int rank) { return core::slice_of(std::ssize(from), rank % num_parts_, num_parts_); };
  const int me = group_->rank();
  core::check(stack[0] == places_of(me).count, "expert moves: {} of {} experts are part {} of {}, expected {}",
              stack[0], from.size(), me % num_parts_, num_parts_, places_of(me).count);
  std::vector<Slice> shares;  // of each rank, of its own stack
  for (int rank = 0; rank < group_->size(); ++rank) {
    core::Shape own = stack;
    own[0] = places_of(rank).count;
    shares.push_back(is_dealt ? core::share_of(own, rank / num_parts_, group_->size() / num_parts_)
                              : Slice{0, own.numel()});
  }
  const auto share_of = [&](int rank) { return shares[static_cast<std::size_t>(rank)]; };
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
    const Slice sources = places_of(source), targets = places_of(target);
    for (std::int64_t row = 0; row < targets.count; ++row) {
      const std::int64_t to = targets.first + row, at = from[static_cast<std::size_t>(to)], was = at - sources.first;
      if (at == to || was < 0 || was >= sources.count) continue;
      const Slice here = held(source, was), there = held(target, row);
      const std::int64_t first = std::max(here.first, there.first),
                         end = std::min(here.first + here.count, there.first + there.count);
      if (first < end)
        f(was * size + first - share_of(source).first, row * size + first - share_of(target).first, end - first);
    }
  };

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
  const core::ExchangesOf scope("experts that move");
  group_->all_to_all_v(leaving, sent, arriving, received);
  at = 0;
  for (int r = 0; r < group_->size(); ++r)
    for_each_run(r, me, [&](std::int64_t, std::int64_t first, std::int64_t count) {
      flat.rows(first, count).copy_from(take(arriving, count));
    });
}

}  // namespace limbeck::parallel
