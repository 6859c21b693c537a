// Tokens drawn from rows of logits, on the host.
//
//     draw_tokens(cpu, logits /*[rows,V]*/, rows, V, /*count=*/V, /*temperature=*/0.9, chances /*[rows]*/, tokens);
#pragma once

#include <cstdint>

#include "kernels/cpu.h"

namespace limbeck::kernels {

/// Of the first `count` logits of each row of [rows,width] one, from softmax(logits / temperature): with the likeliest
/// first, of equal ones the first, that at which the sum of the probabilities passes the row's chance, 0 to below 1. At
/// a temperature of 0 or less the likeliest. -1 where a logit is NaN or infinity, or none is above -infinity. A row's
/// token does not depend on the others, nor on the threads. T is float, whose probabilities are summed to 1e-6 of them,
/// or double.
template <class T>
void draw_tokens(const Cpu& cpu, const T* logits, std::int64_t rows, std::int64_t width, std::int64_t count,
                 double temperature, const double* chances, std::int32_t* tokens);

}  // namespace limbeck::kernels
