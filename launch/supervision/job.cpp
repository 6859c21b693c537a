#include "launch/supervision/job.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <thread>
#include <utility>

#include "core/system_error.h"
#include "launch/console/streams.h"

namespace limbeck::launch {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto patience_with_mpirun = 10s;  // Open MPI 4 takes 2, in which it asks its ranks first
constexpr auto patience_with_killed = 10s;  // what stands in a call of a file system may not go at once

struct Pipe {
  Pipe() { core::check_system(::pipe2(ends.data(), O_CLOEXEC) == 0, "a pipe cannot be made"); }
  ~Pipe() {
    close(0);
    close(1);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close(std::size_t end) {
    if (ends[end] >= 0) ::close(ends[end]);
    ends[end] = -1;
  }
  std::array<int, 2> ends{-1, -1};
};

/// In the child: becomes the command, or writes the reason why not.
[[noreturn]] void become(char* const* command, pid_t parent, int errors, int reason) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(127);  // it has died before
  const int nothing = ::open("/dev/null", O_RDONLY);
  if (nothing >= 0) ::dup2(nothing, STDIN_FILENO);
  ::dup2(errors, STDERR_FILENO);
  ::execvp(command[0], command);
  const int why = errno;
  [[maybe_unused]] const ssize_t written = ::write(reason, &why, sizeof why);
  ::_exit(127);
}

/// Processes whose parent is this one.
std::vector<pid_t> children() {
  std::vector<pid_t> found;
  std::error_code error;
  for (std::filesystem::directory_iterator thread("/proc/self/task", error), end; !error && thread != end;
       thread.increment(error)) {
    std::ifstream in(thread->path() / "children");
    for (pid_t child = 0; in >> child;) found.push_back(child);
  }
  return found;
}

}  // namespace

Job::Job(const std::vector<std::string>& command) {
  std::vector<std::string> words = command;
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  Pipe errors, reason;
  // Orphans of the job become children of this process, so that end() finds them.
  core::check_system(::prctl(PR_SET_CHILD_SUBREAPER, 1) == 0, "the system refuses that orphans are taken");
  const pid_t parent = ::getpid();
  process_ = ::fork();
  if (process_ == 0) become(arguments.data(), parent, errors.ends[1], reason.ends[1]);
  core::check_system(process_ > 0, "{}: a process for it cannot be made", command[0]);
  reason.close(1);
  int why = 0;
  if (::read(reason.ends[0], &why, sizeof why) == sizeof why) {
    ::waitpid(process_, nullptr, 0);
    errno = why;
    core::check_system(false, "{}: cannot be started", command[0]);
  }
  ::fcntl(errors.ends[0], F_SETFL, O_NONBLOCK);
  errors_ = std::exchange(errors.ends[0], -1);
}

Job::~Job() {
  end();
  ::close(errors_);
}

std::vector<std::string> Job::read(std::chrono::milliseconds patience) {
  pollfd waiting{.fd = errors_, .events = POLLIN, .revents = 0};
  ::poll(&waiting, 1, static_cast<int>(patience.count()));
  std::array<char, 65536> bytes{};
  const ssize_t n = ::read(errors_, bytes.data(), bytes.size());
  if (n == 0) std::this_thread::sleep_for(patience);  // nobody writes any more, and the process has not ended yet
  std::vector<std::string> lines;
  if (n <= 0) return lines;
  const std::string_view text(bytes.data(), static_cast<std::size_t>(n));
  write_note(text);
  begun_ += text;
  std::size_t begin = 0;
  for (std::size_t end = begun_.find('\n'); end != std::string::npos; end = begun_.find('\n', begin)) {
    lines.push_back(begun_.substr(begin, end - begin));
    begin = end + 1;
  }
  begun_.erase(0, begin);
  return lines;
}

void Job::take(int status) {
  is_stopped_ = WIFSTOPPED(status);
  if (WIFEXITED(status)) code_ = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) code_ = 128 + WTERMSIG(status);
}

bool Job::has_ended() {
  int status = 0;
  while (!code_ && ::waitpid(process_, &status, WNOHANG | WUNTRACED | WCONTINUED) == process_) take(status);
  return code_.has_value();
}

void Job::ask_to_stop() const {
  if (code_) return;
  ::kill(process_, SIGUSR1);
  ::kill(process_, SIGCONT);
}

void Job::end() {
  const auto wait_for = [&](Clock::duration patience) {
    for (const auto until = Clock::now() + patience; !has_ended() && Clock::now() < until;)
      std::this_thread::sleep_for(20ms);
  };
  if (!has_ended()) {
    ::kill(process_, SIGTERM);
    ::kill(process_, SIGCONT);  // where it was stopped
    wait_for(patience_with_mpirun);
  }
  if (!has_ended()) {
    ::kill(process_, SIGKILL);
    wait_for(patience_with_killed);
  }
  const auto until = Clock::now() + patience_with_killed;
  for (std::vector<pid_t> left = children(); !left.empty() && Clock::now() < until; left = children()) {
    for (const pid_t child : left) ::kill(child, SIGKILL);
    for (const pid_t child : left)
      while (::waitpid(child, nullptr, WNOHANG) == 0 && Clock::now() < until) std::this_thread::sleep_for(5ms);
  }
}

}  // namespace limbeck::launch
