// `limbeck eval`: what a finished model is measured by.

#include <algorithm>
#include <map>
#include <utility>

#include "core/counted.h"
#include "core/ops/head_loss.h"
#include "data/checkpoints/checkpoint.h"
#include "data/files/atomic_file.h"
#include "data/files/hdf5_file.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/commands/commands.h"
#include "launch/commands/eval_pairs.h"
#include "launch/commands/eval_tasks.h"
#include "launch/commands/eval_text.h"
#include "launch/commands/may_write.h"
#include "launch/commands/token_ids.h"
#include "launch/console/streams.h"
#include "launch/plan/automatic_layout.h"
#include "launch/report/distill_report.h"
#include "launch/run/checkpointing.h"
#include "launch/run/evaluation_json.h"
#include "launch/run/machine_peak.h"
#include "launch/run/model_source.h"
#include "launch/run/run_config.h"
#include "launch/run/run_directory.h"
#include "launch/run/run_evaluations.h"
#include "launch/run/session.h"
#include "launch/run/stop_flag.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

/// Every file that is no model: where it is no config either, the place of the first mistake is said.
bool is_config(const fs::path& path) { return fs::is_regular_file(path) && !is_model_file(path); }

/// Collective.
ModelSource open_and_say_notices(Rank& rank, const fs::path& path, Verbosity verbosity) {
  const Log log = make_log(rank.world().rank(), verbosity);
  ModelSource source = open_model_together(rank, path, log);
  say_notices(source, log);
  return source;
}

/// Collective. One causal sequence of all tokens: /tokens [T] and /logits [T,V], float32.
void write_logits(Rank& rank, const ModelSource& source, const fs::path& token_file, const fs::path& out) {
  constexpr std::int64_t rows_at_once = 256;
  nn::Transformer model(source.config, rank.frozen_copy(core::DType::F32));
  model.load(*source.reader);
  const std::vector<std::int32_t> ids = read_ids(token_file, source);
  const auto n = static_cast<std::int64_t>(ids.size());
  core::check(n <= source.config.max_positions, "{}: {} tokens, expected at most the model's {} positions",
              token_file.string(), n, source.config.max_positions);

  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = nn::one_sequence(rank.memory(), ids, 0);
  const core::Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
  std::optional<data::TemporaryFile> temporary;
  std::optional<data::Hdf5File> file;
  if (rank.is_first()) {
    file.emplace(data::Hdf5File::create(temporary.emplace(out).name()));
    file->write_dataset("/tokens", core::Tensor::from<std::int32_t>(rank.host_memory(), {n}, ids));
    file->create_dataset("/logits", core::DType::F32, {n, source.config.vocabulary});
  }
  for (std::int64_t first = 0; first < n; first += rows_at_once) {
    const std::int64_t count = std::min(rows_at_once, n - first);
    const core::Tensor mine = core::logits_of(hidden.rows(first, count), model.head().value, model.head_bias().value);
    const core::Tensor logits = rank.comms().tensor->gather(mine, 1, source.config.vocabulary).in(rank.host_memory());
    core::check(core::first_not_finite(logits) == logits.numel(),
                "{}: its logits are not finite from token {} on: its weights are not usable", source.path.string(),
                first);
    const std::vector<std::int64_t> offset = {first, 0};
    if (file) file->write("/logits", core::DType::F32, logits.host<float>(), offset, logits.shape());
  }
  if (!file) return;
  file->close();
  temporary->keep();
  print_result("{}: logits of {}\n", out.string(), core::counted(n, "token"));
}

/// The weights of a checkpoint, where it is of the model and of the tokenizer that the config describes; says where its
/// text or its teacher are others.
void load_for_eval(Session& session, const ModelSource& source, const TrainerState& where, const Log& log) {
  const std::string name = source.path.string();
  if (const auto difference = data::vocabulary_difference(*session.tokenizer, *source.tokenizer))
    core::fail_usage("data.tokenizer ({}) is another tokenizer than that of {}: {}", session.config.data.tokenizer,
                     name, *difference);
  check_same_model(source.config, session.student->config(), name);
  const RunConfig was = parse_config(where.run_config, name);
  const DataConfig &before = was.data, &now = session.config.data;
  if ((!where.text.empty() && where.text != session.text_fingerprint) ||
      before.held_out_fraction != now.held_out_fraction || before.seed != now.seed)
    log->warn("what is held out here is not what it was in the run of {}, which may have learned from it", name);
  if (!session.teacher_fingerprint.empty() && !where.teacher.empty() && where.teacher != session.teacher_fingerprint)
    log->warn("{} is not the teacher that {} learned from: its fingerprint is {}, expected {}",
              session.config.teacher->source.empty() ? session.config.teacher->cache : session.config.teacher->source,
              name, session.teacher_fingerprint, where.teacher);
  session.student->load(*source.reader);
}

