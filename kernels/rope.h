// Rotary position embedding in the half-split form of Hugging Face's rotate_half (Su et al. 2021, "RoFormer"): the pair
// (x[i], x[i + R/2]) of a head turns by position * frequency[i], as a rule base^(-2i/R); R is the head's width D, or
// less: then the other channels stay.
//
//     rope_table(cpu, cos, sin, P, R / 2, frequencies, /*factor=*/1);
//     rope(cpu, RopeHeads{q, H}, RopeHeads{k, G}, row, cos, sin, /*direction=*/1, T, D);       // the gradient: -1
//     rope(cpu, RopeHeads{q, H, D}, RopeHeads{k, G, D}, row, cos, sin, 1, T, R);               // a head's first R
//     rope(cpu, RopeHeads{q, H, D, D - 64}, RopeHeads{k, 1}, row, cos, sin, 1, T, 64);         // a head's last 64
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// cos, sin [positions, half] of position * frequencies[i], times factor, computed in double. T is float or double.
template <class D, class T>
void rope_table(const D& device, T* cos, T* sin, std::int64_t positions, std::int64_t half, const double* frequencies,
                double factor);

/// x [tokens, heads * width], of which the channels of a head from `first` on turn.
template <class T>
struct RopeHeads {
  T* x = nullptr;
  std::int64_t heads = 0;
  std::int64_t width = 0;  // 0: all of a head turns
  std::int64_t first = 0;
};

/// Turns queries and keys where they lie, `turning` channels of each head: an even number. A token turns by row row[t]
/// of the table [rows, turning/2]. T is float, double or bf16; a pair turns in Acc<T> and is rounded once.
template <class D, class T>
void rope(const D& device, RopeHeads<T> queries, RopeHeads<T> keys, const std::int32_t* row, const Acc<T>* cos,
          const Acc<T>* sin, int direction, std::int64_t tokens, std::int64_t turning);

/// row[t] = position[t], and `further` more where context[t] is above `limit`.
template <class D>
void rope_rows(const D& device, const std::int32_t* position, const std::int32_t* context, std::int64_t limit,
               std::int64_t further, std::int32_t* row, std::int64_t tokens);

}  // namespace limbeck::kernels
