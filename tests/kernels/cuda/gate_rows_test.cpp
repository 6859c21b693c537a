#include "kernels/gate_rows.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaGateRows : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaGateRows, Types);

TYPED_TEST(CudaGateRows, IsThatOfTheCpu) {
  using T = TypeParam;
  for (const std::int64_t rows : {0, 1, 37})
    for (const std::int64_t width : {1, 32, 97}) {
      const auto gate = random_values<T>(rows, 1, 4), x = random_values<T>(rows * width, 2),
                 dy = random_values<T>(rows * width, 3);
      std::vector<T> y(x.size()), dgate(gate.size()), dx(x.size());
      gate_rows(cpu(), gate.data(), x.data(), y.data(), rows, width);
      gate_rows_gradient(cpu(), gate.data(), x.data(), dy.data(), dgate.data(), dx.data(), rows, width);
      OnGpu<T> gate_there(gate), x_there(x), dy_there(dy), y_there(rows * width), dgate_there(rows),
          dx_there(rows * width);
      gate_rows(gpu(), gate_there.data(), x_there.data(), y_there.data(), rows, width);
      gate_rows_gradient(gpu(), gate_there.data(), x_there.data(), dy_there.data(), dgate_there.data(), dx_there.data(),
                         rows, width);
      expect_close(y_there.values(), y, 10);
      expect_close(dgate_there.values(), dgate, 40);
      expect_close(dx_there.values(), dx, 10);
    }
}

}  // namespace
}  // namespace limbeck::kernels
