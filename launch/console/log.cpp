#include "launch/console/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <cstdlib>
#include <initializer_list>
#include <optional>
#include <string_view>
#include <utility>

#include "launch/console/console.h"
#include "launch/console/read_number.h"
#include "launch/console/slurm_tasks.h"
#include "launch/console/streams.h"

namespace limbeck::launch {

namespace {

std::optional<LauncherRank> remembered_launcher;

int first_number(std::initializer_list<const char*> variables, int otherwise) {
  for (const char* variable : variables) {
    const char* text = std::getenv(variable);
    if (text == nullptr) continue;
    std::string_view value(text);
    if (const auto number = take_number(value)) return *number;
  }
  return otherwise;
}

/// On this machine; 0 where srun has not started this process. mpirun's daemons, which srun starts one a node, pass
/// their own number on: what mpirun says comes first.
int tasks_of_srun() {
  const char* tasks = std::getenv("SLURM_STEP_TASKS_PER_NODE");
  return tasks == nullptr ? 0 : tasks_on_node(tasks, first_number({"SLURM_NODEID"}, -1));
}

}  // namespace

Log make_log(int rank, Verbosity verbosity) {
  const Console console = error_console();
  auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  sink->set_color_mode(console.has_colour ? spdlog::color_mode::always : spdlog::color_mode::never);
  auto log = std::make_shared<spdlog::logger>("limbeck", std::move(sink));
  log->set_pattern(fmt::format("{}%H:%M:%S %^%v%$", console.is_terminal ? clear_line : ""));
  log->set_level(rank != 0                         ? spdlog::level::off
                 : verbosity == Verbosity::Quiet   ? spdlog::level::err
                 : verbosity == Verbosity::Verbose ? spdlog::level::debug
                                                   : spdlog::level::info);
  log->flush_on(spdlog::level::debug);
  return log;
}

std::string one_line(std::string_view message) {
  constexpr std::size_t most = 3000;
  constexpr std::size_t end = 500;
  std::string line;
  const auto add = [&](std::string_view part) {
    for (const char c : part) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte < 0x20 || byte == 0x7f)
        line += fmt::format("\\x{:02x}", byte);
      else
        line += c;
    }
  };
  if (message.size() <= most) {
    add(message);
  } else {
    add(message.substr(0, most - end));
    line += fmt::format(" ... ({} bytes) ... ", message.size() - most);
    add(message.substr(message.size() - end));
  }
  return line;
}

LauncherRank launcher_rank() {
  if (remembered_launcher) return *remembered_launcher;
  const int local = first_number({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"}, tasks_of_srun());
  const int rank = first_number({"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}, -1);
  const int on_machine = first_number({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"}, 0);
  return {rank < 0 ? 0 : rank, local < 1 ? 1 : local, rank >= 0, on_machine < 0 ? 0 : on_machine};
}

void remember_launcher() { remembered_launcher = launcher_rank(); }

bool is_left_to_first_rank(std::string_view command) {
  const int rank = launcher_rank().rank;
  if (rank != 0) print_note("limbeck: rank {} of a launcher's leaves {} to rank 0: one rank's work\n", rank, command);
  return rank != 0;
}

}  // namespace limbeck::launch
