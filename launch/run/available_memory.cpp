#include "launch/run/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>
#include <string>

#include "launch/run/number_file.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

/// What a group's limit leaves. Pages of files count as used, but give way, unless the files are in memory.
std::optional<std::int64_t> left_of(const fs::path& group, const char* limit, const char* used, const char* files,
                                    const char* in_memory) {
  const auto most = number_in(group / limit), now = number_in(group / used);
  if (!most || !now) return std::nullopt;
  std::int64_t of_files = 0;
  std::ifstream statistics(group / "memory.stat");
  for (std::string name; statistics >> name;) {
    std::int64_t value = 0;
    statistics >> value;
    if (name == files) of_files += value;
    if (name == in_memory) of_files -= value;
  }
  return std::max<std::int64_t>(*most - std::max<std::int64_t>(*now - of_files, 0), 0);
}

std::optional<std::int64_t> of_machine(const fs::path& root) {
  std::ifstream in(root / "proc/meminfo");
  for (std::string line; std::getline(in, line);) {
    std::int64_t kibibytes = 0;
    if (std::istringstream fields(line.substr(std::min(line.size(), line.find(':') + 1)));
        line.starts_with("MemAvailable:") && fields >> kibibytes)
      return kibibytes * 1024;
  }
  return std::nullopt;
}

}  // namespace

std::int64_t available_memory(const fs::path& root) {
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  const auto take = [&](const std::optional<std::int64_t>& bytes) { least = std::min(least, bytes.value_or(least)); };
  take(of_machine(root));
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // "4:memory:/a/b", or "0::/a/b" of version 2
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_second = controllers.empty();
    if (!is_second && ("," + controllers + ",").find(",memory,") == std::string::npos) continue;
    const fs::path top = root / (is_second ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    for (fs::path group = fs::path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
      const fs::path folder = group.empty() ? top : top / group;
      take(is_second ? left_of(folder, "memory.max", "memory.current", "file", "shmem")
                     : left_of(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache", "total_shmem"));
      if (group.empty()) break;
    }
  }
  return least == std::numeric_limits<std::int64_t>::max() ? 0 : least;
}

std::int64_t memory_kills(const fs::path& root) {
  std::ifstream in(root / "proc/vmstat");
  std::int64_t value = 0;
  for (std::string name; in >> name >> value;)
    if (name == "oom_kill") return value;
  return 0;
}

}  // namespace limbeck::launch
