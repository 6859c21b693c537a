// cuBLASLt's functions, those that kernels/cuda calls, of a library that is opened by the first call: to load it takes
// longer than all else that a program does at its start, also of one that will use no GPU. They are hidden, so that
// cuDNN's calls find the library's own.
#include <cublasLt.h>
#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace {

std::string last_error() {
  const char* error = dlerror();
  return error != nullptr ? error : "no reason was given";
}

void* library() {
  static void* const handle = [] {
    const std::string name = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
    void* opened = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr)
      throw std::runtime_error("GPU: " + name + " cannot be loaded, expected that of CUDA Toolkit " +
                               std::to_string(CUBLAS_VER_MAJOR) + " on the loader's path: " + last_error());
    return opened;
  }();
  return handle;
}

template <class Function>
Function* found(const char* name) {
  auto* function = reinterpret_cast<Function*>(dlsym(library(), name));
  if (function == nullptr) throw std::runtime_error(std::string("GPU: cuBLASLt lacks ") + name + ": " + last_error());
  return function;
}

}  // namespace

// LATE(result, name, (parameters), (arguments)) is the library's function `name`.
#define LATE(result, name, parameters, arguments)                                        \
  extern "C" __attribute__((visibility("hidden"))) result CUBLASWINAPI name parameters { \
    static auto* const function = found<decltype(name)>(#name);                          \
    return function arguments;                                                           \
  }

LATE(cublasStatus_t, cublasLtCreate, (cublasLtHandle_t * handle), (handle))
LATE(cublasStatus_t, cublasLtDestroy, (cublasLtHandle_t handle), (handle))
LATE(const char*, cublasLtGetStatusName, (cublasStatus_t status), (status))
LATE(const char*, cublasLtGetStatusString, (cublasStatus_t status), (status))
LATE(cublasStatus_t, cublasLtMatmul,
     (cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha, const void* a,
      cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
      cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algorithm,
      void* workspace, size_t workspace_bytes, cudaStream_t stream),
     (handle, description, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algorithm, workspace,
      workspace_bytes, stream))
LATE(cublasStatus_t, cublasLtMatmulAlgoGetHeuristic,
     (cublasLtHandle_t handle, cublasLtMatmulDesc_t description, cublasLtMatrixLayout_t a_layout,
      cublasLtMatrixLayout_t b_layout, cublasLtMatrixLayout_t c_layout, cublasLtMatrixLayout_t d_layout,
      cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t results[], int* number),
     (handle, description, a_layout, b_layout, c_layout, d_layout, preference, wanted, results, number))
LATE(cublasStatus_t, cublasLtMatmulDescCreate,
     (cublasLtMatmulDesc_t * description, cublasComputeType_t compute, cudaDataType_t scale),
     (description, compute, scale))
LATE(cublasStatus_t, cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t description), (description))
LATE(cublasStatus_t, cublasLtMatmulDescSetAttribute,
     (cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t attribute, const void* value, size_t bytes),
     (description, attribute, value, bytes))
LATE(cublasStatus_t, cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * preference), (preference))
LATE(cublasStatus_t, cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference), (preference))
LATE(cublasStatus_t, cublasLtMatmulPreferenceSetAttribute,
     (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
      size_t bytes),
     (preference, attribute, value, bytes))
LATE(cublasStatus_t, cublasLtMatrixLayoutCreate,
     (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t row),
     (layout, type, rows, columns, row))
LATE(cublasStatus_t, cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))
