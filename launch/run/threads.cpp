#include "launch/run/threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/counted.h"
#include "launch/console/read_number.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

/// Cores that a process may run on; 0 where it cannot be told.
int allowed_cores(pid_t process) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(process, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 0;
}

/// The least of two numbers of cores, of which 0 is none.
int least(int a, int b) { return a == 0 || (b != 0 && b < a) ? b : a; }

/// Quota and period, both positive, as cores; "max" and -1 are no quota.
int as_cores(const std::string& quota, const std::string& period) {
  const auto number = [](std::string_view text) { return take_number<std::int64_t>(text).value_or(0); };
  const std::int64_t time = number(quota), every = number(period);
  constexpr std::int64_t most = 1 << 20;
  return time <= 0 || every <= 0 ? 0 : static_cast<int>(std::clamp<std::int64_t>(time / every, 1, most));
}

std::string first_word(std::istream&& in) {
  std::string word;
  in >> word;
  return word;
}

/// Of one group.
int quota_in(const fs::path& folder) {
  std::ifstream both(folder / "cpu.max");
  std::string quota, period;
  if (both >> quota >> period) return as_cores(quota, period);
  return as_cores(first_word(std::ifstream(folder / "cpu.cfs_quota_us")),
                  first_word(std::ifstream(folder / "cpu.cfs_period_us")));
}

}  // namespace

int quota_of_cores(const fs::path& membership, const fs::path& root) {
  int result = 0;
  std::ifstream in(membership);
  for (std::string line; std::getline(in, line);) {  // "0::/a/b", or "4:cpu,cpuacct:/a/b"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    // A container sees its own group at the root, whatever its name outside.
    for (const fs::path& top : {root, root / "cpu", root / controllers})
      for (fs::path group = fs::path(line.substr(second + 1)).relative_path();; group = group.parent_path()) {
        result = least(result, quota_in(top / group));
        if (group.empty()) break;
      }
  }
  return result;
}

int RankCores::share() const { return std::max(1, machine / ranks); }

RankCores cores_of_rank() {
  const LauncherRank launcher = launcher_rank();
  RankCores cores{.ranks = launcher.ranks_on_machine, .is_launched = launcher.is_launched};
  cores.mine = std::max(1, allowed_cores(0));
  cores.machine = std::max(cores.mine, launcher.is_launched ? allowed_cores(getppid()) : 0);
  const int quota = quota_of_cores("/proc/self/cgroup", "/sys/fs/cgroup");
  if (quota != 0 && quota < cores.machine) {
    cores.quota = cores.machine = quota;
    cores.mine = std::min(cores.mine, quota);
  }
  return cores;
}

int threads_of_rank(std::int64_t wanted) {
  if (wanted > 0) return static_cast<int>(wanted);
  const RankCores cores = cores_of_rank();
  return std::min(cores.mine, cores.share());
}

void say_ranks(Rank& rank, const RunConfig& config, const Log& log) {
  const RankCores cores = cores_of_rank();
  const auto numbers = {threads_of_rank(config.train.threads), cores.mine, cores.share(), cores.is_bound() ? 1 : 0};
  std::vector<int> threads, mine, share, is_bound;  // of each rank
  for (const std::string& text : gather_strings(rank, fmt::format("{}", fmt::join(numbers, " ")))) {
    std::istringstream in(text);
    for (auto* of_ranks : {&threads, &mine, &share, &is_bound}) in >> of_ranks->emplace_back();
  }
  const auto range = [](const std::vector<int>& values) {
    const auto [low, high] = std::minmax_element(values.begin(), values.end());
    return *low == *high ? fmt::format("{}", *low) : fmt::format("{} to {}", *low, *high);
  };
  const bool binds = std::find(is_bound.begin(), is_bound.end(), 1) != is_bound.end();
  const std::string& layout = config.parallel.layout;
  const ParallelConfig& parallel = config.parallel;
  const std::string of_teacher = rank.teacher_side() != nullptr
                                     ? fmt::format(", the teacher's {}", parallel.teacher_layout)
                                 : rank.teacher_ranks() == nullptr
                                     ? ""
                                     : fmt::format(", and {} of the teacher, layout {}", parallel.teacher_ranks,
                                                   parallel.teacher_layout.empty() ? "dp" : parallel.teacher_layout);
  log->info("ranks: {}, layout {}{}; threads a rank: {}; cores of this machine: {}{}{}; binding: {}",
            rank.world().size(), layout.empty() ? "dp" : layout, of_teacher, range(threads), cores.machine,
            cores.quota != 0 ? " (a container's quota)" : "",
            cores.ranks == 1 ? "" : ", shared by " + core::counted(cores.ranks, "rank"),
            binds ? range(mine) + " a rank" : "none");
  for (std::size_t r = 0; r < mine.size(); ++r)
    if (is_bound[r] != 0 && mine[r] < share[r]) {
      log->warn(
          "rank {} is bound to {}, its share of the machine is {}: start with mpirun --bind-to none, or with "
          "--map-by slot:PE={}",
          r, core::counted(mine[r], "core"), share[r], share[r]);
      return;
    }
}

}  // namespace limbeck::launch
