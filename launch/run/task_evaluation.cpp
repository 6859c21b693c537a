#include "launch/run/task_evaluation.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/counted.h"
#include "core/error.h"
#include "core/nn/generation.h"
#include "core/ops/embedding.h"
#include "data/tasks/exact_match.h"
#include "data/tasks/python_text.h"
#include "launch/console/progress.h"
#include "launch/console/read_number.h"
#include "launch/run/text_generation.h"
#include "launch/run/token_figures.h"

namespace limbeck::launch {

using core::check;
using core::fail_usage;
using core::Tensor;
using data::Question;
using data::TaskForm;

namespace {

constexpr std::int64_t tokens_per_job = 1024;  // of requests that are read together
constexpr std::size_t prompts_per_job = 16;    // that go on together

/// Sequences that are read at once, by their place among all.
struct Job {
  std::size_t first = 0;
  std::size_t count = 0;
};

/// Those of this rank, of jobs that are dealt one by one.
std::vector<Job> share_of(const std::vector<Job>& jobs, const Rank& rank) {
  std::vector<Job> mine;
  const auto ranks = static_cast<std::size_t>(rank.mesh().data().size());
  for (auto j = static_cast<std::size_t>(rank.mesh().data().rank()); j < jobs.size(); j += ranks)
    mine.push_back(jobs[j]);
  return mine;
}

/// Tokens that the model reads once, whatever is asked of them: choices of a letter have all but their last in common.
struct Reading {
  std::span<const std::int32_t> tokens;
  std::vector<std::size_t> requests;
};

std::vector<Reading> readings_of(const std::vector<Request>& requests) {
  std::vector<Reading> readings;
  std::map<std::vector<std::int32_t>, std::size_t> place;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const std::span<const std::int32_t> tokens(requests[r].ids.data(), requests[r].ids.size() - 1);
    const auto [at, is_first] = place.try_emplace({tokens.begin(), tokens.end()}, readings.size());
    if (is_first) readings.push_back({tokens, {}});
    readings[at->second].requests.push_back(r);
  }
  return readings;
}

std::vector<Job> jobs_of(const std::vector<Reading>& readings) {
  std::vector<Job> jobs;
  std::int64_t tokens = tokens_per_job;
  for (std::size_t i = 0; i < readings.size(); ++i) {
    tokens += std::ssize(readings[i].tokens);
    if (tokens > tokens_per_job) {
      jobs.push_back({.first = i, .count = 0});
      tokens = std::ssize(readings[i].tokens);
    }
    ++jobs.back().count;
  }
  return jobs;
}

/// The first of the greatest.
std::size_t best_of(const std::vector<Score>& scores, const std::vector<double>& lengths) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < scores.size(); ++i)
    if (scores[i].log_likelihood / lengths[i] > scores[best].log_likelihood / lengths[best]) best = i;
  return best;
}

/// The number behind "shots=".
std::int64_t shots_of(std::string_view text, const std::string& task) {
  const std::optional<std::int64_t> shots = number_from<std::int64_t>(text, 0);
  if (!shots) fail_usage("--task {}: shots is '{}', expected a whole number, 0 or more", task, text);
  return *shots;
}

/// A text that goes on until one of these is in it.
class StopText {
 public:
  explicit StopText(const data::Tokenizer& tokenizer) : decoder_(tokenizer) {}
  /// Whether the text ends with this token.
  bool add(std::int32_t token) {
    text_ += decoder_.feed(token);
    return data::before_next_question(text_).size() < text_.size();
  }

 private:
  data::StreamDecoder decoder_;
  std::string text_;
};

}  // namespace

std::string Task::name() const {
  return fmt::format("{} {}{}", data::name_of(kind), file,
                     shots > 0 ? fmt::format(", {} of {}", core::counted(shots, "shot"), examples_file) : "");
}

