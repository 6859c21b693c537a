#include "parallel/pipeline/filled_gaps.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <utility>
#include <vector>

namespace limbeck::parallel {
namespace {

constexpr double never = std::numeric_limits<double>::infinity();
constexpr double worth = 0.01;  // of a step's time

std::size_t index_of(int number) { return static_cast<std::size_t>(number); }

/// What a rank takes of what it could do.
struct Taste {
  /// Forwards come first until as many are under way as the schedule ever has, and beyond that wait. Else gradients
  /// come first, and forwards as far as there is room.
  bool fills_first = false;
  /// A rank that knows when it can go on waits so long for it, in times of a gradient of weights, before it makes one.
  double patience = 0;
};
constexpr std::array tastes{Taste{true, 0}, Taste{true, 1}, Taste{false, 0}, Taste{false, 1}};

enum Kind : std::uint8_t { Forwards, Inputs, Weights, NumKinds };

Kind kind_of(const PipelineAction& action) {
  return action.kind == ActionKind::Forward ? Forwards : action.kind == ActionKind::InputGradient ? Inputs : Weights;
}

/// Ranks that decide what they do next whenever they are free, by what is there and what is known to be on its way.
class Walk {
 public:
  Walk(const PipelineSchedule& schedule, const PipelineCosts& costs, const Taste& taste)
      : schedule_(schedule),
        costs_(costs),
        taste_(taste),
        most_held_(peak_activations(schedule)),
        ranks_(schedule.stages.size()) {
    for (auto& ends : ends_) ends.resize(index_of(schedule.num_virtual_stages() * schedule.num_micro_batches), never);
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
      OneRank& own = ranks_[rank];
      int under_way = 0;
      for (const PipelineAction& action : schedule.stages[rank]) {
        own.to_do[kind_of(action)].push_back(action);
        if (action.kind == ActionKind::Forward) ++under_way;
        if (action.kind == ActionKind::InputGradient) --under_way;
        own.most_under_way = std::max(own.most_under_way, under_way);
      }
    }
  }

  /// Nothing where the ranks come to a halt before their ends.
  std::optional<PipelineSchedule> finish() {
    for (int rank = 0; rank < schedule_.num_stages(); ++rank) wake(rank, 0);
    while (!free_.empty()) {
      const auto [now, rank] = *free_.begin();
      free_.erase(free_.begin());
      OneRank& own = ranks_[index_of(rank)];
      const Choice choice = choose(rank, now);
      own.waits = !choice.kind;
      own.goes_on = choice.kind ? act(rank, *choice.kind, now) : choice.until;
      if (own.goes_on < never) free_.emplace(own.goes_on, rank);
    }
    PipelineSchedule found{
        .num_chunks = schedule_.num_chunks, .num_micro_batches = schedule_.num_micro_batches, .stages = {}};
    for (std::size_t rank = 0; rank < ranks_.size(); ++rank) {
      if (ranks_[rank].taken.size() < schedule_.stages[rank].size()) return std::nullopt;
      found.stages.push_back(std::move(ranks_[rank].taken));
    }
    return found;
  }

 private:
  struct OneRank {
    std::array<std::vector<PipelineAction>, NumKinds> to_do;
    std::array<std::size_t, NumKinds> done = {};
    std::vector<PipelineAction> taken;
    int most_under_way = 0;  // forwards whose input has no gradient yet, in the schedule
    double goes_on = 0;      // when it decides again; never: once it hears of something
    bool waits = false;

    int held() const { return static_cast<int>(done[Forwards] - done[Weights]); }
    int under_way() const { return static_cast<int>(done[Forwards] - done[Inputs]); }
  };
  struct Choice {
    std::optional<Kind> kind;  // none: it waits,
    double until = never;
  };

  double& end_of(bool gradient, int stage, int micro_batch) {
    return ends_[gradient ? 1 : 0][index_of(stage * schedule_.num_micro_batches + micro_batch)];
  }

  /// When what another virtual stage gives is on this rank.
  double arrival(bool gradient, int stage, int micro_batch, int rank) {
    return end_of(gradient, stage, micro_batch) + (stage % schedule_.num_stages() == rank ? 0 : costs_.communication);
  }

