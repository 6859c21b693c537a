#include "launch/supervision/vigil.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "core/counted.h"

namespace limbeck::launch {

Vigil::Vigil(std::filesystem::path folder, int num_ranks, Limits limits, Clock::time_point now)
    : folder_(std::move(folder)), limits_(limits), moved_(now), at_disk_(now) {
  for (int rank = 0; rank < num_ranks; ++rank)
    ranks_.push_back({.before = read_beat(beat_file(folder_, rank)), .beat = std::nullopt, .since = now});
}

std::optional<Cause> Vigil::look(Clock::time_point now) {
  for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
    Seen& seen = ranks_[rank];
    std::optional<Beat> beat = read_beat(beat_file(folder_, static_cast<int>(rank)));
    if (!beat || beat == seen.beat || beat == seen.before) continue;
    if (!seen.beat || beat->step != seen.beat->step || beat->operations != seen.beat->operations) moved_ = now;
    seen.beat = std::move(beat);
    seen.since = now;
  }
  if (waits_for_disks()) at_disk_ = now;
  const auto silent = find_silent(now);
  return silent ? silent : find_hung(now);
}

void Vigil::skip(std::chrono::duration<double> time) {
  const auto ticks = std::chrono::duration_cast<Clock::duration>(time);
  for (Seen& seen : ranks_) seen.since += ticks;
  moved_ += ticks;
  at_disk_ += ticks;
}

std::optional<Cause> Vigil::find_silent(Clock::time_point now) const {
  std::optional<Cause> found;
  std::int64_t others = 0;
  for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
    const Seen& seen = ranks_[rank];
    const auto limit = seen.beat ? limits_.silent_after : patience * limits_.silent_after;
    if (now - seen.since <= limit) continue;
    if (found) ++others;
    if (!found)
      found = Cause{.kind = CauseKind::Silent,
                    .what = fmt::format("{} no sign of life for {} s (--silent-after)",
                                        seen.beat ? "gives" : "has given", limit.count()),
                    .rank = static_cast<int>(rank)};
  }
  if (others > 0) found->what += fmt::format("; nor does {}", core::counted(others, "other rank"));
  if (found) found->lost = find_lost(now);
  return found;
}

/// A file system that stands still silences all hosts, but not in the same instant: half of the time is enough here.
std::vector<std::string> Vigil::find_lost(Clock::time_point now) const {
  std::set<std::string> quiet, lively;
  for (const Seen& seen : ranks_)
    (now - seen.since > limits_.silent_after / 2 ? quiet : lively).insert(seen.beat ? seen.beat->host : "");
  if (quiet.size() != 1 || quiet.contains("")) return {};
  lively.erase("");
  lively.erase(*quiet.begin());
  return lively.empty() ? std::vector<std::string>{} : std::vector<std::string>{*quiet.begin()};
}

bool Vigil::waits_for_disks() const {
  const auto waits_for_one = [](const Seen& s) { return s.beat && !s.beat->disk.empty(); };
  return std::ranges::any_of(ranks_, waits_for_one) &&
         std::ranges::all_of(ranks_, [&](const Seen& s) { return waits_for_one(s) || (s.beat && s.beat->is_waiting); });
}

/// Whom the others wait for computes or stands in no exchange; where there is none such, it waits for a disk.
std::optional<Cause> Vigil::find_hung(Clock::time_point now) const {
  const bool has_begun = std::ranges::any_of(ranks_, [](const Seen& s) { return s.beat && s.beat->step > 0; });
  const auto most = patience * limits_.step_deadline;
  const bool is_usual = has_begun && now - moved_ <= most;
  const auto limit = is_usual ? limits_.step_deadline : most;
  if (limit.count() == 0 || now - (is_usual ? std::max(moved_, at_disk_) : moved_) <= limit) return std::nullopt;
  const auto at_work = [](const Seen& s) { return s.beat && !s.beat->is_waiting; };
  auto found = std::ranges::find_if(ranks_, [&](const Seen& s) { return at_work(s) && s.beat->disk.empty(); });
  if (found == ranks_.end()) found = std::ranges::find_if(ranks_, at_work);
  const std::string disk = found == ranks_.end() ? "" : found->beat->disk;
  return Cause{.kind = CauseKind::Hung,
               .what = fmt::format("no rank has come further for {} s (--step-deadline){}", limit.count(),
                                   disk.empty() ? "" : ": it " + disk),
               .rank = found == ranks_.end() ? 0 : static_cast<int>(found - ranks_.begin())};
}

}  // namespace limbeck::launch
