#include "launch/run/verification.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <sstream>
#include <utility>

#include "core/exchanges_of.h"
#include "core/nn/stream.h"
#include "launch/run/rank.h"
#include "launch/run/run_steps.h"
#include "launch/run/session.h"
#include "launch/run/teacher_service.h"
#include "parallel/threads/thread_world.h"

namespace limbeck::launch {
namespace {

using core::DType;
using core::Tensor;
using Tensors = VerifiedSteps::Tensors;

constexpr std::int64_t most_flips = 100;  // that are listed
constexpr double infinite = std::numeric_limits<double>::infinity();

Tensor copy_of(const Tensor& x) { return x.memory()->is_host() ? x.clone() : x.in(x.memory()->host()); }

/// The greatest entry's size; infinite where one is not finite.
double greatest_of(const Tensor& x) {
  double greatest = 0;
  core::dispatch_float("verify", x.dtype(), [&]<class T>() {
    for (const T value : std::span(x.host<T>(), static_cast<std::size_t>(x.numel())))
      greatest = std::isfinite(value) ? std::max(greatest, std::abs(static_cast<double>(value))) : infinite;
  });
  return greatest;
}

/// |a - b| by `scale`; 0 where they are equal, infinite where either is not finite.
double relative(double difference, double scale) {
  if (difference == 0) return 0;
  const double by_scale = difference / scale;
  return std::isfinite(by_scale) ? by_scale : infinite;
}

/// f(an element of this rank's part, that of the whole): the part `here`, on the host, may be written.
template <class F>
void for_each_pair(const std::string& name, const core::StateEntry& part, Tensor& here, const Tensor& whole, F&& f) {
  core::check(whole.dtype() == here.dtype() && whole.shape() == part.global_shape,
              "verify: {} is {} {} here, the reference has {} {}", name, here.dtype(), part.global_shape, whole.dtype(),
              whole.shape());
  core::dispatch_float("verify", here.dtype(), [&]<class T>() {
    T* mine = here.mutable_host<T>();
    const T* reference = whole.host<T>();
    core::for_each_element(part, [&](std::int64_t i, std::int64_t global) { f(mine[i], reference[global]); });
  });
}

/// max |a - b| over this rank's part.
double difference_of(const std::string& name, const core::StateEntry& part, const Tensor& whole) {
  Tensor here = copy_of(part.tensor);
  double worst = 0;
  for_each_pair(name, part, here, whole, [&](auto mine, auto reference) {
    const double d = std::abs(static_cast<double>(mine) - static_cast<double>(reference));
    worst = std::isfinite(d) ? std::max(worst, d) : infinite;
  });
  return worst;
}

/// This rank's part of the whole.
void take_part(const std::string& name, core::StateEntry part, const Tensor& whole) {
  Tensor here = Tensor::empty(part.tensor.memory()->host(), part.tensor.dtype(), part.tensor.shape());
  for_each_pair(name, part, here, whole, [](auto& mine, auto reference) { mine = reference; });
  part.tensor.copy_from(here);
}

/// What is asked of the steps of either side.
class Steps {
 public:
  Steps(Rank& rank, const RunConfig& config, const Log& log) : session_(rank, config, log) {
    session_.open_cache(log);
    session_.make_untrained_teacher();
    steps_.emplace(session_, log);
    session_.start_student();
    steps_->find_matches(session_.start.layers);
    session_.prepare_teacher(/*is_asked=*/false, log);
  }
  Session& session() { return session_; }
  RunSteps& steps() { return *steps_; }
  bool is_student(const nn::Transformer& model) const { return &model == session_.student.get(); }

