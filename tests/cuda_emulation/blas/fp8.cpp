#include "tests/cuda_emulation/blas/fp8.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

namespace limbeck::emulation {
namespace {

constexpr std::uint64_t block_terms = 128;
constexpr std::int32_t of_rows = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
constexpr std::int32_t of_blocks = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;

/// Of A^T or B, whose `rows` have `terms` each.
struct Scales {
  const void* begin;
  std::int32_t mode;
  std::uint64_t rows, terms;

  std::uint64_t blocks() const { return (terms + block_terms - 1) / block_terms; }
  std::uint64_t column() const { return (blocks() + 3) / 4 * 4; }  // of those of 128 x 128
  float at(std::uint64_t row, std::uint64_t block) const {
    const auto* values = static_cast<const float*>(begin);
    return mode == of_rows ? values[block * rows + row] : values[row / block_terms * column() + block];
  }
  MemoryRange range() const {
    const std::uint64_t count = mode == of_rows ? rows * blocks() : (rows + block_terms - 1) / block_terms * column();
    return {begin, count * sizeof(float)};
  }
};

Scales scales_of_a(const BlasProblem& p) {
  return {p.description.a_scales, p.description.a_scale_mode, p.a.columns, p.a.rows};
}
Scales scales_of_b(const BlasProblem& p) {
  return {p.description.b_scales, p.description.b_scale_mode, p.b.columns, p.b.rows};
}

bool is_whole(std::uint64_t bytes) { return bytes % 16 == 0; }

bool kinds_are_supported(const BlasProblem& p) {
  const auto& d = p.description;
  const auto is_mode = [](std::int32_t mode) { return mode == of_rows || mode == of_blocks; };
  return p.b.type == CUDA_R_8F_E4M3 && p.c.type == p.d.type && (p.d.type == CUDA_R_32F || p.d.type == CUDA_R_16BF) &&
         d.compute_type == CUBLAS_COMPUTE_32F && d.scale_type == CUDA_R_32F && d.transpose_a == CUBLAS_OP_T &&
         d.transpose_b == CUBLAS_OP_N && is_mode(d.a_scale_mode) && is_mode(d.b_scale_mode) &&
         (d.a_scale_mode == of_rows || d.b_scale_mode == of_rows);
}

bool is_aligned(const BlasLayout& x) {
  const std::uint64_t bytes = size_of(x.type);
  return x.order == CUBLASLT_ORDER_COL && x.batches == 1 && is_whole(x.rows * bytes) &&
         is_whole(static_cast<std::uint64_t>(x.leading) * bytes);
}

template <class Out>
void compute(const BlasProblem& p, const BlasOperands& operands) {
  const float alpha = *static_cast<const float*>(operands.alpha), beta = *static_cast<const float*>(operands.beta);
  const auto *a = static_cast<const __nv_fp8_e4m3*>(operands.a), *b = static_cast<const __nv_fp8_e4m3*>(operands.b);
  const auto* c = static_cast<const Out*>(operands.c);
  const Scales a_scales = scales_of_a(p), b_scales = scales_of_b(p);
  for (std::uint64_t j = 0; j < p.d.columns; ++j)
    for (std::uint64_t i = 0; i < p.d.rows; ++i) {
      float sum = 0;
      for (std::uint64_t block = 0; block < a_scales.blocks(); ++block) {
        float terms = 0;
        for (std::uint64_t l = block * block_terms; l < std::min(p.a.rows, (block + 1) * block_terms); ++l)
          terms += static_cast<float>(a[place(p.a, l, i)]) * static_cast<float>(b[place(p.b, l, j)]);
        sum += terms * a_scales.at(i, block) * b_scales.at(j, block);
      }
      float value = alpha * sum;
      if (beta != 0) value += beta * static_cast<float>(c[place(p.c, i, j)]);
      static_cast<Out*>(operands.d)[place(p.d, i, j)] = static_cast<Out>(value);
    }
}

}  // namespace

bool is_fp8(const BlasProblem& p) { return p.a.type == CUDA_R_8F_E4M3; }

cublasStatus_t check_fp8(const BlasProblem& p) {
  if (!kinds_are_supported(p) || p.d.rows % 4 != 0 || p.d.columns % 4 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (const BlasLayout* x : {&p.a, &p.b, &p.c, &p.d})
    if (!is_aligned(*x)) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (const void* scales : {p.description.a_scales, p.description.b_scales})
    if (scales == nullptr || !is_whole(reinterpret_cast<std::uintptr_t>(scales))) return CUBLAS_STATUS_INVALID_VALUE;
  return CUBLAS_STATUS_SUCCESS;
}

std::vector<MemoryRange> ranges_of_scales(const BlasProblem& p) {
  if (!is_fp8(p)) return {};
  return {scales_of_a(p).range(), scales_of_b(p).range()};
}

void compute_fp8(const BlasProblem& p, const BlasOperands& operands) {
  if (p.d.type == CUDA_R_32F)
    compute<float>(p, operands);
  else
    compute<__nv_bfloat16>(p, operands);
}

}  // namespace limbeck::emulation