std::string as_text(const Measurement& result, const ModelSource& source) {
  const std::string column = source.reader == nullptr ? "at the start" : fmt::format("step {}", source.step);
  return (result.held_out.tokens > 0 ? to_text({{column, result.held_out}}) : "") + sets_text({}, result.sets);
}

/// "step" where there is a checkpoint, "held_out" and "sets" where they were measured.
std::string as_json(const Measurement& result, const ModelSource& source) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (source.reader != nullptr) json = {{"model", source.path.string()}, {"step", source.step}};
  if (result.held_out.tokens > 0) json["held_out"] = evaluation_to_json(result.held_out);
  if (!result.sets.empty()) json["sets"] = sets_to_json(result.sets);
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// What only training does by a config is not looked at: keeping the best by a figure, of a set that may be gone.
std::vector<std::string> sets_of_evaluation(std::vector<std::string> sets) {
  sets.insert(sets.end(), {"train.keep_best=", "train.stop_after_evaluations_without_gain=0"});
  return sets;
}

}  // namespace

int run_eval(const EvalOptions& options) {
  check_task_options(options);
  check_text_options(options);
  if (options.format == "pairs") check_pairs_options(options);
  RunConfig of_ranks;
  of_ranks.train.threads = options.threads;
  if (options.logits) {
    std::vector<fs::path> read = files_of_model(options.model);
    const std::string prefix = token_prefix(*options.tokens).string();
    read.insert(read.end(), {*options.tokens, prefix + ".bin", prefix + ".idx"});
    check_may_write(*options.logits, options.force, read);
    in_world(
        of_ranks,
        fmt::format("command: eval\nmodel: {}\ntokens: {}\n", options.model.string(), options.tokens->string()),
        [&](Rank& rank) {
          const ModelSource source = open_and_say_notices(rank, options.model, options.verbosity);
          write_logits(rank, source, *options.tokens, *options.logits);
        },
        "tp");
    return 0;
  }
  if (!options.tasks.empty()) {
    in_world(of_ranks, task_identity(options), [&](Rank& rank) { evaluate_tasks(rank, options); });
    return 0;
  }
  if (options.format == "pairs") {
    in_world(of_ranks, text_identity(options), [&](Rank& rank) { evaluate_pairs(rank, options); });
    return 0;
  }
  if (!options.text.empty() || options.tokens) {
    in_world(of_ranks, text_identity(options), [&](Rank& rank) { evaluate_text(rank, options); });
    return 0;
  }
  // A config means the newest checkpoint of its run, where it has one; else the student as it starts.
  ModelSource source;
  RunConfig config;
  TrainerState where;  // the model's run stood, if there is a checkpoint
  const bool is_of_config = is_config(options.model);
  const std::vector<std::string> sets = sets_of_evaluation(options.sets);
  if (is_of_config) {
    std::vector<fs::path> given = {options.model};
    given.insert(given.end(), options.more.begin(), options.more.end());
    config = load_given_config(given, sets);
  }
  if (!is_of_config || !data::list_checkpoints(RunDirectory(config.output.dir).checkpoints()).empty()) {
    source = open_model(is_of_config ? fs::path(config.output.dir) : options.model);
    if (source.kind != ModelKind::Checkpoint)
      core::fail_usage("eval: {} names no text to measure on; give a config or a checkpoint, --text or --task",
                       options.model.string());
    where = trainer_state_from_json(source.trainer, source.path.string());
  }
  if (!is_of_config) {
    config = load_run_config({.path = options.model, .text = where.run_config},
                             fs::absolute(source.path).parent_path().parent_path(),  // RUN/checkpoints/step_N
                             options.more, sets);
  }
  const bool sets_layout = std::any_of(options.sets.begin(), options.sets.end(),
                                       [](const std::string& set) { return set.starts_with("parallel.layout="); });
  if (options.threads > 0) config.train.threads = options.threads;
  name_reference(config);
  if (!sets_layout || is_automatic(config)) config.parallel.layout = "";  // whatever the ranks are now
  config.adapters.reset();  // a checkpoint is read with its own, merged; others begin at nothing
  config.teacher && !config.objective.preference ? check_for_distill(config) : check_for_train(config);
  in_world(config, fmt::format("command: eval\ncheckpoint: {}\n", source.path.string()), [&](Rank& rank) {
    const Log log = make_log(rank.world().rank(), options.verbosity);
    Session session(rank, config, log);
    session.open_cache(log);
    if (source.reader == nullptr)
      session.start_student();
    else
      load_for_eval(session, source, where, log);
    RunEvaluations evaluations(session, log);
    if (evaluations.is_empty())
      core::fail_usage("eval: the {} held-out documents do not fill one sequence of {} tokens",
                       session.text->num_held_out_documents(), config.data.sequence_length);
    const Measurement result = evaluations.measure(*session.student);
    session.check_teacher(result.held_out);
    if (!rank.is_first()) return;
    write_result(options.json ? as_json(result, source) : as_text(result, source));
    flush_results();
  });
  return 0;
}

}  // namespace limbeck::launch
