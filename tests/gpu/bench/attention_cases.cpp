// Causal attention as the op computes it, with all that it makes and converts: N sequences of S tokens, H heads of
// width D, G of keys and values. And a token more of each of N texts, with a cache of S latents that are R wide, in D
// channels for all heads.
#include <cmath>

#include "core/ops/attention.h"
#include "kernels/attention.h"
#include "tests/gpu/bench/cases.h"

namespace limbeck::bench {
namespace {

using core::DType;
using core::Tensor;

struct Heads {
  std::int64_t sequences, length, heads, kv_heads, width;
  std::int64_t tokens() const { return sequences * length; }
};

core::AttentionLayout layout_of(const Buffers& b, const Heads& h) {
  const Tensor offsets = b.counted_of<std::int64_t>(h.sequences + 1, [&](std::int64_t i) { return i * h.length; });
  const Tensor position = b.counted_of<std::int32_t>(h.tokens(), [&](std::int64_t i) { return i % h.length; });
  const Tensor document = b.counted_of<std::int32_t>(h.tokens(), [](std::int64_t) { return 0; });
  core::AttentionLayout layout{offsets, offsets, position, position, document, document};
  layout.run_offsets = offsets;
  layout.longest_run = h.length;
  return layout;
}

Work attention(const Buffers& b, const Heads& h, core::Tape::Mode mode) {
  const auto leaf = [&](std::int64_t heads) {
    return core::leaf(b.numbers_of(DType::BF16, {h.tokens(), heads * h.width}));
  };
  const core::Var q = leaf(h.heads), k = leaf(h.kv_heads), v = leaf(h.kv_heads);
  const Tensor dy = b.numbers_of(DType::BF16, {h.tokens(), h.heads * h.width});
  const core::AttentionLayout layout = layout_of(b, h);
  const core::AttentionShape shape{.num_heads = h.heads,
                                   .num_kv_heads = h.kv_heads,
                                   .width = h.width,
                                   .value_width = h.width,
                                   .scale = 1 / std::sqrt(static_cast<double>(h.width))};
  return [=] {
    for (const core::Var& x : {q, k, v}) *x.slot = core::Slot();
    core::Tape tape(mode);
    const core::Var y = core::attention(tape, q, k, v, shape, layout);
    if (!y.slot) return;
    core::accumulate(y.slot, dy);
    tape.run();
  };
}

struct Latents {
  std::int64_t texts, length, heads, width, rank;
};

/// Pages of the texts lie by turns in the cache, as those of texts that grow together.
Work decoding(const Buffers& b, const Latents& l) {
  const std::int64_t page = kernels::attention_page, pages = l.length / page;
  const auto offsets = [&](std::int64_t step) {
    return b.counted_of<std::int64_t>(l.texts + 1, [=](std::int64_t i) { return i * step; });
  };
  const auto places = [&](std::int64_t n, std::int64_t first, std::int64_t period) {
    return b.counted_of<std::int32_t>(n, [=](std::int64_t i) { return first + i % period; });
  };
  const Tensor keys = b.numbers_of(DType::BF16, {l.texts * l.length, l.width});
  const Tensor queries = b.numbers_of(DType::BF16, {l.texts, l.heads * l.width});
  core::AttentionLayout layout{offsets(1),
                               offsets(l.length),
                               places(l.texts, l.length - 1, 1),
                               places(l.texts * l.length, 0, l.length),
                               places(l.texts, 0, 1),
                               places(l.texts * l.length, 0, 1)};
  layout.key_pages =
      b.counted_of<std::int64_t>(l.texts * pages, [&](std::int64_t i) { return i % pages * l.texts + i / pages; });
  const core::AttentionShape shape{.num_heads = l.heads,
                                   .num_kv_heads = 1,
                                   .width = l.width,
                                   .value_width = l.rank,
                                   .scale = 1 / std::sqrt(static_cast<double>(l.width)),
                                   .values_in_keys = true};
  return [=] {
    core::Tape tape(core::Tape::Mode::Off);
    core::attention(tape, core::constant(queries), core::constant(keys), core::constant(keys), shape, layout);
  };
}

}  // namespace

std::vector<Case> attention_cases(Sizes sizes) {
  std::vector<Heads> shapes;
  for (const std::int64_t width : {64, 128})
    for (const auto& [sequences, length] : {std::pair{2, 2048}, std::pair{1, 8192}})
      shapes.push_back({sequences, length, 16, 4, width});
  if (sizes == Sizes::Tiny) shapes = {{2, 20, 4, 2, 64}, {1, 40, 4, 2, 128}};
  std::vector<Case> all;
  for (const Heads& h : shapes) {
    const auto add = [&](const char* name, const char* bytes, const char* flops, core::Tape::Mode mode) {
      all.push_back({.kind = "attention",
                     .name = name,
                     .of = {{"N", h.sequences}, {"S", h.length}, {"H", h.heads}, {"G", h.kv_heads}, {"D", h.width}},
                     .bytes = bytes,
                     .flops = flops,
                     .prepare = [h, mode](Buffers b) { return attention(b, h, mode); }});
    };
    add("attention, forward", "4 N S H D + 4 N S G D", "2 N H D S S", core::Tape::Mode::Off);
    add("attention, forward and backward", "12 N S H D + 12 N S G D", "7 N H D S S", core::Tape::Mode::Record);
  }
  std::vector<Latents> cached = {{16, 8192, 16, 576, 512}, {16, 8192, 128, 576, 512}};
  if (sizes == Sizes::Tiny) cached = {{2, 128, 16, 576, 512}};
  for (const Latents& l : cached)
    all.push_back({.kind = "attention",
                   .name = "attention of latents, a token more",
                   .of = {{"N", l.texts}, {"S", l.length}, {"H", l.heads}, {"D", l.width}, {"R", l.rank}},
                   .bytes = "2 N S D + 2 N H D + 2 N H R",
                   .flops = "2 N H S D + 2 N H S R",
                   .prepare = [l](Buffers b) { return decoding(b, l); }});
  return all;
}

}  // namespace limbeck::bench
