#include "launch/run/session.h"

#include <cmath>

#include "core/counted.h"
#include "core/nn/student/influence.h"
#include "core/nn/student/router_inputs.h"
#include "core/nn/student/student_init.h"
#include "core/nn/student/vocabulary_rows.h"
#include "core/slice.h"
#include "data/text/token_meta.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/run/checkpointing.h"
#include "launch/run/model_fingerprint.h"
#include "launch/run/run_config.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/text_generation.h"
#include "launch/run/token_cache.h"

namespace limbeck::launch {

using core::fail_usage;

namespace {

nn::UpcycleShape shape_of(const UpcycleConfig& c) {
  return {.slices = c.slices,
          .experts = c.experts,
          .experts_per_token = c.experts_per_token,
          .router_deviation = c.router_std,
          .shared_slices = c.shared_slices,
          .shared_gate = c.shared_gate};
}

}  // namespace

Session::Session(Rank& rank_of_session, RunConfig run_config, const Log& log)
    : rank(rank_of_session), config(std::move(run_config)), found(with_paths_found(config)) {
  if (config.output.started_in.empty()) config.output.started_in = std::filesystem::current_path().string();
  if (config.teacher) {
    const std::filesystem::path source = found.teacher->source;
    teacher_source_ = open_model_together(rank, source, log);
    if (teacher_source_.path != source)  // a run's newest checkpoint
      config.teacher->source =
          (std::filesystem::path(config.teacher->source) / teacher_source_.path.lexically_relative(source)).string();
  }
  if (config.model && !config.model->source.empty())
    student_source_ = open_model_together(rank, found.model->source, log);
  for (const ModelSource* source : {&teacher_source_, &student_source_}) say_notices(*source, log);
  choose_tokenizer(log);
  check_same_ids(teacher_source_, "the teacher's", log);
  check_same_ids(student_source_, "model.source's", log);
  const nn::ModelConfig architecture = student_architecture();
  const char* trained = config.teacher ? "the student" : "the model";
  const auto s = config.data.sequence_length;
  if (s > architecture.max_positions)
    fail_usage("data.sequence_length is {}, expected at most {}'s {} positions", s, trained,
               architecture.max_positions);
  if (config.teacher && s > teacher_source_.config.max_positions)
    fail_usage("data.sequence_length is {}, expected at most the teacher's {} positions", s,
               teacher_source_.config.max_positions);
  if (tokenizer->vocabulary_size() > architecture.vocabulary)
    fail_usage("the tokenizer has {} tokens, expected at most {}'s vocabulary of {}", tokenizer->vocabulary_size(),
               trained, architecture.vocabulary);
  check_fits(config.generation, *tokenizer, architecture, trained);
  if (config.teacher) check_fits(config.generation, *tokenizer, teacher_source_.config, "the teacher");
  open_text(log);
  stop_if_asked(rank);
  resolve_length(log);
  if (config.teacher) load_teacher(architecture.vocabulary);
  text_fingerprint = fmt::format("{:016x}", text->fingerprint());
  check_same_everywhere(rank.world(), fmt::format("fingerprint of the text: {}\nfingerprint of the teacher: {}\n",
                                                  text_fingerprint, teacher_fingerprint));
  if (config.teacher && !config.teacher->cache.empty()) open_cache(log);
  const PrecisionConfig& precision = config.precision;
  nn::ModelOptions options = rank.sharded(precision.bfloat16_weights ? core::DType::BF16 : precision.master);
  options.compute = precision.compute;
  options.residual = precision.bfloat16_residual ? core::DType::BF16 : precision.master;
  options.fp8_products = precision.fp8_products;
  options.with_predict = true;
  student = std::make_unique<nn::Transformer>(architecture, options);
}

/// With as many rows of the vocabulary as the student has, so that logits stand beside logits; those behind the
/// tokenizer's tokens count for nothing.
void Session::load_teacher(std::int64_t vocabulary) {
  nn::ModelConfig architecture = teacher_source_.config;
  architecture.vocabulary = vocabulary;
  nn::ModelOptions options = rank.frozen_copy(config.precision.frozen_storage);
  options.as_kept = config.precision.mapped_teacher;
  options.compute = config.precision.bfloat16_teacher ? core::DType::BF16 : config.precision.compute;
  options.residual = core::sum_dtype(*options.compute);
  teacher = std::make_unique<nn::Transformer>(architecture, options);
  while_others_hear(rank, [&] {
    teacher->load(nn::VocabularyRows(*teacher_source_.reader, vocabulary));
    teacher_fingerprint = model_fingerprint(*teacher_source_.reader, teacher_source_.config);
  });
}

void Session::open_cache(const Log& log) {
  while_others_hear(rank, [&] {
    cached_teacher = std::make_unique<CachedTeacher>(
        found.teacher->cache, *text, CacheOwner{teacher_fingerprint, config.teacher->source, tokenizer.get()},
        config.objective.temperature, core::sum_dtype(config.precision.compute));
  });
  const data::CacheManifest& manifest = cached_teacher->cache().manifest();
  const bool draws = manifest.identity.contents.kind == data::CacheKind::Sampled;
  log->info("the student learns from {}: {}, {}", config.teacher->cache,
            core::counted(manifest.num_positions(), "position"),
            draws ? "draws of each: KL is an unbiased estimate"
                  : fmt::format("{} of each: KL is a lower bound, over these and all others as one",
                                core::counted(manifest.identity.contents.width(), "token")));
}

void Session::release_teacher() {
  if (cached_teacher && config.evaluation.set.empty()) teacher.reset();
}

void Session::check_teacher(const Evaluation& evaluation) const {
  core::check(teacher == nullptr || std::isfinite(evaluation.teacher_cross_entropy),
              "the teacher, {}, has no finite loss on the held-out text: its weights are not usable",
              config.teacher ? config.teacher->source : "");
}

void Session::choose_tokenizer(const Log& log) {
  const std::string& name = config.data.tokenizer;
  if (name == "teacher" || name == "model") {
    const ModelSource& source = name == "teacher" && config.teacher ? teacher_source_ : student_source_;
    if (!source.reader)
      fail_usage("data.tokenizer is \"{}\", but the config names no {}", name,
                 name == "model" ? "model.source" : "teacher and no model.source");
    source.require_tokenizer();
    tokenizer = source.tokenizer;
  } else {
    if (name.empty())
      fail_usage("data.tokenizer is empty, expected bytes, teacher, model, or a file or folder with a tokenizer");
    tokenizer = open_tokenizer(found.data.tokenizer, log);
  }
  if (config.teacher && tokenizer->vocabulary_size() > teacher_source_.config.vocabulary)
    fail_usage("data.tokenizer has {} tokens, the teacher's vocabulary {}: they do not belong together",
               tokenizer->vocabulary_size(), teacher_source_.config.vocabulary);
}

/// Throws where the ids of the text would mean something else to a model. `whose` tokenizer it is.
void Session::check_same_ids(const ModelSource& source, const char* whose, const Log& log) const {
  if (source.reader == nullptr || source.tokenizer == tokenizer) return;
  if (source.tokenizer == nullptr) {
    log->warn("{} tokenizer {}: whether its ids are those of data.tokenizer is not known", whose,
              source.why_no_tokenizer.empty() ? "is absent" : "cannot be read (" + source.why_no_tokenizer + ")");
  } else if (const auto difference = data::vocabulary_difference(*tokenizer, *source.tokenizer)) {
    fail_usage("data.tokenizer ({}) is another tokenizer than {} ({}): {}", config.data.tokenizer, whose,
               source.path.string(), *difference);
  }
}

/// The same of a token file that was made elsewhere.
void Session::check_same_ids(const data::TokenFile& file, const Log& log) const {
  const auto meta = data::read_token_meta(file);
  if (!meta)
    log->warn("{}: there is no {}.meta.json of it: whether its ids are those of data.tokenizer is not known",
              file.prefix(), file.prefix());
  else if (!data::is_made_by(*meta, *tokenizer))
    fail_usage("{}: was made by another tokenizer, of {} tokens, than data.tokenizer ({}), of {}", file.prefix(),
               meta->vocabulary, config.data.tokenizer, data::named_size(*tokenizer));
}

void Session::open_text(const Log& log) {
  std::vector<data::MixtureSource> sources;
  for (const DataSourceConfig& source : sources_of(found.data)) {
    const std::string prefix = token_prefix(rank, source, found.data.cache_dir, *tokenizer, log);
    sources.push_back({std::make_shared<data::TokenFile>(prefix), source.weight});
    if (!source.tokens.empty()) check_same_ids(*sources.back().file, log);
  }
  text = std::make_unique<data::Mixture>(sources, data::LoaderOptions{.sequence_length = config.data.sequence_length,
                                                                      .vocabulary = tokenizer->vocabulary_size(),
                                                                      .seed = config.data.seed,
                                                                      .held_out = config.data.held_out_fraction});
  if (sources.size() == 1) return;
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const data::Loader& loader = text->sources()[i];
    log->info("source {}: {}, {:.4f} of the samples, {} an epoch", name_of_source(config.data, i),
              sources[i].file->prefix(), text->schedule().share(i), core::counted(loader.tokens_per_epoch(), "token"));
    if (loader.num_held_out_sequences() == 0 && config.data.held_out_fraction > 0)
      log->warn("source {}: its held-out text, {}, does not fill one sequence of {}: it is not evaluated",
                name_of_source(config.data, i), core::counted(std::ssize(loader.held_out_documents()), "document"),
                core::counted(config.data.sequence_length, "token"));
  }
}

