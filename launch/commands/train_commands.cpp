// `limbeck train` and `limbeck distill`.

#include <chrono>
#include <cmath>
#include <filesystem>

#include "core/counted.h"
#include "core/nn/generation.h"
#include "kernels/build_info.h"
#include "launch/commands/commands.h"
#include "launch/commands/may_write.h"
#include "launch/commands/version.h"
#include "launch/commands/what_runs.h"
#include "launch/config/figure.h"
#include "launch/console/progress.h"
#include "launch/console/shell_quoted.h"
#include "launch/console/streams.h"
#include "launch/plan/automatic_layout.h"
#include "launch/plan/memory_warning.h"
#include "launch/report/comparison.h"
#include "launch/report/distill_report.h"
#include "launch/report/event_file.h"
#include "launch/run/heartbeat.h"
#include "launch/run/machine_peak.h"
#include "launch/run/run_config.h"
#include "launch/run/run_directory.h"
#include "launch/run/run_evaluations.h"
#include "launch/run/run_facts.h"
#include "launch/run/session.h"
#include "launch/run/sharing.h"
#include "launch/run/stop_flag.h"
#include "launch/run/teacher_service.h"
#include "launch/run/text_generation.h"
#include "launch/run/threads.h"
#include "launch/run/trainer.h"
#include "launch/run/training_documents.h"
#include "parallel/axes/check_sharding.h"
#include "parallel/comm/world.h"

