#include "parallel/comm/whereabouts.h"

#include <fmt/format.h>

#include <map>

namespace limbeck::parallel {
namespace {

std::string describe(const Sign& sign) {
  if (sign.number == 0) return "before its first operation";
  return fmt::format("at step {}, in {}", sign.step, sign.operation);
}

std::string describe(int rank, const std::optional<Whereabouts>& answer, const Sign& heard) {
  if (!answer)
    return fmt::format("; rank {} has not come and does not answer: last heard of {}", rank, describe(heard));
  if (!answer->disk.empty())
    return fmt::format("; rank {} waits for a disk at step {}: it {}", rank, answer->at.step, answer->disk);
  if (!answer->is_waiting)
    return fmt::format("; rank {} has not come: it is at step {}, its last operation was {}", rank, answer->at.step,
                       answer->at.number == 0 ? "none" : answer->at.operation);
  return fmt::format("; rank {} has not come: it waits {}", rank, describe(answer->at));
}

}  // namespace

HeldUp tell_missing(const std::vector<Missing>& missing, const std::function<std::optional<Whereabouts>(int)>& ask) {
  struct Found {
    std::optional<Whereabouts> answer;
    Sign heard;  // the latest that anybody heard
  };
  std::map<int, Found> found;
  std::vector<Missing> open = missing;
  while (!open.empty()) {
    const Missing next = open.back();
    open.pop_back();
    const auto [place, is_new] = found.try_emplace(next.rank);
    if (next.heard.number > place->second.heard.number) place->second.heard = next.heard;
    if (!is_new) continue;
    place->second.answer = ask(next.rank);
    if (place->second.answer)
      open.insert(open.end(), place->second.answer->waits_for.begin(), place->second.answer->waits_for.end());
  }
  HeldUp by{.only_by_disks = true};
  for (const auto& [rank, rank_found] : found) {
    const std::optional<Whereabouts>& answer = rank_found.answer;
    if (answer && !answer->waits_for.empty()) continue;
    by.who += describe(rank, answer, rank_found.heard);
    by.only_by_disks = by.only_by_disks && answer && !answer->disk.empty();
  }
  if (!by.who.empty()) return by;
  by.only_by_disks = false;
  for (const Missing& m : missing)
    by.who += describe(m.rank, found.at(m.rank).answer, m.heard);  // each waits for another
  return by;
}

}  // namespace limbeck::parallel
