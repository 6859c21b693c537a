#include "launch/commands/eval_text.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "data/tokenizers/vocabulary.h"
#include "launch/commands/eval_models.h"
#include "launch/commands/text_format.h"
#include "launch/commands/token_ids.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/report/text_report.h"
#include "launch/run/checkpointing.h"
#include "launch/run/matched_rows.h"
#include "launch/run/model_differences.h"
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

/// Windows as long as the sequences of the run of the first model, whose positions it knows, or as the contexts of all
/// have room for.
WindowOptions windows_of(const EvalOptions& options, const std::vector<const ModelSource*>& models) {
  const ModelSource& model = *models.front();
  std::int64_t most = model.config.max_positions;
  for (const ModelSource* other : models) most = std::min(most, other->config.max_positions);
  std::int64_t length = std::min(default_window, most);
  if (model.kind == ModelKind::Checkpoint) {
    const std::string where = model.path.string();
    const TrainerState state = trainer_state_from_json(model.trainer, where);
    length = std::min(parse_config(state.run_config, where).data.sequence_length, most);
  }
  length = options.window.value_or(length);
  if (length > most)
    fail_usage("--window is {}, expected at most {}, the positions of the model{}", length, most,
               models.size() == 1 ? "" : " and of the others");
  const std::int64_t stride = options.stride.value_or(std::max<std::int64_t>(1, length / 2));
  if (stride > length) fail_usage("--stride is {}, expected at most the window, {}", stride, length);
  return {.length = length, .stride = stride};
}

/// Collective: the text as a model's tokenizer cuts it.
TextEvaluation text_of(Rank& rank, const EvalOptions& options, const ModelSource& source,
                       const data::Tokenizer* tokenizer, const WindowOptions& windows, const Log& log) {
  std::vector<data::Document> documents;
  while_others_hear(rank, [&] { documents = read_text(options, source, tokenizer); });
  say_repaired(documents, "the text", log);
  check_same_everywhere(rank.world(), fmt::format("fingerprint of the text: {:016x}\n", data::fingerprint(documents)));
  return {rank, std::move(documents), windows, valid_vocabulary(source, tokenizer)};
}

/// Whether a text is the same tokens to both models.
bool read_alike(const EvalOptions& options, const ModelSource& model, const ModelSource& other) {
  if (options.tokens || !options.tokenizer.empty() || model.tokenizer == nullptr || other.tokenizer == nullptr)
    return true;
  return !data::vocabulary_difference(*model.tokenizer, *other.tokenizer).has_value();
}

/// Collective: how far the figures of the text are from those of `other`, which is loaded for it.
std::vector<FigureDifference> differences_from(Rank& rank, const EvalOptions& options, const TextEvaluation& text,
                                               const TextFigures& figures, const ModelSource& model, ModelSource other,
                                               const LoadedModel* teacher, const WindowOptions& windows,
                                               const Log& log) {
  const bool are_alike = read_alike(options, model, other);
  const auto tokenizer = tokenizer_of(options, other);
  const std::string name = other.path.string();
  if (are_alike)
    check_same_ids(other, tokenizer_of(options, model).get(), "--against", log);
  else
    log->warn("{}: has another tokenizer than {}: bits/byte alone are compared", name, model.path.string());
  const LoadedModel loaded =
      load_model(rank, std::move(other), are_alike ? std::optional(model.config.vocabulary) : std::nullopt, log);
  if (are_alike)
    return text_differences(rank, figures, text.measure(*loaded.model, teacher ? teacher->model.get() : nullptr), true);
  const TextEvaluation own = text_of(rank, options, loaded.source, tokenizer.get(), windows, log);
  return text_differences(rank, figures, own.measure(*loaded.model, nullptr), false);
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
  if (options.against && options.tasks.empty() && (!has_text || options.logits))
    fail_usage("eval: --against goes with --text, with --task, or with --tokens without --logits");
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
      "command: eval\nmodel: {}\ntext: {}\ntokens: {}\nteacher: {}\nagainst: {}\ntokenizer: {}\nformat: {}\nfield: {}\n"
      "parse_special: {}\nwindow: {}\nstride: {}\n",
      o.model.string(), fmt::join(as_strings(o.text), ", "), o.tokens.value_or("").string(),
      o.teacher.value_or("").string(), o.against.value_or("").string(), o.tokenizer, o.format, o.field, o.parse_special,
      o.window.value_or(0), o.stride.value_or(0));
}

void evaluate_text(Rank& rank, const EvalOptions& options) {
  const Log log = make_log(rank.world().rank(), options.verbosity);
  LoadedModel model = load_model(rank, options.model, std::nullopt, log);
  const auto tokenizer = tokenizer_of(options, model.source);
  std::vector<const ModelSource*> all = {&model.source};
  std::optional<LoadedModel> teacher;
  if (options.teacher) {
    ModelSource source = open_model_together(rank, *options.teacher, log);
    std::optional<nn::TokenRows> rows;
    if (tokenizer)
      rows = matched_rows(
          source, *tokenizer,
          fmt::format("--teacher: {} has another tokenizer than the text is cut by", source.path.string()), log);
    if (!rows) check_same_ids(source, tokenizer.get(), "--teacher", log);
    teacher = load_model(rank, std::move(source), model.source.config.vocabulary, log, rows);
    all.push_back(&teacher->source);
  }
  std::optional<ModelSource> other;
  if (options.against) all.push_back(&other.emplace(open_model_together(rank, *options.against, log)));
  const WindowOptions windows = windows_of(options, all);
  const TextEvaluation text = text_of(rank, options, model.source, tokenizer.get(), windows, log);
  TextReport report{.model = model.source.path.string(),
                    .step = std::nullopt,
                    .teacher = teacher ? teacher->source.path.string() : "",
                    .windows = windows,
                    .names = {},
                    .figures = text.measure(*model.model, teacher ? teacher->model.get() : nullptr, true)};
  model.model.reset();
  if (other) {
    report.against = other->path.string();
    report.differences = differences_from(rank, options, text, report.figures, model.source, std::move(*other),
                                          teacher ? &*teacher : nullptr, windows, log);
  }
  if (!rank.is_first()) return;
  report.trained_on = find_trained_on(text.documents(), model.source, tokenizer.get(), log);
  if (model.source.kind == ModelKind::Checkpoint) report.step = model.source.step;
  for (const data::Document& document : text.documents()) report.names.push_back(document.name);
  write_result(options.json ? to_json(report).dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                            : to_text(report));
  flush_results();
}

}  // namespace limbeck::launch
