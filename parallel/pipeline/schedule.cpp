#include "parallel/pipeline/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <string_view>
#include <tuple>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/error.h"

namespace limbeck::parallel {

using core::check;
using core::fail_usage;
using core::Slice;

namespace {

constexpr int num_kinds = 4;

std::size_t index_of(int number) { return static_cast<std::size_t>(number); }
std::size_t index_of(ActionKind kind) { return static_cast<std::size_t>(kind); }

bool is_cost(double cost) { return std::isfinite(cost) && cost >= 0; }

/// (micro-batch, chunk) in the order in which every rank takes them: P micro-batches go through one chunk after the
/// other before the next P begin, so that what the last rank sends on to the first is there when it is wanted.
std::vector<PipelineAction> turns(int num_stages, int num_chunks, int num_micro_batches, bool backward) {
  std::vector<PipelineAction> taken;
  for (int first = 0; first < num_micro_batches; first += num_stages)
    for (int turn = 0; turn < num_chunks; ++turn)
      for (int m = first; m < first + num_stages; ++m)
        taken.push_back({.micro_batch = m, .chunk = backward ? num_chunks - 1 - turn : turn});
  return taken;
}

/// Three streams, each some turns behind the one before: forwards, backwards, gradients of weights. Turns are those of
/// whole rounds of P micro-batches; what is beyond the last micro-batch is left out, which changes nothing of the order
/// of the others, so what was possible stays so.
std::vector<PipelineAction> actions_of(ScheduleKind kind, int rank, int num_stages, int num_chunks,
                                       int num_micro_batches) {
  const auto forwards = turns(num_stages, num_chunks, num_micro_batches, false);
  const auto backwards = turns(num_stages, num_chunks, num_micro_batches, true);
  const bool apart = kind == ScheduleKind::ZeroBubble;
  const int to_end = num_stages - 1 - rank;
  const std::size_t warm_up = index_of(num_chunks == 1 ? to_end : 2 * to_end + (num_chunks - 1) * num_stages);
  // A rank further on holds fewer micro-batches in flight, so it may put off as many more gradients of weights: the
  // ranks before have their gradients sooner, and none holds more than the first.
  const std::size_t put_off = apart ? index_of(rank) : 0;
  std::vector<PipelineAction> actions;
  const auto take = [&](const std::vector<PipelineAction>& stream, std::size_t at, std::size_t behind,
                        ActionKind action) {
    if (at < behind || at - behind >= stream.size() || stream[at - behind].micro_batch >= num_micro_batches) return;
    actions.push_back(stream[at - behind]);
    actions.back().kind = action;
  };
  for (std::size_t at = 0; at < forwards.size() + warm_up + put_off; ++at) {
    take(forwards, at, 0, ActionKind::Forward);
    take(backwards, at, warm_up, apart ? ActionKind::InputGradient : ActionKind::Backward);
    if (apart) take(backwards, at, warm_up + put_off, ActionKind::WeightGradient);
  }
  return actions;
}

/// What has to have run before an action may: the forward of a virtual stage, or what gives its input's gradient.
struct Need {
  bool gradient = false;
  int virtual_stage = 0;
};

std::vector<Need> needs_of(const PipelineSchedule& schedule, int rank, const PipelineAction& action) {
  const int stage = schedule.virtual_stage(rank, action.chunk);
  if (action.kind == ActionKind::WeightGradient) return {{true, stage}};
  if (action.kind == ActionKind::Forward)
    return stage == 0 ? std::vector<Need>{} : std::vector<Need>{{false, stage - 1}};
  std::vector<Need> needs{{false, stage}};
  if (stage + 1 < schedule.num_virtual_stages()) needs.push_back({true, stage + 1});
  return needs;
}

void check_counts(const PipelineSchedule& schedule) {
  check(schedule.num_chunks >= 1 && schedule.num_micro_batches >= 1 && schedule.num_stages() >= 1,
        "pipeline: a schedule of {} stages, {} chunks and {} micro-batches, expected at least one of each",
        schedule.num_stages(), schedule.num_chunks, schedule.num_micro_batches);
  for (int rank = 0; rank < schedule.num_stages(); ++rank) {
    std::vector<std::array<int, num_kinds>> counts(index_of(schedule.num_chunks * schedule.num_micro_batches));
    for (const PipelineAction& action : schedule.stages[index_of(rank)]) {
      const auto& [kind, m, chunk] = action;
      check(m >= 0 && m < schedule.num_micro_batches && chunk >= 0 && chunk < schedule.num_chunks,
            "pipeline: rank {} works on micro-batch {}, chunk {}, expected less than {} and {}", rank, m, chunk,
            schedule.num_micro_batches, schedule.num_chunks);
      ++counts[index_of(m * schedule.num_chunks + chunk)][index_of(kind)];
    }
    for (std::size_t i = 0; i < counts.size(); ++i)
      check(counts[i] == std::array{1, 1, 0, 0} || counts[i] == std::array{1, 0, 1, 1},
            "pipeline: rank {} has of micro-batch {}, chunk {}, {} forwards, {} backwards and {} and {} of inputs and "
            "weights apart, expected one forward, and one backward or one of each apart",
            rank, i / index_of(schedule.num_chunks), i % index_of(schedule.num_chunks), counts[i][0], counts[i][1],
            counts[i][2], counts[i][3]);
  }
}

/// Each channel has its messages received in the order in which they are sent. Counts have been checked.
void check_channels(const PipelineSchedule& schedule) {
  struct Message {
    int virtual_stage, micro_batch;  // the receiver's
    bool operator==(const Message&) const = default;
  };
  struct Channel {
    std::vector<Message> sent, received;
  };
  const int stages = schedule.num_stages();
  std::map<std::tuple<bool, int, int>, Channel> channels;  // by whether it has gradients, sender and receiver
  for (int rank = 0; rank < stages; ++rank)
    for (const PipelineAction& action : schedule.stages[index_of(rank)]) {
      if (action.kind == ActionKind::WeightGradient) continue;
      const bool gradient = action.kind != ActionKind::Forward;
      const int stage = schedule.virtual_stage(rank, action.chunk), step = gradient ? -1 : 1;
      const auto exists = [&](int s) { return s >= 0 && s < schedule.num_virtual_stages(); };
      if (exists(stage + step))
        channels[{gradient, rank, (stage + step) % stages}].sent.push_back({stage + step, action.micro_batch});
      if (exists(stage - step))
        channels[{gradient, (stage - step) % stages, rank}].received.push_back({stage, action.micro_batch});
    }
  for (const auto& [ends, channel] : channels) {
    const auto& [gradient, from, to] = ends;
    const auto [sent, received] = std::ranges::mismatch(channel.sent, channel.received);
    if (from == to || sent == channel.sent.end()) continue;  // a rank sends itself nothing
    core::fail(
        "pipeline: rank {} sends rank {} the {} of micro-batch {}, chunk {} where it expects those of micro-batch {}, "
        "chunk {}",
        from, to, gradient ? "gradient" : "activations", sent->micro_batch, sent->virtual_stage / stages,
        received->micro_batch, received->virtual_stage / stages);
  }
}

/// Runs a schedule of sound counts, each rank as far as what it needs is there.
class Run {
 public:
  Run(const PipelineSchedule& schedule, const PipelineCosts& costs)
      : schedule_(schedule), costs_(costs), times_{.stages = {}, .makespan = 0, .bubble = {}} {
    times_.stages.resize(schedule.stages.size());
    for (auto& ends : ends_) ends.resize(index_of(schedule.num_virtual_stages() * schedule.num_micro_batches), -1);
  }

