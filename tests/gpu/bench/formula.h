// What a kernel has to move and to compute, as a formula of its shape.
//
//     const Letters of = {{"T", 8192}, {"C", 4096}};
//     value_of("6 T C + 4 T", of);                     // products of numbers and letters, and their sum
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace limbeck::bench {

/// The letters of a shape (docs/gpu.md) and what they are, in the order in which they are shown.
using Letters = std::vector<std::pair<std::string, std::int64_t>>;

/// Throws on a word that is neither a number nor one of the letters. Nothing is 0.
double value_of(const std::string& formula, const Letters& of);

}  // namespace limbeck::bench
