// Numbers of things, as a sentence has them.
//
//     counted(1, "layer")                  // "1 layer"
//     counted(30, "training token")        // "30 training tokens"
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace limbeck::core {

/// For things whose plural has an s at the end.
inline std::string counted(std::int64_t n, std::string_view thing) {
  return fmt::format("{} {}{}", n, thing, n == 1 ? "" : "s");
}

}  // namespace limbeck::core
