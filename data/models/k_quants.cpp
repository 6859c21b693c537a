#include "data/models/k_quants.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/error.h"
#include "kernels/half.h"

namespace limbeck::data {

namespace {

constexpr int super = 256;
constexpr int lanes = 8;  // sums run side by side, which vector instructions do
constexpr float least = 1e-15F;

int rounded(float x) { return static_cast<int>(std::lrint(x)); }

float sum_of(const std::array<float, lanes>& sums) {
  return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

std::uint16_t as_half(float x) { return kernels::half_from_float(x); }

/// x = scale q + minimum, minimum <= 0.
struct Line {
  float scale = 0, minimum = 0;
};

/// Sums over a run, weighted.
struct Moments {
  float q = 0, qq = 0, qx = 0;
};

template <int Count>
Moments moments_of(const float* x, const float* weight, const std::array<float, Count>& q) {
  std::array<float, lanes> sum_q{}, sum_qq{}, sum_qx{};
  for (int i = 0; i < Count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) {
      const float wq = weight[i + lane] * q[i + lane];
      sum_q[lane] += wq;
      sum_qq[lane] += wq * q[i + lane];
      sum_qx[lane] += wq * x[i + lane];
    }
  return {sum_of(sum_q), sum_of(sum_qq), sum_of(sum_qx)};
}

template <int Count>
float error_of(const float* x, const float* weight, const std::array<float, Count>& q, const Line& line) {
  std::array<float, lanes> sums{};
  for (int i = 0; i < Count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) {
      const float d = line.scale * q[i + lane] + line.minimum - x[i + lane];
      sums[lane] += weight[i + lane] * d * d;
    }
  return sum_of(sums);
}

/// How spacings are searched: from (largest + first) / range on, in `steps` steps of a tenth.
struct Search {
  int largest;  // integer
  float first;
  int steps;
};
constexpr Search search_q4{15, -1.0F, 20}, search_q5{31, -0.5F, 15};

Line line_of(const float* x, const Search& search) {
  constexpr int count = 32;
  std::array<float, count> weight{}, q{};
  float squares = 0;
  for (int i = 0; i < count; ++i) squares += x[i] * x[i];
  const float typical = std::sqrt(squares / count);
  float sum_w = 0, sum_x = 0;
  for (int i = 0; i < count; ++i) {
    weight[i] = typical + std::abs(x[i]);
    sum_w += weight[i];
    sum_x += weight[i] * x[i];
  }
  const float minimum = std::min(*std::min_element(x, x + count), 0.0F), maximum = *std::max_element(x, x + count);
  const auto largest = static_cast<float>(search.largest);
  if (maximum <= minimum) return {0, minimum};
  // From the best minimum so far on.
  float base = minimum;
  const auto round_by = [&](float per_unit) {
    for (int i = 0; i < count; ++i) q[i] = std::clamp(std::nearbyint(per_unit * (x[i] - base)), 0.0F, largest);
  };
  Line best{(maximum - minimum) / largest, minimum};
  round_by(largest / (maximum - minimum));
  float best_error = error_of<count>(x, weight.data(), q, best);
  for (int step = 0; step <= search.steps; ++step) {
    round_by((search.first + 0.1F * static_cast<float>(step) + largest) / (maximum - base));
    const Moments m = moments_of<count>(x, weight.data(), q);
    const float determinant = sum_w * m.qq - m.q * m.q;
    if (determinant <= 0) continue;
    Line line{(sum_w * m.qx - sum_x * m.q) / determinant, (m.qq * sum_x - m.q * m.qx) / determinant};
    if (line.minimum > 0) line = {m.qx / m.qq, 0};
    const float error = error_of<count>(x, weight.data(), q, line);
    if (error < best_error) {
      best_error = error;
      best = line;
      base = line.minimum;
    }
  }
  return best;
}

/// Scales and minima of eight runs, 6 bits each, as Q4_K and Q5_K pack them.
void pack_lines(const std::array<std::uint8_t, 8>& scales, const std::array<std::uint8_t, 8>& minima,
                std::uint8_t* out) {
  for (int run = 0; run < 4; ++run) {
    out[run] = static_cast<std::uint8_t>(scales[run] | (scales[run + 4] >> 4U) << 6U);
    out[run + 4] = static_cast<std::uint8_t>(minima[run] | (minima[run + 4] >> 4U) << 6U);
    out[run + 8] = static_cast<std::uint8_t>((scales[run + 4] & 15U) | (minima[run + 4] & 15U) << 4U);
  }
}

/// Writes d, dmin and the packed lines (16 bytes), and gives the integers.
std::array<std::uint8_t, super> lined(const float* x, const Search& search, std::uint8_t* out) {
  std::array<Line, 8> lines;
  float scale = 0, depth = 0;
  for (int run = 0; run < 8; ++run) {
    lines[run] = line_of(x + 32 * run, search);
    scale = std::max(scale, lines[run].scale);
    depth = std::max(depth, -lines[run].minimum);
  }
  constexpr int most = 63;
  const std::uint16_t halves[2] = {as_half(scale / most), as_half(depth / most)};
  std::memcpy(out, halves, sizeof halves);
  std::array<std::uint8_t, 8> scales{}, minima{};
  for (int run = 0; run < 8; ++run) {
    if (scale > 0)
      scales[run] = static_cast<std::uint8_t>(std::clamp(rounded(most / scale * lines[run].scale), 0, most));
    if (depth > 0)
      minima[run] = static_cast<std::uint8_t>(std::clamp(rounded(most / depth * -lines[run].minimum), 0, most));
  }
  pack_lines(scales, minima, out + 4);
  std::array<std::uint8_t, super> q{};
  for (int run = 0; run < 8; ++run) {
    const float d = kernels::float_from_half(halves[0]) * scales[run];
    const float m = kernels::float_from_half(halves[1]) * minima[run];
    if (d == 0) continue;
    for (int i = 32 * run; i < 32 * (run + 1); ++i)
      q[i] = static_cast<std::uint8_t>(std::clamp(rounded((x[i] + m) / d), 0, search.largest));
  }
  return q;
}

void store_q4_k(const float* x, std::uint8_t* out) {
  const auto q = lined(x, search_q4, out);
  std::uint8_t* low = out + 16;
  for (int first = 0; first < super; first += 64, low += 32)
    for (int i = 0; i < 32; ++i) low[i] = static_cast<std::uint8_t>(q[first + i] | q[first + 32 + i] << 4U);
}

void store_q5_k(const float* x, std::uint8_t* out) {
  const auto q = lined(x, search_q5, out);
  std::uint8_t *high = out + 16, *low = out + 48;
  std::fill_n(high, 32, std::uint8_t{0});
  for (int pair = 0; pair < 4; ++pair, low += 32)
    for (int i = 0; i < 32; ++i) {
      const unsigned a = q[64 * pair + i], b = q[64 * pair + 32 + i];
      low[i] = static_cast<std::uint8_t>((a & 15U) | (b & 15U) << 4U);
      high[i] = static_cast<std::uint8_t>(high[i] | (a >> 4U) << (2 * pair) | (b >> 4U) << (2 * pair + 1));
    }
}

/// x = scale q with q of -32 to 31, of 16 values; those with large magnitudes count more. The sums are in the values'
/// order, as ggml's: where all are the same, spacings differ by the rounding of sums alone.
float scale_of(const float* x) {
  constexpr int count = 16;
  constexpr float largest = 32;
  const float extreme = *std::max_element(x, x + count, [](float a, float b) { return std::abs(a) < std::abs(b); });
  if (std::abs(extreme) < least) return 0;
  float scale = 0;
  float gain = 0;  // by which the error is less than without this run
  const auto attempt = [&](float spacings) {
    float qx = 0, qq = 0;
    for (int i = 0; i < count; ++i) {
      const float q = std::clamp(std::nearbyint(-spacings / extreme * x[i]), -largest, largest - 1);
      const float weight = x[i] * x[i];
      qx += weight * x[i] * q;
      qq += weight * q * q;
    }
    if (qq <= 0 || qx * qx <= gain * qq) return;
    scale = qx / qq;
    gain = scale * qx;
  };
  attempt(largest);
  for (int step = -9; step <= 9; ++step)
    if (step != 0) attempt(largest + 0.1F * static_cast<float>(step));
  return scale;
}

void store_q6_k(const float* x, std::uint8_t* out) {
  std::array<float, 16> scales{};
  for (int run = 0; run < 16; ++run) scales[run] = scale_of(x + 16 * run);
  const float extreme =
      *std::max_element(scales.begin(), scales.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
  std::memset(out, 0, 210);
  if (std::abs(extreme) < least) return;
  const std::uint16_t d = as_half(extreme / -128);
  std::memcpy(out + 208, &d, sizeof d);
  std::array<std::uint8_t, super> q{};
  for (int run = 0; run < 16; ++run) {
    const int eighth = std::min(127, rounded(-128 / extreme * scales[run]));
    out[192 + run] = static_cast<std::uint8_t>(static_cast<std::int8_t>(eighth));
    const float own = kernels::float_from_half(d) * static_cast<float>(eighth);
    for (int i = 16 * run; i < 16 * (run + 1); ++i)
      q[i] = static_cast<std::uint8_t>(32 + (own == 0 ? 0 : std::clamp(rounded(x[i] / own), -32, 31)));
  }
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* from = q.data() + 128 * half;
    std::uint8_t *low = out + 64 * half, *high = out + 128 + 32 * half;
    for (int i = 0; i < 32; ++i) {
      const unsigned a = from[i], b = from[i + 32], c = from[i + 64], e = from[i + 96];
      low[i] = static_cast<std::uint8_t>((a & 15U) | (c & 15U) << 4U);
      low[i + 32] = static_cast<std::uint8_t>((b & 15U) | (e & 15U) << 4U);
      high[i] = static_cast<std::uint8_t>(a >> 4U | (b >> 4U) << 2U | (c >> 4U) << 4U | (e >> 4U) << 6U);
    }
  }
}

}  // namespace

void quantize_k(core::DType dtype, std::span<const float> values, std::byte* out) {
  core::bytes_of(dtype, std::ssize(values));  // throws unless they are whole super-blocks
  void (*store)(const float*, std::uint8_t*) = nullptr;
  if (dtype == core::DType::Q4_K) store = store_q4_k;
  if (dtype == core::DType::Q5_K) store = store_q5_k;
  if (dtype == core::DType::Q6_K) store = store_q6_k;
  if (store == nullptr) core::fail("quantize: dtype is {}, expected Q4_K, Q5_K or Q6_K", dtype);
  for (std::size_t i = 0; i < values.size(); i += super, out += core::info(dtype).block_bytes)
    store(values.data() + i, reinterpret_cast<std::uint8_t*>(out));
}

}  // namespace limbeck::data
