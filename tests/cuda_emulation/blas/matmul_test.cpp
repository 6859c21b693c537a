#include <cublasLt.h>
#include <cuda_bf16.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "tests/cuda_emulation/on_device.h"

namespace limbeck::emulation {
namespace {

template <class T>
constexpr cudaDataType type_of = std::is_same_v<T, double>  ? CUDA_R_64F
                                 : std::is_same_v<T, float> ? CUDA_R_32F
                                                            : CUDA_R_16BF;

struct Case {
  bool transpose_a, transpose_b;
  int m, n, k, batches;
};

/// A product of descriptors, each a field that a test may spoil.
template <class In, class Out>
struct Product {
  using Scale = std::conditional_t<std::is_same_v<In, double>, double, float>;
  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t description = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  Scale alpha = 1, beta = 0;

  explicit Product(const Case& p) {
    constexpr bool wide = std::is_same_v<In, double>;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&description, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                             wide ? CUDA_R_64F : CUDA_R_32F);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a);
    set_transpose(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b);
    a = layout(type_of<In>, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, p.batches);
    b = layout(type_of<In>, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, p.batches);
    c = layout(type_of<Out>, p.m, p.n, p.batches);
  }
  ~Product() {
    for (auto* layout : {a, b, c}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(description);
    cublasLtDestroy(handle);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  void set_transpose(cublasLtMatmulDescAttributes_t which, bool transposed) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtMatmulDescSetAttribute(description, which, &operation, sizeof operation);
  }

  /// Columns one after another, two numbers apart.
  static cublasLtMatrixLayout_t layout(cudaDataType type, int rows, int columns, int batches) {
    cublasLtMatrixLayout_t layout = nullptr;
    cublasLtMatrixLayoutCreate(&layout, type, rows, columns, rows + 2);
    const std::int32_t count = batches;
    const std::int64_t stride = std::int64_t{rows + 2} * columns;
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
    cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride);
    return layout;
  }

  cublasStatus_t find(cublasLtMatmulHeuristicResult_t& result, std::uint32_t alignment) const {
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulPreferenceCreate(&preference);
    for (const auto name : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                            CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      cublasLtMatmulPreferenceSetAttribute(preference, name, &alignment, sizeof alignment);
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, description, a, b, c, c, preference, 1, &result, &found);
    cublasLtMatmulPreferenceDestroy(preference);
    EXPECT_EQ(found, status == CUBLAS_STATUS_SUCCESS ? 1 : 0);
    return status;
  }

  cublasStatus_t run(const In* x, const In* y, Out* z, const cublasLtMatmulAlgo_t* algorithm = nullptr) const {
    return cublasLtMatmul(handle, description, &alpha, x, a, y, b, &beta, z, c, z, c, algorithm, nullptr, 0, nullptr);
  }
};

template <class T>
std::vector<T> small_numbers(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> x(n);
  for (T& v : x) v = static_cast<T>(static_cast<float>(static_cast<int>(random() % 9) - 4));
  return x;
}

/// All numbers are small and whole, so that every order of the sums gives the same.
template <class In, class Out>
void expect_product(const Case& p) {
  const int a_rows = p.transpose_a ? p.k : p.m, b_rows = p.transpose_b ? p.n : p.k;
  const int a_columns = p.transpose_a ? p.m : p.k, b_columns = p.transpose_b ? p.k : p.n;
  const auto a = small_numbers<In>(static_cast<std::size_t>((a_rows + 2) * a_columns * p.batches), 1);
  const auto b = small_numbers<In>(static_cast<std::size_t>((b_rows + 2) * b_columns * p.batches), 2);
  const auto c = small_numbers<Out>(static_cast<std::size_t>((p.m + 2) * p.n * p.batches), 3);
  std::vector<double> expected;
  for (const Out value : c) expected.push_back(static_cast<float>(value));
  for (int batch = 0; batch < p.batches; ++batch)
    for (int i = 0; i < p.m; ++i)
      for (int j = 0; j < p.n; ++j) {
        double sum = 0;
        for (int l = 0; l < p.k; ++l)
          sum += static_cast<float>(
                     a[(batch * a_columns + (p.transpose_a ? i : l)) * (a_rows + 2) + (p.transpose_a ? l : i)]) *
                 static_cast<float>(
                     b[(batch * b_columns + (p.transpose_b ? l : j)) * (b_rows + 2) + (p.transpose_b ? j : l)]);
        double& to = expected[(batch * p.n + j) * (p.m + 2) + i];
        to = 0.5 * sum + 2 * to;
      }
  Product<In, Out> product(p);
  product.alpha = static_cast<decltype(product.alpha)>(0.5);
  product.beta = 2;
  const OnDevice<In> a_on_device(a), b_on_device(b);
  const OnDevice<Out> c_on_device(c);
  ASSERT_EQ(product.run(a_on_device.data(), b_on_device.data(), c_on_device.data()), CUBLAS_STATUS_SUCCESS);
  const auto result = c_on_device.read();
  for (std::size_t i = 0; i < result.size(); ++i)
    ASSERT_EQ(static_cast<double>(static_cast<float>(result[i])),
              static_cast<float>(static_cast<Out>(static_cast<float>(expected[i]))))
        << i;
}

