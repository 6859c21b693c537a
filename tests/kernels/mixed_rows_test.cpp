#include "kernels/mixed_rows.h"

#include "tests/support/mixed_case.h"

namespace limbeck::kernels {
namespace {

using testing::MixedCase;

template <class T>
void expect_the_mean_of_probabilities(double tolerance) {
  for (const double temperature : {1.0, 0.5, 3.0}) {
    const MixedCase<T> c(temperature);
    for (const int threads : {1, 3}) {
      std::vector<T> mixed(c.size(), T(77));
      for (std::size_t k = 0; k < c.logits.size(); ++k)
        mix_rows(make_cpu(threads), c.rows(c.logits[k].data(), c.targets.data()), c.maxima[k].data(), c.sums[k].data(),
                 c.shares[k].data(), k == 0, mixed.data());
      c.expect(mixed, tolerance);
    }
  }
}

TEST(MixedRows, AreTheMeanOfProbabilities) {
  expect_the_mean_of_probabilities<double>(1e-12);
  expect_the_mean_of_probabilities<float>(4e-6);
}

}  // namespace
}  // namespace limbeck::kernels