  PipelineTimes finish() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int rank = 0; rank < schedule_.num_stages(); ++rank)
        while (act(rank)) moved = true;
    }
    check_ended();
    for (const auto& actions : times_.stages) times_.makespan = std::max(times_.makespan, end_of(actions));
    for (const auto& actions : times_.stages) {
      double busy = 0;
      for (const TimedAction& timed : actions) busy += timed.end - timed.start;
      times_.bubble.push_back(times_.makespan > 0 ? 1 - busy / times_.makespan : 0);
    }
    return std::move(times_);
  }

 private:
  static double end_of(const std::vector<TimedAction>& actions) { return actions.empty() ? 0 : actions.back().end; }

  double& end_of(const Need& need, int micro_batch) {
    return ends_[need.gradient ? 1 : 0][index_of(need.virtual_stage * schedule_.num_micro_batches + micro_batch)];
  }

  /// What a rank does next, none at its end.
  const PipelineAction* next_of(int rank) const {
    const auto& actions = schedule_.stages[index_of(rank)];
    const std::size_t done = times_.stages[index_of(rank)].size();
    return done < actions.size() ? &actions[done] : nullptr;
  }

  double cost_of(const PipelineAction& action, int stage) const {
    const std::size_t at = index_of(stage);
    const std::array<double, num_kinds> costs{costs_.forward[at],
                                              costs_.input_gradient[at] + costs_.weight_gradient[at],
                                              costs_.input_gradient[at], costs_.weight_gradient[at]};
    return costs[index_of(action.kind)];
  }

  /// Takes a rank's next action, unless it has to wait or is at its end.
  bool act(int rank) {
    const PipelineAction* action = next_of(rank);
    if (action == nullptr) return false;
    auto& done = times_.stages[index_of(rank)];
    double start = end_of(done);
    for (const Need& need : needs_of(schedule_, rank, *action)) {
      const double end = end_of(need, action->micro_batch);
      if (end < 0) return false;
      const bool travels = need.virtual_stage % schedule_.num_stages() != rank;
      start = std::max(start, end + (travels ? costs_.communication : 0));
    }
    const int stage = schedule_.virtual_stage(rank, action->chunk);
    done.push_back({*action, start, start + cost_of(*action, stage)});
    if (action->kind != ActionKind::WeightGradient)
      end_of({action->kind != ActionKind::Forward, stage}, action->micro_batch) = done.back().end;
    return true;
  }

  void check_ended() {
    std::vector<std::string> waiting;
    for (int rank = 0; rank < schedule_.num_stages(); ++rank) {
      const PipelineAction* action = next_of(rank);
      if (action == nullptr) continue;
      const std::vector<Need> needs = needs_of(schedule_, rank, *action);
      const Need& missing =
          *std::ranges::find_if(needs, [&](const Need& need) { return end_of(need, action->micro_batch) < 0; });
      const PipelineAction awaited{missing.gradient ? ActionKind::Backward : ActionKind::Forward, action->micro_batch,
                                   missing.virtual_stage / schedule_.num_stages()};
      waiting.push_back(fmt::format("rank {} at {} for {} of rank {}", rank, name_of(*action, schedule_.num_chunks),
                                    name_of(awaited, schedule_.num_chunks),
                                    missing.virtual_stage % schedule_.num_stages()));
    }
    check(waiting.empty(), "pipeline: ranks wait for each other: {}", fmt::join(waiting, ", "));
  }

  const PipelineSchedule& schedule_;
  const PipelineCosts& costs_;
  PipelineTimes times_;
  std::array<std::vector<double>, 2> ends_;  // of forwards and of inputs' gradients; below 0 until they have run
};

