// Element types. A dtype is bytes and elements a block, so that quantised weights are tensors too.
//
//     size_t bytes = bytes_of(DType::Q4_1, 4096);            // blocks of 32 values in 20 bytes
//     dispatch_float(x.dtype(), [&]<class T>() { ... });        // T is float or double
//     dispatch_activation(x.dtype(), [&]<class T>() { ... });   // T is float, double or bf16
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

#include "core/error.h"
#include "kernels/bf16.h"
#include "kernels/blocks.h"

namespace limbeck::core {

using kernels::bf16;

// From Q4_1 on ggml's block formats, which kernels/blocks.h expands.
enum class DType : std::uint8_t {
  F32,
  F64,
  BF16,
  F16,
  I32,
  I64,
  U8,
  I8,
  Q4_1,
  Q8_0,
  Q4_0,
  Q5_0,
  Q5_1,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  IQ4_NL,
  IQ4_XS,
  MXFP4
};

struct DTypeInfo {
  std::string_view name;  // as in messages and files: "float32", "Q4_1"
  std::int64_t block_bytes;
  std::int64_t block_elements;
};

const DTypeInfo& info(DType dtype);
inline std::string_view name_of(DType dtype) { return info(dtype).name; }

/// The format of values that are expanded where they are used; none of numbers that are used as they are.
std::optional<kernels::BlockFormat> block_format(DType dtype);

/// Bytes of `elements` values; throws unless they fill whole blocks, and where the bytes do not fit.
std::int64_t bytes_of(DType dtype, std::int64_t elements);

/// The dtype of a C++ element type.
template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>)
    return DType::F32;
  else if constexpr (std::is_same_v<T, double>)
    return DType::F64;
  else if constexpr (std::is_same_v<T, bf16>)
    return DType::BF16;
  else if constexpr (std::is_same_v<T, std::int32_t>)
    return DType::I32;
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return DType::I64;
  else {
    static_assert(std::is_same_v<T, std::uint8_t>, "no dtype for this element type");
    return DType::U8;
  }
}

/// The dtype that values of a dtype are summed in: float32 of bfloat16, else their own.
constexpr DType sum_dtype(DType dtype) { return dtype == DType::BF16 ? DType::F32 : dtype; }

/// Calls f.template operator()<T>() with T = float or double; any other dtype throws, naming `op`.
template <class F>
decltype(auto) dispatch_float(std::string_view op, DType dtype, F&& f) {
  if (dtype == DType::F32) return f.template operator()<float>();
  if (dtype == DType::F64) return f.template operator()<double>();
  fail("{}: dtype is {}, expected float32 or float64", op, name_of(dtype));
}

/// The same with T = float, double or bf16: the types of activations.
template <class F>
decltype(auto) dispatch_activation(std::string_view op, DType dtype, F&& f) {
  if (dtype == DType::BF16) return f.template operator()<bf16>();
  if (dtype == DType::F32) return f.template operator()<float>();
  if (dtype == DType::F64) return f.template operator()<double>();
  fail("{}: dtype is {}, expected float32, float64 or bfloat16", op, name_of(dtype));
}

}  // namespace limbeck::core

template <>
struct fmt::formatter<limbeck::core::DType> : fmt::formatter<std::string_view> {
  auto format(limbeck::core::DType dtype, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(limbeck::core::name_of(dtype), context);
  }
};
