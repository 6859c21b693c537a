#include "data/models/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "data/models/gguf_expand.h"

namespace limbeck::data {

using core::DType;
using expand::Byte;

namespace {

constexpr int largest_block = 256;
constexpr int q8_block = 32;

/// Writes the values of one block.
using Expand = void (*)(const Byte* block, float* out);

Expand expand_of(DType dtype) {
  switch (dtype) {
    case DType::Q4_0:
      return expand::q4_0;
    case DType::Q4_1:
      return expand::q4_1;
    case DType::Q5_0:
      return expand::q5_0;
    case DType::Q5_1:
      return expand::q5_1;
    case DType::Q8_0:
      return expand::q8_0;
    case DType::Q2_K:
      return expand::q2_k;
    case DType::Q3_K:
      return expand::q3_k;
    case DType::Q4_K:
      return expand::q4_k;
    case DType::Q5_K:
      return expand::q5_k;
    case DType::Q6_K:
      return expand::q6_k;
    case DType::IQ4_NL:
      return expand::iq4_nl;
    case DType::IQ4_XS:
      return expand::iq4_xs;
    default:
      core::fail("dequantize: dtype is {}, expected float32, float16, bfloat16 or a block format", dtype);
  }
}

void expand_range(DType dtype, const Byte* data, std::int64_t first, std::int64_t count, float* out) {
  const Expand expand_block = expand_of(dtype);
  const auto& format = core::info(dtype);
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t at = first + done;
    const Byte* block = data + at / format.block_elements * format.block_bytes;
    const std::int64_t skip = at % format.block_elements;
    const std::int64_t take = std::min(format.block_elements - skip, count - done);
    if (take == format.block_elements) {
      expand_block(block, out + done);
    } else {
      std::array<float, largest_block> values;
      expand_block(block, values.data());
      std::copy_n(values.data() + skip, take, out + done);
    }
    done += take;
  }
}

template <class Stored, class Value>
void convert_range(const std::byte* data, std::int64_t count, float* out, Value value) {
  for (std::int64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, data + i * static_cast<std::int64_t>(sizeof stored), sizeof stored);  // may not be aligned
    out[i] = value(stored);
  }
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
  for (int i = 0; i < q8_block; ++i) largest = std::max(largest, std::abs(values[i]));
  const float d = largest / 127;
  const std::uint16_t scale = half_from_float(d);
  const float inverse = 1 / d;  // not of the rounded scale
  std::memcpy(out, &scale, sizeof scale);
  for (int i = 0; i < q8_block; ++i) {
    const float x = std::isfinite(inverse) ? values[i] * inverse : 0.0F;  // else all are 0, or d is 0 as a half
    const auto whole = static_cast<int>(x);
    const float rest = x - static_cast<float>(whole);
    out[2 + i] = static_cast<std::byte>(whole + (rest >= 0.5F ? 1 : 0) - (rest <= -0.5F ? 1 : 0));
  }
}

/// Smaller magnitudes are finite when they are stored.
float limit_of(DType dtype) {
  if (dtype == DType::F16) return 65520;
  if (dtype == DType::Q8_0) return 65520.0F * 127;
  return dtype == DType::BF16 ? 0x1.ffp127F : HUGE_VALF;
}

}  // namespace

void dequantize(DType dtype, const std::byte* data, std::int64_t first, std::int64_t count, float* out) {
  if (count <= 0) return;
  if (dtype == DType::F32)
    std::memcpy(out, data + first * 4, static_cast<std::size_t>(count) * 4);
  else if (dtype == DType::F16)
    convert_range<std::uint16_t>(data + first * 2, count, out, float_from_half);
  else if (dtype == DType::BF16)
    convert_range<core::bf16>(data + first * 2, count, out, [](core::bf16 x) { return static_cast<float>(x); });
  else
    expand_range(dtype, reinterpret_cast<const Byte*>(data), first, count, out);
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
      return store<std::uint16_t>(values, out, half_from_float);
    case DType::BF16:
      return store<core::bf16>(values, out, [](float x) { return core::bf16(x); });
    case DType::Q8_0:
      core::bytes_of(dtype, static_cast<std::int64_t>(values.size()));  // throws unless they are whole blocks
      for (std::size_t i = 0; i < values.size(); i += q8_block, out += core::info(dtype).block_bytes)
        store_q8_0(values.data() + i, out);
      return;
    default:
      core::fail("quantize: dtype is {}, expected float32, float16, bfloat16 or Q8_0", dtype);
  }
}

}  // namespace limbeck::data
