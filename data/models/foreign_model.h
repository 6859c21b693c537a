// Models in formats that are not read, told apart by their first bytes or the files of a folder, so that a message can
// name what was given. What is no model at all is told by data/files/file_kind.h.
//
//     if (const auto known = foreign_model("llama-7b.ggmlv3.q4_0.bin"); !known.empty()) fail("{}: {}", path, known);
#pragma once

#include <filesystem>
#include <string>

namespace limbeck::data {

/// "is a GGML file, ..."; empty where nothing is known.
std::string foreign_model(const std::filesystem::path& path);

}  // namespace limbeck::data
