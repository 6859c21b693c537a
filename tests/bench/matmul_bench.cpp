// Matrix products and the fused head at the shapes of examples/distill_smollm2.textproto, as a share of the
// processor's FMA peak that a small loop measures in the same run.
//
//     build/release/bin/bench_matmul [threads]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/ops/head_loss.h"
#include "kernels/grouped_matmul.h"
#include "kernels/matmul.h"
#include "kernels/peak.h"
#include "optim/objectives.h"
#include "tests/bench/timing.h"

namespace {

using namespace limbeck;
using bench::seconds;
using core::Tensor;
using kernels::Transpose;

Tensor filled(const core::MemoryPtr& memory, const core::Shape& shape) {
  Tensor t = Tensor::empty(memory, core::DType::F32, shape);
  auto* p = t.mutable_data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) p[i] = static_cast<float>((i * 7919) % 1009) / 1009.F - 0.5F;
  return t;
}

void report(const char* what, double flop, double time, double peak) {
  std::printf("%-44s %8.1f GFLOP/s  %5.1f %%  %8.2f ms\n", what, flop / time / 1e9, 100 * flop / time / 1e9 / peak,
              time * 1e3);
}

void bench_products(const core::MemoryPtr& memory, const kernels::Cpu& cpu, double peak) {
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
    const auto run = [&](const char* part, auto f) { report(name(part).c_str(), flop, seconds(f), peak); };
    const auto m = rows, k = in, n = out;
    run("y", [&] {
      kernels::matmul(cpu, Transpose::No, Transpose::Yes, m, n, k, x.data<float>(), w.data<float>(), 0.F,
                      y.mutable_data<float>());
    });
    run("dx", [&] {
      kernels::matmul(cpu, Transpose::No, Transpose::No, m, k, n, dy.data<float>(), w.data<float>(), 0.F,
                      dx.mutable_data<float>());
    });
    run("dW", [&] {
      kernels::matmul(cpu, Transpose::Yes, Transpose::No, n, k, m, dy.data<float>(), x.data<float>(), 1.F,
                      dw.mutable_data<float>());
    });
  }
}

void bench_experts(const core::MemoryPtr& memory, const kernels::Cpu& cpu, double peak) {
  constexpr std::int64_t experts = 8, in = 576, out = 384;
  const std::vector<std::int64_t> offsets = {0, 131, 260, 390, 501, 640, 760, 901, 1024};
  const Tensor x = filled(memory, {1024, in}), w = filled(memory, {experts, out, in}), dy = filled(memory, {1024, out});
  Tensor y = filled(memory, {1024, out}), dx = filled(memory, {1024, in}), dw = filled(memory, {experts, out, in});
  constexpr double flop = 2.0 * 1024 * in * out;
  report("8 experts of ~128 rows, 576 -> 384: y", flop, seconds([&] {
           kernels::grouped_matmul(cpu, experts, in, out, offsets.data(), x.data<float>(), w.data<float>(), 0.F,
                                   y.mutable_data<float>());
         }),
         peak);
  report("8 experts of ~128 rows, 576 -> 384: dx", flop, seconds([&] {
           kernels::grouped_matmul_input(cpu, experts, in, out, offsets.data(), dy.data<float>(), w.data<float>(), 0.F,
                                         dx.mutable_data<float>());
         }),
         peak);
  report("8 experts of ~128 rows, 576 -> 384: dW", flop, seconds([&] {
           kernels::grouped_matmul_weight(cpu, experts, in, out, offsets.data(), dy.data<float>(), x.data<float>(), 1.F,
                                          dw.mutable_data<float>());
         }),
         peak);
}

void bench_head(const core::MemoryPtr& memory, double peak, std::int64_t chunk) {
  constexpr std::int64_t tokens = 256, vocabulary = 49152, width = 576;
  const Tensor x = filled(memory, {tokens, width}), w = filled(memory, {vocabulary, width});
  const Tensor tx = filled(memory, {tokens, width}), tw = filled(memory, {vocabulary, width});
  Tensor targets = Tensor::zeros(memory, core::DType::I32, {tokens});
  const auto comms = nn::single_communicators();
  const core::Var hidden = core::leaf(x), head = core::leaf(w);
  const double whole = seconds([&] {
    core::Tape tape;
    core::OnlineTeacher teacher(tx, tw);
    core::LossStatistics statistics;
    core::head_loss(tape, hidden, head, targets, optim::Distillation({.ce_weight = 0.1}), &teacher, *comms.tensor,
                    {.chunk = chunk}, statistics);
  });
  report(fmt::format("head 256 tokens, V 49152, chunk {}", chunk).c_str(), 4 * 2.0 * tokens * vocabulary * width, whole,
         peak);
  const Tensor student = filled(memory, {chunk, vocabulary}), teacher = filled(memory, {chunk, vocabulary});
  const double objective = seconds([&] {
    core::LossStatistics statistics;
    core::LogitsChunk rows{.student = student,
                           .gradient = student,
                           .teacher = teacher,
                           .targets = targets.rows(0, chunk),
                           .vocabulary_offset = 0,
                           .num_valid = vocabulary,
                           .weight = 1,
                           .vocabulary = *comms.tensor};
    optim::Distillation({.ce_weight = 0.1}).run(rows, statistics);
  });
  std::printf("  of which the objective: %.2f ms, %.1f %%\n", objective * 1e3 * tokens / static_cast<double>(chunk),
              100 * objective * tokens / static_cast<double>(chunk) / whole);
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 1;
  const auto memory = core::Memory::cpu(threads);
  const auto& cpu = std::get<kernels::Cpu>(memory->device());
  constexpr std::int64_t rounds = 1'000'000;
  volatile float keep = 0;
  const double one = kernels::fma_loop_flops(rounds) / seconds([&] { keep = kernels::fma_loop(cpu, rounds); }) / 1e9;
  std::printf("FMA peak of one thread: %.1f GFLOP/s; %d threads\n", one, threads);
  const double peak = one * threads;
  bench_products(memory, cpu, peak);
  bench_experts(memory, cpu, peak);
  for (const std::int64_t chunk : {64, 128, 256}) bench_head(memory, peak, chunk);
}
