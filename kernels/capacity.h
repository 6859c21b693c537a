// Experts that take no more than their capacity, or just as many tokens.
//
//     limit_capacity(cpu, selection, sequence, kept, {T, E, K}, /*factor=*/1.25);
//     choose_tokens(cpu, scores, sequence, selection, {T, E, K}, /*factor=*/1.0);
//     count_untaken(cpu, selection, T, E, &count);
#pragma once

#include <cstdint>

#include "device_set.h"

namespace limbeck::kernels {

struct CapacityShape {
  std::int64_t tokens, experts, selected;
};

/// kept [tokens, selected]: the selection, with -1 for what is dropped. Of a sequence of S tokens, a run of equal
/// numbers in `sequence`, each expert keeps its first ceil(factor S K / E) assignments in the order of the tokens.
/// `kept` may be `selection`.
template <class D>
void limit_capacity(const D& device, const std::int32_t* selection, const std::int32_t* sequence, std::int32_t* kept,
                    const CapacityShape& shape, double factor);

/// Expert choice (Zhou et al. 2022, arXiv 2202.09368, section 3.2, with K tokens' experts on average): of each such
/// sequence expert e takes the min(S, ceil(factor S K / E)) tokens of greatest scores[t,e], ties to the lower token;
/// NaN counts as the smallest. selection [tokens, experts]: e at [t,e] where e takes token t, -1 elsewhere.
template <class D, class T>
void choose_tokens(const D& device, const T* scores, const std::int32_t* sequence, std::int32_t* selection,
                   const CapacityShape& shape, double factor);

/// *count = tokens whose choices in selection [tokens, selected] are all -1.
template <class D>
void count_untaken(const D& device, const std::int32_t* selection, std::int64_t tokens, std::int64_t selected,
                   std::int64_t* count);

}  // namespace limbeck::kernels
