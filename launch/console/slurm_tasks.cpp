#include "launch/console/slurm_tasks.h"

#include <charconv>
#include <optional>
#include <system_error>

namespace limbeck::launch {
namespace {

/// A whole number from 1 on, all of the text.
std::optional<int> number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 1) return std::nullopt;
  return value;
}

}  // namespace

int tasks_on_node(std::string_view tasks_per_node, int node) {
  std::string_view rest = tasks_per_node;
  while (!rest.empty() && node >= 0) {
    std::string_view entry = rest.substr(0, rest.find(','));
    rest.remove_prefix(entry.size() < rest.size() ? entry.size() + 1 : entry.size());
    std::optional<int> nodes = 1;
    if (const std::size_t times = entry.find("(x"); times != std::string_view::npos && entry.ends_with(')')) {
      nodes = number(entry.substr(times + 2, entry.size() - times - 3));
      entry = entry.substr(0, times);
    }
    const std::optional<int> tasks = number(entry);
    if (!tasks || !nodes) return 0;
    if (node < *nodes) return *tasks;
    node -= *nodes;
  }
  return 0;
}

}  // namespace limbeck::launch