void Session::resolve_length(const Log& log) {
  const TrainConfig given = config.train;
  const std::int64_t sequences = text->tokens_per_epoch() / config.data.sequence_length;
  resolve_steps(config, sequences);
  if (!given.tokens && !given.epochs) return;
  const std::string budget =
      given.tokens ? fmt::format("train.tokens {}", *given.tokens) : fmt::format("train.epochs {}", *given.epochs);
  log->info("{}: {} of {} of {}; an epoch is {}", budget, core::counted(config.train.steps, "step"),
            core::counted(config.batch.sequences_per_step, "sequence"),
            core::counted(config.data.sequence_length, "token"), core::counted(sequences, "sequence"));
}

/// Layers that predict further tokens would fall behind the model if they were not trained with it.
nn::ModelConfig Session::student_architecture() const {
  nn::ModelConfig architecture = whole_student_architecture();
  if (config.objective.predict_weight == 0) architecture.num_predict_layers = 0;
  return architecture;
}

nn::ModelConfig Session::whole_student_architecture() const {
  if (!config.student_init) {
    if (student_source_.reader) return student_source_.config;
    nn::ModelConfig architecture = config.model->architecture;
    if (architecture.vocabulary == 0)
      architecture.vocabulary = config.teacher ? teacher_source_.config.vocabulary : tokenizer->vocabulary_size();
    return architecture;
  }
  const StudentInitConfig& init = *config.student_init;
  nn::ModelConfig architecture = teacher_source_.config;
  const std::int64_t depth = architecture.num_layers;
  const std::int64_t keep = init.num_layers > 0 ? init.num_layers : depth;
  if (keep > depth) fail_usage("student_init.num_layers is {}, expected at most the teacher's {}", keep, depth);
  if (init.choice == LayerChoice::List) {
    architecture = nn::skip_layers(architecture, init.layers);
  } else if (init.choice == LayerChoice::EvenlySpaced) {
    architecture = nn::skip_layers(architecture, nn::evenly_spaced_layers(depth, keep));
  } else {
    // Influence is measured later; until then all layers have to look alike.
    const bool mixes_experts = architecture.moe.num_experts > 0 && !architecture.moe.dense_layers.empty();
    const bool mixes_windows = architecture.window > 0 && !architecture.full_layers.empty();
    if (keep < depth && (mixes_experts || mixes_windows))
      fail_usage(
          "student_init.choice is BLOCK_INFLUENCE, but the teacher mixes layers {}, expected LIST or EVENLY_SPACED",
          mixes_experts ? "that are dense and with experts" : "with a window and without");
    architecture.num_layers = keep;
  }
  if (init.upcycle) {
    const UpcycleConfig& u = *init.upcycle;
    nn::check_upcyclable(architecture, teacher_source_.path.string());
    if (u.slices < 1 || architecture.mlp_width % u.slices != 0)
      fail_usage("student_init.upcycle.slices is {}, expected a divisor of the teacher's feed-forward width {}",
                 u.slices, architecture.mlp_width);
    architecture = nn::upcycled_config(architecture, shape_of(u), /*renormalise=*/true);
  }
  return architecture;
}