 private:
  Session session_;
  std::optional<RunSteps> steps_;
};

/// Calls f(row of the batch, its token's number in the step) for all tokens of a batch.
template <class F>
void for_each_token(const nn::Batch& batch, F&& f) {
  std::int64_t row = 0;
  for (const std::int64_t token : core::host_values<std::int64_t>(batch.global_index)) f(row++, token);
}

/// Has the pass call f(layer, [T,C] on the host) with what is behind each layer, beside what it calls already.
template <class F>
void watch_layers(nn::Pass& pass, F f) {
  pass.gives = [f = std::move(f), before = pass.gives, &pass](std::int64_t layer, const core::Var& given) {
    if (before) before(layer, given);
    core::Tape off(core::Tape::Mode::Off);
    f(layer, copy_of(nn::whole_sequences(off, pass, core::Var{given.value, nullptr}).value));
  };
}

nn::RoutingLog on_host(const nn::RoutingLog& routing) {
  nn::RoutingLog here;
  here.merge(routing);
  return here;
}

void record(VerifiedSteps& reference, std::int64_t num_steps, Steps& run) {
  for (const auto& [name, part] : run.steps().weights()) reference.start[name] = copy_of(part.tensor);
  reference.model = run.session().student->config();
  run.steps().begin();
  for (std::int64_t s = 0; s < num_steps; ++s) {
    VerifiedSteps::Step& step = reference.steps.emplace_back();
    StepWatch watch;
    watch.pass = [&](nn::Pass& pass, const nn::Transformer& model) {
      if (reference.replays) pass.routing = run.is_student(model) ? &step.routing : &step.teacher_routing;
      if (s > 0 || !run.is_student(model)) return;
      watch_layers(pass, [&](std::int64_t layer, const Tensor& rows) {
        Tensor& all = reference.hidden[layer];
        const std::int64_t width = rows.shape()[1], row_bytes = core::bytes_of(rows.dtype(), width);
        if (!all.defined())
          all = Tensor::zeros(core::Memory::cpu(1), rows.dtype(),
                              {static_cast<std::int64_t>(pass.batch.global_tokens), width});
        for_each_token(pass.batch, [&](std::int64_t row, std::int64_t token) {
          std::copy_n(rows.host_raw() + row * row_bytes, row_bytes, all.mutable_host_raw() + token * row_bytes);
        });
      });
    };
    watch.gradients = [&] {
      for (const auto& [name, part] : run.steps().gradients()) {
        const Tensor& gradient = step.gradients[name] = copy_of(part.tensor);
        step.greatest_gradient = std::max(step.greatest_gradient, greatest_of(gradient));
      }
    };
    const StepReport report = run.steps().step(std::nullopt, watch);
    for (nn::RoutingLog* routing : {&step.routing, &step.teacher_routing}) *routing = on_host(*routing);
    step.loss = report.result.loss();
    step.gradient_norm = report.gradient_norm;
    reference.num_tokens = report.num_tokens;
  }
  for (const auto& [name, part] : run.steps().weights()) reference.end[name] = copy_of(part.tensor);
}

std::string text_of(std::vector<std::int32_t> experts) {
  std::erase(experts, -1);  // of experts that choose, those that did not
  std::ranges::sort(experts);
  return fmt::format("{}", fmt::join(experts, ","));
}

/// One layout's steps, compared as they go.
class Comparison {
 public:
  Comparison(const VerifiedSteps& reference, Steps& run) : reference_(reference), run_(run) {
    for (const auto& [name, whole] : reference.start) names_.push_back(name);
  }

  LayoutDifferences result() {
    const core::StateDict start = run_.steps().weights();
    result_.weight.offer(compared(start, reference_.start, 0));
    for (const auto& [name, part] : start) take_part(name, part, reference_.start.at(name));
    run_.steps().begin();
    for (std::size_t s = 0; s < reference_.steps.size(); ++s)
      step(reference_.steps[s], static_cast<std::int64_t>(s) + 1);
    run_.steps().in_model_order(
        [&] { result_.weight.offer(compared(run_.steps().weights(), reference_.end, std::ssize(reference_.steps))); });
    gather_hidden();
    gather_flips();
    return result_;
  }

 private:
  Rank& rank() { return run_.session().rank; }

