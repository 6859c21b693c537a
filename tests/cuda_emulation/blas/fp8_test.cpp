#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "tests/cuda_emulation/on_device.h"

namespace limbeck::emulation {
namespace {

constexpr std::int32_t of_rows = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
constexpr std::int32_t of_blocks = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F;

/// D [m,n] = A^T B of FP8 matrices [k,m] and [k,n], in columns, each field for a test to spoil.
struct Product {
  int m = 16, n = 32, k = 16;
  std::int32_t a_mode = of_blocks, b_mode = of_rows;
  cublasOperation_t a_operation = CUBLAS_OP_T, b_operation = CUBLAS_OP_N;
  cudaDataType a_type = CUDA_R_8F_E4M3, b_type = CUDA_R_8F_E4M3, d_type = CUDA_R_32F;
  std::uint32_t alignment = 16;
  float beta = 0;

  cublasStatus_t run(const void* a, const void* b, void* d, const float* a_scales, const float* b_scales) const {
    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t description = nullptr;
    cublasLtMatrixLayout_t a_layout = nullptr, b_layout = nullptr, d_layout = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const auto set = [&](cublasLtMatmulDescAttributes_t name, auto value) {
      EXPECT_EQ(cublasLtMatmulDescSetAttribute(description, name, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, a_operation);
    set(CUBLASLT_MATMUL_DESC_TRANSB, b_operation);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, a_mode);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, b_mode);
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, a_scales);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, b_scales);
    const bool ta = a_operation == CUBLAS_OP_T, tb = b_operation == CUBLAS_OP_T;
    cublasLtMatrixLayoutCreate(&a_layout, a_type, ta ? k : m, ta ? m : k, ta ? k : m);
    cublasLtMatrixLayoutCreate(&b_layout, b_type, tb ? n : k, tb ? k : n, tb ? n : k);
    cublasLtMatrixLayoutCreate(&d_layout, d_type, m, n, m);
    cublasLtMatmulPreferenceCreate(&preference);
    for (const auto name : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      cublasLtMatmulPreferenceSetAttribute(preference, name, &alignment, sizeof alignment);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle, description, a_layout, b_layout, d_layout, d_layout,
                                                           preference, 1, &result, &found);
    const float alpha = 1;
    if (status == CUBLAS_STATUS_SUCCESS)
      status = cublasLtMatmul(handle, description, &alpha, a, a_layout, b, b_layout, &beta, d, d_layout, d, d_layout,
                              &result.algo, nullptr, 0, nullptr);
    cudaDeviceSynchronize();
    cublasLtMatmulPreferenceDestroy(preference);
    for (auto* layout : {a_layout, b_layout, d_layout}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(description);
    cublasLtDestroy(handle);
    return status;
  }
};

template <class T>
std::vector<T> whole_numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> x;
  for (std::size_t i = 0; i < count; ++i) x.push_back(static_cast<T>(static_cast<float>(random() % 7) - 3));
  return x;
}

std::size_t blocks(int n) { return static_cast<std::size_t>(n + 127) / 128; }

/// As the manual says where scales lie: of rows [rows, blocks of k], rows side by side; of blocks [blocks of k up to a
/// multiple of 4, blocks of rows], those of k side by side.
std::size_t place_of(std::int32_t mode, int rows, int k, int row, int term) {
  const std::size_t block = static_cast<std::size_t>(term) / 128;
  if (mode == of_rows) return static_cast<std::size_t>(row) + block * static_cast<std::size_t>(rows);
  return block + static_cast<std::size_t>(row) / 128 * ((blocks(k) + 3) / 4 * 4);
}
std::size_t num_scales(std::int32_t mode, int rows, int k) {
  return mode == of_rows ? static_cast<std::size_t>(rows) * blocks(k) : blocks(rows) * ((blocks(k) + 3) / 4 * 4);
}

