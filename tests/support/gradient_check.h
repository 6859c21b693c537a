// Gradients against central differences, in float64.
//
//     const auto memory = Memory::cpu(1);
//     check_gradients([&](Tape& tape, std::span<const Var> in) { return mul(tape, in[0], in[1]); },
//                     {random_tensor(memory, {3, 5}, 1), random_tensor(memory, {3, 5}, 2)});
//
// The outputs are weighted with fixed random numbers r, so that the function differentiated is sum(r * f(x)). Also
// checked, because tapes rely on it: a gradient is added to what the slot holds; the incoming gradient is left as it
// was; an input's gradient does not depend on which other inputs have a slot.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/tape.h"

namespace limbeck::testing {

/// Normal numbers with standard deviation `scale`, the same on every machine.
core::Tensor random_tensor(const core::MemoryPtr& memory, const core::Shape& shape, std::uint64_t seed,
                           double scale = 1.0, core::DType dtype = core::DType::F64);

/// max|a - b| / max|b|, of float32 or float64 tensors of one shape (0 for empty ones; |b| of at least `floor`).
double relative_difference(const core::Tensor& a, const core::Tensor& b, double floor = 1e-300);

struct GradientCheck {
  double tolerance = 1e-6;               // of max|numeric - tape| / max(|numeric|, 1e-3)
  double step = 1e-5;                    // of the differences
  std::vector<bool> differentiate = {};  // inputs that get a slot; all if empty
};

using Function = std::function<std::vector<core::Var>(core::Tape&, std::span<const core::Var>)>;

/// Fails the running test with the input and the element that differ.
void check_gradients(const Function& f, const std::vector<core::Tensor>& inputs, const GradientCheck& options = {});

/// For a function with one output.
template <class F>
requires std::is_same_v<std::invoke_result_t<F, core::Tape&, std::span<const core::Var>>, core::Var>
void check_gradients(F f, const std::vector<core::Tensor>& inputs, const GradientCheck& options = {}) {
  check_gradients(
      Function([f](core::Tape& tape, std::span<const core::Var> in) { return std::vector<core::Var>{f(tape, in)}; }),
      inputs, options);
}

}  // namespace limbeck::testing
