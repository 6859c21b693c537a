#include "kernels/layer_norm.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

/// Against the float64 kernel, with x of type X and y of type Y. Rows lie far from 0, as much as they are wide.
template <class X, class Y>
void compare(std::int64_t rows, std::int64_t width) {
  auto x = all_as<X>(random_bf16(rows * width, 1));
  for (X& value : x) value = as<X>(as<float>(value) + 3);
  const auto weight = all_as<float>(random_bf16(width, 2)), bias = all_as<float>(random_bf16(width, 6));
  const auto dy = all_as<Y>(random_bf16(rows * width, 3));
  const auto x64 = all_as<double>(x), weight64 = all_as<double>(weight), bias64 = all_as<double>(bias),
             dy64 = all_as<double>(dy);

  std::vector<Y> y(x.size());
  std::vector<double> y64(x.size()), m64(static_cast<std::size_t>(rows)), r64(m64.size());
  std::vector<float> m(m64.size()), r(m64.size());
  layer_norm(make_cpu(2), x.data(), weight.data(), bias.data(), y.data(), m.data(), r.data(), rows, width, 1e-5);
  layer_norm(make_cpu(1), x64.data(), weight64.data(), bias64.data(), y64.data(), m64.data(), r64.data(), rows, width,
             1e-5);
  constexpr double slack = 2e-5;  // float32 of values up to 10
  expect_rounded(y, y64, slack);
  for (std::size_t t = 0; t < m.size(); ++t) {
    EXPECT_NEAR(m[t], m64[t], 1e-5);
    EXPECT_NEAR(r[t], r64[t], 1e-5 * r64[t]);
  }

  for (const bool add : {false, true}) {
    auto dx = all_as<X>(random_bf16(rows * width, 4));
    auto dx64 = all_as<double>(dx);
    layer_norm_input_gradient(make_cpu(2), x.data(), weight.data(), m.data(), r.data(), dy.data(), add, dx.data(), rows,
                              width);
    layer_norm_input_gradient(make_cpu(1), x64.data(), weight64.data(), m64.data(), r64.data(), dy64.data(), add,
                              dx64.data(), rows, width);
    expect_rounded(dx, dx64, 2 * slack);

    auto dweight = all_as<float>(random_bf16(width, 5));
    auto dweight64 = all_as<double>(dweight);
    layer_norm_weight_gradient(make_cpu(2), x.data(), m.data(), r.data(), dy.data(), add, dweight.data(), rows, width);
    layer_norm_weight_gradient(make_cpu(1), x64.data(), m64.data(), r64.data(), dy64.data(), add, dweight64.data(),
                               rows, width);
    expect_rounded(dweight, dweight64, slack * static_cast<double>(rows));
  }
}

TEST(LayerNormKernel, IsThatOfDoubleRoundedOnce) {
  for (const auto& [rows, width] : {std::pair{3, 7}, std::pair{5, 129}, std::pair{40, 33}, std::pair{2, 1537}}) {
    compare<bf16, bf16>(rows, width);
    compare<float, bf16>(rows, width);
    compare<float, float>(rows, width);
  }
}

/// Of numbers that all lie near a large one the mean of squares would say nothing.
TEST(LayerNormKernel, ADeviationThatIsSmallBesideTheMean) {
  const float x[] = {4096.25F, 4096.75F}, weight[] = {1, 1}, bias[] = {0, 0};
  float y[2], m[1], r[1];
  layer_norm(make_cpu(1), x, weight, bias, y, m, r, 1, 2, 0.0);
  EXPECT_EQ(m[0], 4096.5F);
  EXPECT_EQ(r[0], 4.0F);
  EXPECT_EQ(y[0], -1.0F);
  EXPECT_EQ(y[1], 1.0F);
}

}  // namespace
}  // namespace limbeck::kernels
