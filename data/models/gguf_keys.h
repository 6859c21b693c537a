// The metadata that a GGUF file is written with.
//
//     GgufKeys keys = {{"general.architecture", "llama"s}, {"llama.block_count", 30U}};
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace limbeck::data {

/// The C++ type is the one that is stored: llama.cpp refuses a key of another width.
using GgufKey = std::variant<bool, std::uint32_t, float, std::string, std::vector<std::int32_t>, std::vector<float>,
                             std::vector<std::string>>;
using GgufKeys = std::vector<std::pair<std::string, GgufKey>>;  // in order

}  // namespace limbeck::data