  void step(const VerifiedSteps::Step& expected, std::int64_t number) {
    nn::RoutingLog routing = on_host(expected.routing),  // one that ranks share could not take what it lacks
        teacher_routing = on_host(expected.teacher_routing);
    StepWatch watch;
    watch.pass = [&](nn::Pass& pass, const nn::Transformer& model) {
      const bool is_student = run_.is_student(model);
      if (reference_.replays) pass.routing = is_student ? &routing : &teacher_routing;
      if (is_student) watch_student(pass, number);
    };
    const auto compare_gradients = [&] {
      const core::StateDict gradients = run_.steps().gradients();
      const auto worst = compared(gradients, expected.gradients, number, expected.greatest_gradient / 100);
      result_.gradient.offer(worst);
      if (number == 1) result_.first_gradient = worst;
      for (const auto& [name, part] : gradients) take_part(name, part, expected.gradients.at(name));
    };
    watch.gradients = [&] { run_.steps().in_model_order(compare_gradients, /*gradients_too=*/true); };
    const StepReport report = run_.steps().step(std::nullopt, watch);
    const auto differ = [](double a, double b) { return relative(std::abs(a - b), std::abs(b)); };
    const double loss = differ(report.result.loss(), expected.loss);
    result_.loss = std::max(result_.loss, loss);
    if (number == 1) result_.first_loss = loss;
    result_.gradient_norm = std::max(result_.gradient_norm, differ(report.gradient_norm, expected.gradient_norm));
  }

  void watch_student(nn::Pass& pass, std::int64_t number) {
    if (number == 1)
      watch_layers(pass,
                   [this, &pass](std::int64_t layer, const Tensor& rows) { compare_rows(layer, rows, pass.batch); });
    if (rank().mesh().tp().rank() > 0) return;  // all of a tensor group route all of its tokens
    pass.own_choice = [this, &pass, number](std::int64_t layer, const Tensor& replayed, const Tensor& own) {
      const std::vector<std::int32_t> theirs = core::host_values<std::int32_t>(replayed),
                                      mine = core::host_values<std::int32_t>(own);
      const std::int64_t k = own.shape()[1];
      for_each_token(pass.batch, [&](std::int64_t row, std::int64_t token) {
        const auto experts = [&](const std::vector<std::int32_t>& of) {
          return text_of({of.begin() + row * k, of.begin() + (row + 1) * k});
        };
        if (Flip flip{number, layer, token, experts(theirs), experts(mine)}; flip.reference != flip.own) {
          ++result_.num_flips;
          if (std::ssize(result_.flips) < most_flips) result_.flips.push_back(std::move(flip));
        }
      });
    };
  }

  void compare_rows(std::int64_t layer, const Tensor& rows, const nn::Batch& batch) {
    const Tensor& all = reference_.hidden.at(layer);
    const std::int64_t width = rows.shape()[1];
    double& worst = hidden_[layer];
    core::dispatch_float("verify", rows.dtype(), [&]<class T>() {
      for_each_token(batch, [&](std::int64_t row, std::int64_t token) {
        for (std::int64_t c = 0; c < width; ++c) {
          const double d = std::abs(static_cast<double>(rows.host<T>()[row * width + c]) -
                                    static_cast<double>(all.host<T>()[token * width + c]));
          worst = std::isfinite(d) ? std::max(worst, d) : infinite;
        }
      });
    });
  }

  std::vector<double> over_ranks(const std::vector<double>& mine, core::Reduce reduce) {
    Tensor values = Tensor::from<double>(rank().host_memory(), {std::ssize(mine)}, mine);
    const core::ExchangesOf scope("differences from one rank");
    rank().world().all_reduce(values, reduce);
    return core::host_values<double>(values);
  }

