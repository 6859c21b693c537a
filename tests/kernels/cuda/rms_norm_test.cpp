#include "kernels/rms_norm.h"

#include "kernels/add_rms_norm.h"
#include "kernels/elementwise.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

// Rows that are no multiple of a vector, fit one warp, fill a block, and are too wide for registers.
struct Shape {
  std::int64_t rows, width;
};
const std::vector<Shape> shapes = {{0, 8},    {1, 1},    {3, 7},    {5, 64},   {130, 24},
                                   {9, 1000}, {2, 4104}, {9, 9000}, {2, 33000}};

template <class Types>
class CudaRmsNorm : public ::testing::Test {};
using Pairs =
    ::testing::Types<std::pair<float, float>, std::pair<double, double>, std::pair<bf16, bf16>, std::pair<float, bf16>>;
TYPED_TEST_SUITE(CudaRmsNorm, Pairs);

template <class T>
std::vector<T> empty_like(std::int64_t n) {
  return std::vector<T>(static_cast<std::size_t>(n));
}

TYPED_TEST(CudaRmsNorm, IsThatOfTheCpu) {
  using X = typename TypeParam::first_type;
  using Y = typename TypeParam::second_type;
  using A = Acc<X>;
  for (const auto [rows, width] : shapes)
    for (const std::size_t misplaced : {0, 1}) {
      const auto x = random_values<X>(rows * width, 1);
      const auto weight = random_values<A>(width, 2);
      auto y = empty_like<Y>(rows * width);
      auto r = empty_like<A>(rows);
      rms_norm(cpu(), x.data(), weight.data(), y.data(), r.data(), rows, width, 1e-5);
      OnGpu<X> x_there(x, misplaced);
      OnGpu<A> weight_there(weight), r_there(rows);
      OnGpu<Y> y_there(rows * width);
      rms_norm(gpu(), x_there.data(), weight_there.data(), y_there.data(), r_there.data(), rows, width, 1e-5);
      expect_close(r_there.values(), r);
      expect_close(y_there.values(), y, 3);
      expect_same(x_there.values(), x);
      if constexpr (std::is_same_v<X, Y>) {
        rms_norm(gpu(), x_there.data(), weight_there.data(), x_there.data(), r_there.data(), rows, width, 1e-5);
        expect_same(x_there.values(), y_there.values());
      }
    }
}

TYPED_TEST(CudaRmsNorm, GradientsAreThoseOfTheCpu) {
  using X = typename TypeParam::first_type;
  using Y = typename TypeParam::second_type;
  using A = Acc<X>;
  for (const auto [rows, width] : shapes)
    for (const bool add : {false, true}) {
      const auto x = random_values<X>(rows * width, 1), before = random_values<X>(rows * width, 2);
      const auto weight = random_values<A>(width, 3), dweight_before = random_values<A>(width, 4);
      const auto dy = random_values<Y>(rows * width, 5);
      auto r = random_values<A>(rows, 6, 0.1);
      for (A& value : r) value += 1;
      auto dx = before;
      auto dweight = dweight_before;
      rms_norm_input_gradient(cpu(), x.data(), weight.data(), r.data(), dy.data(), add, dx.data(), rows, width);
      rms_norm_weight_gradient(cpu(), x.data(), r.data(), dy.data(), add, dweight.data(), rows, width);
      OnGpu<X> x_there(x), dx_there(before);
      OnGpu<A> weight_there(weight), r_there(r), dweight_there(dweight_before);
      OnGpu<Y> dy_there(dy);
      rms_norm_input_gradient(gpu(), x_there.data(), weight_there.data(), r_there.data(), dy_there.data(), add,
                              dx_there.data(), rows, width);
      rms_norm_weight_gradient(gpu(), x_there.data(), r_there.data(), dy_there.data(), add, dweight_there.data(), rows,
                               width);
      expect_close(dx_there.values(), dx, 5);
      expect_close(dweight_there.values(), dweight, 30);
    }
}

TYPED_TEST(CudaRmsNorm, OfASumHasTheBitsOfASumAndItsNorm) {
  using X = typename TypeParam::first_type;
  using Y = typename TypeParam::second_type;
  using A = Acc<X>;
  for (const auto [rows, width] : shapes) {
    OnGpu<X> x(random_values<X>(rows * width, 1)), sum(rows * width), plain_sum(rows * width);
    OnGpu<Y> delta(random_values<Y>(rows * width, 2)), y(rows * width), plain_y(rows * width);
    OnGpu<A> weight(random_values<A>(width, 3)), r(rows), plain_r(rows);
    add(gpu(), x.data(), delta.data(), plain_sum.data(), rows * width);
    rms_norm(gpu(), plain_sum.data(), weight.data(), plain_y.data(), plain_r.data(), rows, width, 1e-5);
    add_rms_norm(gpu(), x.data(), delta.data(), weight.data(), sum.data(), y.data(), r.data(), rows, width, 1e-5);
    expect_same(sum.values(), plain_sum.values());
    expect_same(y.values(), plain_y.values());
    expect_same(r.values(), plain_r.values());
    add_rms_norm(gpu(), x.data(), delta.data(), weight.data(), x.data(), y.data(), r.data(), rows, width, 1e-5);
    expect_same(x.values(), plain_sum.values());  // in place
    expect_same(y.values(), plain_y.values());
  }
}

TYPED_TEST(CudaRmsNorm, GradientsOfASumHaveTheBitsOfANorm) {
  using X = typename TypeParam::first_type;
  using Y = typename TypeParam::second_type;
  using A = Acc<X>;
  for (const auto [rows, width] : shapes)
    for (const bool add : {false, true}) {
      const auto before = random_values<X>(rows * width, 1);
      const auto dweight_before = random_values<A>(width, 2);
      OnGpu<X> x(random_values<X>(rows * width, 3)), dx(before), dsum(before);
      OnGpu<Y> dy(random_values<Y>(rows * width, 4)), ddelta(rows * width);
      OnGpu<A> weight(random_values<A>(width, 5)), r(random_values<A>(rows, 6, 0.1));
      OnGpu<A> dweight(dweight_before), of_parts(dweight_before), parts(add_rms_norm_parts(gpu(), rows) * width);
      rms_norm_input_gradient(gpu(), x.data(), weight.data(), r.data(), dy.data(), add, dx.data(), rows, width);
      rms_norm_weight_gradient(gpu(), x.data(), r.data(), dy.data(), add, dweight.data(), rows, width);
      add_rms_norm_gradient(gpu(), x.data(), weight.data(), r.data(), dy.data(), add, dsum.data(), ddelta.data(),
                            parts.data(), rows, width);
      add_rms_norm_weight_gradient(gpu(), parts.data(), add, of_parts.data(), rows, width);
      expect_same(dsum.values(), dx.values());
      expect_same(of_parts.values(), dweight.values());
      std::vector<Y> as_delta;
      for (const X value : dx.values()) as_delta.push_back(as<Y>(as<A>(value)));
      expect_same(ddelta.values(), as_delta);
      // Without what may be null.
      OnGpu<X> alone(before);
      add_rms_norm_gradient(gpu(), x.data(), weight.data(), r.data(), dy.data(), add, alone.data(),
                            static_cast<Y*>(nullptr), static_cast<A*>(nullptr), rows, width);
      expect_same(alone.values(), dx.values());
    }
}

}  // namespace
}  // namespace limbeck::kernels