Task parse_task(const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) fail_usage("--task {}: expected KIND:FILE, as arc:arc.jsonl", text);
  Task task;
  task.kind = data::task_kind(std::string_view(text).substr(0, colon));
  std::string_view rest = std::string_view(text).substr(colon + 1);
  for (const std::string_view name : {"shots", "examples", "shots", "examples"}) {
    const std::size_t at = rest.rfind(fmt::format(",{}=", name));
    if (at == std::string_view::npos || rest.find(',', at + 1) != std::string_view::npos) continue;
    const std::string_view value = rest.substr(at + name.size() + 2);
    if (name == "shots")
      task.shots = shots_of(value, text);
    else
      task.examples_file = value;
    rest = rest.substr(0, at);
  }
  task.file = rest;
  if (task.file.empty()) fail_usage("--task {}: names no file", text);
  if (task.shots > 0 && task.examples_file.empty())
    fail_usage("--task {}: shots are of examples, expected ,examples=FILE", text);
  return task;
}

Task read_task(const std::string& text) {
  Task task = parse_task(text);
  task.questions = data::read_questions(task.kind, task.file);
  if (task.shots == 0) return task;
  task.examples = data::read_questions(task.kind, task.examples_file);
  for (const Question& question : task.questions) {
    const std::size_t found = task.examples_for(question).size();
    check(std::ssize(task.examples) >= task.shots && static_cast<std::int64_t>(found) == task.shots,
          "{}: has {}{} for {}, expected {}", task.examples_file,
          core::counted(static_cast<std::int64_t>(found), "example"),
          question.subject.empty() ? "" : " of " + question.subject, question.place, task.shots);
  }
  return task;
}

std::vector<Question> Task::examples_for(const Question& question) const {
  const bool have_subjects =
      std::any_of(examples.begin(), examples.end(), [](const Question& example) { return !example.subject.empty(); });
  std::vector<Question> chosen;
  for (const Question& example : examples) {
    if (std::ssize(chosen) == shots) break;
    if (!have_subjects || question.subject.empty() || example.subject == question.subject) chosen.push_back(example);
  }
  return chosen;
}

double task_figure(double sum, double count, bool is_perplexity) {
  return is_perplexity ? std::exp(-sum / count) : sum / count;
}

double TaskFigure::value() const {
  return task_figure(std::accumulate(values.begin(), values.end(), 0.0), static_cast<double>(values.size()),
                     is_perplexity);
}

std::optional<double> TaskFigure::standard_error() const {
  if (is_perplexity || values.size() < 2) return std::nullopt;
  const auto n = static_cast<double>(values.size());
  const double mean = value();
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / (n - 1) / n);
}

std::vector<TaskFigure> figures_of(const Task& task, std::span<const Answer> answers) {
  const TaskForm form = data::form_of(task.kind);
  std::vector<TaskFigure> figures;
  if (form == TaskForm::Choice)
    figures = {{.name = "acc"}, {.name = "acc_norm"}, {.name = "acc_bytes"}};
  else if (form == TaskForm::Cloze)
    figures = {{.name = "acc"}, {.name = "perplexity", .is_perplexity = true}};
  else
    figures = {{.name = "exact_match_strict"}, {.name = "exact_match_flexible"}};
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const Question& question = task.questions[i];
    const Answer& answer = answers[i];
    std::vector<double> values;
    if (form == TaskForm::Choice) {
      std::vector<double> characters, bytes;
      for (const std::string& choice : question.choices) {
        characters.push_back(static_cast<double>(data::num_characters(choice)));
        bytes.push_back(static_cast<double>(choice.size()));
      }
      for (const auto& lengths : {std::vector<double>(characters.size(), 1.0), characters, bytes})
        values.push_back(best_of(answer.scores, lengths) == question.gold ? 1 : 0);
    } else if (form == TaskForm::Cloze) {
      values = {answer.scores[0].is_greedy ? 1.0 : 0.0, answer.scores[0].log_likelihood};
    } else {
      values = {data::exactly_matches(data::strict_answer(answer.generated), question.answer) ? 1.0 : 0.0,
                data::exactly_matches(data::flexible_answer(answer.generated), question.answer) ? 1.0 : 0.0};
    }
    for (std::size_t f = 0; f < figures.size(); ++f) figures[f].values.push_back(values[f]);
  }
  return figures;
}

