#include <chrono>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <thread>

#include "core/error.h"
#include "kernels/denormals.h"
#include "launch/commands/command_line.h"
#include "launch/commands/commands.h"
#include "launch/console/error_line.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/run/brief_waits.h"
#include "launch/run/fatal_signals.h"
#include "launch/run/signal_thread.h"
#include "launch/run/stop_flag.h"
#include "parallel/comm/world.h"

namespace {

using limbeck::launch::CommandLine;
using limbeck::launch::Invocation;
using limbeck::launch::one_line;

// Before the constructors of libraries.
[[gnu::section(LIMBECK_EARLIEST_SECTION), gnu::used]] void (*const earliest)(int, char**,
                                                                             char**) = limbeck::launch::wait_briefly;

/// Prints one error line for all ranks, and ends this one with `code`. Rank 0 speaks where it fails too; those that
/// were only told of a failure (`is_told`) give the one that failed the time to say it.
[[noreturn]] void end_with_error(int code, const std::string& what, bool is_told) {
  limbeck::launch::restore_stop_signals();
  if (is_told)
    std::this_thread::sleep_for(std::chrono::seconds(3));
  else if (limbeck::launch::launcher_rank().rank != 0)
    std::this_thread::sleep_for(std::chrono::seconds(1));
  if (limbeck::launch::claim_error_line()) limbeck::launch::write_error_line({one_line(what)});
  std::_Exit(code);  // other threads of this rank may still wait for their peers
}

/// Ends with the error that is being thrown.
[[noreturn]] void end_with_this_error() {
  if (std::current_exception() == nullptr) std::abort();
  try {
    throw;
  } catch (const limbeck::parallel::PeerError& error) {
    end_with_error(1, error.what(), true);
  } catch (const limbeck::core::UsageError& error) {
    end_with_error(2, error.what(), false);
  } catch (const std::bad_alloc&) {
    end_with_error(1, "out of memory" + limbeck::launch::memory_limit_text(), false);
  } catch (const std::filesystem::filesystem_error& error) {
    const std::string path = error.path1().string();
    end_with_error(1, path.empty() ? error.what() : path + ": " + error.code().message(), false);
  } catch (const std::exception& error) {
    end_with_error(1, error.what(), false);
  }
}

int run(int argc, char** argv) {
  CommandLine line;
  line.train(limbeck::launch::run_train);
  line.distill(limbeck::launch::run_distill);
  line.cache_teacher(limbeck::launch::run_cache_teacher);
  line.eval(limbeck::launch::run_eval);
  line.generate(limbeck::launch::run_generate);
  line.convert(limbeck::launch::run_convert);
  line.inspect(limbeck::launch::run_inspect);
  line.tokenize(limbeck::launch::run_tokenize);
  line.verify(limbeck::launch::run_verify);
  line.plan(limbeck::launch::run_plan);
  line.report(limbeck::launch::run_report);
  line.watch(limbeck::launch::run_watch);
  line.compare(limbeck::launch::run_compare);
  line.launch(limbeck::launch::run_launch);
  const Invocation invocation = line.parse(argc, argv);
  if (invocation.run) return invocation.run();
  if (limbeck::launch::launcher_rank().rank == 0) limbeck::launch::write_result(invocation.text);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const limbeck::kernels::NoDenormals no_denormals;  // in all threads of this process
  limbeck::launch::open_standard_streams();
  limbeck::launch::remember_launcher();
  limbeck::launch::prepare_error_line();
  limbeck::launch::report_fatal_signals();
  std::set_terminate(end_with_this_error);  // what a thread of a library's throws
  try {
    limbeck::launch::keep_signals_from_computing();
    const int code = run(argc, argv);
    limbeck::launch::flush_results();
    return code;
  } catch (const std::exception&) {
    end_with_this_error();
  }
}
