#include "core/error.h"

#include <string>

namespace limbeck::core {
namespace {

/// What is said may hold text from outside: a zero byte would end the message there.
std::string message(fmt::string_view format, fmt::format_args args) {
  std::string text = fmt::vformat(format, args);
  for (std::size_t at = text.find('\0'); at != std::string::npos; at = text.find('\0', at))
    text.replace(at, 1, "\\x00");
  return text;
}

}  // namespace

void fail_with(fmt::string_view format, fmt::format_args args) { throw Error(message(format, args)); }
void fail_usage_with(fmt::string_view format, fmt::format_args args) { throw UsageError(message(format, args)); }

}  // namespace limbeck::core
