// The values of tests/golden/ops/ops.json, and an op of one input held against them in float64 and float32.
//
//     expect_golden("softmax", "softmax", golden["upstream"], [](Tape& tape, const Var& x) { return softmax(tape, x);
//     });
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/tape.h"
#include "tests/support/gradient_check.h"
#include "tests/support/teacher_file.h"

namespace limbeck::testing {

inline const nlohmann::json& golden_ops() {
  static const nlohmann::json golden = nlohmann::json::parse(std::ifstream(golden_path("ops/ops.json")));
  return golden;
}

/// golden_ops()[name] as a tensor of this shape and dtype.
inline core::Tensor golden_tensor(const core::MemoryPtr& memory, const char* name, const core::Shape& shape,
                                  core::DType dtype) {
  const auto& value = golden_ops().at(name);
  const auto values = value.is_array() ? value.get<std::vector<double>>() : std::vector<double>{value.get<double>()};
  return core::Tensor::from<double>(memory, shape, values).to(dtype);
}

/// op(tape, x) and, where `gradient` is given, what flows to x for an output's gradient of `upstream` (1 for a loss).
template <class F>
void expect_golden(const core::MemoryPtr& memory, const char* value, const char* gradient, F op,
                   const char* upstream = nullptr) {
  const core::Shape matrix{4, 6};
  for (const auto dtype : {core::DType::F64, core::DType::F32}) {
    const double tolerance = dtype == core::DType::F64 ? 1e-14 : 1e-6;
    core::Tape tape;
    const core::Var x = core::leaf(golden_tensor(memory, "x", matrix, dtype));
    const core::Var y = op(tape, x);
    EXPECT_EQ(y.value.dtype(), dtype);
    EXPECT_LT(relative_difference(y.value, golden_tensor(memory, value, y.shape(), dtype)), tolerance) << value;
    if (gradient == nullptr) continue;
    if (upstream != nullptr) {
      core::accumulate(y.slot, golden_tensor(memory, upstream, matrix, dtype));
      tape.run();
    } else {
      tape.backward(y);
    }
    EXPECT_LT(relative_difference(x.slot->grad, golden_tensor(memory, gradient, matrix, dtype)), tolerance) << gradient;
  }
}

}  // namespace limbeck::testing
