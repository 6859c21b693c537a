// A curve fitted by a small network: tensors, parameters, a tape and AdamW, on one rank.
#include <fmt/core.h>

#include <cmath>

#include "core/ops/linear.h"
#include "core/ops/squared_error.h"
#include "core/ops/swiglu.h"
#include "core/parameter_set.h"
#include "optim/adamw.h"

using namespace limbeck;

int main() {
  const auto memory = core::Memory::cpu(/*threads=*/1);

  // y = sin(3 x) at 64 places; the second column of the input, a one, stands in for a bias.
  core::Tensor x = core::Tensor::empty(memory, core::DType::F32, {64, 2});
  core::Tensor y = core::Tensor::empty(memory, core::DType::F32, {64, 1});
  for (int i = 0; i < 64; ++i) {
    const float at = static_cast<float>(i) / 32 - 1;
    x.mutable_data<float>()[2 * i] = at;
    x.mutable_data<float>()[2 * i + 1] = 1;
    y.mutable_data<float>()[i] = std::sin(3 * at);
  }

  core::ParameterSet parameters({.memory = memory});
  core::Parameter& gate = parameters.add("gate.weight", {16, 2});
  core::Parameter& up = parameters.add("up.weight", {16, 2});
  core::Parameter& down = parameters.add("down.weight", {1, 16});
  for (core::Parameter* p : parameters.list()) core::init_normal(*p, /*deviation=*/0.5, /*seed=*/1);
  optim::AdamW adamw(optim::whole_fragments(parameters.list()), {.weight_decay = 0});

  for (int step = 1; step <= 1000; ++step) {
    core::Tape tape;
    const core::Var in = core::constant(x);
    const core::Var hidden =
        core::swiglu(tape, core::linear(tape, in, core::as_var(gate)), core::linear(tape, in, core::as_var(up)));
    const core::Var out = core::linear(tape, hidden, core::as_var(down));
    const core::Var loss = core::mean_squared_error(tape, out, core::constant(y));

    parameters.forget_gradients();
    tape.backward(loss);
    adamw.step(/*rate=*/0.01);
    if (step % 200 == 0) fmt::print("step {:4}  loss {:.6f}\n", step, core::host_value(loss.value));
  }
}
