#include "kernels/add_rms_norm.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

/// Against the float64 kernel, with a stream of type X beside bfloat16. The sum is one that no rounding changes, so
/// that the norms are of the same numbers.
template <class X>
void compare(std::int64_t rows, std::int64_t width) {
  const std::int64_t n = rows * width;
  const auto delta = random_bf16(n, 1);
  std::vector<X> x;
  for (const bf16 d : delta) x.push_back(as<X>(-0.5F * as<float>(d)));
  const auto weight = all_as<float>(random_bf16(width, 2));
  const auto dy = random_bf16(n, 3);
  const auto x64 = all_as<double>(x), delta64 = all_as<double>(delta), weight64 = all_as<double>(weight),
             dy64 = all_as<double>(dy);

  std::vector<bf16> y(x.size());
  std::vector<X> sum(x.size());
  std::vector<float> r(static_cast<std::size_t>(rows));
  std::vector<double> y64(x.size()), sum64(x.size()), r64(r.size());
  add_rms_norm(make_cpu(1), x.data(), delta.data(), weight.data(), sum.data(), y.data(), r.data(), rows, width, 1e-5);
  add_rms_norm(make_cpu(1), x64.data(), delta64.data(), weight64.data(), sum64.data(), y64.data(), r64.data(), rows,
               width, 1e-5);
  EXPECT_EQ(all_as<double>(sum), sum64);
  constexpr double slack = 1e-5;  // float32 of values up to 50
  expect_rounded(y, y64, slack);

  for (const bool add : {false, true}) {
    auto dsum = all_as<X>(random_bf16(n, 4));
    auto dsum64 = all_as<double>(dsum);
    const std::int64_t num_parts = add_rms_norm_parts(make_cpu(1), rows);
    std::vector<bf16> ddelta(x.size());
    std::vector<float> parts(static_cast<std::size_t>(num_parts * width));
    std::vector<double> ddelta64(x.size()), parts64(parts.size());
    add_rms_norm_gradient(make_cpu(2), sum.data(), weight.data(), r.data(), dy.data(), add, dsum.data(), ddelta.data(),
                          parts.data(), rows, width);
    add_rms_norm_gradient(make_cpu(1), sum64.data(), weight64.data(), r64.data(), dy64.data(), add, dsum64.data(),
                          ddelta64.data(), parts64.data(), rows, width);
    expect_rounded(dsum, dsum64, 10 * slack);  // a row of one number: two terms of size r, up to 300, cancel
    EXPECT_EQ(all_as<double>(ddelta), all_as<double>(all_as<bf16>(all_as<float>(dsum))));
    EXPECT_EQ(ddelta64, dsum64);

    auto dweight = all_as<float>(random_bf16(width, 5));
    auto dweight64 = all_as<double>(dweight);
    add_rms_norm_weight_gradient(make_cpu(2), parts.data(), add, dweight.data(), rows, width);
    add_rms_norm_weight_gradient(make_cpu(1), parts64.data(), add, dweight64.data(), rows, width);
    expect_rounded(dweight, dweight64, slack * static_cast<double>(rows));
  }
}

TEST(AddRmsNormKernel, OfBfloat16IsThatOfDoubleRoundedOnce) {
  for (const auto& [rows, width] : {std::pair{1, 1}, std::pair{3, 7}, std::pair{70, 129}, std::pair{2, 1537}}) {
    compare<bf16>(rows, width);
    compare<float>(rows, width);
  }
}

}  // namespace
}  // namespace limbeck::kernels
