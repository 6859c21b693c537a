// Matrix products and the fused head at the shapes of examples/distill_smollm2.textproto, as a share of the
// processor's FMA peak that a small loop measures in the same run.
//
//     build/release/bin/bench_matmul [threads] [--benchmark_filter=REGEX]
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/ops/head_loss.h"
#include "kernels/grouped_matmul.h"
#include "kernels/matmul.h"
#include "optim/objectives.h"
#include "tests/bench/kernel_benchmark.h"

namespace {

using namespace limbeck;
using bench::Ceiling;
using bench::Plain;
using core::Tensor;
using kernels::Transpose;

Tensor filled(const core::MemoryPtr& memory, const core::Shape& shape) {
  Tensor t = Tensor::empty(memory, core::DType::F32, shape);
  auto* p = t.mutable_data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) p[i] = static_cast<float>((i * 7919) % 1009) / 1009.F - 0.5F;
  return t;
}

/// y [m,n] = x [m,k] w^T, w [n,k], in three loops, of 8 rows.
Plain plain_product(const Tensor& x, const Tensor& w, std::int64_t k, std::int64_t n) {
  constexpr std::int64_t m = 8;
  std::vector<float> y(static_cast<std::size_t>(m * n));
  return {.work = 2.0 * static_cast<double>(m * n * k), .f = [x, w, y, k, n]() mutable {
            const auto *a = x.data<float>(), *b = w.data<float>();
            for (std::int64_t i = 0; i < m; ++i)
              for (std::int64_t j = 0; j < n; ++j) {
                float sum = 0;
                for (std::int64_t l = 0; l < k; ++l) sum += a[i * k + l] * b[j * k + l];
                y[static_cast<std::size_t>(i * n + j)] = sum;
              }
            benchmark::DoNotOptimize(y.data());
          }};
}

void bench_products(const core::MemoryPtr& memory, const kernels::Cpu& cpu, const Ceiling& peak) {
  struct Layer {
    std::int64_t rows, in, out;
  };
  for (const auto [rows, in, out] : {Layer{256, 576, 576}, Layer{256, 576, 192}, Layer{256, 576, 1536},
                                     Layer{256, 1536, 576}, Layer{128, 576, 49152}, Layer{256, 576, 49152}}) {
    const Tensor x = filled(memory, {rows, in}), w = filled(memory, {out, in}), dy = filled(memory, {rows, out});
    Tensor y = filled(memory, {rows, out}), dx = filled(memory, {rows, in}), dw = filled(memory, {out, in});
    const double flop = 2.0 * static_cast<double>(rows * in * out);
    const auto name = [&, i = in, o = out, r = rows](const char* part) {
      return fmt::format("{} rows, {} -> {}: {}", r, i, o, part);
    };
    const auto m = rows, k = in, n = out;
    const Plain plain = plain_product(x, w, k, n);
    const auto run = [&](const char* part, auto f) { bench::add(name(part), peak, flop, f, plain); };
    run("y", [=]() mutable {
      kernels::matmul(cpu, Transpose::No, Transpose::Yes, m, n, k, x.data<float>(), w.data<float>(), 0.F,
                      y.mutable_data<float>());
    });
    run("dx", [=]() mutable {
      kernels::matmul(cpu, Transpose::No, Transpose::No, m, k, n, dy.data<float>(), w.data<float>(), 0.F,
                      dx.mutable_data<float>());
    });
    run("dW", [=]() mutable {
      kernels::matmul(cpu, Transpose::Yes, Transpose::No, n, k, m, dy.data<float>(), x.data<float>(), 1.F,
                      dw.mutable_data<float>());
    });
  }
}

