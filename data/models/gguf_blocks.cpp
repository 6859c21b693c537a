#include "data/models/gguf_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/blocks.h"
#include "kernels/half.h"

namespace limbeck::data {

using core::DType;

namespace {

constexpr int largest_block = 256;
constexpr int q8_block = 32;

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
  for (int i = 0; i < q8_block; ++i) largest = std::max(largest, std::abs(values[i]));
  const float d = largest / 127;
  const std::uint16_t scale = kernels::half_from_float(d);
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
