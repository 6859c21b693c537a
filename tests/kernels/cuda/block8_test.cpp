#include "kernels/block8.h"

#include <limits>

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

/// Values of every size, a block of zeros, one of tiny values, ties, and what is not finite.
std::vector<float> values_of(std::int64_t n, Block8Map map) {
  auto x = random_values<float>(n, 1);
  const auto power = random_indices(n, 2, -28, 1);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = std::ldexp(x[i], power[i]);
    if (map == Block8Map::Unsigned) x[i] = std::abs(x[i]);
    if (i >= 256 && i < 512) x[i] = 0;
    if (i >= 512 && i < 768) x[i] *= 1e-35F;
  }
  const auto& fractions = block8_fractions(map);
  for (std::size_t i = 768; i < 1024 && i < x.size(); ++i) x[i] = fractions[i - 768] * 3;
  for (std::size_t i = 1024; i < 1279 && i < x.size(); ++i)
    x[i] = i == 1024 ? 1 : (fractions[i - 1024] + fractions[i - 1023]) / 2;
  if (x.size() > 1500) x[1500] = std::numeric_limits<float>::quiet_NaN();
  if (x.size() > 1800) x[1800] = std::numeric_limits<float>::infinity();
  return x;
}

struct Encoded {
  explicit Encoded(std::int64_t n)
      : codes(static_cast<std::size_t>(n)), scales(static_cast<std::size_t>(block8_count(n))) {}
  Block8 blocks() { return {codes.data(), scales.data()}; }
  std::vector<std::uint8_t> codes;
  std::vector<float> scales;
};

struct EncodedThere {
  explicit EncodedThere(const Encoded& from) : codes(from.codes), scales(from.scales) {}
  Block8 blocks() { return {codes.data(), scales.data()}; }
  OnGpu<std::uint8_t> codes;
  OnGpu<float> scales;
};

const std::vector<std::int64_t> sizes = {0, 1, 255, 256, 300, 2304, 2305};

TEST(CudaBlock8, CodesAndValuesAreThoseOfTheCpu) {
  for (const Block8Map map : {Block8Map::Signed, Block8Map::Unsigned})
    for (const std::int64_t n : sizes)
      for (const std::size_t misplaced : {0, 1}) {
        const auto x = values_of(n, map);
        Encoded here(n);
        EncodedThere there(here);
        OnGpu<float> x_there(x, misplaced), decoded_there(n, misplaced);
        block8_encode(cpu(), map, x.data(), n, here.blocks());
        block8_encode(gpu(), map, x_there.data(), n, there.blocks());
        expect_same(there.scales.values(), here.scales);
        expect_same(there.codes.values(), here.codes);
        std::vector<float> decoded(x.size());
        block8_decode(cpu(), map, here.blocks(), n, decoded.data());
        block8_decode(gpu(), map, there.blocks(), n, decoded_there.data());
        expect_same(decoded_there.values(), decoded);
      }
}

TEST(CudaBlock8, AdamWStepsAsOnTheCpu) {
  const std::vector<AdamWFactors<float>> factors{{0.99F, 0.1F, 0.95F, 0.05F, 0.01F, 3, 1e-3F}};
  OnGpu<AdamWFactors<float>> factors_there(factors);
  for (const std::int64_t n : sizes)
    for (const bool with_gradient : {true, false}) {
      const auto dx = random_values<float>(n, 1);
      auto x = random_values<float>(n, 2);
      auto m = random_values<float>(n, 3), v = random_values<float>(n, 4);
      for (float& value : v) value *= value;
      Encoded mean(n), square(n);
      block8_encode(cpu(), Block8Map::Signed, m.data(), n, mean.blocks());
      block8_encode(cpu(), Block8Map::Unsigned, v.data(), n, square.blocks());
      EncodedThere mean_there(mean), square_there(square);
      std::vector<bf16> rounded(x.size());
      const std::vector<double> factor{0.5};
      OnGpu<double> factor_there(factor);
      OnGpu<float> dx_there(dx), x_there(x);
      OnGpu<bf16> rounded_there(n);
      adamw_block8(cpu(), factors.data(), factor.data(), with_gradient ? dx.data() : nullptr, x.data(), mean.blocks(),
                   square.blocks(), n, rounded.data());
      adamw_block8(gpu(), factors_there.data(), factor_there.data(), with_gradient ? dx_there.data() : nullptr,
                   x_there.data(), mean_there.blocks(), square_there.blocks(), n, rounded_there.data());
      expect_close(x_there.values(), x);
      expect_close(rounded_there.values(), rounded);
      expect_close(mean_there.scales.values(), mean.scales);
      expect_close(square_there.scales.values(), square.scales);
      // A moment beside a midpoint may get the next code.
      const auto expect_next = [](const std::vector<std::uint8_t>& codes, const std::vector<std::uint8_t>& expected) {
        int others = 0;
        for (std::size_t i = 0; i < codes.size(); ++i) {
          EXPECT_LE(std::abs(int{codes[i]} - int{expected[i]}), 1) << i;
          others += codes[i] != expected[i] ? 1 : 0;
        }
        EXPECT_LE(others, static_cast<int>(codes.size() / 100));
      };
      expect_next(mean_there.codes.values(), mean.codes);
      expect_next(square_there.codes.values(), square.codes);
    }
}

TEST(CudaBlock8, AStepOfAnInfiniteFactorChangesNothing) {
  const std::int64_t n = 300;
  const auto x = random_values<float>(n, 1);
  Encoded moments(n);
  EncodedThere mean(moments), square(moments);
  OnGpu<float> there(x), dx(x);
  OnGpu<double> factor(std::vector<double>{std::numeric_limits<double>::quiet_NaN()});
  OnGpu<AdamWFactors<float>> factors(1);
  adamw_block8(gpu(), factors.data(), factor.data(), dx.data(), there.data(), mean.blocks(), square.blocks(), n);
  expect_same(there.values(), x);
  expect_same(mean.codes.values(), moments.codes);
}

}  // namespace
}  // namespace limbeck::kernels
