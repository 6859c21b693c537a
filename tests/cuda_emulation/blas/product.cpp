#include "tests/cuda_emulation/blas/product.h"

#include <cuda_bf16.h>

#include <array>
#include <vector>

#include "tests/cuda_emulation/blas/fp8.h"
#include "tests/cuda_emulation/report.h"
#include "tests/cuda_emulation/runtime/machine.h"

namespace limbeck::emulation {

namespace {

bool is_transposed(std::int32_t operation) { return operation != CUBLAS_OP_N; }

bool types_are_supported(const BlasProblem& p) {
  const auto all = [&](std::int32_t type) { return p.a.type == type && p.b.type == type; };
  const auto result = [&](std::int32_t type) { return p.c.type == type && p.d.type == type; };
  const auto& d = p.description;
  if (d.compute_type == CUBLAS_COMPUTE_64F) return d.scale_type == CUDA_R_64F && all(CUDA_R_64F) && result(CUDA_R_64F);
  if (d.scale_type != CUDA_R_32F) return false;
  const bool is_fast = d.compute_type == CUBLAS_COMPUTE_32F_FAST_TF32 || d.compute_type == CUBLAS_COMPUTE_32F_FAST_16BF;
  if (d.compute_type != CUBLAS_COMPUTE_32F && !(is_fast && all(CUDA_R_32F))) return false;
  return (all(CUDA_R_32F) && result(CUDA_R_32F)) || (all(CUDA_R_16BF) && (result(CUDA_R_16BF) || result(CUDA_R_32F)));
}

/// Of matrices that have no scales.
cublasStatus_t check_types(const BlasProblem& p) {
  const auto& d = p.description;
  if (d.a_scales != nullptr || d.b_scales != nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  const bool is_plain = d.a_scale_mode == CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F && d.b_scale_mode == d.a_scale_mode;
  return is_plain && types_are_supported(p) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

bool is_well_formed(const BlasLayout& x) {
  const bool by_columns = x.order == CUBLASLT_ORDER_COL;
  return (by_columns || x.order == CUBLASLT_ORDER_ROW) && x.rows > 0 && x.columns > 0 &&
         x.leading >= static_cast<std::int64_t>(by_columns ? x.rows : x.columns) && x.batches > 0;
}

void check_memory(const char* name, const void* begin, std::size_t bytes) {
  const Lock lock(machine().mutex);
  const int device = machine().device_of(begin);
  if (device < 0) fail("{} at {} is not memory of a GPU", name, begin);
  if (!machine().device(device).memory.is_allocated(begin, bytes))
    fail("{} of {} bytes begins at {}", name, bytes, machine().device(device).memory.describe(begin));
}

void check_memory(const char* name, const void* begin, const BlasLayout& x) {
  const std::size_t last = place(x, x.rows - 1, x.columns - 1) +
                           static_cast<std::size_t>(x.batches - 1) * static_cast<std::size_t>(x.batch_stride);
  check_memory(name, begin, (last + 1) * size_of(x.type));
}

/// op(X) of one batch as numbers, its columns one after another.
template <class T, class Sum>
std::vector<Sum> unpacked(const void* data, const BlasLayout& x, bool transposed) {
  const T* from = static_cast<const T*>(data);
  const std::uint64_t rows = transposed ? x.columns : x.rows;
  const std::uint64_t columns = transposed ? x.rows : x.columns;
  std::vector<Sum> values(rows * columns);
  for (std::uint64_t j = 0; j < columns; ++j)
    for (std::uint64_t i = 0; i < rows; ++i)
      values[j * rows + i] = static_cast<Sum>(from[transposed ? place(x, j, i) : place(x, i, j)]);
  return values;
}

template <class In, class Out, class Sum>
void compute_batch(const BlasProblem& p, Sum alpha, Sum beta, const In* a_data, const In* b_data, const Out* c,
                   Out* d) {
  const auto a = unpacked<In, Sum>(a_data, p.a, is_transposed(p.description.transpose_a));
  const auto b = unpacked<In, Sum>(b_data, p.b, is_transposed(p.description.transpose_b));
  const std::uint64_t m = p.d.rows;
  const std::uint64_t k = a.size() / m;
  std::vector<Sum> sums(m);
  for (std::uint64_t j = 0; j < p.d.columns; ++j) {
    sums.assign(m, Sum{0});
    for (std::uint64_t l = 0; l < k; ++l)
      for (std::uint64_t i = 0; i < m; ++i) sums[i] += a[l * m + i] * b[j * k + l];
    for (std::uint64_t i = 0; i < m; ++i) {
      Sum value = alpha * sums[i];
      if (beta != Sum{0}) value += beta * static_cast<Sum>(c[place(p.c, i, j)]);
      d[place(p.d, i, j)] = static_cast<Out>(value);
    }
  }
}

template <class In, class Out, class Sum>
void compute(const BlasProblem& p, const BlasOperands& operands) {
  const Sum alpha = *static_cast<const Sum*>(operands.alpha);
  const Sum beta = *static_cast<const Sum*>(operands.beta);
  for (std::int64_t batch = 0; batch < p.d.batches; ++batch)
    compute_batch<In, Out, Sum>(p, alpha, beta, static_cast<const In*>(operands.a) + batch * p.a.batch_stride,
                                static_cast<const In*>(operands.b) + batch * p.b.batch_stride,
                                static_cast<const Out*>(operands.c) + batch * p.c.batch_stride,
                                static_cast<Out*>(operands.d) + batch * p.d.batch_stride);
}

}  // namespace

cublasStatus_t check_problem(const BlasProblem& p) {
  for (const BlasLayout* x : {&p.a, &p.b, &p.c, &p.d})
    if (!is_well_formed(*x)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool ta = is_transposed(p.description.transpose_a);
  const bool tb = is_transposed(p.description.transpose_b);
  const std::uint64_t m = ta ? p.a.columns : p.a.rows;
  const std::uint64_t n = tb ? p.b.rows : p.b.columns;
  if ((ta ? p.a.rows : p.a.columns) != (tb ? p.b.columns : p.b.rows)) return CUBLAS_STATUS_INVALID_VALUE;
  for (const BlasLayout* x : {&p.c, &p.d})
    if (x->rows != m || x->columns != n || x->batches != p.a.batches || p.a.batches != p.b.batches)
      return CUBLAS_STATUS_INVALID_VALUE;
  if (const cublasStatus_t status = is_fp8(p) ? check_fp8(p) : check_types(p); status != CUBLAS_STATUS_SUCCESS)
    return status;
  if (p.description.epilogue != CUBLASLT_EPILOGUE_DEFAULT || is_transposed(p.description.transpose_c) ||
      p.description.pointer_mode > CUBLASLT_POINTER_MODE_DEVICE)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  return CUBLAS_STATUS_SUCCESS;
}

std::uint64_t hash_of(const BlasProblem& p) {
  std::uint64_t hash = 14695981039346656037U;  // FNV-1a
  const auto add = [&](auto... values) {
    for (const std::uint64_t value : {static_cast<std::uint64_t>(values)...}) hash = (hash ^ value) * 1099511628211U;
  };
  add(p.description.compute_type, p.description.transpose_a, p.description.transpose_b, p.description.a_scale_mode,
      p.description.b_scale_mode);
  for (const BlasLayout* x : {&p.a, &p.b, &p.c, &p.d})
    add(x->type, x->order, x->rows, x->columns, x->leading, x->batches, x->batch_stride);
  return hash;
}

std::vector<MemoryRange> ranges_of(const void* begin, const BlasLayout& x) {
  const bool by_columns = x.order == CUBLASLT_ORDER_COL;
  const std::uint64_t lines = by_columns ? x.columns : x.rows;
  const std::size_t line_bytes = (by_columns ? x.rows : x.columns) * size_of(x.type);
  std::vector<MemoryRange> ranges;
  for (std::int64_t batch = 0; batch < x.batches; ++batch)
    for (std::uint64_t line = 0; line < lines; ++line) {
      const auto place =
          static_cast<std::uint64_t>(batch * x.batch_stride) + line * static_cast<std::uint64_t>(x.leading);
      ranges.push_back({static_cast<const std::byte*>(begin) + place * size_of(x.type), line_bytes});
    }
  return ranges;
}

void compute_product(const BlasProblem& p, const BlasOperands& operands) {
  check_memory("A", operands.a, p.a);
  check_memory("B", operands.b, p.b);
  check_memory("D", operands.d, p.d);
  if (operands.c != operands.d) check_memory("C", operands.c, p.c);
  for (const MemoryRange& range : ranges_of_scales(p)) check_memory("scales", range.begin, range.bytes);
  if (is_fp8(p)) return compute_fp8(p, operands);
  if (p.a.type == CUDA_R_64F)
    compute<double, double, double>(p, operands);
  else if (p.a.type == CUDA_R_32F)
    compute<float, float, float>(p, operands);
  else if (p.d.type == CUDA_R_32F)
    compute<__nv_bfloat16, float, float>(p, operands);
  else
    compute<__nv_bfloat16, __nv_bfloat16, float>(p, operands);
}

}  // namespace limbeck::emulation
