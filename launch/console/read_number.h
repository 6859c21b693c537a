// Whole numbers within what others write: lines of mpirun, lists of hosts, variables of launchers, limits of control
// groups.
//
//     std::string_view text = "12 of 16";
//     take_number(text)                        // 12; text is " of 16"
//     number_from("16", 1)                     // 16; of "0", "16x" and "" nothing
#pragma once

#include <charconv>
#include <cstddef>
#include <optional>
#include <string_view>
#include <system_error>

namespace limbeck::launch {

/// The decimal number at the beginning, which is taken off; nothing, and all stays, where there is none that a T holds.
template <class T = int>
std::optional<T> take_number(std::string_view& text) {
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

/// All of the text, as a number that is `least` or more.
template <class T>
std::optional<T> number_from(std::string_view text, T least) {
  const std::optional<T> value = take_number<T>(text);
  return value && text.empty() && *value >= least ? value : std::nullopt;
}

}  // namespace limbeck::launch
