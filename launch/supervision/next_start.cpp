#include "launch/supervision/next_start.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "core/counted.h"
#include "launch/supervision/host_list.h"
#include "parallel/axes/mesh.h"

namespace limbeck::launch {

namespace {

/// The axes that it names but dp.
parallel::Layout without_dp(const parallel::Layout& layout) {
  std::string text;
  for (const parallel::LayoutAxis& axis : parallel::layout_axes)
    if (axis.size != &parallel::Layout::dp && layout.*axis.size > 0)
      text += fmt::format("{}{}", axis.name, layout.*axis.size);
  parallel::Layout rest = layout;
  rest.text = text;
  rest.dp = 0;
  return rest;
}

/// As many ranks over the same hosts: whether what ended both may be one thing.
bool is_alike(const Attempt& a, const Attempt& b) { return a.ranks == b.ranks && a.without == b.without; }

/// Whether another number of ranks may help against what ended the last attempt: what was the matter, in words. Not
/// against a host that is not there: mpirun wants all of its list.
std::optional<std::string> fault_of_ranks(std::span<const Attempt> attempts, int num_hosts) {
  const Attempt& last = attempts.back();
  if (!last.cause) return std::nullopt;
  const Cause& now = *last.cause;
  if (now.kind == CauseKind::Unavailable && now.lost.empty()) return now.what;
  if (attempts.size() < 2 || !attempts[attempts.size() - 2].cause) return std::nullopt;
  const Attempt& other = attempts[attempts.size() - 2];
  const Cause& before = *other.cause;
  if (!is_alike(other, last)) return std::nullopt;
  if (now.rank && now.rank == before.rank) return fmt::format("rank {} was at fault twice", *now.rank);
  if (num_hosts > 1 && !now.host.empty() && is_same_host(now.host, before.host))
    return fmt::format("{} was at fault twice", now.host);
  return std::nullopt;
}

/// Whether it was trouble of the network, which passes: names are not resolved, or none of several hosts is reached.
bool is_network(const Attempt& attempt, int num_far) {
  if (!attempt.cause) return false;
  const Cause& cause = *attempt.cause;
  const auto lost = std::ssize(cause.lost);
  return cause.kind == CauseKind::Passing || (cause.is_unreached && lost > 1 && lost >= num_far);
}

/// Whether ssh did not reach a host when the ranks were to be started.
bool is_unreached(const Attempt& attempt) { return attempt.cause && attempt.cause->is_unreached && !attempt.from; }

/// The host that it is of no use to ask for again, if one is.
std::optional<std::string> lost_host(std::span<const Attempt> attempts) {
  const Attempt& last = attempts.back();
  if (!last.cause || last.cause->lost.empty()) return std::nullopt;
  if (is_unreached(last)) return last.cause->lost.front();
  if (attempts.size() < 2 || !attempts[attempts.size() - 2].cause) return std::nullopt;
  for (const std::string& before : attempts[attempts.size() - 2].cause->lost)
    for (const std::string& host : last.cause->lost)
      if (is_same_host(host, before)) return host;
  return std::nullopt;
}

/// Without the lost one, where that is to be had.
std::optional<NextStart> without_lost_host(std::span<const Attempt> attempts, const RestartLimits& limits,
                                           const ParallelConfig& config, const KnownHosts& hosts) {
  const std::optional<std::string> host = lost_host(attempts);
  const std::optional<int> room = host && hosts.room_without ? hosts.room_without(*host) : std::nullopt;
  if (!room) return std::nullopt;
  const int ranks = attempts.back().ranks;
  NextStart next{.ranks = ranks};
  if (*room < ranks) {
    if (!limits.min_ranks) return std::nullopt;
    next = fewer_ranks(config, *room + 1, *limits.min_ranks);
    if (!next.ranks) return std::nullopt;
  }
  next.why = fmt::format("{} was lost", *host);
  next.without = host;
  return next;
}

/// Why there is no use in another attempt, if the last two say so.
std::optional<std::string> is_deterministic(std::span<const Attempt> attempts) {
  if (attempts.size() < 2) return std::nullopt;
  const Attempt& last = attempts.back();
  const Attempt& before = attempts[attempts.size() - 2];
  if (!is_alike(before, last) || !last.cause || !before.cause) return std::nullopt;
  if (!last.has_trained() && !before.has_trained())
    return fmt::format("two attempts in a row ended before they did a step: {}", to_text(*last.cause));
  // No step stops a process.
  if (last.cause->kind == CauseKind::Silent) return std::nullopt;
  // What all ranks say, any of them may say first.
  const bool is_same_rank = last.cause->kind == CauseKind::Error || last.cause->rank == before.cause->rank;
  if (last.failed_at() == before.failed_at() && is_same_rank && last.cause->what == before.cause->what)
    return fmt::format("step {} failed twice by the same cause: {}", last.failed_at(), to_text(*last.cause));
  return std::nullopt;
}

}  // namespace

NextStart fewer_ranks(const ParallelConfig& config, int ranks, int least) {
  const bool is_free = config.layout.empty() || config.layout == "auto";
  const parallel::Layout named = is_free ? parallel::Layout{} : parallel::parse_layout(config.layout);
  const parallel::Layout layout = without_dp(named);
  const bool is_relaid = config.teacher_ranks == 0 && !config.teacher_layout.empty();
  const auto fits = [&](int n) {
    const auto students = n - static_cast<int>(config.teacher_ranks);
    return students > 0 && (is_free || parallel::world_fault(layout, students).empty()) &&
           (config.shard_ranks == 0 || n % config.shard_ranks == 0);
  };
  const auto fits_teacher = [&](int n) {
    return !is_relaid || parallel::world_fault(parallel::parse_layout(config.teacher_layout), n).empty();
  };
  bool is_by_teacher = false;  // that there are no fewer
  for (int n = ranks - 1; n >= std::max(least, 1); --n) {
    if (!fits(n)) continue;
    if (!fits_teacher(n)) {
      is_by_teacher = true;
      continue;
    }
    NextStart next{.ranks = n};
    if (named.dp > 0) next.layout = layout.text.empty() ? fmt::format("dp{}", n - config.teacher_ranks) : layout.text;
    return next;
  }
  if (is_by_teacher)
    return {.why = fmt::format("no parallel.teacher_layout {} beside layout {} has fewer ranks than {} and {} at least "
                               "(--min-ranks)",
                               config.teacher_layout, config.layout.empty() ? "dp" : config.layout, ranks, least)};
  return {.why = fmt::format("no layout {} has fewer ranks than {} and {} at least (--min-ranks)",
                             config.layout.empty() ? "dp" : config.layout, ranks, least)};
}

std::chrono::seconds wait_after(std::int64_t times) {
  return std::min(std::chrono::seconds(5 << std::clamp<std::int64_t>(times - 1, 0, 4)), std::chrono::seconds(60));
}

NextStart next_start(std::span<const Attempt> all, const RestartLimits& limits, const ParallelConfig& config,
                     const KnownHosts& hosts) {
  const Attempt& last = all.back();
  const std::string cause = last.cause ? to_text(*last.cause) : fmt::format("exit code {}", last.code);
  if (last.code == 2) return {.why = "wrong use is not tried again"};
  if (std::ssize(all) > limits.max_restarts)
    return {.why = fmt::format("it was started again {} (--max-restarts), and failed: {}",
                               core::counted(limits.max_restarts, "time"), cause)};
  std::vector<Attempt> attempts;  // that tell something of ranks and hosts
  std::int64_t passing = 0;       // those since, of what passes
  bool has_set_out = false;
  for (const Attempt& attempt : all) {
    has_set_out = has_set_out || attempt.from;
    const bool is_needed = is_unreached(attempt) && !without_lost_host({&attempt, 1}, limits, config, hosts);
    const bool passes = is_network(attempt, hosts.num_far) || (has_set_out && is_needed);
    passing = passes ? passing + 1 : 0;
    if (!passes) attempts.push_back(attempt);
  }
  if (passing > 0) return {.ranks = last.ranks, .why = cause, .wait = wait_after(passing)};
  const std::optional<std::string> no_use = is_deterministic(attempts);
  if (no_use && last.cause->kind == CauseKind::Error) return {.why = *no_use};
  if (auto next = without_lost_host(attempts, limits, config, hosts)) return *next;
  NextStart again{.ranks = last.ranks, .why = cause};
  if (limits.min_ranks)
    if (const auto fault = fault_of_ranks(attempts, hosts.count)) {
      const NextStart next = fewer_ranks(config, last.ranks, *limits.min_ranks);
      if (next.ranks) return {.ranks = next.ranks, .layout = next.layout, .why = *fault};
      again.why = fmt::format("{}, and {}", *fault, next.why);
      if (last.cause->kind == CauseKind::Unavailable) return {.why = again.why};
    }
  if (no_use) return {.why = *no_use};
  return again;
}

}  // namespace limbeck::launch