namespace limbeck::launch {

RunConfig config_of(const TrainOptions& options) {
  RunConfig config = load_given_config(options.configs, options.sets);
  if (options.out) config.output.dir = *options.out;
  if (options.threads) config.train.threads = *options.threads;
  name_reference(config);
  return config;
}

RunConfig baseline_of(RunConfig config) {
  config.output.dir = (std::filesystem::path(config.output.dir) / "baseline").string();
  ObjectiveConfig objective;
  objective.cross_entropy_weight = 1;
  objective.predict_weight = config.objective.predict_weight;
  objective.bridge = config.objective.bridge;
  config.objective = objective;
  return config;
}

namespace {

std::int64_t last_step(const TrainOptions& options, const RunConfig& config) {
  return std::min(options.steps.value_or(config.train.steps), config.train.steps);
}

std::int64_t greatest_peak_memory(Rank& rank) {
  const std::int64_t mine = peak_resident_bytes();
  core::Tensor bytes = core::Tensor::from<std::int64_t>(rank.host_memory(), {1}, {&mine, 1});
  rank.world().all_reduce(bytes, core::Reduce::Max);
  return core::host_values<std::int64_t>(bytes)[0];
}

/// What was there before the first step, as the run that goes on wrote it down; nothing where a run without a teacher
/// wrote none.
std::optional<DistillStart> read_start_together(const Session& session, const RunDirectory& directory) {
  std::string text;
  on_first_rank(session.rank, [&] {
    if (session.teacher || session.cached_teacher || std::filesystem::exists(directory.path() / "start.json"))
      text = to_text(read_start(directory.path()));
  });
  text = gather_strings(session.rank, text).front();
  if (text.empty()) return std::nullopt;
  DistillStart start = start_from_text(text, directory.path().string());
  core::check(start.teacher.empty() || start.teacher == session.teacher_fingerprint,
              "{}: its start was measured against a teacher of fingerprint {}, {} has {}: expected the same teacher",
              directory.path().string(), start.teacher, session.config.teacher->source, session.teacher_fingerprint);
  return start;
}

/// Nothing by a reward head.
Continued continuation(const Session& session, const nn::Transformer& model, bool is_cut) {
  if (model.config().reward_head) return {};
  return continue_prompt(model, session.rank, session.config.generation, *session.tokenizer, is_cut);
}

/// What only a distillation compares with.
void measure_teacher(Session& session, HeldOut& held_out, const std::filesystem::path& run, DistillStart& start,
                     const Log& log) {
  start.unigram = held_out.evaluate_unigram(session.token_counts(session.student->config().vocabulary));
  if (session.teacher) {
    Continued said;
    while_others_hear(session.rank, [&] {
      if (session.teacher->has_head())
        said = continuation(session, *session.teacher, session.config.precision.sharded_teacher);
    });
    start.teacher_text = gather_strings(session.rank, said.text).back();  // of a pipeline's last stage
    keep_decode(session.rank, run, "teacher_decode", said.decode);
  }
  start.student_text = continuation(session, *session.student, /*is_cut=*/true).text;
  start.teacher = session.teacher_fingerprint;
  start.cut = session.start;
  log->info("before: KL {}, top-1 agreement {:.3f}, cross-entropy {:.4f} (teacher {:.4f}, unigram KL {})",
            kl_text(start.student, start.student.kl), start.student.agreement, start.student.cross_entropy,
            start.student.teacher_cross_entropy, kl_text(start.unigram, start.unigram.kl));
}

/// The same, measured.
DistillStart measure_start(Session& session, RunEvaluations& evaluations, const RunDirectory& directory,
                           const Log& log) {
  DistillStart start;
  if (!evaluations.is_empty())
    log->info("measuring the {} before, on {}", trained_name(session),
              core::counted(evaluations.num_tokens(), "token"));
  Measurement said = evaluations.measure(*session.student);
  start.student = said.held_out;
  start.sets = said.sets;
  session.check_teacher(start.student);
  const bool has_teacher = start.student.has_teacher();
  if (has_teacher) said.held_out = Evaluation();  // measure_teacher says more of it
  for (const std::string& line : to_lines(said)) log->info("before: {}", line);
  if (has_teacher) measure_teacher(session, *evaluations.held_out(), directory.path(), start, log);
  on_first_rank(session.rank, [&] { write_start(directory.path(), start); });
  return start;
}

/// Keeps what the run learns from, and says which documents of the evaluation sets are among that.
void tell_training_text(const Session& session, const RunDirectory& directory, const RunEvaluations& evaluations,
                        const Log& log) {
  on_first_rank(session.rank, [&] {
    keep_training_documents(directory.path(), *session.text, *session.tokenizer);
    if (session.config.evaluation.set.empty()) return;
    for (const std::string& line :
         evaluations.found_in_training_text(training_documents(*session.text, *session.tokenizer)))
      log->warn("{}", line);
  });
}

void start_student(Session& session, const Log& log) {
  if (session.config.student_init && session.config.student_init->choice == LayerChoice::GreedyKl)
    log->info("choosing layers by what dropping each does to the teacher, on {}",
              core::counted(session.config.student_init->greedy_tokens, "token"));
  session.start_student();
  for (const std::string& line : to_lines(session.start)) log->info("{}", line);
  if (!session.start.is_exact) {
    const UpcycleConfig& upcycle = *session.config.student_init->upcycle;
    log->warn(
        "the start is not exact: slices{} = {} do not divide experts_per_token = {}, so the weights are only scaled",
        upcycle.shared_slices > 0 ? " - shared_slices" : "", upcycle.slices - upcycle.shared_slices,
        upcycle.experts_per_token);
  }
}

/// What start.json says of the run and of its starts, of which this is one. Of the first rank alone.
RunFacts facts_of(const Session& session, const Trainer& trainer, const RunDirectory& directory,
                  const TrainOptions& options) {
  RunFacts facts;
  if (trainer.steps_done() > 0)
    facts.starts =
        run_facts_from_json(read_start_file(directory.path()), (directory.path() / "start.json").string()).starts;
  const nn::ParameterCount model = nn::count_parameters(session.student->config());
  facts.model = {.total = model.total, .active = model.active, .trainable = trainer.num_trained()};
  if (const auto architecture = named_teacher(session)) {
    const nn::ParameterCount teacher = nn::count_parameters(*architecture);
    facts.teacher = {.total = teacher.total, .active = teacher.active, .trainable = 0};
  }
  const std::int64_t ranks = session.rank.num_processes();
  const ParallelConfig& parallel = session.config.parallel;
  const auto layout_of = [](const std::string& layout, std::int64_t size) {
    return layout.empty() ? fmt::format("dp{}", size) : layout;
  };
  facts.starts.push_back({.step = trainer.steps_done(),
                          .time = wall_time(),
                          .command = options.command_line,
                          .ranks = ranks,
                          .layout = layout_of(parallel.layout, session.rank.world().size()),
                          .teacher_ranks = parallel.teacher_ranks,
                          .teacher_layout = parallel.teacher_ranks > 0
                                                ? layout_of(parallel.teacher_layout, parallel.teacher_ranks)
                                                : parallel.teacher_layout,
                          .threads = threads_of_rank(session.config.train.threads),
                          .host = host_name(),
                          .processor = processor(),
                          .kernels = kernels::cpu_level(),
                          .version = LIMBECK_VERSION,
                          .energy = trainer.energy_by()});
  return facts;
}

/// Throws where what has to be measured is not.
void check_measured(const Session& session, RunEvaluations& evaluations, const Log& log) {
  const RunConfig& config = session.config;
  const std::string too_short =
      fmt::format("the held-out text, {}, does not fill one sequence of {} (data.held_out_fraction is {})",
                  core::counted(session.text->num_held_out_documents(), "document"),
                  core::counted(config.data.sequence_length, "token"), config.data.held_out_fraction);
  if (!evaluations.held_out() && session.teacher) core::fail_usage("{}", too_short);
  if (!evaluations.held_out()) log->warn("{}: nothing of it is evaluated", too_short);
  const std::string& best = config.train.keep_best;
  if (best.empty()) return;
  if (!evaluations.has_set_of(best))
    core::fail_usage(
        "train.keep_best is \"{}\", which is not measured: its held-out documents have no sequence in the "
        "sample (data.held_out_fraction, train.eval_tokens)",
        best);
  const FigureName name = figure_name(best);
  if (!needs_teacher(name)) return;
  const std::optional<Known> teacher = evaluations.teacher_of(best);
  if (!teacher) core::fail_usage("train.keep_best is \"{}\", expected a figure without a teacher: there is none", best);
  if (name.figure == "top1_agreement") return;  // whatever is known of it
  const TeacherFigureNames names = names_of(*teacher);
  if (name.figure != names.kl && (names.sum_min == nullptr || name.figure != names.sum_min))
    core::fail_usage("train.keep_best is \"{}\", expected {}{}, as what is known of the teacher gives", best, names.kl,
                     names.sum_min == nullptr ? "" : fmt::format(" or {}", names.sum_min));
}

EndedBy ended_by(const Trainer& trainer, const RunConfig& config) {
  if (trainer.steps_done() >= config.train.steps) return EndedBy::AllSteps;
  return trainer.is_without_gain() ? EndedBy::NoGain : EndedBy::StepsOfStart;
}

/// False: a signal asked to stop, and the state is saved. Throws Stopped on every rank where there was no state yet:
/// the run directory holds nothing new then.
bool train(Rank& rank, const RunConfig& given, const TrainOptions& options, bool distils, Heartbeat& heartbeat) {
  catch_stop_signals();
  const Log log = make_log(rank.world().rank(), options.verbosity);
  records_steps(given, rank);  // or it throws before anything is written
  parallel::check_sharding(rank.mesh(), sharding_of(given.parallel));
  if (given.parallel.expert_replicas > 0 && rank.mesh().etp().size > 1)
    core::fail_usage(
        "parallel.expert_replicas is {} with parallel.layout {}, expected 0, or experts that are not cut (etp)",
        given.parallel.expert_replicas, given.parallel.layout);
  RunDirectory directory(given.output.dir);
  on_first_rank(rank, [&] { directory = RunDirectory::open(given, options.resume); });

  say_ranks(rank, given, log);
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  const auto before_models = [&log](const Session& of, const nn::ModelConfig& student, const nn::ModelConfig* teacher) {
    warn_of_memory(of, student, teacher, log);
  };
  Session session(rank, given, log, before_models);
  session.open_cache(log);
  session.make_untrained_teacher();
  const RunConfig& config = session.config;
  stop_if_asked(rank);
  log->debug("models, tokenizer and text are open after {:.2f} s", seconds());
  say_what_runs(log, session);
  RunEvaluations evaluations(session, log);
  check_measured(session, evaluations, log);
  log->debug("the held-out sample is prepared after {:.2f} s", seconds());
  stop_if_asked(rank);  // from the trainer's first step on there is something to save
  Trainer trainer(session, directory, log, evaluations);
  if (options.dump_gradients) trainer.dump_gradients_to(*options.dump_gradients);
  if (options.debug_step) trainer.watch_steps();
  if (options.steps.value_or(0) > config.train.steps)
    log->warn("--steps is {}, but the run ends at train.steps = {}", *options.steps, config.train.steps);
  const bool resumed = options.resume && trainer.resume();
  if (options.dump_gradients && trainer.steps_done() >= last_step(options, config))
    core::fail_usage("--dump-gradients is of the last step, but the run has done all {}", trainer.steps_done());
  if (!resumed) {
    start_student(session, log);
    trainer.begin();
  }
  std::optional<DistillStart> start;
  if (resumed) start = read_start_together(session, directory);  // or it is refused, and nothing is written
  nlohmann::ordered_json facts;
  on_first_rank(rank, [&] {
    facts = to_json(facts_of(session, trainer, directory, options));
    directory.write_config(config);
    add_to_start_file(directory.path(), facts);
  });
  heartbeat.begin();  // nothing is refused any more
  tell_training_text(session, directory, evaluations, log);
  if (!resumed) start = measure_start(session, evaluations, directory, log);

  session.prepare_teacher(evaluations.asks_teacher(), log);
  log->debug("training begins after {:.2f} s", seconds());
  const bool is_done = trainer.run(last_step(options, config));
  on_first_rank(rank, [&] {  // the folder may be a new one
    if (start) write_start(directory.path(), *start);
    keep_training_documents(directory.path(), *session.text, *session.tokenizer);
    add_to_start_file(directory.path(), facts);
  });
  if (!is_done) {
    const int ranks = rank.num_processes();
    log->info("stopped at step {} and saved; it goes on with: {}{} {} {} --resume{}", trainer.steps_done(),
              ranks > 1 ? fmt::format("mpirun --bind-to none -n {} ", ranks) : "", shell_path(options.program),
              distils ? "distill" : "train", shell_path(directory.path().string()),
              options.baseline ? " --baseline" : "");
    return false;
  }
  restore_stop_signals();
  const Measurement after = trainer.measure_all();
  if (const auto warning = starved_warning(after.held_out.load, config.routing.expert_choice)) log->warn("{}", *warning);
  if (trainer.is_without_gain())
    log->info("ended at step {}: {} has not got better in {}", trainer.steps_done(), config.train.keep_best,
              core::counted(trainer.best()->without_gain, "evaluation"));
  const Continued said = continuation(session, *session.student, /*is_cut=*/true);
  const std::string& text = said.text;
  keep_decode(rank, directory.path(), "decode", said.decode);
  on_first_rank(rank, [&] {
    write_end(directory.path(), {.step = trainer.steps_done(),
                                 .ended_by = ended_by(trainer, config),
                                 .student = after.held_out,
                                 .student_text = text,
                                 .sets = after.sets,
                                 .best = trainer.best()});
  });
  std::string report;
  if (distils && after.held_out.has_teacher()) {
    report = to_text(DistillReport{.start = *start,
                                   .student = after.held_out,
                                   .student_text = text,
                                   .sets = after.sets,
                                   .prompt = config.generation.prompt,
                                   .throughput = trainer.throughput(),
                                   .peak_bytes_a_rank = greatest_peak_memory(rank),
                                   .num_ranks = rank.num_processes(),
                                   .checkpoint = trainer.last_checkpoint(),
                                   .run = directory.path(),
                                   .best = trainer.best(),
                                   .program = options.program});
  } else {
    NamedEvaluations columns;
    if (start && start->student.tokens > 0) columns.emplace_back("before", start->student);
    if (after.held_out.tokens > 0) columns.emplace_back("after", after.held_out);
    if (!columns.empty()) report = "\nHeld-out sample:\n\n" + to_text(columns);
    report += sets_text(start ? start->sets : NamedEvaluations{}, after.sets);
    const bool judges = config.objective.reward.has_value();
    if (!judges) report += continuation_text(config.generation.prompt, text);
    report += fmt::format(
        "\nThe model: {0}\n{3}Next:\n  {1} {4} {2} {5}\n  {1} report {2}\n", trainer.last_checkpoint().string(),
        shell_path(options.program), shell_path(directory.path().string()), best_text(trainer.best(), directory.path()),
        judges ? "eval" : "generate", judges ? "--format pairs --text PAIRS.jsonl" : "--prompt \"...\"");
  }
  if (!rank.is_first()) return true;
  write_result(communication_text(trainer.communication()) + report);
  flush_results();
  return true;
}

/// Distils, and with --baseline trains the baseline; false as `train`.
bool train_all(Rank& rank, const RunConfig& config, const TrainOptions& options, bool distils, Heartbeat& heartbeat) {
  if (!train(rank, config, options, distils, heartbeat)) return false;
  if (!options.baseline) return true;
  const RunConfig baseline = baseline_of(config);
  TrainOptions its_options = options;
  its_options.dump_gradients.reset();
  its_options.baseline = false;
  make_log(rank.world().rank(), options.verbosity)
      ->info("the baseline: the same student by cross-entropy alone, in {}", baseline.output.dir);
  if (!train(rank, baseline, its_options, distils, heartbeat)) return false;
  if (!rank.is_first()) return true;
  const std::vector<RunResults> both = {read_run(RunDirectory(config.output.dir)),
                                        read_run(RunDirectory(baseline.output.dir))};
  write_result("\nDistilled, and by the text alone:\n\n" + comparison_table(both));
  flush_results();
  return true;
}

int run_training(const TrainOptions& options, bool distils) {
  RunConfig config = config_of(options);
  if (options.dump_gradients) {
    std::error_code error;
    check_may_write(*options.dump_gradients, /*force=*/true);
    if (std::filesystem::exists(std::filesystem::symlink_status(*options.dump_gradients, error)))
      core::fail_usage("--dump-gradients: {} is there already, expected a new file", options.dump_gradients->string());
  }
  distils ? check_for_distill(config) : check_for_train(config);
  if (options.dump_gradients && config.objective.control != Control::None)
    core::fail_usage("--dump-gradients is given with objective.control, expected none: nothing reads such a dump");
  if (options.dump_gradients && config.objective.has_pairs())
    core::fail_usage("--dump-gradients is given with objective.{}, expected none: nothing reads such a dump",
                     config.objective.preference ? "preference" : "reward");
  if (options.dump_gradients && config.teacher && !config.teacher->others.empty())
    core::fail_usage("--dump-gradients is given with teacher.others, expected none: nothing reads such a dump");
  if (options.dump_gradients && config.objective.bridge != Bridge::None)
    core::fail_usage("--dump-gradients is given with objective.bridge, expected none: nothing reads such a dump");
  if (options.debug_step && config.train.cuda_graph)
    core::fail_usage(
        "--debug-step is given with train.cuda_graph, expected it false: a recorded step is not looked into");
  const std::string command =
      fmt::format("command: {}\nsteps: {}\nresume: {}\ndump_gradients: {}\ndebug_step: {}\nbaseline: {}\n",
                  distils ? "distill" : "train", options.steps.value_or(0), options.resume,
                  options.dump_gradients.has_value(), options.debug_step, options.baseline);
  bool is_done = false;
  const auto run = options.resume ? std::optional<std::filesystem::path>(config.output.dir) : std::nullopt;
  Heartbeat heartbeat(RunDirectory(config.output.dir).ranks(), launcher_rank().rank);
  if (is_supervised()) heartbeat.begin();
  const auto train_ranks = [&](Rank& rank) {
    try {
      is_done = train_all(rank, config, options, distils, heartbeat);
    } catch (const Stopped&) {
      make_log(rank.world().rank(), options.verbosity)
          ->info(
              "stopped by a signal before training began: nothing was trained yet; the same command begins again "
              "and takes up what was tokenized");
    }
  };
  const auto serve = [&](Rank& rank, const TeacherRanks& ranks) {
    serve_teacher(rank, config, ranks, make_log(ranks.world().rank(), options.verbosity));
    is_done = !stop_requested();
  };
  with_world(config, command, [&](const std::shared_ptr<parallel::WorldComm>& world) {
    const Heartbeat::Followed followed(heartbeat, world->engine());
    catch_stop_signals();
    take_layout(world, config, run, make_log(world->rank(), options.verbosity));
    in_world(world, config, train_ranks, serve);
  });
  return is_done ? 0 : 3;
}

}  // namespace

int run_train(const TrainOptions& options) { return run_training(options, /*distils=*/false); }

int run_distill(const TrainOptions& options) { return run_training(options, /*distils=*/true); }

}  // namespace limbeck::launch
