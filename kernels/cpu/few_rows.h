// Products of few rows with a weight that is read once, as it lies: at the speed of memory. What the tokens of a text
// that is generated cost is this.
#pragma once

#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/cpu.h"

namespace limbeck::kernels {

/// From there on other products are faster, which rearrange or widen the weight.
template <class W>
constexpr std::int64_t most_few_rows = 16;
template <>
inline constexpr std::int64_t most_few_rows<bf16> = 2;

/// C [m,n] = A [m,k] B^T + beta C, B [n,k] float or bf16. The bits of a row do not depend on the others, nor on the
/// threads: sums are of float32, one for each lane of a register, added up at the end.
template <class W>
void few_rows_product(const Cpu& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const W* b,
                      float beta, float* c);

}  // namespace limbeck::kernels
