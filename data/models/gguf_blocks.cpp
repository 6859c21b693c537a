#include "data/models/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "data/models/k_quants.h"
#include "kernels/block_values.h"
#include "kernels/blocks.h"
#include "kernels/half.h"

namespace limbeck::data {

using core::DType;

namespace {

constexpr int largest_block = 256;
constexpr int block = 32;  // of all formats that are written but K-quants

kernels::Blocks blocks_of(DType dtype, const std::byte* data) {
  const auto format = core::block_format(dtype);
  if (!format) core::fail("dequantize: dtype is {}, expected float32, float16, bfloat16 or a block format", dtype);
  return {*format, data};
}

void expand_range(const kernels::Blocks& blocks, std::int64_t first, std::int64_t count, float* out) {
  const std::int64_t size = kernels::size_of(blocks.format).elements;
  const auto part = [&](std::int64_t skip, std::int64_t take) {  // of the block that holds `first`
    std::array<float, largest_block> values;
    kernels::expand(blocks.from(first - skip), 1, values.data());
    out = std::copy_n(values.data() + skip, take, out);
    first += take;
    count -= take;
  };
  if (first % size != 0) part(first % size, std::min(size - first % size, count));
  const std::int64_t whole = count / size;
  kernels::expand(blocks.from(first), whole, out);
  out += whole * size;
  first += whole * size;
  count -= whole * size;
  if (count > 0) part(0, count);
}

template <class Stored, class Value>
void store(std::span<const float> values, std::byte* out, Value value) {
  for (const float x : values) {
    const Stored stored = value(x);
    std::memcpy(out, &stored, sizeof stored);
    out += sizeof stored;
  }
}

void store_q8_0(const float* values, std::byte* out) {
  float largest = 0;
  for (int i = 0; i < block; ++i) largest = std::max(largest, std::abs(values[i]));
  const float d = largest / 127;
  const std::uint16_t scale = kernels::half_from_float(d);
  const float inverse = 1 / d;  // not of the rounded scale
  std::memcpy(out, &scale, sizeof scale);
  for (int i = 0; i < block; ++i) {
    const float x = std::isfinite(inverse) ? values[i] * inverse : 0.0F;  // else all are 0, or d is 0 as a half
    const auto whole = static_cast<int>(x);
    const float rest = x - static_cast<float>(whole);
    out[2 + i] = static_cast<std::byte>(whole + (rest >= 0.5F ? 1 : 0) - (rest <= -0.5F ? 1 : 0));
  }
}

/// The largest integer of a block of 32 that is stored in `bits` bits.
template <int Bits>
constexpr int largest = (1 << Bits) - 1;

/// Four bits of each of 32 integers, and of five the fifth in front.
template <int Bits>
void pack(const std::array<unsigned, 32>& q, std::byte* out) {
  if constexpr (Bits == 5) {
    std::uint32_t fifth = 0;
    for (unsigned i = 0; i < 32; ++i) fifth |= (q[i] >> 4U) << i;
    std::memcpy(out, &fifth, sizeof fifth);
    out += sizeof fifth;
  }
  for (int i = 0; i < 16; ++i) out[i] = static_cast<std::byte>((q[i] & 15U) | (q[i + 16] & 15U) << 4U);
}

/// x = d (q - 2^(Bits-1)): the value of the largest magnitude is exact, but for the rounding of d.
template <int Bits>
void store_symmetric(const float* values, std::byte* out) {
  const float extreme =
      *std::max_element(values, values + 32, [](float a, float b) { return std::abs(a) < std::abs(b); });
  constexpr int middle = 1 << (Bits - 1);
  const float d = extreme / -middle;
  const float inverse = d == 0 || !std::isfinite(1 / d) ? 0 : 1 / d;
  const std::uint16_t scale = kernels::half_from_float(d);
  std::memcpy(out, &scale, sizeof scale);
  std::array<unsigned, 32> q{};
  for (int i = 0; i < 32; ++i)
    q[i] = static_cast<unsigned>(std::min(largest<Bits>, static_cast<int>(values[i] * inverse + (middle + 0.5F))));
  pack<Bits>(q, out + 2);
}

/// x = d q + m.
template <int Bits>
void store_from_minimum(const float* values, std::byte* out) {
  const auto [minimum, maximum] = std::minmax_element(values, values + 32);
  const float d = (*maximum - *minimum) / largest<Bits>;
  const float inverse = d == 0 || !std::isfinite(1 / d) ? 0 : 1 / d;
  const std::uint16_t halves[2] = {kernels::half_from_float(d), kernels::half_from_float(*minimum)};
  std::memcpy(out, halves, sizeof halves);
  std::array<unsigned, 32> q{};
  for (int i = 0; i < 32; ++i)
    q[i] = static_cast<unsigned>(std::min(largest<Bits>, static_cast<int>((values[i] - *minimum) * inverse + 0.5F)));
  pack<Bits>(q, out + 4);
}

/// The code of the nearest of E2M1's values, of which `x` is twice one without its sign; of two the even one.
unsigned e2m1_code(float x) {
  const std::array above{x > 0.5F, x >= 1.5F, x > 2.5F, x >= 3.5F, x > 5, x >= 7, x > 10};
  return static_cast<unsigned>(std::count(above.begin(), above.end(), true));
}

/// With the power of two that makes the largest one of E2M1's 4 to 6, or with the next, whichever is nearer: the first
/// would cut off what is above 6.
void store_mxfp4(const float* values, std::byte* out) {
  namespace formats = kernels::block_values;
  float largest_value = 0;
  for (int i = 0; i < block; ++i) largest_value = std::max(largest_value, std::abs(values[i]));
  constexpr int greatest = formats::mxfp4_greatest_scale;
  const int least = largest_value == 0 ? 0 : std::clamp(std::ilogb(largest_value) - 2 + 127, 0, greatest);
  double fewest = HUGE_VAL;
  for (int exponent = least; exponent <= std::min(least + 1, greatest); ++exponent) {
    std::byte bytes[17] = {static_cast<std::byte>(exponent)};
    const float unit = formats::e8m0_half_at(reinterpret_cast<const formats::Byte*>(bytes));  // of twice E2M1's values
    std::array<unsigned, block> codes{};
    for (std::size_t i = 0; i < block; ++i)
      codes[i] = e2m1_code(std::abs(values[i]) / unit) | (std::signbit(values[i]) ? 8U : 0U);
    for (std::size_t i = 0; i < 16; ++i) bytes[1 + i] = static_cast<std::byte>(codes[i] | codes[16 + i] << 4U);
    std::array<float, block> back{};
    kernels::expand({kernels::BlockFormat::MXFP4, bytes}, 1, back.data());
    double error = 0;
    for (std::size_t i = 0; i < block; ++i) error += std::pow(static_cast<double>(values[i]) - back[i], 2);
    if (error >= fewest) continue;
    fewest = error;
    std::memcpy(out, bytes, sizeof bytes);
  }
}

/// How a block of 32 values is stored; null where the dtype has none.
void (*store_of(DType dtype))(const float*, std::byte*) {
  switch (dtype) {
    case DType::Q8_0:
      return store_q8_0;
    case DType::Q4_0:
      return store_symmetric<4>;
    case DType::Q5_0:
      return store_symmetric<5>;
    case DType::Q5_1:
      return store_from_minimum<5>;
    case DType::MXFP4:
      return store_mxfp4;
    default:
      return nullptr;
  }
}

/// Smaller magnitudes are finite when they are stored.
float limit_of(DType dtype) {
  if (dtype == DType::F32) return HUGE_VALF;
  if (dtype == DType::BF16) return 0x1.ffp127F;
  if (dtype == DType::MXFP4) return 0x1.8p127F;
  return dtype == DType::Q8_0 ? 65520.0F * 127 : 65520.0F;
}

}  // namespace

void dequantize(DType dtype, const std::byte* data, std::int64_t first, std::int64_t count, float* out) {
  if (count <= 0) return;
  if (dtype == DType::F32)
    std::memcpy(out, data + first * 4, static_cast<std::size_t>(count) * 4);
  else if (dtype == DType::BF16)
    for (std::int64_t i = 0; i < count; ++i) {
      core::bf16 stored;
      std::memcpy(&stored, data + (first + i) * 2, sizeof stored);  // may not be aligned
      out[i] = static_cast<float>(stored);
    }
  else
    expand_range(blocks_of(dtype, data), first, count, out);
}

void quantize(DType dtype, std::span<const float> values, std::byte* out) {
  if (values.empty()) return;
  const float limit = limit_of(dtype);
  const auto bad = std::find_if(values.begin(), values.end(), [&](float x) { return !(std::abs(x) < limit); });
  if (bad != values.end()) core::fail("a value is {}, which {} cannot hold", *bad, dtype);
  switch (dtype) {
    case DType::F32:
      std::memcpy(out, values.data(), values.size_bytes());
      return;
    case DType::F16:
      return store<std::uint16_t>(values, out, kernels::half_from_float);
    case DType::BF16:
      return store<core::bf16>(values, out, [](float x) { return core::bf16(x); });
    case DType::Q4_K:
    case DType::Q5_K:
    case DType::Q6_K:
      return quantize_k(dtype, values, out);
    default:
      break;
  }
  void (*const store_block)(const float*, std::byte*) = store_of(dtype);
  if (store_block == nullptr)
    core::fail(
        "quantize: dtype is {}, expected float32, float16, bfloat16, Q8_0, Q5_1, Q5_0, Q4_0, Q6_K, Q5_K, Q4_K or MXFP4",
        dtype);
  core::bytes_of(dtype, std::ssize(values));  // throws unless they are whole blocks
  for (std::size_t i = 0; i < values.size(); i += block, out += core::info(dtype).block_bytes)
    store_block(values.data() + i, out);
}

}  // namespace limbeck::data