constexpr std::string_view gap = " ... ";  // of what a picture leaves out

std::size_t column_at(double time, double scale) { return static_cast<std::size_t>(std::lround(time * scale)); }

/// So many that a name has room in the shortest forward, unless that is far shorter than the others.
double columns_a_unit(const PipelineSchedule& schedule, const PipelineCosts& costs, double makespan) {
  constexpr double most = 1e5;  // columns of a line, before its middle is left out
  if (makespan == 0) return 0;
  const std::size_t name_width = name_of({.micro_batch = schedule.num_micro_batches - 1}, schedule.num_chunks).size();
  const double sum = std::accumulate(costs.forward.begin(), costs.forward.end(), 0.0);
  const double unit = std::max(std::ranges::min(costs.forward), sum / static_cast<double>(costs.forward.size()) / 4);
  return unit > 0 ? std::min(static_cast<double>(name_width) / unit, most / makespan) : most / makespan;
}

/// A cut of `count` layers into parts, and what it was the least of.
struct BestCut {
  double value = 0;
  std::vector<Slice> parts;
};

/// The cut whose value is least: join(value of the parts before, part, first layer, end), from 0 of none. Of equal ones
/// that whose later parts have more layers, for earlier ranks hold more activations.
BestCut best_cut(std::int64_t count, int num_parts,
                 const std::function<double(double before, int part, std::int64_t first, std::int64_t end)>& join) {
  constexpr double never = std::numeric_limits<double>::infinity();
  const std::size_t layers = static_cast<std::size_t>(count), least = count >= num_parts ? 1 : 0;
  std::vector<std::vector<std::size_t>> begins(index_of(num_parts), std::vector<std::size_t>(layers + 1));
  std::vector<double> before(layers + 1, never);
  before[0] = 0;
  for (int part = 0; part < num_parts; ++part) {
    std::vector<double> best(layers + 1, never);
    for (std::size_t end = least; end <= layers; ++end)
      for (std::size_t first = 0; first + least <= end; ++first) {
        if (before[first] == never) continue;
        const double value =
            join(before[first], part, static_cast<std::int64_t>(first), static_cast<std::int64_t>(end));
        if (value >= best[end]) continue;
        best[end] = value;
        begins[index_of(part)][end] = first;
      }
    before = std::move(best);
  }
  BestCut cut{.value = before[layers], .parts = std::vector<Slice>(index_of(num_parts))};
  std::size_t end = layers;
  for (int part = num_parts - 1; part >= 0; --part) {
    const std::size_t first = begins[index_of(part)][end];
    cut.parts[index_of(part)] = {static_cast<std::int64_t>(first), static_cast<std::int64_t>(end - first)};
    end = first;
  }
  return cut;
}

}  // namespace

