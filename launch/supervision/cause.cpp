#include "launch/supervision/cause.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "launch/console/read_number.h"
#include "launch/supervision/host_list.h"

namespace limbeck::launch {

namespace {

/// What stands behind `before`, if it is there.
std::optional<std::string_view> behind(std::string_view text, std::string_view before) {
  const std::size_t at = text.find(before);
  if (at == std::string_view::npos) return std::nullopt;
  return text.substr(at + before.size());
}

std::optional<int> number_behind(std::string_view text, std::string_view before) {
  auto rest = behind(text, before);
  return rest ? take_number(*rest) : std::nullopt;
}

/// "limbeck: error: rank 1: ..."; whose rank has not come is the one that is named last.
std::optional<Cause> error_in(std::string_view line) {
  auto rest = behind(line, "limbeck: error: ");
  if (!rest) return std::nullopt;
  Cause cause{.kind = CauseKind::Error, .what = std::string(*rest), .rank = 0};
  if (std::string_view of = *rest; of.starts_with("rank ")) {
    of.remove_prefix(5);
    const auto rank = take_number(of);
    if (rank && of.starts_with(": ")) {
      cause.rank = rank;
      cause.what = of.substr(2);
    }
  }
  const std::size_t absent = rest->rfind(" has not come");
  const std::size_t named = rest->rfind("rank ", absent);
  if (absent != std::string_view::npos && named != std::string_view::npos)
    if (std::string_view of = rest->substr(named + 5); const auto rank = take_number(of)) cause.rank = rank;
  return cause;
}

/// "mpirun noticed that process rank 1 with PID 4711 on node n1 exited on signal 9 (Killed)."
std::optional<Cause> signal_in(std::string_view line) {
  const auto rank = number_behind(line, "noticed that process rank ");
  const auto signal = number_behind(line, " exited on signal ");
  if (!rank || !signal) return std::nullopt;
  Cause cause{.kind = CauseKind::Signal, .what = fmt::format("ended by signal {}", *signal), .rank = rank};
  if (const auto host = behind(line, " on node ")) cause.host = host->substr(0, host->find(' '));
  return cause;
}

bool holds(std::string_view text, std::string_view words) { return text.find(words) != std::string_view::npos; }

constexpr const char* not_resolved = "ould not resolve hostname";

/// "ssh: Could not resolve hostname n4: Temporary failure in name resolution": of no host, but of who is asked for it.
bool is_passing(std::string_view line) { return holds(line, not_resolved) && holds(line, "Temporary failure"); }

/// Of Open MPI 4 and 5.
std::optional<Cause> unavailable_in(std::string_view line) {
  constexpr std::array words = {
      "There are not enough slots available",
      "There are not enough nodes",
      "more processes than the ppr",
      "would result in binding more",  // processes than cpus, in the next line
      "lost communication with",
      "was unable to reliably start",
      not_resolved,
      "No route to host",
      "unable to reach",
      "unable to contact",
      "ssh: connect to host",
      "not able to launch",
  };
  if (std::ranges::none_of(words, [&](const char* said) { return holds(line, said); })) return std::nullopt;
  return Cause{.kind = CauseKind::Unavailable, .what = std::string(line)};
}

/// Whom ssh does not reach; "" where the line does not say it.
std::string unreached_in(std::string_view line) {
  for (const auto& [before, end] : {std::pair("ssh: connect to host ", ' '), {"ould not resolve hostname ", ':'}})
    if (const auto host = behind(line, before)) return std::string(host->substr(0, host->find(end)));
  return "";
}

/// Whose daemon mpirun has lost, which it says some lines below that it has; "" where the line does not say it.
std::string daemon_in(std::string_view line) {
  if (const auto daemon = behind(line, "Remote daemon:"))
    if (const auto host = behind(*daemon, " on node ")) return std::string(host->substr(0, host->find(' ')));
  return "";
}

/// ssh names one a line, of which all count.
void note_lost(Cause& cause, std::string_view line) {
  const std::string unreached = unreached_in(line);
  const std::string host = unreached.empty() ? daemon_in(line) : unreached;
  if (host.empty() || (!cause.lost.empty() && (unreached.empty() || !cause.is_unreached))) return;
  if (std::ranges::any_of(cause.lost, [&](const std::string& known) { return is_same_host(known, host); })) return;
  cause.is_unreached = !unreached.empty();
  cause.lost.push_back(host);
  cause.host = cause.lost.front();
}

}  // namespace

void place(Cause& cause, const std::vector<Beat>& beats) {
  if (!cause.rank) return;
  const auto beat = std::ranges::find(beats, *cause.rank, &Beat::rank);
  if (beat == beats.end()) return;
  if (cause.host.empty()) cause.host = beat->host;
  cause.step = beat->step;
  cause.operation = beat->operation;
}

std::string to_text(const Cause& cause) {
  if (!cause.rank) return cause.what;
  std::string text = fmt::format("rank {}", *cause.rank);
  if (!cause.host.empty()) text += " on " + cause.host;
  if (cause.step > 0) text += fmt::format(", at step {}", cause.step);
  if (!cause.operation.empty()) text += fmt::format(", last operation {}", cause.operation);
  return text + ": " + cause.what;
}

void Witness::hear(std::string_view line) {
  if (!signal_) signal_ = signal_in(line);
  if (!error_) error_ = error_in(line);
  if (is_passing(line)) {
    const bool is_host_lost = unavailable_ && !unavailable_->lost.empty();
    if (!is_host_lost) unavailable_ = Cause{.kind = CauseKind::Passing, .what = std::string(line)};
    return;
  }
  if (!unavailable_) unavailable_ = unavailable_in(line);
  if (unavailable_ && unavailable_->kind == CauseKind::Unavailable) note_lost(*unavailable_, line);
}

std::optional<Cause> Witness::heard() const { return signal_ ? signal_ : error_ ? error_ : unavailable_; }

Cause Witness::cause(int code) const {
  return heard().value_or(Cause{.kind = CauseKind::Unknown, .what = fmt::format("mpirun ended with {}", code)});
}

}  // namespace limbeck::launch