void Session::start_student() {
  if (!config.student_init) {
    if (!student_source_.reader)
      student->init_random(config.train.seed);
    else
      load_student(*student_source_.reader);
    return;
  }
  const StudentInitConfig& init = *config.student_init;
  const std::int64_t depth = teacher->config().num_layers;
  const std::int64_t keep = student->config().num_layers;
  if (init.choice == LayerChoice::List) {
    start.layers = init.layers;
  } else if (init.choice == LayerChoice::EvenlySpaced) {
    start.layers = nn::evenly_spaced_layers(depth, keep);
  } else {
    start.influence = nn::block_influence(*teacher, calibration_batch(), *rank.comms().batch);
    for (const double influence : start.influence)
      core::check(std::isfinite(influence), "the teacher, {}, gives hidden states that are not finite",
                  teacher_source_.path.string());
    start.layers = nn::layers_of_greatest_influence(start.influence, keep);
  }
  const nn::LayerSkip skipped(*teacher_source_.reader, depth, start.layers);
  if (!init.upcycle) return load_student(skipped);
  nn::ModelConfig dense = nn::skip_layers(teacher->config(), start.layers);
  dense.num_predict_layers = student->config().num_predict_layers;
  const UpcycleConfig& u = *init.upcycle;
  nn::Upcycled upcycled(skipped, dense, shape_of(u), /*renormalise=*/true, config.train.seed);
  start.is_exact = upcycled.is_exact();
  load_student(upcycled);
  upcycled.centre_routers(nn::mean_router_inputs(*student, calibration_batch(), *rank.comms().batch));
  student->load(upcycled, ".router.weight");
}

