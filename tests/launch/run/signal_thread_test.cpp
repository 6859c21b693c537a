#include "launch/run/signal_thread.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

namespace limbeck::launch {
namespace {

thread_local bool computes = false;
std::atomic<int> num_alarms = 0;
std::atomic<int> num_while_computing = 0;

void compute_under_alarms() {
  computes = true;
  while (num_alarms < 1000) {
  }
}

/// Ends with 0 where no handler ran on a thread that computes, and a forked process has its signals.
[[noreturn]] void run_under_alarms() {
  keep_signals_from_computing();
  std::signal(SIGALRM, [](int) {
    ++num_alarms;
    if (computes) ++num_while_computing;
  });
  const itimerval often{{0, 100}, {0, 100}};
  ::setitimer(ITIMER_REAL, &often, nullptr);
  std::thread other(compute_under_alarms);
  compute_under_alarms();
  other.join();
  const pid_t child = ::fork();
  if (child == 0) {
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    ::_exit(sigismember(&blocked, SIGTERM));
  }
  int status = 1;
  ::waitpid(child, &status, 0);
  std::_Exit(num_while_computing == 0 && status == 0 ? 0 : 1);
}

TEST(SignalThread, HandlersRunOnNoThreadThatComputes) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(run_under_alarms(), ::testing::ExitedWithCode(0), "");
}

/// With no handler, what a signal does by default still happens.
TEST(SignalThread, ASignalStillEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        keep_signals_from_computing();
        ::kill(::getpid(), SIGTERM);
        std::this_thread::sleep_for(std::chrono::seconds(20));
      },
      ::testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace limbeck::launch
