#include "kernels/cuda/with_cutlass/hopper_kernels.h"
#include "kernels/cuda/with_cutlass/hopper_product.cuh"

namespace limbeck::kernels {

void hopper_terms(const Cuda& cuda, const GroupedProblem& p, const bf16* a, const bf16* b, float beta, float* c) {
  hopper_product</*Terms=*/true, /*TransposedB=*/false, Pingpong, 128, 128>(cuda, p, a, b, beta, c);
}

}  // namespace limbeck::kernels