Request request_of(const data::Tokenizer& tokenizer, const std::string& context, const std::string& continuation,
                   std::int64_t most_tokens, const std::string& place) {
  const std::string_view before = data::strip_end(context);
  const std::string after = context.substr(before.size()) + continuation;
  Request request;
  std::int64_t num_before = 0;
  if (before.empty()) {
    request.ids = tokenizer.encode(after, /*parse_special=*/true);
    const std::int32_t first = tokenizer.bos_id().value_or(tokenizer.eos_id());
    if (request.ids.empty() || request.ids.front() != first) request.ids.insert(request.ids.begin(), first);
    num_before = 1;
  } else {
    request.ids = prompt_ids(tokenizer, std::string(before) + after);
    num_before = std::ssize(prompt_ids(tokenizer, std::string(before)));
  }
  request.num_scored = std::ssize(request.ids) - num_before;
  check(request.num_scored > 0, "{}: the answer \"{}\" has no token of its own behind the question", place,
        continuation);
  check(request.num_scored <= most_tokens, "{}: the answer has {} tokens, expected at most {}, what the model reads",
        place, request.num_scored, most_tokens);
  if (std::ssize(request.ids) > most_tokens + 1)
    request.ids.erase(request.ids.begin(), request.ids.end() - (most_tokens + 1));
  return request;
}

std::vector<Score> TaskEvaluation::scores_of(const std::vector<Request>& requests) const {
  const std::vector<Reading> readings = readings_of(requests);
  const std::vector<Job> mine = share_of(jobs_of(readings), rank_);
  const auto count = static_cast<std::int64_t>(requests.size());
  Tensor table = Tensor::zeros(rank_.host_memory(), core::DType::F64, {count, 2});  // log-likelihood, greedy
  auto* values = table.mutable_host<double>();
  std::int64_t to_do = 0, done = 0;
  for (const Job& job : mine) to_do += static_cast<std::int64_t>(job.count);
  Progress progress(log_, "text", 0, to_do, std::max<std::int64_t>(1, to_do / 10));
  for (const Job& job : mine) {
    std::vector<nn::TextPart> parts;
    std::vector<std::int32_t> rows, targets;  // of hidden states that predict something, and what
    std::int32_t end = 0;
    for (std::size_t i = job.first; i < job.first + job.count; ++i) {
      parts.push_back({readings[i].tokens});
      end += static_cast<std::int32_t>(readings[i].tokens.size());
      for (const std::size_t r : readings[i].requests) {
        const auto scored = static_cast<std::int32_t>(requests[r].num_scored);
        for (std::int32_t row = end - scored; row < end; ++row) rows.push_back(row);
        targets.insert(targets.end(), requests[r].ids.end() - scored, requests[r].ids.end());
      }
    }
    core::Tape off(core::Tape::Mode::Off);
    const nn::Batch batch = nn::sequences_of(rank_.memory(), parts);
    const Tensor hidden = model_.forward(off, model_.pass(batch)).hidden.value;
    const auto column = [&](const std::vector<std::int32_t>& ids) {
      return Tensor::from<std::int32_t>(rank_.memory(), {std::ssize(ids)}, ids);
    };
    const Tensor predicting = core::embedding(off, column(rows), core::constant(hidden), {}, hidden.dtype()).value;
    const std::vector<TokenFigures> figures = token_figures(rank_, column(targets),
                                                            {.hidden = predicting,
                                                             .head = model_.head().value,
                                                             .head_bias = model_.head_bias().value,
                                                             .vocabulary_offset = model_.vocabulary_part().first},
                                                            options_.valid_vocabulary);
    auto token = figures.begin();
    for (std::size_t i = job.first; i < job.first + job.count; ++i)
      for (const std::size_t r : readings[i].requests) {
        Score score{.is_greedy = true};
        for (std::int64_t t = 0; t < requests[r].num_scored; ++t, ++token) {
          score.log_likelihood -= token->ce;
          score.is_greedy = score.is_greedy && token->top.is_right;
        }
        values[2 * r] = score.log_likelihood;
        values[2 * r + 1] = score.is_greedy ? 1 : 0;
      }
    done += static_cast<std::int64_t>(job.count);
    progress.update(done, {});
  }
  progress.finish();
  rank_.comms().batch->sum(table);
  std::vector<Score> scores;
  const std::vector<double> all = core::host_values<double>(table);
  for (std::size_t r = 0; r < requests.size(); ++r)
    scores.push_back({.log_likelihood = all[2 * r], .is_greedy = all[2 * r + 1] > 0});
  return scores;
}

