#include "core/dtype.h"

#include <array>

namespace limbeck::core {

const DTypeInfo& info(DType dtype) {
  static constexpr std::array<DTypeInfo, 21> table = {
      {{"float32", 4, 1},  {"float64", 8, 1},  {"bfloat16", 2, 1}, {"float16", 2, 1},  {"int32", 4, 1},
       {"int64", 8, 1},    {"uint8", 1, 1},    {"int8", 1, 1},     {"Q4_1", 20, 32},   {"Q8_0", 34, 32},
       {"Q4_0", 18, 32},   {"Q5_0", 22, 32},   {"Q5_1", 24, 32},   {"Q2_K", 84, 256},  {"Q3_K", 110, 256},
       {"Q4_K", 144, 256}, {"Q5_K", 176, 256}, {"Q6_K", 210, 256}, {"IQ4_NL", 18, 32}, {"IQ4_XS", 136, 256},
       {"MXFP4", 17, 32}}};
  return table.at(static_cast<std::size_t>(dtype));
}

std::optional<kernels::BlockFormat> block_format(DType dtype) {
  using kernels::BlockFormat;
  switch (dtype) {
    case DType::F16:
      return BlockFormat::F16;
    case DType::Q4_0:
      return BlockFormat::Q4_0;
    case DType::Q4_1:
      return BlockFormat::Q4_1;
    case DType::Q5_0:
      return BlockFormat::Q5_0;
    case DType::Q5_1:
      return BlockFormat::Q5_1;
    case DType::Q8_0:
      return BlockFormat::Q8_0;
    case DType::Q2_K:
      return BlockFormat::Q2_K;
    case DType::Q3_K:
      return BlockFormat::Q3_K;
    case DType::Q4_K:
      return BlockFormat::Q4_K;
    case DType::Q5_K:
      return BlockFormat::Q5_K;
    case DType::Q6_K:
      return BlockFormat::Q6_K;
    case DType::IQ4_NL:
      return BlockFormat::IQ4_NL;
    case DType::IQ4_XS:
      return BlockFormat::IQ4_XS;
    case DType::MXFP4:
      return BlockFormat::MXFP4;
    default:
      return std::nullopt;
  }
}

std::int64_t bytes_of(DType dtype, std::int64_t elements) {
  const DTypeInfo& i = info(dtype);
  check(elements >= 0 && elements % i.block_elements == 0, "{}: {} elements do not fill whole blocks of {}", i.name,
        elements, i.block_elements);
  std::int64_t bytes = 0;
  check(!__builtin_mul_overflow(elements / i.block_elements, i.block_bytes, &bytes), "{}: {} elements are too many",
        i.name, elements);
  return bytes;
}

}  // namespace limbeck::core
