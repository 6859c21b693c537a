// How much memory the system has to give, and whether it ran out.
#pragma once

#include <cstdint>
#include <filesystem>

namespace limbeck::launch {

/// Bytes that this process can have before the system takes pages of files from memory to make room: what the machine
/// has available, or what is left of the limit of a control group (version 1 or 2) that it is in, whichever is less.
/// `root` stands for "/", for tests. 0 where the system does not say.
std::int64_t available_memory(const std::filesystem::path& root = "/");

/// How many processes the system has killed since it began for lack of memory, its own or of a control group. 0 where
/// it does not say.
std::int64_t memory_kills(const std::filesystem::path& root = "/");

}  // namespace limbeck::launch
