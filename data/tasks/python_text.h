// What Python does with text, where benchmarks are defined by it. All text is valid UTF-8.
//
//     strip("\u00a0 two  ");       // "two"
//     capitalized("he SAYS");      // "He says"
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace limbeck::data {

/// str.strip(): without white space at both ends.
std::string_view strip(std::string_view text);
/// str.rstrip(): at the end.
std::string_view strip_end(std::string_view text);
/// str.lower(), letter by letter.
std::string lowered(std::string_view text);
/// str.capitalize(), letter by letter.
std::string capitalized(std::string_view text);
/// len(str): code points.
std::size_t num_characters(std::string_view text);
/// str.replace(): every `from`, which is not empty, from left to right.
std::string replaced(std::string_view text, std::string_view from, std::string_view to);

}  // namespace limbeck::data
