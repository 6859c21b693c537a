#include "core/ops/gelu.h"

#include <gmock/gmock.h>

#include "core/ops/swiglu.h"
#include "tests/core/golden_ops.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::golden_tensor;
using testing::random_tensor;

const auto memory = Memory::cpu(2);
const Shape matrix{4, 6};

/// Element by element, since some are a thousand times others.
void expect_golden(const Tensor& found, const std::string& name) {
  const Tensor expected = golden_tensor(memory, name.c_str(), matrix, DType::F64);
  const double tolerance = found.dtype() == DType::F64 ? 1e-14 : 4e-7;
  const std::vector<double> right = host_values<double>(expected), values = host_values<double>(found.to(DType::F64));
  for (std::size_t i = 0; i < right.size(); ++i)
    EXPECT_NEAR(values[i], right[i], tolerance * (1 + std::abs(right[i]))) << name << ", element " << i;
}

struct Named {
  const char* name;
  Activation activation;
};
constexpr Named all_activations[] = {
    {"silu", Activation::Silu}, {"gelu", Activation::Gelu}, {"gelu_tanh", Activation::GeluTanh}};

TEST(Gelu, EqualsTheDefinition) {
  for (const auto& [name, activation] : all_activations)
    for (const DType dtype : {DType::F64, DType::F32}) {
      Tape tape;
      const Var x = leaf(golden_tensor(memory, "x", matrix, dtype));
      const Var y = gelu(tape, x, activation);
      EXPECT_EQ(y.value.dtype(), dtype);
      expect_golden(y.value, name);
      accumulate(y.slot, golden_tensor(memory, "upstream", matrix, dtype));
      tape.run();
      expect_golden(x.slot->grad, std::string(name) + "_dx");
    }
}

TEST(Gelu, OfAGateEqualsTheDefinition) {
  for (const auto& [name, activation] : all_activations)
    for (const DType dtype : {DType::F64, DType::F32}) {
      Tape tape;
      const Var x = leaf(golden_tensor(memory, "x", matrix, dtype)),
                y = leaf(golden_tensor(memory, "y", matrix, dtype));
      const Var z = swiglu(tape, x, y, activation);
      const std::string product = std::string(name) + "_times_y";
      expect_golden(z.value, product);
      accumulate(z.slot, golden_tensor(memory, "upstream", matrix, dtype));
      tape.run();
      expect_golden(x.slot->grad, product + "_dx");
      expect_golden(y.slot->grad, product + "_dy");
    }
}

TEST(Gelu, IsByTanhUnlessSaidOtherwise) {
  Tape tape;
  expect_golden(gelu(tape, constant(golden_tensor(memory, "x", matrix, DType::F64))).value, "gelu_tanh");
  EXPECT_EQ(tape.num_steps(), 0);
}

TEST(Gelu, GradientsEqualDifferences) {
  for (const auto& named : all_activations)
    for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{5, 13}}) {
      const Activation activation = named.activation;
      check_gradients([&](Tape& tape, std::span<const Var> in) { return gelu(tape, in[0], activation); },
                      {random_tensor(memory, shape, 1, 3.0)});
      check_gradients([&](Tape& tape, std::span<const Var> in) { return swiglu(tape, in[0], in[1], activation); },
                      {random_tensor(memory, shape, 1, 3.0), random_tensor(memory, shape, 2)});
    }
}

TEST(Gelu, NamesADtypeThatItDoesNotTake) {
  Tape tape;
  EXPECT_THAT(
      [&] {
        gelu(tape, constant(Tensor::zeros(memory, DType::I32, {2, 3})));
      },
      ::testing::ThrowsMessage<Error>("gelu: dtype is int32, expected float32, float64 or bfloat16"));
}

}  // namespace
}  // namespace limbeck::core
