#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <string>
#include <thread>

#include "core/error.h"
#include "launch/commands/command_line.h"
#include "launch/commands/commands.h"
#include "launch/console/log.h"
#include "launch/run/stop_flag.h"
#include "parallel/comm/world.h"

namespace {

using limbeck::launch::CommandLine;
using limbeck::launch::Invocation;

/// True for the first rank of this machine that asks. OpenMPI's folder of the job goes with the job.
bool may_report() {
  const char* folder = std::getenv("PMIX_SERVER_TMPDIR");
  if (folder == nullptr) return true;
  const int file =
      ::open((std::string(folder) + "/limbeck_error").c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (file < 0) return errno != EEXIST;
  ::close(file);
  return true;
}

/// The message in one line, whatever a file's names in it hold: control characters as \xNN.
std::string one_line(const std::string& what) {
  std::string line;
  for (const char c : what) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      line += fmt::format("\\x{:02x}", byte);
    else
      line += c;
  }
  return line;
}

/// Prints one error line for all ranks, and ends this one with `code`. Rank 0 speaks where it fails too; those that
/// were only told of a failure (`is_told`) give the one that failed the time to say it.
[[noreturn]] void end_with_error(int code, const std::string& what, bool is_told) {
  limbeck::launch::restore_sigterm();
  const int rank = limbeck::launch::launcher_rank().rank;
  std::fflush(stdout);
  if (is_told)
    std::this_thread::sleep_for(std::chrono::seconds(3));
  else if (rank != 0)
    std::this_thread::sleep_for(std::chrono::seconds(1));
  if (may_report()) {
    if (rank == 0)
      fmt::print(stderr, "limbeck: error: {}\n", one_line(what));
    else
      fmt::print(stderr, "limbeck: error: rank {}: {}\n", rank, one_line(what));
    std::fflush(stderr);
  }
  std::_Exit(code);  // other threads of this rank may still wait for their peers
}

int run(int argc, char** argv) {
  CommandLine line;
  line.train(limbeck::launch::run_train);
  line.distill(limbeck::launch::run_distill);
  line.eval(limbeck::launch::run_eval);
  line.generate(limbeck::launch::run_generate);
  line.convert(limbeck::launch::run_convert);
  line.inspect(limbeck::launch::run_inspect);
  line.tokenize(limbeck::launch::run_tokenize);
  line.report(limbeck::launch::run_report);
  const Invocation invocation = line.parse(argc, argv);
  if (invocation.run) return invocation.run();
  if (limbeck::launch::launcher_rank().rank == 0) fmt::print("{}", invocation.text);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const limbeck::parallel::PeerError& error) {
    end_with_error(1, error.what(), true);
  } catch (const limbeck::core::UsageError& error) {
    end_with_error(2, error.what(), false);
  } catch (const std::bad_alloc&) {
    end_with_error(1, "out of memory", false);
  } catch (const std::exception& error) {
    end_with_error(1, error.what(), false);
  }
}
