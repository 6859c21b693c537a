// Rows of a table by index, and the sum of gradients back into the table.
//
//     embedding(cpu, tokens, weight, y, T, C);
//     embedding_gradient(cpu, tokens, dy, dweight, T, C);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[t] = table[token[t]], widened where W is bf16. (W,T): (float,float), (double,double), (bf16,float). Tokens lie in
/// the table.
template <class W, class T>
void embedding(const Cpu& cpu, const std::int32_t* token, const W* table, T* y, std::int64_t tokens,
               std::int64_t width);

/// dtable[token[t]] += dy[t], in the order of the tokens whatever the number of threads.
template <class T>
void embedding_gradient(const Cpu& cpu, const std::int32_t* token, const T* dy, T* dtable, std::int64_t tokens,
                        std::int64_t width);

}  // namespace limbeck::kernels
