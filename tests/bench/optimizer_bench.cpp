// A step of each optimizer on one 1536 x 576 matrix and on an embedding of 49152 x 576, as bytes a second that it has
// to read and write, beside plain loops of float32 AdamW; Newton-Schulz as products a second.
//
//     build/release/bin/bench_optimizer [threads] [--benchmark_filter=REGEX]
#include <fmt/format.h>

#include <array>
#include <cmath>
#include <memory>
#include <string_view>
#include <vector>

#include "optim/newton_schulz.h"
#include "optim/optimizer.h"
#include "tests/bench/kernel_benchmark.h"

namespace {

using namespace limbeck;
using bench::Ceiling;
using bench::Plain;
using core::Tensor;

/// Five rounds of two products of 576 x 1536 and one of 576 x 576.
constexpr double newton_schulz_flop = 5 * (4.0 * 576 * 576 * 1536 + 2.0 * 576 * 576 * 576);

Tensor filled(const core::MemoryPtr& memory, const core::Shape& shape, float size) {
  Tensor t = Tensor::empty(memory, core::DType::F32, shape);
  auto* p = t.mutable_data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) p[i] = size * (static_cast<float>((i * 7919) % 1009) / 1009.F - 0.5F);
  return t;
}

/// A parameter with a gradient, and its optimizer.
struct Step {
  Step(const core::MemoryPtr& memory, const core::Shape& shape, core::DType dtype,
       const optim::OptimizerSettings& settings)
      : parameter(make(memory, shape, dtype)), optimizer(optim::apply_groups({parameter.get()}, {}), settings) {}

  static std::unique_ptr<core::Parameter> make(const core::MemoryPtr& memory, const core::Shape& shape,
                                               core::DType dtype) {
    auto p = std::make_unique<core::Parameter>();
    p->name = "layers.0.mlp.up.weight";
    p->global_shape = shape;
    p->value = filled(memory, shape, 1).to(dtype);
    p->slot = std::make_shared<core::Slot>();
    p->slot->parameter = p.get();
    p->slot->grad = filled(memory, shape, 0.01F);
    p->slot->has_grad = true;
    return p;
  }

  std::unique_ptr<core::Parameter> parameter;
  optim::Optimizer optimizer;
};

/// AdamW's formula over float32 arrays of `count`.
Plain plain_adamw(std::int64_t count) {
  const auto arrays = std::make_shared<std::array<std::vector<float>, 4>>();
  for (auto& array : *arrays) array.assign(static_cast<std::size_t>(count), 0.01F);
  return {.work = 28.0 * static_cast<double>(count), .f = [arrays, count] {
            auto& [w, g, m, v] = *arrays;
            for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
              m[i] = 0.9F * m[i] + 0.1F * g[i];
              v[i] = 0.95F * v[i] + 0.05F * g[i] * g[i];
              w[i] -= 1e-3F * (m[i] / (std::sqrt(v[i]) + 1e-8F) + 0.1F * w[i]);
            }
            benchmark::ClobberMemory();
          }};
}

void add_all(int threads) {
  const auto memory = core::Memory::cpu(threads);
  const optim::OptimizerSettings adamw, muon{.uses_muon = true}, eight_bit{.adamw = {.eight_bit_from = 1}};
  const Ceiling peak = bench::fma_peak(threads);
  for (const core::Shape& shape : {core::Shape{1536, 576}, core::Shape{49152, 576}}) {
    const std::int64_t count = shape[0] * shape[1];
    const Ceiling bytes = bench::update_rate(threads, count);
    const Plain plain = plain_adamw(count);
    // Bytes an element: the gradient is read; weight and moments are read and written.
    const auto run = [&](const char* what, const Ceiling& ceiling, double work, core::DType dtype,
                         const auto& settings) {
      const auto step = std::make_shared<Step>(memory, shape, dtype, settings);
      bench::add(
          fmt::format("{} x {} {}", shape[0], shape[1], what), ceiling, work, [=] { step->optimizer.step(1e-3); },
          std::string_view(ceiling.unit) == "GB" ? plain : Plain{});
    };
    run("AdamW", bytes, 28.0 * static_cast<double>(count), core::DType::F32, adamw);
    run("AdamW, 8 bits", bytes, 16.0 * static_cast<double>(count), core::DType::F32, eight_bit);
    run("AdamW, bfloat16 weights", bytes, 24.0 * static_cast<double>(count), core::DType::BF16, adamw);
    if (shape[0] < 10000) run("Muon", peak, newton_schulz_flop, core::DType::F32, muon);
  }
  bench::add("Newton-Schulz of 1536 x 576", peak, newton_schulz_flop,
             [x = filled(memory, {1536, 576}, 1)]() mutable { optim::orthogonalise(x); });
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_all); }
