#include "kernels/rms_norm.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

/// Against the float64 kernel, with x of type X and y of bfloat16.
template <class X>
void compare(std::int64_t rows, std::int64_t width) {
  const auto x = all_as<X>(random_bf16(rows * width, 1));
  const auto weight = all_as<float>(random_bf16(width, 2));
  const auto dy = random_bf16(rows * width, 3);
  const auto x64 = all_as<double>(x), weight64 = all_as<double>(weight), dy64 = all_as<double>(dy);

  std::vector<bf16> y(x.size());
  std::vector<double> y64(x.size()), r64(static_cast<std::size_t>(rows));
  std::vector<float> r(r64.size());
  rms_norm(make_cpu(1), x.data(), weight.data(), y.data(), r.data(), rows, width, 1e-5);
  rms_norm(make_cpu(1), x64.data(), weight64.data(), y64.data(), r64.data(), rows, width, 1e-5);
  constexpr double slack = 1e-5;  // float32 of values up to 50
  expect_rounded(y, y64, slack);
  for (std::size_t t = 0; t < r.size(); ++t) EXPECT_NEAR(r[t], r64[t], 2e-6 * r64[t]);

  for (const bool add : {false, true}) {
    auto dx = all_as<X>(random_bf16(rows * width, 4));
    auto dx64 = all_as<double>(dx);
    rms_norm_input_gradient(make_cpu(1), x.data(), weight.data(), r.data(), dy.data(), add, dx.data(), rows, width);
    rms_norm_input_gradient(make_cpu(1), x64.data(), weight64.data(), r64.data(), dy64.data(), add, dx64.data(), rows,
                            width);
    expect_rounded(dx, dx64, 10 * slack);  // a row of one number: two terms of size r, up to 300, cancel

    auto dweight = all_as<float>(random_bf16(width, 5));
    auto dweight64 = all_as<double>(dweight);
    rms_norm_weight_gradient(make_cpu(2), x.data(), r.data(), dy.data(), add, dweight.data(), rows, width);
    rms_norm_weight_gradient(make_cpu(1), x64.data(), r64.data(), dy64.data(), add, dweight64.data(), rows, width);
    expect_rounded(dweight, dweight64, slack * static_cast<double>(rows));
  }
}

TEST(RmsNormKernel, OfBfloat16IsThatOfDoubleRoundedOnce) {
  for (const auto& [rows, width] : {std::pair{1, 1}, std::pair{3, 7}, std::pair{5, 129}, std::pair{2, 1537}}) {
    compare<bf16>(rows, width);
    compare<float>(rows, width);
  }
}

}  // namespace
}  // namespace limbeck::kernels