/// This rank's share of the first training text.
nn::Batch Session::calibration_batch() const {
  const std::int64_t count =
      std::max<std::int64_t>(1, config.student_init->calibration_tokens / config.data.sequence_length);
  const core::Slice mine = core::slice_of(count, rank.mesh().dp().rank(), rank.mesh().dp().size());
  return make_batch(rank.memory(), text->fetch(mine.first, mine.count), 0, mine.count, mine.first);
}

void Session::load_student(const core::StateReader& reader) {
  while_others_hear(rank, [&] { student->load(reader); });
}

std::optional<HeldOut> Session::held_out() {
  const std::int64_t wanted = std::max<std::int64_t>(1, config.train.eval_tokens / config.data.sequence_length);
  const std::int64_t there = text->num_held_out_sequences();
  if (there == 0) return std::nullopt;
  const std::int64_t taken = std::min(wanted, there);
  HeldOutText sample{.samples = text->held_out_batch(taken)};
  if (config.data.sources.size() > 1) {
    for (std::size_t i = 0; i < config.data.sources.size(); ++i)
      sample.sources.push_back(name_of_source(config.data, i));
    sample.source_of = text->held_out_sources(taken);
  }
  return std::make_optional<HeldOut>(rank, std::move(sample), teacher.get(), tokenizer->vocabulary_size(),
                                     tokenizer.get());
}

StepText Session::step_text(std::int64_t next_sample) const {
  return text_of_step(*text, next_sample, config.batch.sequences_per_step);
}

}  // namespace limbeck::launch
