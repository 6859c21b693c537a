#include "launch/commands/eval_tasks.h"

#include <fmt/ranges.h>

#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/random.h"
#include "data/files/json_text.h"
#include "launch/commands/eval_models.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/report/task_report.h"
#include "launch/run/model_differences.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/task_evaluation.h"

namespace limbeck::launch {

using core::fail_usage;

namespace {

TaskOptions task_options(const EvalOptions& options, const LoadedModel& model, const data::Tokenizer& tokenizer) {
  const std::int64_t most = model.source.config.max_positions;
  if (options.window.value_or(most) > most)
    fail_usage("--window is {}, expected at most {}, the positions of the model", *options.window, most);
  TaskOptions result{.most_tokens = options.window.value_or(most),
                     .valid_vocabulary = valid_vocabulary(model.source, &tokenizer)};
  result.max_new_tokens = options.max_tokens.value_or(result.max_new_tokens);
  return result;
}

/// Of what is asked of the model.
std::uint64_t fingerprint(const std::vector<Task>& tasks) {
  std::uint64_t hash = core::hash_seed;
  for (const Task& task : tasks)
    for (const data::Question& question : task.questions) {
      hash = core::hash_name(data::prompt_of(question, task.examples_for(question)), hash);
      for (const std::string& choice : question.choices) hash = core::hash_name(choice, hash);
      hash = core::hash_name(fmt::format("{}{}", question.gold, question.answer), hash);
    }
  return hash;
}

/// Collective: the answers of a model, which is let go of afterwards.
ModelSource run_tasks(Rank& rank, const std::filesystem::path& path, const EvalOptions& options,
                      const std::vector<Task>& tasks, std::vector<TaskResult>& results, const Log& log) {
  LoadedModel model = load_model(rank, path, std::nullopt, log);
  const auto tokenizer = tokenizer_of(options, model.source);
  if (tokenizer == nullptr) model.source.require_tokenizer();
  const TaskEvaluation evaluation(rank, *model.model, *tokenizer, task_options(options, model, *tokenizer), log);
  for (const Task& task : tasks) {
    log->info("{}: {}", task.name(), core::counted(std::ssize(task.questions), "question"));
    results.push_back(evaluation.run(task));
  }
  return std::move(model.source);
}

}  // namespace

void check_task_options(const EvalOptions& options) {
  if (options.tasks.empty()) {
    if (options.max_tokens) fail_usage("eval: --max-tokens goes with --task");
    return;
  }
  for (const auto& [name, is_given] :
       {std::pair("--text", !options.text.empty()), std::pair("--tokens", options.tokens.has_value()),
        std::pair("--teacher", options.teacher.has_value()), std::pair("--stride", options.stride.has_value()),
        std::pair("--set", !options.sets.empty()), std::pair("MORE", !options.more.empty())})
    if (is_given) fail_usage("eval: {} does not go with --task", name);
  for (const std::string& task : options.tasks) parse_task(task);
}

std::string task_identity(const EvalOptions& o) {
  return fmt::format("command: eval\nmodel: {}\nagainst: {}\ntasks: {}\ntokenizer: {}\nwindow: {}\nmax_tokens: {}\n",
                     o.model.string(), o.against.value_or("").string(), fmt::join(o.tasks, ", "), o.tokenizer,
                     o.window.value_or(0), o.max_tokens.value_or(-1));
}

void evaluate_tasks(Rank& rank, const EvalOptions& options) {
  const Log log = make_log(rank.world().rank(), options.verbosity);
  TaskReport report;
  // Read before any model is: a mistake in a file is said at once.
  on_every_rank(rank, [&] {
    for (const std::string& task : options.tasks) report.tasks.push_back(read_task(task));
  });
  check_same_everywhere(rank.world(),
                        fmt::format("fingerprint of the questions: {:016x}\n", fingerprint(report.tasks)));
  const ModelSource source = run_tasks(rank, options.model, options, report.tasks, report.results, log);
  if (options.against) {
    std::vector<TaskResult> others;
    report.against = run_tasks(rank, *options.against, options, report.tasks, others, log).path.string();
    for (std::size_t t = 0; t < others.size(); ++t)
      report.differences.push_back(task_differences(rank, report.results[t], others[t]));
  }
  if (!rank.is_first()) return;
  report.model = source.path.string();
  if (source.kind == ModelKind::Checkpoint) report.step = source.step;
  write_result(options.json ? data::indented(to_json(report)) : to_text(report));
  flush_results();
}

}  // namespace limbeck::launch