std::string name_of(const PipelineAction& action, int num_chunks) {
  constexpr std::array<char, num_kinds> letters{'F', 'B', 'B', 'W'};
  std::string name = fmt::format("{}{}", letters[index_of(action.kind)], action.micro_batch);
  if (num_chunks <= 1) return name;
  constexpr int alphabet = 26;
  return name + (num_chunks <= alphabet ? std::string(1, static_cast<char>('a' + action.chunk))
                                        : fmt::format(".{}", action.chunk));
}

PipelineSchedule make_schedule(ScheduleKind kind, int num_stages, int num_chunks, int num_micro_batches) {
  if (num_stages < 1 || num_chunks < 1 || num_micro_batches < 1)
    fail_usage("pipeline: {} stages, {} chunks and {} micro-batches, expected at least one of each", num_stages,
               num_chunks, num_micro_batches);
  if (kind == ScheduleKind::OneFOneB && num_chunks > 1)
    fail_usage("pipeline: 1F1B has one chunk a rank, not {}; an interleaved schedule has several", num_chunks);
  PipelineSchedule schedule{.num_chunks = num_chunks, .num_micro_batches = num_micro_batches, .stages = {}};
  for (int rank = 0; rank < num_stages; ++rank)
    schedule.stages.push_back(actions_of(kind, rank, num_stages, num_chunks, num_micro_batches));
  return schedule;
}

void check_schedule(const PipelineSchedule& schedule) {
  check_counts(schedule);
  check_channels(schedule);
  Run(schedule, even_costs(schedule, 1, 1, 1)).finish();
}

std::vector<int> peak_activations(const PipelineSchedule& schedule) {
  std::vector<int> peaks;
  for (const auto& actions : schedule.stages) {
    int held = 0, peak = 0;
    for (const PipelineAction& action : actions) {
      held += action.kind == ActionKind::Forward ? 1 : action.kind == ActionKind::InputGradient ? 0 : -1;
      peak = std::max(peak, held);
    }
    peaks.push_back(peak);
  }
  return peaks;
}

