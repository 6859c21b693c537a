// cuBLASLt's handle, descriptors and their attributes, those that a product has to have.
#include "tests/cuda_emulation/blas/descriptors.h"

#include <cstddef>

#include "tests/cuda_emulation/blas/blas_call.h"

struct cublasLtContext {
  int device;
};

using namespace limbeck::emulation;

namespace {

/// Copies an attribute of exactly its size.
template <class T>
cublasStatus_t set(T& field, const void* value, std::size_t bytes) {
  if (value == nullptr || bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

/// Which of an opaque's fields an attribute is; f is given it.
template <class F>
cublasStatus_t with_field(BlasLayout& layout, cublasLtMatrixLayoutAttribute_t name, F&& f) {
  switch (name) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return f(layout.type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return f(layout.order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return f(layout.rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return f(layout.columns);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return f(layout.leading);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return f(layout.batches);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return f(layout.batch_stride);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

template <class F>
cublasStatus_t with_field(BlasDescription& description, cublasLtMatmulDescAttributes_t name, F&& f) {
  switch (name) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
      return f(description.compute_type);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
      return f(description.scale_type);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return f(description.pointer_mode);
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return f(description.transpose_a);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return f(description.transpose_b);
    case CUBLASLT_MATMUL_DESC_TRANSC:
      return f(description.transpose_c);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return f(description.epilogue);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
      return f(description.a_scale_mode);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
      return f(description.b_scale_mode);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
      return f(description.a_scales);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
      return f(description.b_scales);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

template <class F>
cublasStatus_t with_field(BlasPreference& preference, cublasLtMatmulPreferenceAttributes_t name, F&& f) {
  switch (name) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return f(preference.max_workspace_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return f(preference.alignment[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return f(preference.alignment[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return f(preference.alignment[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return f(preference.alignment[3]);
    default:
      return CUBLAS_STATUS_NOT_SUPPORTED;
  }
}

template <class T, class Opaque, class Name>
cublasStatus_t set_attribute(Opaque* opaque, Name name, const void* value, std::size_t bytes) {
  if (opaque == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  T all = read_opaque<T>(*opaque);
  const cublasStatus_t status = with_field(all, name, [&](auto& field) { return set(field, value, bytes); });
  write_opaque(all, *opaque);
  return status;
}

template <class T, class Opaque, class Name>
cublasStatus_t get_attribute(const Opaque* opaque, Name name, void* value, std::size_t bytes, std::size_t* written) {
  if (opaque == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  T all = read_opaque<T>(*opaque);
  return with_field(all, name, [&](auto& field) {
    if (value == nullptr || bytes != sizeof field) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(value, &field, bytes);
    if (written != nullptr) *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
  });
}

template <class Opaque, class T>
cublasStatus_t make(Opaque** to, const T& value) {
  if (to == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  *to = new Opaque{};
  write_opaque(value, **to);
  return CUBLAS_STATUS_SUCCESS;
}

template <class Opaque>
cublasStatus_t destroy(Opaque* opaque) {
  delete opaque;
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  return blas_call("cublasLtCreate", [&](Lock&) {
    if (handle == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    *handle = new cublasLtContext{current_device()};
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  return blas_call("cublasLtDestroy", [&](Lock&) {
    if (handle == nullptr) return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, std::uint64_t rows,
                                          std::uint64_t columns, std::int64_t leading) {
  return blas_call("cublasLtMatrixLayoutCreate", [&](Lock&) {
    return make(layout, BlasLayout{static_cast<std::int32_t>(type), CUBLASLT_ORDER_COL, rows, columns, leading, 1, 0});
  });
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  return blas_call("cublasLtMatrixLayoutDestroy", [&](Lock&) { return destroy(layout); });
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name,
                                                const void* value, std::size_t bytes) {
  return blas_call("cublasLtMatrixLayoutSetAttribute",
                   [&](Lock&) { return set_attribute<BlasLayout>(layout, name, value, bytes); });
}

cublasStatus_t cublasLtMatrixLayoutGetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t name,
                                                void* value, std::size_t bytes, std::size_t* written) {
  return blas_call("cublasLtMatrixLayoutGetAttribute",
                   [&](Lock&) { return get_attribute<BlasLayout>(layout, name, value, bytes, written); });
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute_type,
                                        cudaDataType_t scale_type) {
  return blas_call("cublasLtMatmulDescCreate", [&](Lock&) {
    return make(description, BlasDescription{static_cast<std::int32_t>(compute_type),
                                             static_cast<std::int32_t>(scale_type), CUBLASLT_POINTER_MODE_HOST,
                                             CUBLAS_OP_N, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT});
  });
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  return blas_call("cublasLtMatmulDescDestroy", [&](Lock&) { return destroy(description); });
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t name,
                                              const void* value, std::size_t bytes) {
  return blas_call("cublasLtMatmulDescSetAttribute",
                   [&](Lock&) { return set_attribute<BlasDescription>(description, name, value, bytes); });
}

cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t name,
                                              void* value, std::size_t bytes, std::size_t* written) {
  return blas_call("cublasLtMatmulDescGetAttribute",
                   [&](Lock&) { return get_attribute<BlasDescription>(description, name, value, bytes, written); });
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  return blas_call("cublasLtMatmulPreferenceCreate", [&](Lock&) {
    return make(preference, BlasPreference{0, {256, 256, 256, 256}});
  });
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return blas_call("cublasLtMatmulPreferenceDestroy", [&](Lock&) { return destroy(preference); });
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name, const void* value,
                                                    std::size_t bytes) {
  return blas_call("cublasLtMatmulPreferenceSetAttribute",
                   [&](Lock&) { return set_attribute<BlasPreference>(preference, name, value, bytes); });
}

std::size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
      return "CUBLAS_STATUS_INTERNAL_ERROR";
  }
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS:
      return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED:
      return "the library was not initialized";
    case CUBLAS_STATUS_INVALID_VALUE:
      return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
      return "the functionality requested is not supported";
    case CUBLAS_STATUS_EXECUTION_FAILED:
      return "the function failed to launch on the GPU";
    default:
      return "an internal operation failed";
  }
}

}  // extern "C"
