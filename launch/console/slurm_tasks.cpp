#include "launch/console/slurm_tasks.h"

#include <optional>

#include "launch/console/read_number.h"

namespace limbeck::launch {

int tasks_on_node(std::string_view tasks_per_node, int node) {
  std::string_view rest = tasks_per_node;
  while (!rest.empty() && node >= 0) {
    std::string_view entry = rest.substr(0, rest.find(','));
    rest.remove_prefix(entry.size() < rest.size() ? entry.size() + 1 : entry.size());
    std::optional<int> nodes = 1;
    if (const std::size_t times = entry.find("(x"); times != std::string_view::npos && entry.ends_with(')')) {
      nodes = number_from(entry.substr(times + 2, entry.size() - times - 3), 1);
      entry = entry.substr(0, times);
    }
    const std::optional<int> tasks = number_from(entry, 1);
    if (!tasks || !nodes) return 0;
    if (node < *nodes) return *tasks;
    node -= *nodes;
  }
  return 0;
}

}  // namespace limbeck::launch
