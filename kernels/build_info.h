// Which build of the kernels the loader has chosen, for --version and the log.
#pragma once

#include <string>

namespace limbeck::kernels {

/// The instruction set level these kernels were built for: "x86-64-v4", or "baseline".
std::string cpu_level();
/// What computes matrix products: "oneDNN 2.6.0", or "plain loop".
std::string matrix_product();
/// What computes those of bfloat16: "AMX", "AVX-512 BF16" or "float32".
std::string bf16_product();

}  // namespace limbeck::kernels
