#include "core/nn/cut_batch.h"

#include <algorithm>
#include <vector>

#include "kernels/causal_conv.h"

namespace limbeck::nn {
namespace {

/// A rank's tokens among those of the whole.
struct Share {
  std::vector<std::int64_t> tokens;
  std::vector<std::int64_t> offsets = {0};
  std::vector<core::Slice> pieces = {};
};

Share share_of(std::span<const std::int64_t> offsets, ContextPlace place) {
  Share share;
  for (std::size_t n = 1; n < offsets.size(); ++n) {
    for (const core::Slice& piece : pieces_of(offsets[n] - offsets[n - 1], place)) {
      share.pieces.push_back({offsets[n - 1] + piece.first, piece.count});
      for (std::int64_t i = 0; i < piece.count; ++i) share.tokens.push_back(offsets[n - 1] + piece.first + i);
    }
    share.offsets.push_back(std::ssize(share.tokens));
  }
  return share;
}

template <class T>
std::vector<T> taken(std::span<const T> column, const Share& share) {
  std::vector<T> values;
  values.reserve(share.tokens.size());
  for (const std::int64_t t : share.tokens) values.push_back(column[static_cast<std::size_t>(t)]);
  return values;
}
template <class T>
std::vector<T> taken(const Tensor& column, const Share& share) {
  return taken(std::span(column.host<T>(), static_cast<std::size_t>(column.numel())), share);
}

/// RingLayout::nearest: documents lie in order, and so do their positions.
std::vector<std::int64_t> nearest_keys(const BatchColumns& c, const std::vector<Share>& shares) {
  const std::size_t ranks = shares.size();
  std::vector<std::size_t> owner(c.tokens.size());
  for (std::size_t r = 0; r < ranks; ++r)
    for (const std::int64_t t : shares[r].tokens) owner[static_cast<std::size_t>(t)] = r;
  std::vector<std::int64_t> nearest(ranks * ranks, -1), last(ranks);  // last: positions in the current document
  for (std::size_t t = 0; t < owner.size(); ++t) {
    if (t == 0 || c.sequence[t] != c.sequence[t - 1] || c.document[t] != c.document[t - 1]) std::ranges::fill(last, -1);
    last[owner[t]] = c.position[t];
    for (std::size_t r = 0; r < ranks; ++r) {
      if (last[r] < 0) continue;
      std::int64_t& least = nearest[owner[t] * ranks + r];
      const std::int64_t distance = c.position[t] - last[r];
      if (least < 0 || distance < least) least = distance;
    }
  }
  return nearest;
}

template <class T>
Tensor column_of(const MemoryPtr& memory, const std::vector<T>& values) {
  return Tensor::from<T>(memory, {std::ssize(values)}, values);
}

/// A piece of a sequence, as a run of tokens.
struct Run {
  std::int64_t first = 0, count = 0;  // among the tokens of the whole
  std::int64_t number = 0;            // of all ranks' runs
  std::int64_t own = -1;              // the first among the rank's own tokens; -1: another's
};

/// Those of all ranks, rank by rank.
std::vector<Run> runs_of(const std::vector<Share>& shares, std::int64_t rank) {
  std::vector<Run> runs;
  for (std::size_t r = 0; r < shares.size(); ++r) {
    std::int64_t at = 0;
    for (const core::Slice& piece : shares[r].pieces) {
      runs.push_back({piece.first, piece.count, std::ssize(runs), static_cast<std::int64_t>(r) == rank ? at : -1});
      at += piece.count;
    }
  }
  return runs;
}

core::SequenceRuns sequence_runs(const MemoryPtr& memory, const BatchColumns& c, const std::vector<Share>& shares,
                                 std::int64_t rank, const Tensor& document) {
  const std::vector<Run> runs = runs_of(shares, rank);
  const std::int64_t own = std::ssize(shares[static_cast<std::size_t>(rank)].pieces), first = rank * own;
  const auto goes_on = [&](std::int64_t token) {  // from the token before it
    const auto t = static_cast<std::size_t>(token);
    return t > 0 && c.sequence[t] == c.sequence[t - 1] && c.document[t] == c.document[t - 1];
  };
  std::vector<const Run*> in_order, of_token(c.tokens.size());
  for (const Run& run : runs) {
    if (run.count > 0) in_order.push_back(&run);
    for (std::int64_t i = 0; i < run.count; ++i) of_token[static_cast<std::size_t>(run.first + i)] = &run;
  }
  std::ranges::sort(in_order, {}, &Run::first);

  std::vector<std::int64_t> chain_offsets, chain_rows, slots, offsets = {0};
  for (const Run* run : in_order) {
    if (!goes_on(run->first)) chain_offsets.push_back(std::ssize(chain_rows));
    chain_rows.push_back(run->number);
  }
  chain_offsets.push_back(std::ssize(chain_rows));
  for (std::int64_t r = 0; r < own; ++r) {
    slots.push_back(r);
    offsets.push_back(offsets.back() + runs[static_cast<std::size_t>(first + r)].count);
  }

  std::vector<std::int32_t> tails, places, readers;
  for (std::int64_t tokens = 1; tokens < kernels::most_taps; ++tokens)
    for (const Run& run : runs) {
      for (std::int64_t back = tokens; back > 0 && run.own >= 0; --back)
        tails.push_back(back <= run.count ? static_cast<std::int32_t>(run.own + run.count - back) : -1);
      std::int64_t reached = 0;  // tokens before the run that its first one goes on from
      while (run.count > 0 && reached < tokens && goes_on(run.first - reached)) ++reached;
      for (std::int64_t back = tokens; back > 0; --back) {
        if (back > reached) {
          places.push_back(-1);
          readers.push_back(-1);
          continue;
        }
        const std::int64_t token = run.first - back;
        const Run& of = *of_token[static_cast<std::size_t>(token)];
        places.push_back(static_cast<std::int32_t>((of.number + 1) * tokens - (of.first + of.count - token)));
        readers.push_back(of.own < 0 ? -1 : static_cast<std::int32_t>(of.own + token - of.first));
      }
    }
  return {.own = {column_of(memory, offsets), document},
          .slots = column_of(memory, slots),
          .chain_offsets = column_of(memory, chain_offsets),
          .chain_rows = column_of(memory, chain_rows),
          .tails = column_of(memory, tails),
          .places = column_of(memory, places),
          .readers = column_of(memory, readers)};
}

}  // namespace

std::array<core::Slice, 2> pieces_of(std::int64_t length, ContextPlace place) {
  const std::int64_t pieces = 2 * place.size;
  return {core::slice_of(length, place.rank, pieces), core::slice_of(length, pieces - 1 - place.rank, pieces)};
}

Batch make_cut_batch(const MemoryPtr& memory, const BatchColumns& c, ContextPlace place, bool with_runs) {
  const Batch whole = make_batch(memory->host(), c);  // checks the columns
  std::vector<Share> shares;
  for (std::int64_t r = 0; r < place.size; ++r) shares.push_back(share_of(c.sequence_offsets, {r, place.size}));
  const Share& mine = shares.at(static_cast<std::size_t>(place.rank));
  const std::vector<std::int32_t> context = taken<std::int32_t>(whole.context, mine);
  Batch batch = make_batch(memory, {.tokens = taken(c.tokens, mine),
                                    .targets = taken(c.targets, mine),
                                    .position = taken(c.position, mine),
                                    .document = taken(c.document, mine),
                                    .sequence = taken(c.sequence, mine),
                                    .global_index = taken(c.global_index, mine),
                                    .sequence_offsets = mine.offsets,
                                    .context = context});
  for (const Batch::Ahead& ahead : whole.ahead)
    batch.ahead.push_back({column_of(memory, taken<std::int32_t>(ahead.tokens, mine)),
                           column_of(memory, taken<std::int32_t>(ahead.targets, mine))});
  batch.max_position = whole.max_position;
  batch.longest_context = whole.longest_context;
  batch.global_sequences = whole.global_sequences;
  batch.global_tokens = whole.global_tokens;

  core::RingLayout ring{.sequence = whole.sequence.in(memory), .parts = {}, .nearest = nearest_keys(c, shares)};
  for (const Share& share : shares)
    ring.parts.push_back({column_of(memory, share.offsets), column_of(memory, taken(c.position, share)),
                          column_of(memory, taken(c.document, share)), share.pieces});
  if (with_runs) ring.runs = sequence_runs(memory, c, shares, place.rank, batch.document);
  batch.ring = std::make_shared<const core::RingLayout>(std::move(ring));
  return batch;
}

}  // namespace limbeck::nn
