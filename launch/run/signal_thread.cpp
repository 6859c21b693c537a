#include "launch/run/signal_thread.h"

#include <pthread.h>
#include <unistd.h>

#include <csignal>

#include "core/start_thread.h"

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
  pthread_atfork(nullptr, nullptr, [] { pthread_sigmask(SIG_SETMASK, &before, nullptr); });
  core::start_thread("signals", [] {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    while (true) ::pause();
  }).detach();
}

}  // namespace limbeck::launch
