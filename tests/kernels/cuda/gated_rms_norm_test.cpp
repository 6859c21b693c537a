#include "kernels/gated_rms_norm.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaGatedRmsNorm : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaGatedRmsNorm, Types);

TYPED_TEST(CudaGatedRmsNorm, IsThatOfTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  struct Shape {
    std::int64_t rows, groups, width;
  };
  for (const auto [rows, groups, width] :
       {Shape{0, 2, 8}, Shape{1, 1, 1}, Shape{5, 3, 7}, Shape{70, 2, 24}, Shape{2, 1, 1000}}) {
    const std::int64_t channels = groups * width, n = rows * channels;
    const auto y = random_values<T>(n, 1), z = random_values<T>(n, 2), du = random_values<T>(n, 3);
    const auto weight = random_values<A>(channels, 4);
    auto dweight = random_values<A>(channels, 5);
    std::vector<T> u(y.size()), dy(y.size()), dz(y.size());
    std::vector<A> r(static_cast<std::size_t>(rows * groups));
    OnGpu<T> y_there(y), z_there(z), du_there(du), u_there(n), dy_there(n), dz_there(n);
    OnGpu<A> weight_there(weight), dweight_there(dweight), r_there(rows * groups);
    gated_rms_norm(cpu(), y.data(), z.data(), weight.data(), u.data(), r.data(), rows, groups, width, 1e-5);
    gated_rms_norm_input_gradient(cpu(), y.data(), z.data(), weight.data(), r.data(), du.data(), dy.data(), dz.data(),
                                  rows, groups, width);
    gated_rms_norm_weight_gradient(cpu(), y.data(), z.data(), r.data(), du.data(), true, dweight.data(), rows, groups,
                                   width);
    gated_rms_norm(gpu(), y_there.data(), z_there.data(), weight_there.data(), u_there.data(), r_there.data(), rows,
                   groups, width, 1e-5);
    gated_rms_norm_input_gradient(gpu(), y_there.data(), z_there.data(), weight_there.data(), r_there.data(),
                                  du_there.data(), dy_there.data(), dz_there.data(), rows, groups, width);
    gated_rms_norm_weight_gradient(gpu(), y_there.data(), z_there.data(), r_there.data(), du_there.data(), true,
                                   dweight_there.data(), rows, groups, width);
    expect_close(r_there.values(), r, 5);
    expect_close(u_there.values(), u, 5);
    expect_close(dy_there.values(), dy, 30);
    expect_close(dz_there.values(), dz, 30);
    expect_close(dweight_there.values(), dweight, static_cast<double>(rows + 5));
  }
}

}  // namespace
}  // namespace limbeck::kernels
