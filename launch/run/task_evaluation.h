// What a model answers to questions of benchmarks, and how often it is right: the arithmetic of PyPI's lm-eval.
//
//     const Task task = read_task("arc:arc.jsonl,shots=2,examples=dev.jsonl");
//     TaskEvaluation evaluation(rank, model, *tokenizer, {.most_tokens = 2048}, log);
//     const TaskResult result = evaluation.run(task);
//     result.figures[0].name, .value;                 // "acc", 0.43
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/nn/transformer.h"
#include "data/tasks/task_file.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/console/log.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

struct Task {
  data::TaskKind kind = data::TaskKind::Mmlu;
  std::string file;
  std::int64_t shots = 0;
  std::string examples_file;  // empty: there are none
  std::vector<data::Question> questions;
  std::vector<data::Question> examples;

  std::string name() const;  // "arc arc.jsonl, 2 shots"
  /// The first `shots` of them; of a question with a subject the first of that subject, where they have subjects.
  std::vector<data::Question> examples_for(const data::Question& question) const;
};

/// KIND:FILE, with ",shots=N" and ",examples=FILE" behind. Throws a UsageError for what is something else.
Task parse_task(const std::string& text);
/// The same with its questions and examples. Throws, naming file and line, as read_questions does, and where there are
/// fewer examples than shots.
Task read_task(const std::string& text);

/// What a model says of a continuation.
struct Score {
  double log_likelihood = 0;  // of its tokens, nats
  bool is_greedy = false;     // each of them is the likeliest
};

struct Answer {
  std::vector<Score> scores = {};  // of each choice; of a cloze of its only one
  std::string generated = {};
};

/// A figure over questions: the mean of its values, one a question, or of log-likelihoods the perplexity.
struct TaskFigure {
  std::string name;
  bool is_perplexity = false;
  std::vector<double> values = {};  // of each question
  double value() const;
  /// Of the mean, sqrt(variance / questions) with the variance of a sample; nothing of a perplexity, or of one
  /// question.
  std::optional<double> standard_error() const;
};

/// exp(-mean) or mean, of this many values with that sum.
double task_figure(double sum, double count, bool is_perplexity);

struct TaskResult {
  std::vector<Answer> answers;  // of each question
  std::vector<TaskFigure>
      figures;  // acc, acc_norm, acc_bytes; acc, perplexity; exact_match_strict, exact_match_flexible
};

/// The figures of answers: acc, by the greatest log-likelihood; acc_norm, by that over the choice's characters;
/// acc_bytes, over its bytes in UTF-8; ties go to the first. Of a cloze acc, how often it is greedy, and perplexity,
/// exp(-mean log-likelihood). Of generated text exact_match by both ways to find the answer (data/tasks/exact_match.h).
std::vector<TaskFigure> figures_of(const Task& task, std::span<const Answer> answers);

struct TaskOptions {
  std::int64_t most_tokens = 0;        // that the model reads at once: of a longer request the end
  std::int64_t max_new_tokens = 256;   // of generated text
  std::int64_t valid_vocabulary = -1;  // tokens from here on are padding
};

/// A request: `ids` of context and continuation, of which the last `num_scored` are the continuation's.
struct Request {
  std::vector<std::int32_t> ids;
  std::int64_t num_scored = 0;
};
/// As lm-eval's _encode_pair: white space at the context's end goes to the continuation, both are encoded together and
/// cut behind as many tokens as the context has alone; an empty context is the token that begins texts, or ends them.
/// The last `most_tokens` + 1 are kept, for the last is not read. Throws, naming `place`, where the continuation has no
/// token of its own, or more than are kept.
Request request_of(const data::Tokenizer& tokenizer, const std::string& context, const std::string& continuation,
                   std::int64_t most_tokens, const std::string& place);

class TaskEvaluation {
 public:
  /// Refers to all of them. `model` is a frozen copy.
  TaskEvaluation(Rank& rank, const nn::Transformer& model, const data::Tokenizer& tokenizer, const TaskOptions& options,
                 const Log& log)
      : rank_(rank), model_(model), tokenizer_(tokenizer), options_(options), log_(log) {}

  /// Collective: each rank takes its share of the requests. What is read together depends on the task alone, so that
  /// figures do not depend on the number of ranks, bit by bit.
  TaskResult run(const Task& task) const;

 private:
  std::vector<Score> scores_of(const std::vector<Request>& requests) const;
  std::vector<std::string> generate(const std::vector<std::vector<std::int32_t>>& prompts) const;

  Rank& rank_;
  const nn::Transformer& model_;
  const data::Tokenizer& tokenizer_;
  TaskOptions options_;
  Log log_;
};

}  // namespace limbeck::launch