// Small whole numbers and scales that are powers of two: sums are exact.
template <class Out>
void expect_product(const Product& p) {
  const auto a = whole_numbers<__nv_fp8_e4m3>(static_cast<std::size_t>(p.m * p.k), 1);
  const auto b = whole_numbers<__nv_fp8_e4m3>(static_cast<std::size_t>(p.n * p.k), 2);
  const auto scales = [](std::size_t count, unsigned seed) {
    std::vector<float> x = whole_numbers<float>(count, seed);
    for (float& value : x) value = std::exp2(value);
    return x;
  };
  const auto a_scales = scales(num_scales(p.a_mode, p.m, p.k), 3), b_scales = scales(num_scales(p.b_mode, p.n, p.k), 4);
  const auto c = whole_numbers<Out>(static_cast<std::size_t>(p.m * p.n), 5);
  const OnDevice<__nv_fp8_e4m3> a_there(a), b_there(b);
  const OnDevice<float> a_scales_there(a_scales), b_scales_there(b_scales);
  const OnDevice<Out> d(c);
  ASSERT_EQ(p.run(a_there.data(), b_there.data(), d.data(), a_scales_there.data(), b_scales_there.data()),
            CUBLAS_STATUS_SUCCESS);
  const auto result = d.read();
  for (int j = 0; j < p.n; ++j)
    for (int i = 0; i < p.m; ++i) {
      double sum = static_cast<double>(p.beta) * static_cast<float>(c[static_cast<std::size_t>(j * p.m + i)]);
      for (int l = 0; l < p.k; ++l)
        sum += static_cast<double>(static_cast<float>(a[static_cast<std::size_t>(i * p.k + l)])) *
               a_scales[place_of(p.a_mode, p.m, p.k, i, l)] *
               static_cast<float>(b[static_cast<std::size_t>(j * p.k + l)]) *
               b_scales[place_of(p.b_mode, p.n, p.k, j, l)];
      ASSERT_EQ(static_cast<float>(result[static_cast<std::size_t>(j * p.m + i)]),
                static_cast<float>(static_cast<Out>(static_cast<float>(sum))))
          << i << " " << j;
    }
}

TEST(EmulatedFp8, ProductsWithScalesOfBlocks) {
  for (const auto& [a_mode, b_mode] :
       {std::pair{of_blocks, of_rows}, std::pair{of_rows, of_blocks}, std::pair{of_rows, of_rows}})
    for (const auto& [m, n, k] : {std::array{16, 32, 16}, {144, 272, 32}, {32, 16, 656}}) {
      expect_product<float>({.m = m, .n = n, .k = k, .a_mode = a_mode, .b_mode = b_mode});
      expect_product<__nv_bfloat16>(
          {.m = m, .n = n, .k = k, .a_mode = a_mode, .b_mode = b_mode, .d_type = CUDA_R_16BF, .beta = 2});
    }
}

TEST(EmulatedFp8, WhatTheLibraryRefuses) {
  const OnDevice<float> x(4096), scales(4096);
  const auto status_of = [&](const Product& p) {
    return p.run(x.data(), x.data(), x.data(), scales.data(), scales.data());
  };
  EXPECT_EQ(status_of({}), CUBLAS_STATUS_SUCCESS);
  const Product refused[] = {{.m = 12, .d_type = CUDA_R_16BF},
                             {.n = 30},
                             {.k = 24},
                             {.a_operation = CUBLAS_OP_N},
                             {.b_operation = CUBLAS_OP_T},
                             {.a_mode = of_blocks, .b_mode = of_blocks},
                             {.a_mode = CUBLASLT_MATMUL_MATRIX_SCALE_SCALAR_32F},
                             {.b_type = CUDA_R_16BF},
                             {.d_type = CUDA_R_8F_E4M3},
                             {.alignment = 8}};
  for (const Product& p : refused) EXPECT_EQ(status_of(p), CUBLAS_STATUS_NOT_SUPPORTED) << &p - refused;
  EXPECT_EQ(Product{}.run(x.data(), x.data(), x.data(), nullptr, scales.data()), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(Product{}.run(x.data(), x.data(), x.data(), scales.data() + 1, scales.data()), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(Product{}.run(x.data() + 1, x.data(), x.data(), scales.data(), scales.data()), CUBLAS_STATUS_INVALID_VALUE);
  const Product plain{.a_mode = 0, .b_mode = 0, .a_type = CUDA_R_16BF, .b_type = CUDA_R_16BF};
  EXPECT_EQ(status_of(plain), CUBLAS_STATUS_INVALID_VALUE) << "scales of matrices that have none";
  EXPECT_EQ(plain.run(x.data(), x.data(), x.data(), nullptr, nullptr), CUBLAS_STATUS_SUCCESS);
}

TEST(EmulatedFp8DeathTest, ScalesBeyondTheirMemory) {
  const OnDevice<float> x(4096), scales(4096), too_few(3);
  const auto run = [&] { Product{}.run(x.data(), x.data(), x.data(), too_few.data(), scales.data()); };
  EXPECT_DEATH(run(), "scales of 16 bytes begins at byte 0 of 12 bytes");
}

}  // namespace
}  // namespace limbeck::emulation
