// A step of each optimizer on one 1536 x 576 matrix and on an embedding of 49152 x 576, by the time that float32 AdamW
// takes in the same run; Newton-Schulz as products a second.
//
//     build/release/bin/bench_optimizer [threads]
#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "optim/newton_schulz.h"
#include "optim/optimizer.h"
#include "tests/bench/timing.h"

namespace {

using namespace limbeck;
using bench::seconds;
using core::Tensor;

Tensor filled(const core::MemoryPtr& memory, const core::Shape& shape, float size) {
  Tensor t = Tensor::empty(memory, core::DType::F32, shape);
  auto* p = t.mutable_data<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) p[i] = size * (static_cast<float>((i * 7919) % 1009) / 1009.F - 0.5F);
  return t;
}

double step_time(const core::MemoryPtr& memory, const core::Shape& shape, core::DType dtype,
                 const optim::OptimizerSettings& settings) {
  core::Parameter p;
  p.name = "layers.0.mlp.up.weight";
  p.global_shape = shape;
  p.value = filled(memory, shape, 1).to(dtype);
  p.slot = std::make_shared<core::Slot>();
  p.slot->parameter = &p;
  p.slot->grad = filled(memory, shape, 0.01F);
  p.slot->has_grad = true;
  optim::Optimizer optimizer(optim::apply_groups({&p}, {}), settings);
  return seconds([&] { optimizer.step(1e-3); });
}

}  // namespace

int main(int argc, char** argv) {
  const auto memory = core::Memory::cpu(argc > 1 ? std::atoi(argv[1]) : 1);
  const optim::OptimizerSettings adamw, muon{.uses_muon = true}, eight_bit{.adamw = {.eight_bit_from = 1}};
  for (const core::Shape& shape : {core::Shape{1536, 576}, core::Shape{49152, 576}}) {
    const double reference = step_time(memory, shape, core::DType::F32, adamw);
    const auto report = [&](const char* what, double time) {
      std::printf("%6lld x %lld  %-24s %9.3f ms  %6.2f x AdamW\n", static_cast<long long>(shape[0]),
                  static_cast<long long>(shape[1]), what, time * 1e3, time / reference);
    };
    report("AdamW", reference);
    report("AdamW, 8 bits", step_time(memory, shape, core::DType::F32, eight_bit));
    report("AdamW, bfloat16 weights", step_time(memory, shape, core::DType::BF16, adamw));
    if (shape[0] < 10000) report("Muon", step_time(memory, shape, core::DType::F32, muon));
  }
  Tensor x = filled(memory, {1536, 576}, 1);
  const double m = 576, n = 1536;
  const double time = seconds([&] { optim::orthogonalise(x); });
  std::printf("Newton-Schulz of 1536 x 576: %.2f ms, %.1f GFLOP/s\n", time * 1e3,
              5 * (4 * m * m * n + 2 * m * m * m) / time / 1e9);
}
