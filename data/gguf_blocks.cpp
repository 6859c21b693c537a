#include "data/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace limbeck::data {

using core::DType;

namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));  // blocks are not aligned
  return value;
}

constexpr int block_size = 32;
using Block = std::array<float, block_size>;

void expand_q4_1(const std::byte* block, float* out) {
  const float d = float_from_half(load<std::uint16_t>(block));
  const float m = float_from_half(load<std::uint16_t>(block + 2));
  for (int i = 0; i < block_size / 2; ++i) {
    const auto pair = std::to_integer<int>(block[4 + i]);
    out[i] = d * static_cast<float>(pair & 15) + m;
    out[i + block_size / 2] = d * static_cast<float>(pair >> 4) + m;
  }
}

void expand_q8_0(const std::byte* block, float* out) {
  const float d = float_from_half(load<std::uint16_t>(block));
  for (int i = 0; i < block_size; ++i) out[i] = d * static_cast<float>(load<std::int8_t>(block + 2 + i));
}

template <class Expand>
void expand_range(const std::byte* data, std::int64_t block_bytes, std::int64_t first, std::int64_t count, float* out,
                  Expand expand) {
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t at = first + done;
    const std::byte* block = data + at / block_size * block_bytes;
    const std::int64_t skip = at % block_size;
    const std::int64_t take = std::min<std::int64_t>(block_size - skip, count - done);
    if (take == block_size) {
      expand(block, out + done);
    } else {
      Block values;
      expand(block, values.data());
      std::copy_n(values.data() + skip, take, out + done);
    }
    done += take;
  }
}

}  // namespace

float float_from_half(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000U) << 16U;
  const std::uint32_t exponent = (bits >> 10U) & 31U;
  const std::uint32_t mantissa = bits & 0x3ffU;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t widened = exponent == 31 ? 255 : exponent + 127 - 15;
  return std::bit_cast<float>(sign | (widened << 23U) | (mantissa << 13U));
}

void dequantize(DType dtype, const std::byte* data, std::int64_t first, std::int64_t count, float* out) {
  if (count <= 0) return;
  switch (dtype) {
    case DType::F32:
      std::memcpy(out, data + first * 4, static_cast<std::size_t>(count) * 4);
      return;
    case DType::F16:
      for (std::int64_t i = 0; i < count; ++i) out[i] = float_from_half(load<std::uint16_t>(data + (first + i) * 2));
      return;
    case DType::BF16:
      for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(load<core::bf16>(data + (first + i) * 2));
      return;
    case DType::Q4_1:
      expand_range(data, core::info(dtype).block_bytes, first, count, out, expand_q4_1);
      return;
    case DType::Q8_0:
      expand_range(data, core::info(dtype).block_bytes, first, count, out, expand_q8_0);
      return;
    default:
      core::fail("dequantize: dtype is {}, expected float32, float16, bfloat16, Q4_1 or Q8_0", dtype);
  }
}

}  // namespace limbeck::data