void bench_experts(const core::MemoryPtr& memory, const kernels::Cpu& cpu, const Ceiling& peak) {
  constexpr std::int64_t experts = 8, in = 576, out = 384;
  const std::vector<std::int64_t> offsets = {0, 131, 260, 390, 501, 640, 760, 901, 1024};
  const Tensor x = filled(memory, {1024, in}), w = filled(memory, {experts, out, in}), dy = filled(memory, {1024, out});
  Tensor y = filled(memory, {1024, out}), dx = filled(memory, {1024, in}), dw = filled(memory, {experts, out, in});
  constexpr double flop = 2.0 * 1024 * in * out;
  const Plain plain = plain_product(x, w, in, out);
  bench::add(
      "8 experts of ~128 rows, 576 -> 384: y", peak, flop,
      [=]() mutable {
        kernels::grouped_matmul(cpu, experts, in, out, offsets.data(), x.data<float>(), w.data<float>(), 0.F,
                                y.mutable_data<float>());
      },
      plain);
  bench::add(
      "8 experts of ~128 rows, 576 -> 384: dx", peak, flop,
      [=]() mutable {
        kernels::grouped_matmul_input(cpu, experts, in, out, offsets.data(), dy.data<float>(), w.data<float>(), 0.F,
                                      dx.mutable_data<float>());
      },
      plain);
  bench::add(
      "8 experts of ~128 rows, 576 -> 384: dW", peak, flop,
      [=]() mutable {
        kernels::grouped_matmul_weight(cpu, experts, in, out, offsets.data(), dy.data<float>(), x.data<float>(), 1.F,
                                       dw.mutable_data<float>());
      },
      plain);
}

void bench_head(const core::MemoryPtr& memory, const Ceiling& peak, const Ceiling& bytes, std::int64_t chunk) {
  constexpr std::int64_t tokens = 256, vocabulary = 49152, width = 576;
  const Tensor x = filled(memory, {tokens, width}), w = filled(memory, {vocabulary, width});
  const Tensor tx = filled(memory, {tokens, width}), tw = filled(memory, {vocabulary, width});
  Tensor targets = Tensor::zeros(memory, core::DType::I32, {tokens});
  const std::shared_ptr comms = std::make_shared<nn::Communicators>(nn::single_communicators());
  const core::Var hidden = core::leaf(x), head = core::leaf(w);
  bench::add(
      fmt::format("head 256 tokens, V 49152, chunk {}", chunk), peak, 4 * 2.0 * tokens * vocabulary * width,
      [=] {
        core::Tape tape;
        core::OnlineTeacher teacher(tx, tw);
        core::LossAccumulator losses(memory);
        core::head_loss(tape, hidden, head, targets, optim::Distillation({.ce_weight = 0.1}), &teacher, *comms->tensor,
                        {.chunk = chunk}, losses);
      },
      plain_product(x, w, width, vocabulary));
  const Tensor student = filled(memory, {chunk, vocabulary}), teacher = filled(memory, {chunk, vocabulary});
  // Student and teacher are read and the gradient is written; what is above one pass over each is the objective's own.
  bench::add(fmt::format("  of which the objective, chunk {}", chunk), bytes,
             3 * 4.0 * static_cast<double>(chunk * vocabulary), [=] {
               core::LossAccumulator losses(memory);
               core::LogitsChunk rows{.student = student,
                                      .gradient = student,
                                      .teacher = teacher,
                                      .targets = targets.rows(0, chunk),
                                      .vocabulary_offset = 0,
                                      .num_valid = vocabulary,
                                      .weight = 1,
                                      .vocabulary = *comms->tensor};
               optim::Distillation({.ce_weight = 0.1}).run(rows, losses);
             });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [](int threads) {
    const auto memory = core::Memory::cpu(threads);
    const auto& cpu = std::get<kernels::Cpu>(memory->device());
    const Ceiling peak = bench::fma_peak(threads);
    bench_products(memory, cpu, peak);
    bench_experts(memory, cpu, peak);
    const Ceiling bytes = bench::update_rate(threads, 128 * 49152);
    for (const std::int64_t chunk : {64, 128, 256}) bench_head(memory, peak, bytes, chunk);
  });
}
