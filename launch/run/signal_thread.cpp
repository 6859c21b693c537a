#include "launch/run/signal_thread.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>
#include <system_error>
#include <thread>

namespace limbeck::launch {

namespace {
sigset_t before;
}

void keep_signals_from_computing() {
  sigset_t all;
  sigfillset(&all);
  for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT, SIGPIPE, SIGXFSZ})
    sigdelset(&all, own);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  try {
    std::thread([] {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      while (true) ::pause();
    }).detach();
    pthread_atfork(nullptr, nullptr, [] { pthread_sigmask(SIG_SETMASK, &before, nullptr); });
  } catch (const std::system_error&) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
}

}  // namespace limbeck::launch
