#include "launch/commands/eval_text.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "launch/commands/eval_models.h"
#include "launch/commands/text_format.h"
#include "launch/commands/token_ids.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/report/text_report.h"
#include "launch/run/checkpointing.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/text_evaluation.h"
#include "launch/run/threads.h"
#include "launch/run/training_documents.h"

namespace limbeck::launch {

using core::fail_usage;

namespace {

constexpr std::int64_t default_window = 1024;

std::vector<std::string> as_strings(const std::vector<std::filesystem::path>& paths) {
  return {paths.begin(), paths.end()};
}

std::vector<data::Document> read_text(const EvalOptions& options, const ModelSource& source,
                                      const data::Tokenizer* tokenizer) {
  if (options.tokens) return read_token_documents(*options.tokens, source, tokenizer);
  if (tokenizer == nullptr) source.require_tokenizer();
  return data::read_documents(as_strings(options.text), *tokenizer,
                              {.threads = threads_of_rank(options.threads),
                               .format = text_format(options.format),
                               .field = options.field,
                               .parse_special = options.parse_special});
}

/// Windows as long as the sequences of the model's run, whose positions it knows, or as its context has room for.
WindowOptions windows_of(const EvalOptions& options, const ModelSource& model, const ModelSource* teacher) {
  std::int64_t most = model.config.max_positions;
  if (teacher != nullptr) most = std::min(most, teacher->config.max_positions);
  std::int64_t length = std::min(default_window, most);
  if (model.kind == ModelKind::Checkpoint) {
    const std::string where = model.path.string();
    const TrainerState state = trainer_state_from_json(model.trainer, where);
    length = std::min(parse_config(state.run_config, where).data.sequence_length, most);
  }
  length = options.window.value_or(length);
  if (length > most)
    fail_usage("--window is {}, expected at most {}, the positions of the model{}", length, most,
               teacher == nullptr ? "" : " and of the teacher");
  const std::int64_t stride = options.stride.value_or(std::max<std::int64_t>(1, length / 2));
  if (stride > length) fail_usage("--stride is {}, expected at most the window, {}", stride, length);
  return {.length = length, .stride = stride};
}

std::optional<std::vector<std::size_t>> find_trained_on(const std::vector<data::Document>& documents,
                                                        const ModelSource& source, const data::Tokenizer* tokenizer,
                                                        const Log& log) {
  const auto known = read_training_documents(source);
  std::optional<std::vector<std::size_t>> found;
  if (known && tokenizer != nullptr) found = trained_on(documents, *known, *tokenizer);
  if (!found && source.kind == ModelKind::Checkpoint)
    log->info("{}: whether its run learned from documents of this text is not known", source.path.string());
  else if (found && !found->empty())
    log->warn("{}: {}", source.path.string(), trained_on_text(documents, *found));
  return found;
}

}  // namespace

void check_text_options(const EvalOptions& options) {
  const bool has_text = !options.text.empty() || options.tokens.has_value();
  if (!options.text.empty() && options.tokens) fail_usage("eval: --text and --tokens are both given, expected one");
  for (const auto& [name, is_given] :
       {std::pair("--teacher", options.teacher.has_value()), std::pair("--tokenizer", !options.tokenizer.empty()),
        std::pair("--window", options.window.has_value()), std::pair("--stride", options.stride.has_value())})
    if (is_given && (!has_text || options.logits) && options.tasks.empty())
      fail_usage("eval: {} goes with --text, or --tokens without --logits", name);
  if (options.json && options.logits)
    fail_usage("eval: --json is of figures, and --logits writes a file, expected one");
  if (has_text && (!options.sets.empty() || !options.more.empty()))
    fail_usage("eval: --set and MORE are of a run's config, which is not read where a text or tokens are given");
}

std::string text_identity(const EvalOptions& o) {
  return fmt::format(
      "command: eval\nmodel: {}\ntext: {}\ntokens: {}\nteacher: {}\ntokenizer: {}\nformat: {}\nfield: {}\n"
      "parse_special: {}\nwindow: {}\nstride: {}\n",
      o.model.string(), fmt::join(as_strings(o.text), ", "), o.tokens.value_or("").string(),
      o.teacher.value_or("").string(), o.tokenizer, o.format, o.field, o.parse_special, o.window.value_or(0),
      o.stride.value_or(0));
}

void evaluate_text(Rank& rank, const EvalOptions& options) {
  const Log log = make_log(rank.world().rank(), options.verbosity);
  const LoadedModel model = load_model(rank, options.model, std::nullopt, log);
  const auto tokenizer = tokenizer_of(options, model.source);
  std::optional<LoadedModel> teacher;
  if (options.teacher) {
    teacher = load_model(rank, *options.teacher, model.source.config.vocabulary, log);
    check_same_ids(teacher->source, tokenizer.get(), "--teacher", log);
  }
  const WindowOptions windows = windows_of(options, model.source, teacher ? &teacher->source : nullptr);
  std::vector<data::Document> documents;
  while_others_hear(rank, [&] { documents = read_text(options, model.source, tokenizer.get()); });
  say_repaired(documents, "the text", log);
  check_same_everywhere(rank.world(), fmt::format("fingerprint of the text: {:016x}\n", data::fingerprint(documents)));

  const TextEvaluation text(rank, std::move(documents), windows, valid_vocabulary(model.source, tokenizer.get()));
  const TextFigures figures = text.measure(*model.model, teacher ? teacher->model.get() : nullptr, true);
  if (!rank.is_first()) return;
  TextReport report{.model = model.source.path.string(),
                    .step = std::nullopt,
                    .teacher = teacher ? teacher->source.path.string() : "",
                    .windows = windows,
                    .names = {},
                    .figures = figures,
                    .trained_on = find_trained_on(text.documents(), model.source, tokenizer.get(), log)};
  if (model.source.kind == ModelKind::Checkpoint) report.step = model.source.step;
  for (const data::Document& document : text.documents()) report.names.push_back(document.name);
  write_result(options.json ? to_json(report).dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                            : to_text(report));
  flush_results();
}

}  // namespace limbeck::launch
