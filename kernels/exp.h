// The exponential function for loops that the compiler vectorises: no branch, no table, no call for float.
//
//     #pragma omp simd
//     for (i = 0; i < n; ++i) y[i] = exponential(x[i]);
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace limbeck::kernels {

/// e^x = fraction * 2^power, with the fraction in [0.7, 1.5]: Cody-Waite reduction to |r| <= ln(2)/2 and a polynomial
/// of degree 6 (coefficients of Cephes expf, S. Moshier). |x| of a thousand at most.
struct Exponential {
  float fraction;
  std::int32_t power;

  constexpr explicit Exponential(float x) {
    constexpr float shift = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
    const float shifted = x * 1.44269504088896341F + shift;
    const float n = shifted - shift;
    float r = x - n * 0.693359375F;
    r = r + n * 2.12194440e-4F;
    float p = 1.9875691500e-4F;
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    fraction = p * (r * r) + r + 1.0F;
    power = static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(shift));
  }
};

/// 2^power for a power from -127, which gives 0, to 127.
constexpr float power_of_two(std::int32_t power) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(power + 127) << 23U);
}

/// e^x within 2 units in the last place, also where the result is subnormal; 0 below, infinity above, NaN for NaN.
constexpr float exponential(float x) {
  x = x < -105.0F ? -105.0F : x;
  x = x > 89.0F ? 89.0F : x;
  const Exponential e(x);
  const std::int32_t half = e.power >> 1;  // in two factors, for powers from -151 to 128
  return e.fraction * power_of_two(half) * power_of_two(e.power - half);
}

/// The same for x from -88 to 87, in fewer operations; 0 where e^x is below 1.2e-38.
constexpr float exponential_in_range(float x) {
  const Exponential e(x);
  return e.fraction * power_of_two(e.power);
}

inline double exponential(double x) { return std::exp(x); }

/// 2^x for x below 127, within 2e-7 of it; 0 where it is below the normal numbers, NaN for NaN. Half the work of
/// `exponential`: no reduction by ln(2), no subnormals. A minimax polynomial of degree 5 over half an octave each way.
constexpr float power_of_2(float x) {
  constexpr float shift = 12582912.0F + 127;  // adding it rounds to an integer, which is an exponent in the low bits
  const float shifted = x + shift;
  const float r = x - (shifted - shift);
  float p = 1.3264724e-3F;
  p = p * r + 9.671513e-3F;
  p = p * r + 5.5507336e-2F;
  p = p * r + 2.4022242e-1F;
  p = p * r + 6.93147e-1F;
  p = p * r + 1.0F;
  const float y = p * std::bit_cast<float>(std::bit_cast<std::uint32_t>(shifted) << 23U);
  return x < -126.0F ? 0.0F : y;
}

inline double power_of_2(double x) { return std::exp2(x); }

}  // namespace limbeck::kernels
