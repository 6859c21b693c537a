// Parts of attention's heads, put together and taken apart.
//
//     // keys [T,H,A+B] of parts [T,H,A] and one part [T,B] for all heads
//     copy_heads(cpu, {own, H * A, A}, {keys, H * (A + B), A + B}, T, H, A);
//     copy_heads(cpu, {common, B, 0}, {keys + A, H * (A + B), A + B}, T, H, B);
//     sum_heads(cpu, {dkeys + A, H * (A + B), A + B}, dcommon, T, H, B);
#pragma once

#include <cstdint>

#include "device_set.h"
#include "kernels/bf16.h"

namespace limbeck::kernels {

/// Channels of head h of token t are at x + t * token_step + h * head_step.
template <class T>
struct HeadParts {
  T* x = nullptr;
  std::int64_t token_step = 0;
  std::int64_t head_step = 0;
};

/// The first `width` channels of each. T is float, double or bf16. The two do not overlap.
template <class D, class T>
void copy_heads(const D& device, HeadParts<const T> from, HeadParts<T> to, std::int64_t tokens, std::int64_t heads,
                std::int64_t width);

/// to [tokens,width]: the sum of the heads, in their order, in Acc<T>, rounded once.
template <class D, class T>
void sum_heads(const D& device, HeadParts<const T> from, T* to, std::int64_t tokens, std::int64_t heads,
               std::int64_t width);

}  // namespace limbeck::kernels
