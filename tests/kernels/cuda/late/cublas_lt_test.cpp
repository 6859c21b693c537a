// Whether cuBLASLt is opened when it is called, and each of its functions found: no GPU is needed for those that
// describe.
#include <cublasLt.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>

namespace limbeck::kernels {
namespace {

bool is_loaded() {
  std::ifstream maps("/proc/self/maps");
  const std::string all(std::istreambuf_iterator<char>(maps), {});
  return all.find("libcublasLt") != std::string::npos;
}

TEST(CublasLt, IsOpenedByTheFirstCallAndHasWhatIsCalled) {
  EXPECT_FALSE(is_loaded());
  EXPECT_STREQ(cublasLtGetStatusName(CUBLAS_STATUS_NOT_SUPPORTED), "CUBLAS_STATUS_NOT_SUPPORTED");
  EXPECT_TRUE(is_loaded());
  EXPECT_NE(std::string(cublasLtGetStatusString(CUBLAS_STATUS_NOT_SUPPORTED)), "");

  cublasLtMatmulDesc_t product = nullptr;
  ASSERT_EQ(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
            CUBLAS_STATUS_SUCCESS);
  cublasLtMatrixLayout_t rows = nullptr;
  ASSERT_EQ(cublasLtMatrixLayoutCreate(&rows, CUDA_R_16BF, 8, 8, 8), CUBLAS_STATUS_SUCCESS);
  cublasLtMatmulPreference_t preference = nullptr;
  ASSERT_EQ(cublasLtMatmulPreferenceCreate(&preference), CUBLAS_STATUS_SUCCESS);
  const std::uint64_t bytes = 1 << 20;
  EXPECT_EQ(
      cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes),
      CUBLAS_STATUS_SUCCESS);

  // Without a handle there is nothing to ask; the library says so.
  cublasLtMatmulHeuristicResult_t result;
  int found = 0;
  EXPECT_NE(cublasLtMatmulAlgoGetHeuristic(nullptr, product, rows, rows, rows, rows, preference, 1, &result, &found),
            CUBLAS_STATUS_SUCCESS);
  const float one = 1, zero = 0;
  EXPECT_NE(cublasLtMatmul(nullptr, product, &one, nullptr, rows, nullptr, rows, &zero, nullptr, rows, nullptr, rows,
                           nullptr, nullptr, 0, nullptr),
            CUBLAS_STATUS_SUCCESS);

  EXPECT_EQ(cublasLtMatmulPreferenceDestroy(preference), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatrixLayoutDestroy(rows), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(cublasLtMatmulDescDestroy(product), CUBLAS_STATUS_SUCCESS);
  cublasLtHandle_t handle = nullptr;
  if (cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS) {
    EXPECT_EQ(cublasLtDestroy(handle), CUBLAS_STATUS_SUCCESS);
  }
}

}  // namespace
}  // namespace limbeck::kernels
