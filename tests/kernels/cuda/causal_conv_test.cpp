#include "kernels/causal_conv.h"

#include "tests/kernels/cuda/sequences.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class T>
class CudaCausalConv : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaCausalConv, Types);

TYPED_TEST(CudaCausalConv, IsThatOfTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  for (const std::int64_t taps : {1, 4, 8})
    for (const std::int64_t channels : {0, 3, 300}) {
      const bool with_bias = taps != 8;
      BothSequences sequences({{}, {1, 9}, {40}, {2, 2}});
      const std::int64_t n = sequences.tokens() * channels;
      const auto x = random_values<T>(n, 1), dy = random_values<T>(n, 2);
      const auto weight = random_values<A>(channels * taps, 3), bias = random_values<A>(channels, 4);
      std::vector<T> y(x.size()), dx(x.size());
      std::vector<A> dweight(weight.size()), dbias(bias.size());
      OnGpu<T> x_there(x), dy_there(dy), y_there(n), dx_there(n);
      OnGpu<A> weight_there(weight), bias_there(bias), dweight_there(channels * taps), dbias_there(channels);
      const A *own = with_bias ? bias.data() : nullptr, *there = with_bias ? bias_there.data() : nullptr;
      causal_conv<Cpu, T>(cpu(), sequences.here(), x.data(), weight.data(), own, nullptr, y.data(), channels, taps);
      causal_conv<Cuda, T>(gpu(), sequences.there(), x_there.data(), weight_there.data(), there, nullptr,
                           y_there.data(), channels, taps);
      expect_close(y_there.values(), y, 10);
      causal_conv_gradient(cpu(), sequences.here(), x.data(), weight.data(), own, dy.data(), dx.data(), dweight.data(),
                           dbias.data(), channels, taps);
      causal_conv_gradient(gpu(), sequences.there(), x_there.data(), weight_there.data(), there, dy_there.data(),
                           dx_there.data(), dweight_there.data(), dbias_there.data(), channels, taps);
      expect_close(dx_there.values(), dx, 20);
      expect_close(dweight_there.values(), dweight, 60);
      expect_close(dbias_there.values(), dbias, 60);
    }
}

TYPED_TEST(CudaCausalConv, GradientsReachStates) {
  using T = TypeParam;
  using A = Acc<T>;
  constexpr std::int64_t channels = 70, taps = 4, slots = 6;
  BothSequences sequences({{1}, {}, {2, 2}, {9}, {2}}, {4, 0, 5, 1, 3});
  const std::int64_t n = sequences.tokens() * channels, of_states = slots * (taps - 1) * channels;
  const auto x = random_values<T>(n, 1), dy = random_values<T>(n, 2), states = random_values<T>(of_states, 3);
  const auto weight = random_values<A>(channels * taps, 4);
  std::vector<T> dx(x.size()), dstates(states.size());
  std::vector<A> dweight(weight.size());
  OnGpu<T> x_there(x), dy_there(dy), states_there(states), dx_there(n), dstates_there(dstates);
  OnGpu<A> weight_there(weight), dweight_there(channels * taps);
  causal_conv_gradient<Cpu, T>(cpu(), sequences.here(), x.data(), weight.data(), nullptr, dy.data(), dx.data(),
                               dweight.data(), nullptr, channels, taps, states.data(), dstates.data());
  causal_conv_gradient<Cuda, T>(gpu(), sequences.there(), x_there.data(), weight_there.data(), nullptr,
                                dy_there.data(), dx_there.data(), dweight_there.data(), nullptr, channels, taps,
                                states_there.data(), dstates_there.data());
  expect_close(dx_there.values(), dx, 20);
  expect_close(dweight_there.values(), dweight, 60);
  expect_close(dstates_there.values(), dstates, 20);
}

TYPED_TEST(CudaCausalConv, GoesOnFromStates) {
  using T = TypeParam;
  using A = Acc<T>;
  constexpr std::int64_t channels = 70, taps = 4, slots = 6;
  BothSequences sequences({{1}, {}, {2, 2}, {9}, {2}}, {4, 0, 5, 1, 3});
  const auto x = random_values<T>(sequences.tokens() * channels, 1);
  const auto weight = random_values<A>(channels * taps, 2);
  auto states = random_values<T>(slots * (taps - 1) * channels, 3);
  std::vector<T> y(x.size());
  OnGpu<T> x_there(x), states_there(states), y_there(static_cast<std::int64_t>(x.size()));
  OnGpu<A> weight_there(weight);
  causal_conv<Cpu, T>(cpu(), sequences.here(), x.data(), weight.data(), nullptr, states.data(), y.data(), channels,
                      taps);
  causal_conv<Cuda, T>(gpu(), sequences.there(), x_there.data(), weight_there.data(), nullptr, states_there.data(),
                       y_there.data(), channels, taps);
  expect_close(y_there.values(), y, 10);
  expect_same(states_there.values(), states);
}

}  // namespace
}  // namespace limbeck::kernels