PipelineCosts even_costs(const PipelineSchedule& schedule, double forward, double input_gradient,
                         double weight_gradient) {
  const std::size_t count = index_of(schedule.num_virtual_stages());
  return {.forward = std::vector<double>(count, forward),
          .input_gradient = std::vector<double>(count, input_gradient),
          .weight_gradient = std::vector<double>(count, weight_gradient)};
}

PipelineTimes simulate(const PipelineSchedule& schedule, const PipelineCosts& costs) {
  check_counts(schedule);
  for (const auto* each : {&costs.forward, &costs.input_gradient, &costs.weight_gradient})
    check(each->size() == index_of(schedule.num_virtual_stages()) && std::ranges::all_of(*each, is_cost),
          "pipeline: costs [{}], expected one that is not negative for each of {} virtual stages",
          fmt::join(*each, ", "), schedule.num_virtual_stages());
  check(is_cost(costs.communication), "pipeline: communication costs {}, expected 0 or more", costs.communication);
  return Run(schedule, costs).finish();
}

std::string picture(const PipelineSchedule& schedule, const PipelineCosts& costs, std::size_t width) {
  const PipelineTimes times = simulate(schedule, costs);
  const double scale = columns_a_unit(schedule, costs, times.makespan);
  const std::size_t rank_width = std::to_string(schedule.num_stages() - 1).size();
  const std::size_t beside = std::string_view("rank  ").size() + rank_width;
  const std::size_t room = std::max(width, 2 * beside + gap.size()) - beside;
  std::string lines;
  for (std::size_t rank = 0; rank < times.stages.size(); ++rank) {
    std::string line(column_at(times.makespan, scale), ' ');
    for (const auto& [action, start, end] : times.stages[rank]) {
      const std::size_t first = column_at(start, scale), count = column_at(end, scale) - first;
      std::string name = name_of(action, schedule.num_chunks);
      if (name.size() > count) name.resize(std::min<std::size_t>(count, 1));
      name.resize(count, '-');
      line.replace(first, count, name);
    }
    if (line.size() > room) {
      const std::size_t head = (room - gap.size()) / 2, tail = room - gap.size() - head;
      line.replace(head, line.size() - head - tail, gap);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    lines += fmt::format("rank {:>{}} {}\n", rank, rank_width, line);
  }
  return lines;
}

std::vector<Slice> split_by_cost(const std::vector<double>& costs, double first_extra, double last_extra,
                                 int num_parts) {
  check(num_parts >= 1, "pipeline: layers are to be cut into {} parts, expected 1 or more", num_parts);
  check(std::ranges::all_of(costs, is_cost) && is_cost(first_extra) && is_cost(last_extra),
        "pipeline: layers cost [{}], the first part {} and the last {} more, expected what is not negative",
        fmt::join(costs, ", "), first_extra, last_extra);
  std::vector<double> sums{0};
  for (const double cost : costs) sums.push_back(sums.back() + cost);
  const auto sum_of = [&](int part, std::int64_t first, std::int64_t end) {
    return sums[static_cast<std::size_t>(end)] - sums[static_cast<std::size_t>(first)] + (part == 0 ? first_extra : 0) +
           (part == num_parts - 1 ? last_extra : 0);
  };
  const auto count = static_cast<std::int64_t>(costs.size());
  const double largest = best_cut(count, num_parts, [&](double before, int part, std::int64_t first, std::int64_t end) {
                           return std::max(before, sum_of(part, first, end));
                         }).value;
  return best_cut(count, num_parts,
                  [&](double before, int part, std::int64_t first, std::int64_t end) {
                    const double sum = sum_of(part, first, end);
                    return sum > largest ? std::numeric_limits<double>::infinity() : before + sum * sum;
                  })
      .parts;
}

}  // namespace limbeck::parallel