TEST(EmulatedBlas, ProductsOfAllTypesAndTransposes) {
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const Case& size : {Case{ta, tb, 1, 1, 1, 1}, Case{ta, tb, 5, 3, 7, 1}, Case{ta, tb, 8, 16, 4, 3}}) {
        expect_product<float, float>(size);
        expect_product<double, double>(size);
        expect_product<__nv_bfloat16, float>(size);
        expect_product<__nv_bfloat16, __nv_bfloat16>(size);
      }
}

constexpr Case small{false, false, 4, 4, 4, 1};

TEST(EmulatedBlas, WhatWasThereIsNotReadWithoutBeta) {
  const Product<float, float> product(small);
  const OnDevice<float> a(std::vector<float>(24, 1)), b(std::vector<float>(24, 1)), c(24);
  ASSERT_EQ(product.run(a.data(), b.data(), c.data()), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(c.read()[0], 4);
}

TEST(EmulatedBlas, AnAlgorithmIsForItsProblemAndAlignment) {
  const Product<float, float> product(small), other({true, false, 4, 4, 4, 1});
  const OnDevice<float> a(std::vector<float>(64, 1)), b(std::vector<float>(64, 1)), c(64);
  cublasLtMatmulHeuristicResult_t found{};
  ASSERT_EQ(product.find(found, 16), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(product.run(a.data(), b.data(), c.data(), &found.algo), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(product.run(a.data() + 1, b.data(), c.data(), &found.algo), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(other.run(a.data(), b.data(), c.data(), &found.algo), CUBLAS_STATUS_INVALID_VALUE);
  ASSERT_EQ(product.find(found, 4), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(product.run(a.data() + 1, b.data(), c.data(), &found.algo), CUBLAS_STATUS_SUCCESS);
  check(cudaDeviceSynchronize());
}

TEST(EmulatedBlas, WhatTheLibraryRefuses) {
  const OnDevice<float> x(64);
  const auto status_with = [&](auto&& spoil) {
    Product<float, float> product(small);
    spoil(product);
    cublasLtMatmulHeuristicResult_t found{};
    const cublasStatus_t status = product.find(found, 16);
    EXPECT_EQ(product.run(x.data(), x.data(), x.data()), status);
    return status;
  };
  const auto set = [](cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name, auto value) {
    EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(layout, name, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  };
  EXPECT_EQ(status_with([&](auto& p) { set(p.a, CUBLASLT_MATRIX_LAYOUT_LD, std::int64_t{3}); }),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(status_with([&](auto& p) { set(p.a, CUBLASLT_MATRIX_LAYOUT_COLS, std::uint64_t{5}); }),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(status_with([&](auto& p) { set(p.b, CUBLASLT_MATRIX_LAYOUT_COLS, std::uint64_t{0}); }),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(status_with([&](auto& p) { set(p.c, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, std::int32_t{2}); }),
            CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(status_with([&](auto& p) { set(p.c, CUBLASLT_MATRIX_LAYOUT_TYPE, std::int32_t{CUDA_R_16BF}); }),
            CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(Product<float, float>(small).a, CUBLASLT_MATRIX_LAYOUT_LD, &small, 4),
            CUBLAS_STATUS_INVALID_VALUE);
}

TEST(EmulatedBlasDeathTest, AMatrixBeyondItsMemory) {
  const Product<float, float> product(small);
  const OnDevice<float> x(24), too_small(20);
  const auto run = [&] {
    product.run(too_small.data(), x.data(), x.data());
    cudaDeviceSynchronize();
  };
  EXPECT_DEATH(run(), "cuda emulation: cublasLtMatmul of 4 x 4: A of 88 bytes begins at byte 0 of 80 bytes");
}

}  // namespace
}  // namespace limbeck::emulation