  /// From when on a rank may make its next action of a kind; never: nobody knows yet, or there is none.
  double ready(int rank, Kind kind) {
    const OneRank& own = ranks_[index_of(rank)];
    if (own.done[kind] == own.to_do[kind].size()) return never;
    const PipelineAction& action = own.to_do[kind][own.done[kind]];
    const int stage = schedule_.virtual_stage(rank, action.chunk), m = action.micro_batch;
    if (kind == Forwards) return stage == 0 ? 0 : arrival(false, stage - 1, m, rank);
    if (kind == Weights) return end_of(true, stage, m);
    const double forward = end_of(false, stage, m);
    if (stage + 1 == schedule_.num_virtual_stages()) return forward;
    return std::max(forward, arrival(true, stage + 1, m, rank));
  }

  Choice choose(int rank, double now) {
    const OneRank& own = ranks_[index_of(rank)];
    const bool has_room = own.held() < most_held_[index_of(rank)], is_filled = own.under_way() >= own.most_under_way,
               may_forward = has_room && !(taste_.fills_first && is_filled);
    const double forward = ready(rank, Forwards), input = ready(rank, Inputs), weights = ready(rank, Weights);
    const bool forwards = forward <= now && may_forward, inputs = input <= now;
    if (forwards && (taste_.fills_first || !inputs)) return {Forwards};
    if (inputs) return {Inputs};
    const double until = std::min(input, may_forward ? forward : never);
    if (weights > now) return {std::nullopt, std::min(until, weights)};
    const bool lacks_room = forward <= now && !has_room;
    return lacks_room || until - now >= taste_.patience * cost_of(rank, Weights) ? Choice{Weights}
                                                                                 : Choice{std::nullopt, until};
  }

  double cost_of(int rank, Kind kind) const {
    const OneRank& own = ranks_[index_of(rank)];
    const std::size_t stage = index_of(schedule_.virtual_stage(rank, own.to_do[kind][own.done[kind]].chunk));
    return kind == Forwards ? costs_.forward[stage]
           : kind == Inputs ? costs_.input_gradient[stage]
                            : costs_.weight_gradient[stage];
  }

  /// Its end. Who waits for it decides anew, now that this is known.
  double act(int rank, Kind kind, double now) {
    OneRank& own = ranks_[index_of(rank)];
    const double end = now + cost_of(rank, kind);
    const PipelineAction action = own.to_do[kind][own.done[kind]++];
    own.taken.push_back(action);
    if (kind == Weights) return end;
    const int stage = schedule_.virtual_stage(rank, action.chunk), next = stage + (kind == Forwards ? 1 : -1);
    end_of(kind == Inputs, stage, action.micro_batch) = end;
    if (next < 0 || next >= schedule_.num_virtual_stages()) return end;
    const int receiver = next % schedule_.num_stages();
    if (receiver != rank && ranks_[index_of(receiver)].waits) wake(receiver, now);
    return end;
  }

  void wake(int rank, double now) {
    OneRank& own = ranks_[index_of(rank)];
    free_.erase({own.goes_on, rank});
    own.waits = false;
    own.goes_on = now;
    free_.emplace(now, rank);
  }

  const PipelineSchedule& schedule_;
  const PipelineCosts& costs_;
  const Taste& taste_;
  std::vector<int> most_held_;  // by rank, in the schedule
  std::vector<OneRank> ranks_;
  std::array<std::vector<double>, 2> ends_;  // of forwards and of inputs' gradients; never: not begun
  std::set<std::pair<double, int>> free_;    // ranks, by when they decide
};

}  // namespace

PipelineSchedule with_gaps_filled(PipelineSchedule schedule, const PipelineCosts& costs) {
  const bool is_apart = std::ranges::none_of(schedule.stages, [](const auto& actions) {
    return std::ranges::count(actions, ActionKind::Backward, &PipelineAction::kind) > 0;
  });
  if (!is_apart) return schedule;
  double least = simulate(schedule, costs).makespan * (1 - worth);
  const PipelineSchedule given = schedule;
  for (const Taste& taste : tastes) {
    std::optional<PipelineSchedule> found = Walk(given, costs, taste).finish();
    if (!found) continue;
    const double makespan = simulate(*found, costs).makespan;
    if (makespan >= least) continue;
    least = makespan;
    schedule = std::move(*found);
  }
  return schedule;
}

}  // namespace limbeck::parallel
