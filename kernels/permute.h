// Copies of tokens' rows, sorted by the expert that gets them, and the weighted sum back. Assignment a = t*K + k is the
// k-th choice of token t. There are N = T*K rows, of which the last belong to nobody where assignments were dropped
// (expert -1).
//
//     sort_by_expert(cpu, selection, T, K, E, counts, row_of, source);
//     permute_rows(cpu, x, source, rows, N, K, C);
//     unpermute_rows(cpu, rows, row_of, weights, y, T, K, C);
//     unpermute_gradient(cpu, rows, source, weights, dy, drows, dweights, N, T, K, C);
//
// T is float, double or bf16; products and sums are in Acc<T>, and a row of T is rounded once.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// A stable counting sort of the assignments. counts [experts]; row_of [tokens*K]: the sorted place of an assignment,
/// -1 for a dropped one; source [tokens*K]: the assignment at a sorted place, -1 at places of nobody.
template <class D>
void sort_by_expert(const D& device, const std::int32_t* selection, std::int64_t tokens, std::int64_t selected,
                    std::int64_t experts, std::int64_t* counts, std::int32_t* row_of, std::int32_t* source);

/// y[i] = number[x[i]], or -1 where x[i] is: experts by other numbers.
template <class D>
void renumber(const D& device, const std::int32_t* x, const std::int32_t* number, std::int32_t* y, std::int64_t n);

/// offsets [n+1]: the sums of the counts [n] before each.
template <class D>
void offsets_of_counts(const D& device, const std::int64_t* counts, std::int64_t n, std::int64_t* offsets);

/// y[r] = x[source[r] / K]; zeros where source[r] is -1.
template <class D, class T>
void permute_rows(const D& device, const T* x, const std::int32_t* source, T* y, std::int64_t rows,
                  std::int64_t selected, std::int64_t width);

/// y[t] = Σ_k weights[t,k] rows[row_of[t,k]] over the k that were not dropped, in their order; weights null: 1.
template <class D, class T>
void unpermute_rows(const D& device, const T* rows, const std::int32_t* row_of, const Acc<T>* weights, T* y,
                    std::int64_t tokens, std::int64_t selected, std::int64_t width);

/// drows[r] = weights[source[r]] dy[source[r] / K], zeros where source[r] is -1; dweights[t,k] = rows[row_of[t,k]] ·
/// dy[t], 0 where dropped. drows may be null, and so may dweights, with rows or without: what is null is left out.
template <class D, class T>
void unpermute_gradient(const D& device, const T* rows, const std::int32_t* source, const Acc<T>* weights, const T* dy,
                        T* drows, Acc<T>* dweights, std::int64_t num_rows, std::int64_t tokens, std::int64_t selected,
                        std::int64_t width);

}  // namespace limbeck::kernels
