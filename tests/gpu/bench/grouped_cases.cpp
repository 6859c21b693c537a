// Products of experts: T tokens of width C, of which each goes to K of E experts of width F; all experts as busy, or as
// Zipf's law has it (expert i by 1 / i^s).
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/grouped_matmul.h"
#include "kernels/packed.h"
#include "tests/gpu/bench/cases.h"

namespace limbeck::bench {
namespace {

using kernels::bf16;
using kernels::RightFactor;
using kernels::Transpose;

struct Mixture {
  std::int64_t experts, selected, width, hidden, tokens, skew;
  std::int64_t rows() const { return tokens * selected; }
};

/// Rows of each expert. A token goes to an expert once at most: what an expert has beyond that goes to the others by
/// their shares.
std::vector<std::int64_t> rows_of(const Mixture& m) {
  std::vector<double> share;
  for (std::int64_t e = 1; e <= m.experts; ++e)
    share.push_back(std::pow(static_cast<double>(e), -static_cast<double>(m.skew)));
  std::vector<std::int64_t> rows;
  double shares = std::accumulate(share.begin(), share.end(), 0.0);
  std::int64_t left = m.rows();
  for (const double s : share) {  // the greatest shares come first
    rows.push_back(std::min<std::int64_t>(m.tokens, std::llround(static_cast<double>(left) * s / shares)));
    left -= rows.back();
    shares -= s;
  }
  return rows;
}

std::int64_t* offsets_of(Buffers& b, const Mixture& m) {
  const std::vector<std::int64_t> rows = rows_of(m);
  return b.counted<std::int64_t>(
      m.experts + 1, [&](std::int64_t e) { return std::accumulate(rows.begin(), rows.begin() + e, std::int64_t{0}); });
}

Work forward(Buffers b, const Mixture& m) {
  auto* offsets = offsets_of(b, m);
  auto *rows = b.numbers<bf16>(m.rows() * m.width), *weight = b.numbers<bf16>(m.experts * m.hidden * m.width);
  auto* y = b.zeros<bf16>(m.rows() * m.hidden);
  return [=] {
    kernels::packed_grouped_matmul(b.cuda(), m.experts, m.hidden, m.width, offsets, rows,
                                   RightFactor(Transpose::Yes, weight), 0.F, y);
  };
}

Work input_gradient(Buffers b, const Mixture& m) {
  auto* offsets = offsets_of(b, m);
  auto *dy = b.numbers<bf16>(m.rows() * m.hidden), *weight = b.numbers<bf16>(m.experts * m.hidden * m.width);
  auto* drows = b.zeros<bf16>(m.rows() * m.width);
  return [=] {
    kernels::packed_grouped_matmul(b.cuda(), m.experts, m.width, m.hidden, offsets, dy,
                                   RightFactor(Transpose::No, weight), 0.F, drows);
  };
}

Work weight_gradient(Buffers b, const Mixture& m) {
  auto* offsets = offsets_of(b, m);
  auto *dy = b.numbers<bf16>(m.rows() * m.hidden), *rows = b.numbers<bf16>(m.rows() * m.width);
  auto* dweight = b.zeros<float>(m.experts * m.hidden * m.width);
  return
      [=] { kernels::grouped_matmul_weight(b.cuda(), m.experts, m.width, m.hidden, offsets, dy, rows, 0.F, dweight); };
}

}  // namespace

std::vector<Case> grouped_cases(Sizes sizes) {
  std::vector<Mixture> mixtures = {{8, 2, 4096, 14336, 8192, 0}, {128, 8, 2048, 768, 16384, 0}};
  if (sizes == Sizes::Tiny) mixtures = {{4, 2, 64, 96, 40, 0}};
  struct Row {
    const char *name, *bytes;
    Work (*prepare)(Buffers, const Mixture&);
  };
  std::vector<Case> all;
  for (Mixture m : mixtures)
    for (m.skew = 0; m.skew <= 1; ++m.skew)
      for (const Row& row : {Row{"grouped product", "2 T K C + 2 T K F + 2 E C F", forward},
                             Row{"grouped product, input gradient", "2 T K C + 2 T K F + 2 E C F", input_gradient},
                             Row{"grouped product, weight gradient", "2 T K C + 2 T K F + 4 E C F", weight_gradient}})
        all.push_back(
            {.kind = "grouped",
             .name = row.name,
             .of =
                 {{"E", m.experts}, {"K", m.selected}, {"C", m.width}, {"F", m.hidden}, {"T", m.tokens}, {"s", m.skew}},
             .bytes = row.bytes,
             .flops = "2 T K C F",
             .prepare = [m, prepare = row.prepare](Buffers b) { return prepare(std::move(b), m); },
             .rows = rows_of(m)});
  return all;
}

}  // namespace limbeck::bench
