// A row for each group of rows that is added to all of them: the biases of experts. Groups are as in
// kernels/grouped_matmul.h.
//
//     add_grouped_bias(cpu, x, bias, y, {experts, offsets, /*rows=*/R, /*width=*/C, /*first=*/0, /*columns=*/C});
//     grouped_column_sums(cpu, dy, /*add=*/true, dbias, shape);
//
// T is float, double or bf16; arithmetic is in Acc<T>, each result rounded once.
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// Rows [rows,width], of which those of group e are [offsets[e], offsets[e+1]); biases [groups,columns] are of their
/// columns from `first` on.
struct GroupedRows {
  std::int64_t groups = 0;
  const std::int64_t* offsets = nullptr;  // [groups+1], on the device
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t first = 0;
  std::int64_t columns = 0;
};

/// y[r,c] = x[r,c] + bias[e,c-first] for rows r of group e and the columns that have a bias, else x[r,c]; y may be x.
template <class D, class T>
void add_grouped_bias(const D& device, const T* x, const Acc<T>* bias, T* y, const GroupedRows& shape);

/// sums[e,c] = Σ_r x[r,first+c] over the rows r of group e, in one order whatever the number of threads. `add` adds to
/// sums; a group without rows gives 0.
template <class D, class T>
void grouped_column_sums(const D& device, const T* x, bool add, Acc<T>* sums, const GroupedRows& shape);

}  // namespace limbeck::kernels
