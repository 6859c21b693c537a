#include "tests/support/gradient_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace limbeck::testing {
namespace {

using core::DType;
using core::Tape;
using core::Tensor;
using core::Var;

constexpr std::uint64_t weight_seed = 9000;

double weighted_sum(const Function& f, const std::vector<Tensor>& inputs) {
  Tape tape(Tape::Mode::Off);
  std::vector<Var> in;
  for (const auto& x : inputs) in.push_back(core::constant(x));
  double sum = 0;
  const auto outputs = f(tape, in);
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    const Tensor& y = outputs[o].value;
    const Tensor r = random_tensor(y.memory(), y.shape(), weight_seed + o);
    for (std::int64_t i = 0; i < y.numel(); ++i) sum += r.data<double>()[i] * y.data<double>()[i];
  }
  return sum;
}

/// Gradients by the tape, with the slots preset to `preset`; undefined where an input has no slot.
std::vector<Tensor> tape_gradients(const Function& f, const std::vector<Tensor>& inputs, const std::vector<bool>& with,
                                   double preset) {
  Tape tape;
  std::vector<Var> in;
  std::vector<Tensor> held;  // a second owner of each preset: a step must copy before it writes
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    in.push_back(with[i] ? core::leaf(inputs[i]) : core::constant(inputs[i]));
    if (!with[i] || preset == 0) continue;
    Tensor p = core::empty_like(inputs[i]);
    std::fill_n(p.mutable_data<double>(), p.numel(), preset);
    held.push_back(p);
    core::accumulate(in.back().slot, p);
  }
  std::vector<Tensor> seeds;
  {
    const auto outputs = f(tape, in);
    for (std::size_t o = 0; o < outputs.size(); ++o) {
      if (!outputs[o].slot) continue;
      const Tensor& y = outputs[o].value;
      seeds.push_back(random_tensor(y.memory(), y.shape(), weight_seed + o));
      core::accumulate(outputs[o].slot, seeds.back());
    }
  }
  std::vector<Tensor> copies;
  for (const auto& s : seeds) copies.push_back(s.clone());
  tape.run();
  for (std::size_t o = 0; o < seeds.size(); ++o)
    EXPECT_EQ(relative_difference(seeds[o], copies[o]), 0) << "the incoming gradient " << o << " was written";
  for (const auto& p : held)
    EXPECT_TRUE(std::all_of(p.data<double>(), p.data<double>() + p.numel(), [&](double v) { return v == preset; }))
        << "a gradient that someone else refers to was written";
  std::vector<Tensor> result(inputs.size());
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (with[i]) result[i] = core::gradient(in[i].slot, inputs[i]);
  return result;
}

}  // namespace

Tensor random_tensor(const core::MemoryPtr& memory, const core::Shape& shape, std::uint64_t seed, double scale,
                     DType dtype) {
  std::mt19937_64 engine(seed);
  const auto uniform = [&] { return (static_cast<double>(engine() >> 11U) + 0.5) * 0x1p-53; };
  Tensor t = Tensor::empty(memory, DType::F64, shape);
  auto* p = t.mutable_data<double>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    p[i] = scale * radius * std::cos(2 * M_PI * uniform());
  }
  return dtype == DType::F64 ? t : t.to(dtype);
}

double relative_difference(const Tensor& a, const Tensor& b, double floor) {
  EXPECT_EQ(a.numel(), b.numel());
  const Tensor a64 = a.to(DType::F64);
  const Tensor b64 = b.to(DType::F64);
  double difference = 0;
  double largest = floor;
  for (std::int64_t i = 0; i < std::min(a.numel(), b.numel()); ++i) {
    const double d = std::abs(a64.data<double>()[i] - b64.data<double>()[i]);
    difference = std::isnan(d) ? INFINITY : std::max(difference, d);
    largest = std::max(largest, std::abs(b64.data<double>()[i]));
  }
  return difference / largest;
}

void check_gradients(const Function& f, const std::vector<Tensor>& inputs, const GradientCheck& options) {
  const std::vector<bool> with =
      options.differentiate.empty() ? std::vector<bool>(inputs.size(), true) : options.differentiate;
  const auto gradients = tape_gradients(f, inputs, with, 0);
  const auto added = tape_gradients(f, inputs, with, 2);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!with[i]) continue;
    std::vector<bool> alone(inputs.size(), false);
    alone[i] = true;
    const Tensor own = tape_gradients(f, inputs, alone, 0)[i];
    std::vector<Tensor> moved = inputs;
    moved[i] = inputs[i].clone();
    Tensor numeric = core::empty_like(inputs[i]);
    Tensor expected_sum = core::empty_like(inputs[i]);
    for (std::int64_t k = 0; k < inputs[i].numel(); ++k) {
      const double x = inputs[i].data<double>()[k];
      moved[i].mutable_data<double>()[k] = x + options.step;
      const double up = weighted_sum(f, moved);
      moved[i].mutable_data<double>()[k] = x - options.step;
      const double down = weighted_sum(f, moved);
      moved[i].mutable_data<double>()[k] = x;
      numeric.mutable_data<double>()[k] = (up - down) / (2 * options.step);
      expected_sum.mutable_data<double>()[k] = gradients[i].data<double>()[k] + 2;
    }
    EXPECT_LE(relative_difference(gradients[i], numeric, 1e-3), options.tolerance)
        << "input " << i << ": gradient differs from central differences";
    EXPECT_LE(relative_difference(added[i], expected_sum), 1e-12) << "input " << i << ": gradient was not added";
    EXPECT_LE(relative_difference(own, gradients[i], 1e-3), 1e-12)
        << "input " << i << ": gradient changes when the other inputs have no slot";
  }
}

}  // namespace limbeck::testing
