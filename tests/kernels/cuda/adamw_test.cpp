#include "kernels/adamw.h"

#include <limits>
#include <optional>

#include "kernels/block8.h"
#include "kernels/muon.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

constexpr double infinity = std::numeric_limits<double>::infinity();

/// A factor that both devices have; none: null.
struct Factor {
  explicit Factor(std::optional<double> factor) {
    if (!factor) return;
    here.push_back(*factor);
    there.emplace(here);
  }
  const double* on_cpu() const { return here.empty() ? nullptr : here.data(); }
  const double* on_gpu() { return there ? there->data() : nullptr; }
  std::vector<double> here;
  std::optional<OnGpu<double>> there;
};
const std::vector<std::optional<double>> factors = {std::nullopt, 0.25, infinity};

template <class T>
const std::vector<AdamWFactors<T>> adamw_factors{{T(0.99), T(0.1), T(0.95), T(0.05), T(0.01), T(3), T(1e-8)}};
template <class T>
const std::vector<DecayedStep<T>> decayed{{T(0.99), T(0.02)}};

template <class T>
class CudaOptimizers : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CudaOptimizers, Types);

TYPED_TEST(CudaOptimizers, AdamWStepsAsOnTheCpu) {
  using T = TypeParam;
  for (const std::int64_t n : {0, 1, 9, 256, 4099})
    for (const auto& value : factors)
      for (const bool with_gradient : {true, false}) {
        Factor factor(value);
        const auto dx = random_values<T>(n, 1);
        auto x = random_values<T>(n, 2), mean = random_values<T>(n, 3), square = random_values<T>(n, 4);
        for (T& s : square) s *= s;
        std::vector<bf16> rounded(x.size());
        OnGpu<T> dx_there(dx), x_there(x, n == 256 ? 1 : 0), mean_there(mean), square_there(square);
        OnGpu<bf16> rounded_there(rounded);
        OnGpu<AdamWFactors<T>> factors_there(adamw_factors<T>);
        adamw(cpu(), adamw_factors<T>.data(), factor.on_cpu(), with_gradient ? dx.data() : nullptr, x.data(),
              mean.data(), square.data(), n, rounded.data());
        adamw(gpu(), factors_there.data(), factor.on_gpu(), with_gradient ? dx_there.data() : nullptr, x_there.data(),
              mean_there.data(), square_there.data(), n, rounded_there.data());
        expect_close(x_there.values(), x);
        expect_close(mean_there.values(), mean);
        expect_close(square_there.values(), square);
        expect_close(rounded_there.values(), rounded);
      }
}

TYPED_TEST(CudaOptimizers, MuonStepsAsOnTheCpu) {
  using T = TypeParam;
  for (const std::int64_t n : {0, 1, 9, 256, 4099})
    for (const auto& value : factors)
      for (const bool with_gradient : {true, false}) {
        Factor factor(value);
        const auto dx = random_values<T>(n, 1);
        auto buffer = random_values<T>(n, 2), update = random_values<T>(n, 3), x = random_values<T>(n, 4);
        std::vector<bf16> rounded(x.size());
        const std::vector<double> squares{17.0};
        OnGpu<T> dx_there(dx), buffer_there(buffer), update_there(update), x_there(x);
        OnGpu<bf16> rounded_there(rounded);
        OnGpu<double> squares_there(squares);
        OnGpu<DecayedStep<T>> decayed_there(decayed<T>);
        nesterov(cpu(), T(0.95), factor.on_cpu(), with_gradient ? dx.data() : nullptr, buffer.data(), update.data(), n);
        normalise(cpu(), squares.data(), 1e-7, update.data(), n);
        decayed_step(cpu(), decayed<T>.data(), factor.on_cpu(), update.data(), x.data(), n, rounded.data());
        nesterov(gpu(), T(0.95), factor.on_gpu(), with_gradient ? dx_there.data() : nullptr, buffer_there.data(),
                 update_there.data(), n);
        normalise(gpu(), squares_there.data(), 1e-7, update_there.data(), n);
        decayed_step(gpu(), decayed_there.data(), factor.on_gpu(), update_there.data(), x_there.data(), n,
                     rounded_there.data());
        expect_close(buffer_there.values(), buffer);
        expect_close(update_there.values(), update);
        expect_close(x_there.values(), x);
        expect_close(rounded_there.values(), rounded);
      }
}

TYPED_TEST(CudaOptimizers, ASmallNormIsNotDividedBy) {
  using T = TypeParam;
  OnGpu<double> squares(std::vector<double>{0.0});
  OnGpu<T> x(std::vector<T>{T(2), T(-1)});
  normalise(gpu(), squares.data(), 0.5, x.data(), 2);
  expect_same(x.values(), std::vector<T>{T(4), T(-2)});
}

}  // namespace
}  // namespace limbeck::kernels
