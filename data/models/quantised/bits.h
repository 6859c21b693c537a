// What quantised tensors are read by: numbers of a mapped file, which need no alignment.
#pragma once

#include <cstdint>
#include <cstring>

#include "data/models/safetensors.h"
#include "kernels/half.h"

namespace limbeck::data {

template <class T>
T number_at(const SafetensorsEntry& entry, std::int64_t index) {
  T number;
  std::memcpy(&number, entry.data + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return number;
}

/// The 4 bits at `place`, from the low end, of a word of 32.
inline int nibble_at(const SafetensorsEntry& words, std::int64_t index, std::int64_t place) {
  return static_cast<int>(number_at<std::uint32_t>(words, index) >> (4 * place) & 15U);
}

/// Of scales in float32, float16 or bfloat16.
inline float scale_at(const SafetensorsEntry& scales, std::int64_t index) {
  if (scales.dtype == core::DType::F32) return number_at<float>(scales, index);
  if (scales.dtype == core::DType::F16) return kernels::float_from_half(number_at<std::uint16_t>(scales, index));
  return static_cast<float>(number_at<core::bf16>(scales, index));
}

/// Calls f(row, column, i) for elements first, first + stride, ..., `count` of them, of a matrix of so many columns.
template <class F>
void for_each_place(std::int64_t columns, std::int64_t first, std::int64_t stride, std::int64_t count, F&& f) {
  std::int64_t row = first / columns, column = first % columns;
  for (std::int64_t i = 0; i < count; ++i) {
    f(row, column, i);
    column += stride;
    if (column >= columns) {
      row += column / columns;
      column %= columns;
    }
  }
}

}  // namespace limbeck::data
