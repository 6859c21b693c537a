// `limbeck train` and `limbeck distill`.

#include <cstdio>

#include "core/nn/generation.h"
#include "data/checkpoint.h"
#include "launch/commands.h"
#include "launch/distill_report.h"
#include "launch/machine_peak.h"
#include "launch/run_directory.h"
#include "launch/session.h"
#include "launch/stop_flag.h"
#include "launch/text_generation.h"
#include "launch/trainer.h"
#include "parallel/mpi_world.h"

namespace limbeck::launch {
namespace {

RunConfig resolve(const TrainOptions& options) {
  RunConfig config = load_config(options.config, options.sets);
  if (options.out) config.output.dir = *options.out;
  if (options.steps && *options.steps < 1) core::fail_usage("--steps is {}, expected 1 or more", *options.steps);
  return config;
}

std::int64_t last_step(const TrainOptions& options, const RunConfig& config) {
  return std::min(options.steps.value_or(config.train.steps), config.train.steps);
}

void say_what_runs(const Log& log, const Session& session, const Rank& rank) {
  const auto million = [](std::int64_t n) { return static_cast<double>(n) / 1e6; };
  const nn::ParameterCount student = nn::count_parameters(session.student->config());
  if (session.teacher)
    log->info("teacher: {:.1f}M parameters, {} layers", million(nn::count_parameters(session.teacher->config()).total),
              session.teacher->config().num_layers);
  log->info("student: {:.1f}M parameters, {:.1f}M active, {} layers", million(student.total), million(student.active),
            session.student->config().num_layers);
  log->info("text: {} training tokens in {} documents; {} rank{}, layout {}", session.loader->tokens_per_epoch(),
            session.loader->train_documents().size(), rank.world().size(), rank.world().size() == 1 ? "" : "s",
            session.config.parallel.layout.empty() ? "dp" : session.config.parallel.layout);
}

std::int64_t greatest_peak_memory(Rank& rank) {
  core::Tensor bytes = core::Tensor::zeros(rank.memory(), core::DType::I64, {1});
  *bytes.mutable_data<std::int64_t>() = peak_resident_bytes();
  rank.world().all_reduce(bytes, core::Reduce::Max);
  return core::host_values<std::int64_t>(bytes)[0];
}

/// Of the teacher's vocabulary, which may be larger than the tokenizer's.
std::vector<std::int64_t> unigram_counts(const Session& session) {
  std::vector<std::int64_t> counts = session.loader->unigram_counts();
  counts.resize(static_cast<std::size_t>(session.teacher->config().vocabulary), 0);
  return counts;
}

/// What was there before the first step: measured, or read back where the run goes on.
DistillStart start_of(Session& session, HeldOut& held_out, const RunDirectory& directory, bool resumed,
                      const Log& log) {
  if (resumed)
    if (const auto start = read_start(directory.path())) return *start;
  DistillStart start;
  log->info("measuring the student before, on {} held-out tokens", held_out.num_tokens());
  start.student = held_out.evaluate(*session.student);
  start.unigram = held_out.evaluate_unigram(unigram_counts(session));
  start.teacher_text = continue_prompt(*session.teacher, session, /*is_cut=*/false);
  start.student_text = continue_prompt(*session.student, session, /*is_cut=*/true);
  start.layers = session.start.layers;
  start.influence = session.start.influence;
  log->info("before: KL {:.4f}, top-1 agreement {:.3f}, cross-entropy {:.4f} (teacher {:.4f}, unigram KL {:.4f})",
            start.student.kl, start.student.agreement, start.student.cross_entropy, start.student.teacher_cross_entropy,
            start.unigram.kl);
  on_first_rank(session.rank, [&] { write_start(directory.path(), start); });
  return start;
}

int run_training(const TrainOptions& options, bool distils) {
  const RunConfig config = resolve(options);
  distils ? check_for_distill(config) : check_for_train(config);
  parallel::MpiWorld world(std::chrono::milliseconds(std::llround(config.parallel.deadline_s * 1000)));
  Rank rank(world.comm(), config.parallel.layout, threads_of_rank(config.train.threads));
  const Log log = make_log(rank.world().rank());
  on_first_rank(rank, [&] { RunDirectory::open(config, options.resume); });
  const RunDirectory directory(config.output.dir);
  catch_sigterm();

  Session session(rank, config, log);
  say_what_runs(log, session, rank);
  HeldOut held_out = session.held_out();
  Trainer trainer(session, directory, log, &held_out);
  if (options.dump_gradients) trainer.dump_gradients_to(*options.dump_gradients);
  const bool resumed = options.resume && trainer.resume();
  if (!resumed) session.start_student();
  std::optional<DistillStart> start;
  if (distils) start = start_of(session, held_out, directory, resumed, log);

  if (!trainer.run(last_step(options, config))) {
    log->info("stopped at step {}; continue with --resume", trainer.steps_done());
    return 0;
  }
  const Evaluation after = held_out.evaluate(*session.student);
  const std::filesystem::path checkpoint = data::list_checkpoints(directory.checkpoints()).front();
  if (!distils) {
    if (rank.is_first())
      fmt::print("{}\nThe model: {}\nNext:\n  limbeck generate {} --prompt \"...\"\n", to_text(after, "held out"),
                 checkpoint.string(), directory.path().string());
    return 0;
  }
  const DistillReport report{.start = *start,
                             .student = after,
                             .student_text = continue_prompt(*session.student, session, /*is_cut=*/true),
                             .prompt = config.generation.prompt,
                             .throughput = trainer.throughput(),
                             .peak_bytes_a_rank = greatest_peak_memory(rank),
                             .num_ranks = rank.world().size(),
                             .checkpoint = checkpoint,
                             .run = directory.path()};
  if (rank.is_first()) fmt::print("{}", to_text(report));
  std::fflush(stdout);
  return 0;
}

}  // namespace

int run_train(const TrainOptions& options) { return run_training(options, /*distils=*/false); }

int run_distill(const TrainOptions& options) { return run_training(options, /*distils=*/true); }

}  // namespace limbeck::launch