  /// Collective: the worst of all ranks' parts. Ranks may hold different parameters.
  LayoutDifferences::Worst compared(const core::StateDict& parts, const Tensors& whole, std::int64_t number,
                                    double least_scale = 0) {
    std::vector<double> worst(names_.size(), 0.0), held(names_.size(), 0.0);
    for (const auto& [name, part] : parts) {
      const auto at = std::ranges::lower_bound(names_, name);
      core::check(at != names_.end() && *at == name, "verify: the reference has no {}", name);
      const auto index = static_cast<std::size_t>(at - names_.begin());
      worst[index] = difference_of(name, part, whole.at(name));
      if (part.write) held[index] = static_cast<double>(part.tensor.numel());
    }
    worst = over_ranks(worst, core::Reduce::Max);
    held = over_ranks(held, core::Reduce::Sum);
    LayoutDifferences::Worst result;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const auto expected = whole.find(names_[i]);
      if (expected == whole.end()) continue;  // it is not trained
      const bool is_whole = held[i] == static_cast<double>(expected->second.numel());
      const double scale = std::max(greatest_of(expected->second), least_scale);
      result.offer({is_whole ? relative(worst[i], scale) : infinite, names_[i], number});
    }
    return result;
  }

  void gather_hidden() {
    std::vector<double> mine;
    for (const auto& [layer, all] : reference_.hidden)
      mine.push_back(relative(hidden_.contains(layer) ? hidden_.at(layer) : 0, greatest_of(all)));
    result_.hidden = over_ranks(mine, core::Reduce::Max);
  }

  void gather_flips() {
    result_.num_flips = std::llround(over_ranks({static_cast<double>(result_.num_flips)}, core::Reduce::Sum).front());
    std::string mine;
    for (const Flip& f : result_.flips)
      mine += fmt::format("{} {} {} {} {}\n", f.step, f.layer, f.token, f.reference, f.own);
    std::set<Flip> all;
    for (const std::string& text : gather_strings(rank(), mine)) {
      std::istringstream in(text);
      for (Flip f; in >> f.step >> f.layer >> f.token >> f.reference >> f.own;) all.insert(f);
    }
    result_.flips.assign(all.begin(), std::next(all.begin(), std::min(std::ssize(all), most_flips)));
  }

  const VerifiedSteps& reference_;
  Steps& run_;
  std::vector<std::string> names_;  // of all parameters, in order
  LayoutDifferences result_;
  std::map<std::int64_t, double> hidden_;  // by layer: of this rank's tokens
};

}  // namespace

RunConfig exact(RunConfig config, DType precision) {
  const bool sharded_teacher = config.precision.sharded_teacher;
  config.precision = {.compute = precision,
                      .master = precision,
                      .gradient = precision,
                      .reduction = precision,
                      .frozen_storage = precision,
                      .sharded_teacher = sharded_teacher};
  config.optimizer.eight_bit_state = false;
  config.objective.sampled_text.reset();
  config.train.cuda_graph = false;
  return config;
}

double usual_tolerance(DType precision) { return precision == DType::F64 ? 1e-11 : 1e-5; }

bool LayoutDifferences::within(double tolerance) const {
  return error.empty() && std::max({loss, gradient_norm, gradient.difference, weight.difference}) <= tolerance;
}

std::optional<std::int64_t> LayoutDifferences::first_layer(double tolerance) const {
  const auto found = std::ranges::find_if(hidden, [&](double d) { return d > tolerance; });
  if (found == hidden.end()) return std::nullopt;
  return found - hidden.begin();
}

VerifiedSteps steps_on_one_rank(RunConfig config, std::int64_t num_steps, const Log& log) {
  config.parallel = ParallelConfig();
  VerifiedSteps reference;
  reference.replays = config.precision.compute == DType::F32;
  in_world(
      parallel::ThreadWorld(1).comm(0), config,
      [&](Rank& rank) {
        Steps run(rank, config, log);
        record(reference, num_steps, run);
      },
      [](Rank&, const TeacherRanks&) {});
  return reference;
}

std::optional<LayoutDifferences> differences_from(const VerifiedSteps& reference,
                                                  const std::shared_ptr<parallel::WorldComm>& world,
                                                  const RunConfig& config, const Log& log, int thread) {
  std::optional<LayoutDifferences> result;
  in_world(
      world, config,
      [&](Rank& rank) {
        Steps run(rank, config, log);
        result = Comparison(reference, run).result();
      },
      [&](Rank& rank, const TeacherRanks& ranks) { serve_teacher(rank, config, ranks, log); }, thread);
  return result;
}

}  // namespace limbeck::launch
