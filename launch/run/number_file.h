// Files of the system that hold a number.
//
//     number_in("/sys/fs/cgroup/memory.max")          // nothing where it says "max"
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>

namespace limbeck::launch {

/// The number in a file that holds nothing else; nothing where there is none.
inline std::optional<std::int64_t> number_in(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::int64_t value = 0;
  return in >> value ? std::optional(value) : std::nullopt;
}

}  // namespace limbeck::launch
