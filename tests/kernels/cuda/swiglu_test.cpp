#include "kernels/swiglu.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaSwiglu : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaSwiglu, Types);

TYPED_TEST(CudaSwiglu, IsThatOfTheCpu) {
  using T = TypeParam;
  for (const Activation activation :
       {Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::ClampedSwish})
    for (const std::int64_t n : {0, 1, 9, 256, 4099})
      for (const std::size_t misplaced : {0, 1}) {
        auto gate = random_values<T>(n, 1, 4);
        const auto up = random_values<T>(n, 2), dy = random_values<T>(n, 3);
        if (n > 100) gate[7] = as<T>(-200.0), gate[8] = as<T>(200.0), gate[9] = as<T>(0.0);
        if (n > 100) gate[10] = as<T>(-1e30), gate[11] = as<T>(1e30);
        const double limit = activation == Activation::ClampedSwish ? 0.75 : 0;
        if (n > 100) gate[12] = as<T>(limit), gate[13] = as<T>(0.5);
        std::vector<T> y(gate.size()), dgate(gate.size()), dup(gate.size());
        swiglu(cpu(), gate.data(), up.data(), y.data(), n, activation, limit);
        swiglu_gradient(cpu(), gate.data(), up.data(), dy.data(), dgate.data(), dup.data(), n, activation, limit);
        OnGpu<T> gate_there(gate), up_there(up, misplaced), dy_there(dy), dgate_there(n), dup_there(n);
        swiglu_gradient(gpu(), gate_there.data(), up_there.data(), dy_there.data(), dgate_there.data(),
                        dup_there.data(), n, activation, limit);
        swiglu(gpu(), gate_there.data(), up_there.data(), up_there.data(), n, activation,
               limit);  // in place
        expect_close(up_there.values(), y, 10);
        expect_close(dgate_there.values(), dgate, 10);
        expect_close(dup_there.values(), dup, 10);
        if (limit > 0) continue;
        // Without a gate.
        activate(cpu(), gate.data(), y.data(), n, activation);
        activate_gradient(cpu(), gate.data(), dy.data(), dgate.data(), n, activation);
        activate_gradient(gpu(), gate_there.data(), dy_there.data(), dy_there.data(), n, activation);  // in place
        activate(gpu(), gate_there.data(), gate_there.data(), n, activation);
        expect_close(gate_there.values(), y, 10);
        expect_close(dy_there.values(), dgate, 10);
      }
}

}  // namespace
}  // namespace limbeck::kernels
