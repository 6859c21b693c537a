#include "kernels/layer_norm.h"

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

// Rows that are no multiple of a vector, fit one warp, fill a block, and are too wide for registers.
struct Shape {
  std::int64_t rows, width;
};
const std::vector<Shape> shapes = {{0, 8}, {3, 7}, {5, 64}, {130, 24}, {9, 1000}, {2, 4104}, {9, 9000}, {2, 33000}};

template <class Types>
class CudaLayerNorm : public ::testing::Test {};
using Pairs =
    ::testing::Types<std::pair<float, float>, std::pair<double, double>, std::pair<bf16, bf16>, std::pair<float, bf16>>;
TYPED_TEST_SUITE(CudaLayerNorm, Pairs);

template <class T>
std::vector<T> empty_like(std::int64_t n) {
  return std::vector<T>(static_cast<std::size_t>(n));
}

TYPED_TEST(CudaLayerNorm, IsThatOfTheCpu) {
  using X = typename TypeParam::first_type;
  using Y = typename TypeParam::second_type;
  using A = Acc<X>;
  for (const auto [rows, width] : shapes)
    for (const std::size_t misplaced : {0, 1}) {
      auto x = random_values<X>(rows * width, 1);
      for (X& value : x) value = as<X>(as<double>(value) + 2);
      const auto weight = random_values<A>(width, 2), bias = random_values<A>(width, 3);
      auto y = empty_like<Y>(rows * width);
      auto m = empty_like<A>(rows), r = empty_like<A>(rows);
      layer_norm(cpu(), x.data(), weight.data(), bias.data(), y.data(), m.data(), r.data(), rows, width, 1e-5);
      OnGpu<X> x_there(x, misplaced);
      OnGpu<A> weight_there(weight), bias_there(bias), m_there(rows), r_there(rows);
      OnGpu<Y> y_there(rows * width);
      const auto run = [&](auto* to) {
        layer_norm(gpu(), x_there.data(), weight_there.data(), bias_there.data(), to, m_there.data(), r_there.data(),
                   rows, width, 1e-5);
      };
      run(y_there.data());
      expect_close(m_there.values(), m, 5);
      expect_close(r_there.values(), r, 5);
      expect_close(y_there.values(), y, 20);
      expect_same(x_there.values(), x);
      if constexpr (std::is_same_v<X, Y>) {
        run(x_there.data());
        expect_same(x_there.values(), y_there.values());
      }
    }
}

TYPED_TEST(CudaLayerNorm, GradientsAreThoseOfTheCpu) {
  using X = typename TypeParam::first_type;
  using Y = typename TypeParam::second_type;
  using A = Acc<X>;
  for (const auto [rows, width] : shapes)
    for (const bool add : {false, true}) {
      const auto x = random_values<X>(rows * width, 1), before = random_values<X>(rows * width, 2);
      const auto weight = random_values<A>(width, 3), dweight_before = random_values<A>(width, 4);
      const auto dy = random_values<Y>(rows * width, 5);
      const auto m = random_values<A>(rows, 7, 0.1);
      auto r = random_values<A>(rows, 6, 0.1);
      for (A& value : r) value += 1;
      auto dx = before;
      auto dweight = dweight_before;
      layer_norm_input_gradient(cpu(), x.data(), weight.data(), m.data(), r.data(), dy.data(), add, dx.data(), rows,
                                width);
      layer_norm_weight_gradient(cpu(), x.data(), m.data(), r.data(), dy.data(), add, dweight.data(), rows, width);
      OnGpu<X> x_there(x), dx_there(before);
      OnGpu<A> weight_there(weight), m_there(m), r_there(r), dweight_there(dweight_before);
      OnGpu<Y> dy_there(dy);
      layer_norm_input_gradient(gpu(), x_there.data(), weight_there.data(), m_there.data(), r_there.data(),
                                dy_there.data(), add, dx_there.data(), rows, width);
      layer_norm_weight_gradient(gpu(), x_there.data(), m_there.data(), r_there.data(), dy_there.data(), add,
                                 dweight_there.data(), rows, width);
      expect_close(dx_there.values(), dx, 5);
      expect_close(dweight_there.values(), dweight, 30);
    }
}

}  // namespace
}  // namespace limbeck::kernels
