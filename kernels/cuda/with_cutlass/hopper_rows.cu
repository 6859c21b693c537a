#include "kernels/cuda/with_cutlass/hopper_kernels.h"
#include "kernels/cuda/with_cutlass/hopper_product.cuh"

namespace limbeck::kernels {

void hopper_rows(const Cuda& cuda, const GroupedProblem& p, const bf16* a, const bf16* b, float beta, bf16* c) {
  hopper_product</*Terms=*/false, /*TransposedB=*/false, Cooperative, 128, 256>(cuda, p, a, b, beta, c);
}

}  // namespace limbeck::kernels
