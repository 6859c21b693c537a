// Files that a command is told to write: nothing that is there is replaced unasked, and what is read never.
//
//     check_may_write("student.gguf", options.force, {options.source});
#pragma once

#include <filesystem>
#include <vector>

namespace limbeck::launch {

/// Throws a UsageError where `path` has no file's name, is a folder or something else that is no file, or one of the
/// files that the command reads, under whatever name, or there in a folder all of which it reads; and where it is there
/// and `force` is false.
void check_may_write(const std::filesystem::path& path, bool force,
                     const std::vector<std::filesystem::path>& read = {});

/// What is read of a model or a run: the file itself, of a folder the files that belong to checkpoints, models and
/// runs.
std::vector<std::filesystem::path> files_of_model(const std::filesystem::path& path);

}  // namespace limbeck::launch