std::vector<std::string> TaskEvaluation::generate(const std::vector<std::vector<std::int32_t>>& prompts) const {
  std::vector<Job> jobs;
  for (std::size_t first = 0; first < prompts.size(); first += prompts_per_job)
    jobs.push_back({.first = first, .count = std::min(prompts_per_job, prompts.size() - first)});
  const std::vector<Job> mine = share_of(jobs, rank_);
  std::int64_t to_do = 0, done = 0;
  for (const Job& job : mine) to_do += static_cast<std::int64_t>(job.count);
  Progress progress(log_, "answer", 0, to_do, std::max<std::int64_t>(1, to_do / 10));
  nlohmann::json texts = nlohmann::json::object();  // by the prompt's place
  for (const Job& job : mine) {
    std::vector<StopText> stops(job.count, StopText(tokenizer_));
    const nn::Generated generated = nn::generate_texts(
        model_, std::span(prompts).subspan(job.first, job.count),
        {.max_tokens = options_.max_new_tokens,
         .valid_vocabulary = options_.valid_vocabulary,
         .stop = tokenizer_.stop_ids(),
         .at_once = static_cast<std::int64_t>(job.count),
         .ends_text = [&](std::size_t prompt, std::int32_t token) { return stops[prompt].add(token); }});
    for (std::size_t i = 0; i < job.count; ++i) {
      data::StreamDecoder decoder(tokenizer_);
      std::string text;
      for (const std::int32_t id : generated.texts[i].tokens) text += decoder.feed(id);
      text += decoder.finish();
      texts[std::to_string(job.first + i)] = data::before_next_question(text);
    }
    done += static_cast<std::int64_t>(job.count);
    progress.update(done, {});
  }
  progress.finish();
  std::vector<std::string> all(prompts.size());
  for (const std::string& of_rank : gather_strings(rank_, texts.dump())) {
    const auto parsed = nlohmann::json::parse(of_rank);
    for (const auto& [place, text] : parsed.items())
      all.at(static_cast<std::size_t>(std::stoull(place))) = text.get<std::string>();
  }
  return all;
}

TaskResult TaskEvaluation::run(const Task& task) const {
  TaskResult result;
  result.answers.resize(task.questions.size());
  if (data::form_of(task.kind) == TaskForm::Generation) {
    const std::int64_t most = options_.most_tokens - options_.max_new_tokens;
    if (most < 1)
      fail_usage("--max-tokens is {}, expected less than the {} tokens that the model reads", options_.max_new_tokens,
                 options_.most_tokens);
    std::vector<std::vector<std::int32_t>> prompts;
    for (const Question& question : task.questions) {
      std::vector<std::int32_t>& ids =
          prompts.emplace_back(prompt_ids(tokenizer_, data::prompt_of(question, task.examples_for(question))));
      if (std::ssize(ids) > most) ids.erase(ids.begin(), ids.end() - most);
    }
    const std::vector<std::string> texts = generate(prompts);
    for (std::size_t i = 0; i < texts.size(); ++i) result.answers[i].generated = texts[i];
  } else {
    std::vector<Request> requests;
    for (const Question& question : task.questions) {
      const std::string prompt = data::prompt_of(question, task.examples_for(question));
      for (const std::string& continuation : question.continuations)
        requests.push_back(request_of(tokenizer_, prompt, continuation, options_.most_tokens, question.place));
    }
    const std::vector<Score> scores = scores_of(requests);
    auto score = scores.begin();
    for (std::size_t i = 0; i < task.questions.size(); ++i) {
      const auto count = std::ssize(task.questions[i].continuations);
      result.answers[i].scores.assign(score, score + count);
      score += count;
      for (const Score& one : result.answers[i].scores)
        check(std::isfinite(one.log_likelihood), "{}: the model has no finite loss on it: its weights are not usable",
              task.questions[i].place);
    }
  }
  result.figures = figures_of(task, result.answers);
  return result;
}

}  // namespace limbeck::launch
