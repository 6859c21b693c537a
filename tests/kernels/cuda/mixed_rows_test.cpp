#include "kernels/mixed_rows.h"

#include "tests/kernels/cuda/on_gpu.h"
#include "tests/support/mixed_case.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
void expect_the_mean_of_probabilities(double tolerance) {
  for (const double temperature : {1.0, 0.5, 3.0}) {
    const MixedCase<T> c(temperature);
    OnGpu<T> mixed(static_cast<std::int64_t>(c.size()));
    OnGpu<std::int32_t> targets(c.targets);
    for (std::size_t k = 0; k < c.logits.size(); ++k) {
      OnGpu<T> logits(c.logits[k]);
      OnGpu<double> maxima(c.maxima[k]), sums(c.sums[k]), shares(c.shares[k]);
      mix_rows(gpu(), c.rows(logits.data(), targets.data()), maxima.data(), sums.data(), shares.data(), k == 0,
               mixed.data());
      logits.values();  // when the kernel has run
    }
    c.expect(mixed.values(), tolerance);
  }
}

TEST(CudaMixedRows, AreTheMeanOfProbabilities) {
  expect_the_mean_of_probabilities<double>(1e-12);
  expect_the_mean_of_probabilities<float>(4e-6);
}

}  // namespace
}  // namespace limbeck::kernels
