// The teachers of a session: in memory, on other ranks, over a bridge, or as a cache.
#include <fmt/ranges.h>

#include <cmath>

#include "core/counted.h"
#include "core/random.h"
#include "launch/config/teacher_shares.h"
#include "launch/run/matched_rows.h"
#include "launch/run/run_models.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/session.h"
#include "launch/run/teacher_loading.h"
#include "launch/run/teacher_service.h"
#include "parallel/comm/engine.h"

namespace limbeck::launch {

using core::fail_usage;

void Session::load_teachers(std::int64_t vocabulary, const Log& log) {
  check_teacher_rows(config, teacher_rows_);
  teacher_tensors_ = std::make_unique<nn::VocabularyRows>(*teacher_source_.reader, vocabulary, teacher_rows_);
  const nn::ModelOptions options = beside_head(rank, teacher_options(rank, config.precision));
  const bool is_asked =
      config.teacher->cache.empty() && rank.teacher_ranks() == nullptr && rank.teacher_side() == nullptr;
  LoadedTeacher first = load_teacher(rank, config, teacher_source_, *teacher_tensors_, options,
                                     is_asked ? config.batch.micro_batches : 0, log);
  teacher = std::move(first.model);
  streamed_teacher = std::move(first.streamed);
  teacher_fingerprint = std::move(first.fingerprint);
  teacher_config = teacher->config();
  if (const TeacherRanks* ranks = rank.teacher_ranks()) {
    if (ranks->takes_answers()) reach_remote_teacher(*ranks);
    rank.world().barrier_async().wait_patiently();  // until that is read, which the other stages do not ask
  }
  if (Rank* side = rank.teacher_side()) {
    relaid_teacher = std::make_unique<RelaidTeacher>(rank, *side, form_of_answers());
    if (rank.is_last_stage()) relaid_teacher->keep_head(teacher->head().value, teacher->head_bias().value);
  }
  if (config.teacher->others.empty()) return;
  others = std::make_unique<OtherTeachers>();
  others->shares = teacher_shares(config);
  others->together = config.precision.sharded_teacher || rank.context_place().size > 1;
  for (const OtherSource& other : other_sources_) {
    const nn::VocabularyRows tensors(*other.source.reader, vocabulary, other.rows);
    LoadedTeacher loaded = load_teacher(rank, config, other.source, tensors, options, config.batch.micro_batches, log);
    teacher_fingerprint =
        fmt::format("{:016x}", core::hash_name(teacher_fingerprint + " " + loaded.fingerprint, core::hash_seed));
    others->teachers.push_back({std::move(loaded.model), std::move(loaded.streamed)});
  }
  for (std::size_t i = 0; i < others->shares.size(); ++i)
    log->info("source {}: the teachers' shares are {:.4g}",
              config.data.sources.empty() ? "0" : name_of_source(config.data, i), fmt::join(others->shares[i], ", "));
}

/// Which teacher it is that a cache speaks for, and what it is like.
void Session::know_teacher(std::int64_t vocabulary) {
  teacher_tensors_ = std::make_unique<nn::VocabularyRows>(*teacher_source_.reader, vocabulary, teacher_rows_);
  teacher_config = teacher_architecture(teacher_source_, *teacher_tensors_);
  while_others_hear(rank, [&] { teacher_fingerprint = fingerprint_of_teacher(config, teacher_source_); });
}

void Session::load_teacher_to_measure(const Log& log) {
  if (names_like_teacher() && teacher == nullptr) load_teachers(student->config().vocabulary, log);
}

double Session::forward_flops_of_teachers() const {
  const std::int64_t s = config.data.sequence_length;
  if (bridge) return nn::forward_flops_per_token(bridge->teacher().config(), s);  // as if of as many tokens
  if (teacher == nullptr || runs_elsewhere() || !config.teacher->cache.empty() ||
      config.objective.control == Control::SmoothedLabels)
    return 0;
  double sum = nn::forward_flops_per_token(teacher->config(), s);
  if (others)  // as if each ran over all of the text
    for (const OtherTeachers::One& other : others->teachers)
      sum += nn::forward_flops_per_token(other.model->config(), s);
  return sum;
}

/// Of a teacher that does not run beside the student's head.
RemoteTeacher::Form Session::form_of_answers() const {
  const core::DType compute = teacher_compute(config.precision);
  return {.width = teacher->config().width,
          .hidden = compute,
          .stream = core::sum_dtype(compute),
          .fingerprint = teacher_fingerprint};
}

/// That of the teacher's ranks, whose head is this one's.
void Session::reach_remote_teacher(const TeacherRanks& ranks) {
  remote_teacher = std::make_unique<RemoteTeacher>(ranks, rank.memory(), form_of_answers());
  remote_teacher->keep_head(teacher->head().value, teacher->head_bias().value);
}

namespace {

/// Collective: of a pipeline, whose last stage reads what its teacher reads, that stage's first rank says what it
/// finds, as loud as the first of all.
Log log_beside_head(const Rank& rank, const Log& log) {
  if (rank.pipeline().size() == 1) return log;
  const std::int64_t own = rank.world().rank() == 0 ? log->level() : 0;
  const core::Tensor level = core::Tensor::from<std::int64_t>(rank.host_memory(), {1}, {&own, 1});
  rank.world().all_reduce(level, core::Reduce::Sum);
  Log there = make_log(rank.is_last_stage() ? rank.mesh().stage().rank() : 1);
  if (there->level() != spdlog::level::off)
    there->set_level(static_cast<spdlog::level::level_enum>(core::host_values<std::int64_t>(level)[0]));
  return there;
}

}  // namespace

/// The teacher with its own tokens.
void Session::open_bridge(const Log& log) {
  teacher_source_.require_tokenizer();
  load_teachers(teacher_source_.config.vocabulary, log);
  teacher_config.reset();
  bridge = std::make_unique<TokenizerBridge>(tokenizer, teacher_source_.tokenizer, std::move(teacher),
                                             log_beside_head(rank, log));
  log->info(
      "the teacher reads its own tokens of the text, and is compared with the student {}: KL, agreement and what it "
      "goes "
      "on with are not of its tokens and are left out",
      config.objective.bridge == Bridge::Uld
          ? "where both begin a token at the same place, by distributions that are each sorted by itself"
          : "on the spans that both have");
}

// What each stage finds by itself has the same bits: as many ranks read the same text.
std::unique_ptr<nn::Transformer> Session::teacher_to_start_by() {
  if (rank.pipeline().size() == 1 || !runs_teacher(*config.student_init)) return nullptr;
  std::unique_ptr<nn::Transformer> whole;
  while_others_hear(rank, [&] {
    if (!rank.is_last_stage())
      whole = read_teacher(config, teacher_source_, *teacher_tensors_, teacher_options(rank, config.precision));
  });
  return whole;
}

void Session::make_untrained_teacher() {
  if (config.objective.control != Control::Untrained) return;
  untrained_teacher = std::make_unique<nn::Transformer>(teacher->config(), untrained_options(rank, config.precision));
  untrained_teacher->init_random(config.train.seed + 1);
  // Without the tokens that the teacher lacks.
  if (teacher_rows_ && teacher_rows_->lacks_any()) untrained_teacher->load(*teacher_tensors_, "head.bias");
}

/// What a part of the teacher's distributions cannot give, and what whole ones do not need.
void Session::check_cached_objective() const {
  const ObjectiveConfig& c = config.objective;
  const auto refuse = [&](const char* field, std::string_view expected) {
    fail_usage("objective.{} is given with teacher.cache, {}, which keeps {}, expected {}", field,
               config.teacher->cache, data::name_of(cached_teacher->cache().contents().kind), expected);
  };
  if (c.hidden_states.weight > 0 && cached_teacher->cache().contents().hidden_layers.empty())
    refuse("hidden_states", "none: hidden states are not kept in it (teacher.cache_hidden_layers)");
  if (cached_teacher->is_whole()) {
    if (c.renormalised) refuse("renormalised", "false: nothing is left over");
    if (config.train.cuda_graph)
      fail_usage(
          "train.cuda_graph is true, expected false with teacher.cache, {}, which keeps FULL: each pass reads it",
          config.teacher->cache);
    return;
  }
  if (c.divergence != kernels::Divergence::ForwardKl) refuse("divergence", "FORWARD_KL");
  if (c.final_temperature) refuse("final_temperature", "none: it is of a few temperatures");
}

namespace {

/// What a cache has of each position, and what follows for the KL.
std::string described(const CachedTeacher& cached) {
  if (cached.is_whole()) return "all tokens of each";
  const data::CacheContents& contents = cached.cache().contents();
  if (cached.known() == Known::Drawn) return "draws of each: KL is an unbiased estimate";
  return fmt::format("{} of each: KL is {}, over these and all others as one", core::counted(contents.width(), "token"),
                     cached.known() == Known::Whole ? "whole" : "a lower bound");
}

}  // namespace

void Session::open_cache(const Log& log) {
  if (!config.teacher || config.teacher->cache.empty()) return;
  while_others_hear(rank, [&] {
    cached_teacher = std::make_unique<CachedTeacher>(
        found.teacher->cache, *text, CacheOwner{teacher_fingerprint, config.teacher->source, tokenizer.get()},
        config.objective.temperature, core::sum_dtype(config.precision.compute),
        &rank.mesh().world().engine().file_waits());
  });
  const data::CacheManifest& manifest = cached_teacher->cache().manifest();
  check_cached_objective();
  log->info("teacher.cache, {}: {}, {}", config.teacher->cache, core::counted(manifest.num_positions(), "position"),
            described(*cached_teacher));
  if (const std::int64_t window = manifest.identity.window; window != config.data.sequence_length)
    log->warn(
        "teacher.cache, {}: its teacher read windows of {}, data.sequence_length is {}: in long documents it saw other "
        "text before a token than a teacher beside the student would",
        config.teacher->cache, core::counted(window, "token"), config.data.sequence_length);
  if (names_teacher()) return;
  const data::CacheContents& contents = manifest.identity.contents;
  if (!contents.hidden_layers.empty()) {
    teacher_config.emplace();
    teacher_config->width = contents.hidden_width;
    teacher_config->num_layers = contents.hidden_layers.back() + 1;
  }
  teacher_fingerprint = manifest.identity.teacher;
  check_same_everywhere(rank.world(), fmt::format("fingerprint of the cache's teacher: {}\n", teacher_fingerprint));
  log->info("teacher.source is not given: the cache, which is of {}, stands for it", manifest.identity.teacher_source);
}

// But for figures that ask it, nothing of the one that measured and started beside the student lies in memory when the
// other is read.
void Session::prepare_teacher(bool is_asked, const Log& log) {
  if (runs_elsewhere() && !is_asked) {
    streamed_teacher.reset();
    teacher.reset();
  }
  if (!relaid_teacher) return;
  Rank& side = *rank.teacher_side();
  const std::int64_t length = config.data.sequence_length;
  relaid_teacher->take(
      load_teacher(side, config, teacher_source_, *teacher_tensors_,
                   on_stage(side, teacher_options(side, config.precision), *teacher_config, length),
                   relaid_teacher->num_passes(config.batch.sequences_per_step, config.batch.micro_batches,
                                              /*is_brought=*/true),
                   log),
      length);
}

void Session::check_teacher(const Evaluation& evaluation) const {
  const std::string source = config.teacher ? config.teacher->source : "";
  if (evaluation.spans && evaluation.spans->spans == 0)
    fail_usage(
        "objective.bridge: no text of the held-out sample is what tokens of {} stand for, expected a teacher whose "
        "tokenizer gives back the text that it is given",
        source);
  const double loss = evaluation.spans ? evaluation.spans->teacher_bits_per_byte : evaluation.teacher_cross_entropy;
  core::check((teacher == nullptr && bridge == nullptr) || std::isfinite(loss),
              "the teacher, {}, has no finite loss on the held-out text: its weights are not usable", source);
}

}  // namespace limbeck::launch
