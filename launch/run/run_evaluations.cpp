#include "launch/run/run_evaluations.h"

#include <algorithm>
#include <utility>

#include "core/counted.h"
#include "core/exchanges_of.h"
#include "launch/config/figure.h"
#include "launch/console/progress.h"
#include "launch/run/evaluation_sets.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/training_documents.h"

namespace limbeck::launch {

namespace {

bool is_multiple(std::int64_t step, std::int64_t every) { return every > 0 && step % every == 0; }

/// The end of a run that keeps its best is an evaluation like the others, whatever the period.
bool is_due_by(std::int64_t step, std::int64_t every, const TrainConfig& train) {
  return is_multiple(step, every) || (!train.keep_best.empty() && step == train.steps);
}

std::string line_of(const std::string& name, const Evaluation& e) {
  std::string line = name + ": ";
  if (e.preference)
    line += fmt::format("{:.3f} of the pairs right, margin {}, loss {}, ", e.preference->accuracy,
                        fixed(e.preference->margin, 4), fixed(e.preference->loss, 4));
  if (e.is_of_rewards())
    return line + fmt::format("rewards {} and {}", fixed(e.preference->chosen, 4), fixed(e.preference->rejected, 4));
  if (e.has_teacher()) line += fmt::format("kl {}, top-1 {:.3f}, ", kl_text(e, e.kl), e.agreement);
  if (e.spans)
    line += fmt::format("span kl {}, the spans' bits/byte {}, the teacher's {}, ", fixed(e.spans->kl, 4),
                        fixed(e.spans->bits_per_byte, 4), fixed(e.spans->teacher_bits_per_byte, 4));
  if (e.sorted) line += fmt::format("uld {}, ", fixed(e.sorted->distance, 4));
  line += fmt::format("ce {}, perplexity {:.5g}", fixed(e.cross_entropy, 4), e.perplexity());
  if (const auto bits = e.bits_per_byte()) line += fmt::format(", bits/byte {}", fixed(*bits, 4));
  if (e.choice)
    line += fmt::format("; tokens chose their experts: where experts choose, ce {}, from which kl {}",
                        fixed(e.choice->cross_entropy, 4), fixed(e.choice->kl, 4));
  return line;
}

}  // namespace

RunEvaluations::RunEvaluations(Session& session, const Log& log) : session_(session), held_out_(session.held_out()) {
  const RunConfig& config = session.config;
  const std::int64_t length = config.data.sequence_length;
  std::vector<EvaluationSet> read = read_evaluation_sets(session, log);
  for (std::size_t i = 0; i < read.size(); ++i) {
    const std::int64_t every_steps = session.found.evaluation.set[i].every_steps;
    sets_.push_back({.name = read[i].name,
                     .every_steps = every_steps > 0 ? every_steps : config.train.eval_every_steps,
                     .text = TextEvaluation(session.rank, std::move(read[i].documents),
                                            {.length = length, .stride = std::max<std::int64_t>(1, length / 2)},
                                            session.tokenizer->vocabulary_size()),
                     .cached = nullptr});
    const TextEvaluation& text = sets_.back().text;
    log->info("evaluation set {}: {} document{}, {} tokens", sets_.back().name, text.documents().size(),
              text.documents().size() == 1 ? "" : "s", text.num_tokens());
    if (session.cached_teacher) find_in_cache(sets_.back(), log);
  }
}

/// Collective. Where the cache lacks a part of a set, what it is measured against instead.
void RunEvaluations::find_in_cache(Set& set, const Log& log) {
  const CachedTeacher& cache = *session_.cached_teacher;
  const std::int64_t missing = cache.num_missing(set.text.documents());
  // A network file system may show nodes other states of a folder, and those that have the set would wait for others.
  check_same_everywhere(
      session_.rank.world(),
      fmt::format("number of documents of evaluation set {} that teacher.cache lacks: {}\n", set.name, missing));
  if (missing == 0) {
    set.cached = cache.to_measure(set.text.documents());
    return;
  }
  const std::string& source = session_.config.teacher->source;
  log->warn("evaluation set {}: {} of {} not in teacher.cache, {}, where `limbeck cache-teacher` puts them: {}",
            set.name, missing, core::counted(std::ssize(set.text.documents()), "document"),
            session_.config.teacher->cache,
            source.empty() ? "it is measured without figures against a teacher"
                           : fmt::format("it is measured against the teacher itself, {}, which is loaded", source));
  session_.load_teacher_to_measure(log);
}

bool RunEvaluations::asks_teacher() const {
  return std::any_of(sets_.begin(), sets_.end(), [](const Set& set) { return set.cached == nullptr; });
}

std::optional<Known> RunEvaluations::teacher_of(const std::string& figure) const {
  const std::string name = figure_name(figure).set;
  const auto set = std::find_if(sets_.begin(), sets_.end(), [&](const Set& other) { return other.name == name; });
  const CachedTeacher* cached = set == sets_.end() ? session_.cached_teacher.get() : set->cached.get();
  if (cached != nullptr) return cached->known();
  return session_.teacher ? std::optional(Known::Whole) : std::nullopt;
}

std::int64_t RunEvaluations::num_tokens() const {
  std::int64_t sum = held_out_ ? held_out_->num_tokens() : 0;
  for (const Set& set : sets_) sum += set.text.num_tokens();
  return sum;
}

std::vector<std::string> RunEvaluations::found_in_training_text(const data::DocumentHashes& known) const {
  std::vector<std::string> lines;
  for (const Set& set : sets_) {
    const auto found = trained_on(set.text.documents(), known, *session_.tokenizer);
    if (found && !found->empty())
      lines.push_back(fmt::format("evaluation set {}: {}", set.name, trained_on_text(set.text.documents(), *found)));
  }
  return lines;
}

bool RunEvaluations::has_set_of(const std::string& figure) const {
  constexpr std::string_view of_sample = "held_out/";
  const std::string set = figure_name(figure).set;
  if (set.empty()) return held_out_.has_value();
  if (set.starts_with(of_sample)) return held_out_ && held_out_->has_source(set.substr(of_sample.size()));
  return std::any_of(sets_.begin(), sets_.end(), [&](const Set& other) { return other.name == set; });
}

bool RunEvaluations::is_regular(const std::string& figure, std::int64_t step) const {
  const std::string name = figure_name(figure).set;
  const auto set = std::find_if(sets_.begin(), sets_.end(), [&](const Set& other) { return other.name == name; });
  return is_multiple(step, set == sets_.end() ? session_.config.train.eval_every_steps : set->every_steps);
}

bool RunEvaluations::is_held_out_due(std::int64_t step) const {
  return held_out_ && is_due_by(step, session_.config.train.eval_every_steps, session_.config.train);
}

bool RunEvaluations::is_due(std::int64_t step) const {
  return is_held_out_due(step) || std::any_of(sets_.begin(), sets_.end(), [&](const Set& set) {
           return is_due_by(step, set.every_steps, session_.config.train);
         });
}

bool RunEvaluations::is_all_due(std::int64_t step) const {
  return (!held_out_ || is_held_out_due(step)) && std::all_of(sets_.begin(), sets_.end(), [&](const Set& set) {
           return is_due_by(step, set.every_steps, session_.config.train);
         });
}

Measurement RunEvaluations::measure(const nn::Transformer& model, std::optional<std::int64_t> step) {
  const core::ExchangesOf scope("evaluation");
  Measurement result;
  if (step ? is_held_out_due(*step) : held_out_.has_value()) result = held_out_->evaluate(model);
  for (const Set& set : sets_)
    if (!step || is_due_by(*step, set.every_steps, session_.config.train))
      result.sets.emplace_back(set.name, set.text
                                             .measure(model, set.cached ? nullptr : session_.teacher.get(),
                                                      /*with_experts=*/false, set.cached.get())
                                             .all);
  return result;
}

std::vector<std::string> to_lines(const Measurement& measurement) {
  std::vector<std::string> lines;
  if (measurement.held_out.tokens > 0) lines.push_back(line_of("held out", measurement.held_out));
  for (const auto& [name, evaluation] : measurement.sets) lines.push_back(line_of(name, evaluation));
  return lines;
}

}  // namespace limbeck::launch
