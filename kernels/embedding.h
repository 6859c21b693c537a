// Rows of a table by index, and the sum of gradients back into the table.
//
//     embedding(cpu, tokens, weight, y, T, C, 0, V);
//     embedding_gradient(cpu, tokens, dy, /*add=*/false, dweight, T, C, 0, V);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// y[t] = table[token[t] - first], 0 where that is not one of its `rows`; rounded where T is narrower. (W,T): each of
/// float and bf16 with each, (double,double).
template <class D, class W, class T>
void embedding(const D& device, const std::int32_t* token, const W* table, T* y, std::int64_t tokens,
               std::int64_t width, std::int64_t first, std::int64_t rows);

/// dtable[token[t] - first] += dy[t] for tokens in the table, in their order whatever the number of threads; without
/// `add` from zero. T is float, double or bf16; the sum is one of Acc<T>.
template <class D, class T>
void embedding_gradient(const D& device, const std::int32_t* token, const T* dy, bool add, Acc<T>* dtable,
                        std::int64_t tokens, std::int64_t width, std::int64_t first, std::int64_t rows);

}  // namespace limbeck::kernels
