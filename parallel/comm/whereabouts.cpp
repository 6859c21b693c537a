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
  if (!answer->is_waiting)
    return fmt::format("; rank {} has not come: it is at step {}, its last operation was {}", rank, answer->at.step,
                       answer->at.number == 0 ? "none" : answer->at.operation);
  return fmt::format("; rank {} has not come: it waits {}", rank, describe(answer->at));
}

}  // namespace

std::string tell_missing(const std::vector<Missing>& missing,
                         const std::function<std::optional<Whereabouts>(int)>& ask) {
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
  std::string guilty;
  for (const auto& [rank, rank_found] : found)
    if (!rank_found.answer || rank_found.answer->waits_for.empty())
      guilty += describe(rank, rank_found.answer, rank_found.heard);
  if (!guilty.empty()) return guilty;
  for (const Missing& m : missing)
    guilty += describe(m.rank, found.at(m.rank).answer, m.heard);  // each waits for another
  return guilty;
}

}  // namespace limbeck::parallel
