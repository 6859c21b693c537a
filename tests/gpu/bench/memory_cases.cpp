// Passes over activations and parameters, which memory bounds: of T tokens of width C or F, or P parameters.
#include <array>
#include <cmath>
#include <iterator>

#include "kernels/adamw.h"
#include "kernels/add_rms_norm.h"
#include "kernels/block8.h"
#include "kernels/blocks.h"
#include "kernels/convert.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/fp8.h"
#include "kernels/muon.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/sums.h"
#include "kernels/swiglu.h"
#include "optim/newton_schulz.h"
#include "tests/gpu/bench/cases.h"

namespace limbeck::bench {
namespace {

using kernels::bf16;
using List = std::vector<Case>;

kernels::e4m3* fp8(std::uint8_t* bytes) { return reinterpret_cast<kernels::e4m3*>(bytes); }

void add(List& all, std::string name, Letters of, std::string bytes, std::function<Work(Buffers)> prepare) {
  all.push_back({.kind = "memory",
                 .name = std::move(name),
                 .of = std::move(of),
                 .bytes = std::move(bytes),
                 .flops = "",
                 .prepare = std::move(prepare)});
}

void add_elementwise(List& all, std::int64_t tokens, std::int64_t width, std::int64_t hidden) {
  const Letters of = {{"T", tokens}, {"C", width}}, wide = {{"T", tokens}, {"F", hidden}};
  const std::int64_t n = tokens * width, wide_n = tokens * hidden;
  add(all, "convert float32 to bfloat16", of, "6 T C", [=](Buffers b) -> Work {
    auto* x = b.numbers<float>(n);
    auto* y = b.zeros<bf16>(n);
    return [=] { kernels::convert(b.cuda(), x, y, n); };
  });
  add(all, "add, bfloat16", of, "6 T C", [=](Buffers b) -> Work {
    auto *x = b.numbers<bf16>(n), *y = b.numbers<bf16>(n), *z = b.zeros<bf16>(n);
    return [=] { kernels::add(b.cuda(), x, y, z, n); };
  });
  add(all, "swiglu, bfloat16", wide, "6 T F", [=](Buffers b) -> Work {
    auto *gate = b.numbers<bf16>(wide_n), *up = b.numbers<bf16>(wide_n), *y = b.zeros<bf16>(wide_n);
    return [=] { kernels::swiglu(b.cuda(), gate, up, y, wide_n); };
  });
  add(all, "swiglu gradient, bfloat16", wide, "10 T F", [=](Buffers b) -> Work {
    auto *gate = b.numbers<bf16>(wide_n), *up = b.numbers<bf16>(wide_n), *dy = b.numbers<bf16>(wide_n);
    auto *dgate = b.zeros<bf16>(wide_n), *dup = b.zeros<bf16>(wide_n);
    return [=] { kernels::swiglu_gradient(b.cuda(), gate, up, dy, dgate, dup, wide_n); };
  });
}

void add_norms(List& all, std::int64_t tokens, std::int64_t width) {
  const Letters of = {{"T", tokens}, {"C", width}};
  const std::int64_t n = tokens * width;
  add(all, "RMSNorm of a float32 stream", of, "6 T C", [=](Buffers b) -> Work {
    auto *x = b.numbers<float>(n), *weight = b.numbers<float>(width), *rms = b.zeros<float>(tokens);
    auto* y = b.zeros<bf16>(n);
    return [=] { kernels::rms_norm(b.cuda(), x, weight, y, rms, tokens, width, 1e-5); };
  });
  add(all, "RMSNorm, input gradient", of, "10 T C", [=](Buffers b) -> Work {
    auto *x = b.numbers<float>(n), *weight = b.numbers<float>(width), *rms = b.numbers<float>(tokens);
    auto* dy = b.numbers<bf16>(n);
    auto* dx = b.zeros<float>(n);
    return [=] { kernels::rms_norm_input_gradient(b.cuda(), x, weight, rms, dy, false, dx, tokens, width); };
  });
  add(all, "RMSNorm, weight gradient", of, "6 T C", [=](Buffers b) -> Work {
    auto *x = b.numbers<float>(n), *rms = b.numbers<float>(tokens), *dweight = b.zeros<float>(width);
    auto* dy = b.numbers<bf16>(n);
    return [=] { kernels::rms_norm_weight_gradient(b.cuda(), x, rms, dy, false, dweight, tokens, width); };
  });
  add(all, "residual add + RMSNorm", of, "12 T C", [=](Buffers b) -> Work {
    auto *x = b.numbers<float>(n), *weight = b.numbers<float>(width), *sum = b.zeros<float>(n);
    auto* rms = b.zeros<float>(tokens);
    auto *delta = b.numbers<bf16>(n), *y = b.zeros<bf16>(n);
    return [=] { kernels::add_rms_norm(b.cuda(), x, delta, weight, sum, y, rms, tokens, width, 1e-5); };
  });
  add(all, "residual add + RMSNorm, gradient", of, "16 T C", [=](Buffers b) -> Work {
    auto *sum = b.numbers<float>(n), *weight = b.numbers<float>(width), *rms = b.numbers<float>(tokens);
    auto *dsum = b.zeros<float>(n), *parts = b.zeros<float>(kernels::add_rms_norm_parts(b.cuda(), tokens) * width);
    auto *dy = b.numbers<bf16>(n), *ddelta = b.zeros<bf16>(n);
    return [=] {
      kernels::add_rms_norm_gradient(b.cuda(), sum, weight, rms, dy, true, dsum, ddelta, parts, tokens, width);
    };
  });
}

constexpr std::int64_t heads = 32, kv_heads = 8, head_width = 128, positions = 4096;

void add_tables(List& all, std::int64_t tokens, std::int64_t width, std::int64_t vocabulary) {
  add(all, "rotary, bfloat16", {{"T", tokens}, {"H", heads}, {"G", kv_heads}, {"D", head_width}}, "4 T H D + 4 T G D",
      [=](Buffers b) -> Work {
        auto *q = b.numbers<bf16>(tokens * heads * head_width), *k = b.numbers<bf16>(tokens * kv_heads * head_width);
        auto *cos = b.zeros<float>(positions * head_width / 2), *sin = b.zeros<float>(positions * head_width / 2);
        const auto* frequencies = b.counted<double>(head_width / 2, [](std::int64_t i) { return std::pow(0.9, i); });
        kernels::rope_table(b.cuda(), cos, sin, positions, head_width / 2, frequencies, 1.0);
        auto* position = b.counted<std::int32_t>(tokens, [](std::int64_t i) { return i % positions; });
        return [=] {
          kernels::rope(b.cuda(), kernels::RopeHeads<bf16>{q, heads}, kernels::RopeHeads<bf16>{k, kv_heads}, position,
                        cos, sin, 1, tokens, head_width);
        };
      });
  // Tokens that all differ: each row of the table is read, or added to, once.
  const Letters of = {{"T", tokens}, {"C", width}, {"V", vocabulary}};
  const auto token = [=](std::int64_t i) { return i * (vocabulary / tokens); };
  add(all, "embedding, float32", of, "8 T C", [=](Buffers b) -> Work {
    auto *table = b.numbers<float>(vocabulary * width), *y = b.zeros<float>(tokens * width);
    auto* ids = b.counted<std::int32_t>(tokens, token);
    return [=] { kernels::embedding(b.cuda(), ids, table, y, tokens, width, 0, vocabulary); };
  });
  add(all, "embedding gradient, float32", of, "12 T C", [=](Buffers b) -> Work {
    auto *dtable = b.zeros<float>(vocabulary * width), *dy = b.numbers<float>(tokens * width);
    auto* ids = b.counted<std::int32_t>(tokens, token);
    return [=] { kernels::embedding_gradient(b.cuda(), ids, dy, true, dtable, tokens, width, 0, vocabulary); };
  });
}

/// Those of a step, as AdamWFactors has them.
const kernels::AdamWFactors<float>* factors(Buffers& b) {
  constexpr std::array values{1.F, 0.1F, 0.95F, 0.05F, 1e-3F, 1.F, 1e-8F};
  static_assert(sizeof values == sizeof(kernels::AdamWFactors<float>));
  return reinterpret_cast<const kernels::AdamWFactors<float>*>(
      b.counted<float>(std::ssize(values), [&](std::int64_t i) { return values[static_cast<std::size_t>(i)]; }));
}

kernels::Block8 block8(Buffers& b, std::int64_t n) {
  return {b.zeros<std::uint8_t>(n), b.zeros<float>(kernels::block8_count(n))};
}

void add_optimizers(List& all, std::int64_t n) {
  const Letters of = {{"P", n}};
  add(all, "sum of squares, float32", of, "4 P", [=](Buffers b) -> Work {
    auto* x = b.numbers<float>(n);
    auto* sum = b.zeros<double>(1);
    return [=] { kernels::sum_of_squares(b.cuda(), x, n, sum); };
  });
  add(all, "AdamW", of, "28 P", [=](Buffers b) -> Work {
    auto *dx = b.numbers<float>(n), *x = b.numbers<float>(n), *mean = b.zeros<float>(n), *square = b.zeros<float>(n);
    const auto* of_step = factors(b);
    return [=] { kernels::adamw(b.cuda(), of_step, static_cast<const double*>(nullptr), dx, x, mean, square, n); };
  });
  add(all, "AdamW, moments in 8 bits", of, "16 P", [=](Buffers b) -> Work {
    auto *dx = b.numbers<float>(n), *x = b.numbers<float>(n);
    const kernels::Block8 mean = block8(b, n), square = block8(b, n);
    const auto* of_step = factors(b);
    return
        [=] { kernels::adamw_block8(b.cuda(), of_step, static_cast<const double*>(nullptr), dx, x, mean, square, n); };
  });
  add(all, "Muon, momentum", of, "16 P", [=](Buffers b) -> Work {
    auto *dx = b.numbers<float>(n), *buffer = b.zeros<float>(n), *update = b.zeros<float>(n);
    return [=] { kernels::nesterov(b.cuda(), 0.95F, static_cast<const double*>(nullptr), dx, buffer, update, n); };
  });
  // 4 bytes out for each value, of which 256 are 144 bytes.
  add(all, "expand Q4_K to float32", of, "4.5625 P", [=](Buffers b) -> Work {
    auto* bytes = b.counted<std::uint8_t>(n / 256 * 144, [](std::int64_t i) { return i * 7919 % 61; });
    auto* y = b.zeros<float>(n);
    const kernels::Blocks blocks{kernels::BlockFormat::Q4_K, reinterpret_cast<const std::byte*>(bytes)};
    return [=] { kernels::expand_blocks(b.cuda(), blocks, n / 256, y); };
  });
}

/// What products in FP8 are made of, beside the scales of 1 x 128 and 128 x 128: of these the latter are next to
/// nothing.
void add_fp8(List& all, std::int64_t tokens, std::int64_t width, std::int64_t hidden) {
  add(all, "quantise rows to FP8", {{"T", tokens}, {"C", width}}, "3.03125 T C", [=](Buffers b) -> Work {
    auto* x = b.numbers<bf16>(tokens * width);
    auto* values = b.zeros<std::uint8_t>(tokens * width);
    auto* scales = b.zeros<float>(kernels::num_row_scales(tokens, width));
    return [=] { kernels::quantise_rows(b.cuda(), tokens, width, x, fp8(values), scales); };
  });
  add(all, "quantise a weight to FP8", {{"C", width}, {"F", hidden}}, "6 C F", [=](Buffers b) -> Work {
    auto* w = b.numbers<float>(hidden * width);
    auto *values = b.zeros<std::uint8_t>(hidden * width), *across = b.zeros<std::uint8_t>(hidden * width);
    auto* scales = b.zeros<float>(kernels::num_block_scales(hidden, width));
    auto* across_scales = b.zeros<float>(kernels::num_block_scales(width, hidden));
    return
        [=] { kernels::quantise_blocks(b.cuda(), hidden, width, w, fp8(values), scales, fp8(across), across_scales); };
  });
}

/// A matrix's update made orthogonal, by products in float32: five times A = X X^T, A A and A X.
void add_newton_schulz(List& all, std::int64_t rows, std::int64_t columns) {
  all.push_back({.kind = "small",
                 .name = "Muon, Newton-Schulz of a matrix",
                 .of = {{"R", rows}, {"C", columns}},
                 .bytes = "8 R C",
                 .flops = "20 R R C + 10 R R R",
                 .prepare = [=](Buffers b) -> Work {
                   core::Tensor x = b.numbers_of(core::DType::F32, {rows, columns});
                   return [=]() mutable { optim::orthogonalise(x); };
                 }});
}

}  // namespace

std::vector<Case> memory_cases(Sizes sizes) {
  const bool tiny = sizes == Sizes::Tiny;
  const std::int64_t tokens = tiny ? 24 : 8192, width = tiny ? 64 : 4096;
  List all;
  add_elementwise(all, tokens, width, tiny ? 96 : 14336);
  add_norms(all, tokens, width);
  add_tables(all, tokens, width, tiny ? 48 : 131072);
  add_optimizers(all, tiny ? 2048 : std::int64_t{1} << 27);
  add_newton_schulz(all, tiny ? 24 : 2048, tiny ? 40 : 8192);
  add_fp8(all, tokens, width, tiny ? 96 : 14336);
  return all;
}

}  // namespace limbeck::bench
