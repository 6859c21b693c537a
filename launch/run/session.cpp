#include "launch/run/session.h"

#include <fmt/ranges.h>

#include "core/counted.h"
#include "core/exchanges_of.h"
#include "core/slice.h"
#include "data/text/token_meta.h"
#include "data/tokenizers/smaller_vocabulary.h"
#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/run/checkpointing.h"
#include "launch/run/cut_sequences.h"
#include "launch/run/matched_rows.h"
#include "launch/run/model_fingerprint.h"
#include "launch/run/run_config.h"
#include "launch/run/run_models.h"
#include "launch/run/run_settings.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/text_generation.h"
#include "launch/run/token_cache.h"
#include "parallel/comm/engine.h"

namespace limbeck::launch {

using core::fail_usage;

namespace {

/// Collective: how many factors there are.
std::int64_t adapters_of_all_stages(const Rank& rank, nn::Adapters& adapters) {
  const std::int64_t here = std::ssize(adapters.parameters());
  core::Tensor sum = core::Tensor::from<std::int64_t>(rank.host_memory(), {1}, {&here, 1});
  rank.pipeline().sum(sum);
  return core::host_values<std::int64_t>(sum)[0];
}

}  // namespace

Session::Session(Rank& rank_of_session, RunConfig run_config, const Log& log, const BeforeModels& before_models)
    : rank(rank_of_session), config(std::move(run_config)), found(with_paths_found(config)) {
  if (config.output.started_in.empty()) config.output.started_in = std::filesystem::current_path().string();
  if (names_teacher()) teacher_source_ = open_teacher(found.teacher->source, config.teacher->source, log);
  for (std::size_t k = 0; names_teacher() && k < config.teacher->others.size(); ++k) {
    other_sources_.push_back({open_teacher(found.teacher->others[k].source, config.teacher->others[k].source, log)});
    say_notices(other_sources_[k].source, log);
  }
  if (config.model && !config.model->source.empty())
    student_source_ = open_model_together(rank, found.model->source, log);
  for (const ModelSource* source : {&teacher_source_, &student_source_}) say_notices(*source, log);
  choose_tokenizer(log);
  if (names_like_teacher()) teacher_rows_ = rows_of(teacher_source_, log);
  for (OtherSource& other : other_sources_) other.rows = rows_of(other.source, log);
  check_same_ids(student_source_, "model.source's", log);
  if (config.student_init && config.student_init->vocabulary_count > 0) cut_vocabulary(log);
  const auto check_predicts = [](const ModelSource& source, const char* field) {
    if (source.config.reward_head)
      fail_usage("{} is {}, which has a reward head, expected a model that predicts tokens", field,
                 source.path.string());
  };
  check_predicts(teacher_source_, "teacher.source");
  for (const OtherSource& other : other_sources_) check_predicts(other.source, "teacher.others.source");
  const nn::ModelConfig architecture =
      student_architecture(config, student_source_, teacher_source_, usual_vocabulary());
  const char* trained = config.teacher ? "the student" : "the model";
  check_reads(config, tokenizer->vocabulary_size(), architecture,
              names_like_teacher() ? &teacher_source_.config : nullptr);
  for (const OtherSource& other : other_sources_)
    if (const auto s = config.data.sequence_length; s > other.source.config.max_positions)
      fail_usage("data.sequence_length is {}, expected at most the {} positions of {}", s,
                 other.source.config.max_positions, other.source.path.string());
  check_fits(config.generation, *tokenizer, architecture, trained);
  check_cut_sequences(config, architecture, rank.context_place());
  check_expert_choice(config.routing, architecture);
  check_pipeline(config, architecture, rank.mesh().pp().size());
  if (names_like_teacher()) check_teacher_cut(config, teacher_source_.config, rank.world().size());
  if (names_like_teacher()) check_fits(config.generation, *tokenizer, teacher_source_.config, "the teacher");
  open_text(log);
  stop_if_asked(rank);
  resolve_length(log);
  if (config.objective.preference && teacher_lacks_tokens())
    fail_usage("teacher.source is {}, which lacks tokens of data.tokenizer, expected a reference that has all",
               config.teacher->source);
  const bool asks_teacher = names_like_teacher() && config.teacher->cache.empty();
  if (before_models) before_models(*this, architecture, asks_teacher ? &teacher_source_.config : nullptr);
  if (names_like_teacher()) {
    // A cache stands in its place, but for a student that is cut from it.
    if (asks_teacher || config.student_init)
      load_teachers(architecture.vocabulary, log);
    else
      know_teacher(architecture.vocabulary);
  }
  if (has_bridge()) open_bridge(log);
  text_fingerprint = fmt::format("{:016x}", text->fingerprint());
  check_same_everywhere(rank.world(), fmt::format("fingerprint of the text: {}\nfingerprint of the teacher: {}\n",
                                                  text_fingerprint, teacher_fingerprint));
  const nn::ModelOptions options = student_options(rank, config);
  const parallel::Mesh& mesh = rank.mesh();
  pipeline = pipeline_of(config, architecture, mesh.pp().size(),
                         {.beside_head = forward_flops_of_teachers(),
                          .readers = std::int64_t{mesh.dp().size()} * mesh.cp().size(),
                          .on_gpu = rank.memory()->has_queue()});
  if (mesh.pp().size() > 1) check_same_pipeline(rank.world(), pipeline);
  student = std::make_unique<nn::Transformer>(architecture, pipeline.part_of(options, rank.mesh().pp().rank()));
  if (config.adapters) make_adapters(options.place);
}

void Session::make_adapters(const core::PlacementRule& place) {
  adapters =
      std::make_unique<nn::Adapters>(*student, adapter_options(*config.adapters), config.precision.master, place);
  if (!student_source_.reader) return;
  while_others_hear(rank, [&] {
    base = {.path = std::filesystem::absolute(student_source_.path).string(),
            .fingerprint = model_fingerprint(*student_source_.reader, student_source_.config)};
  });
}

/// Opens what is `found` of a teacher that the config names: a run's newest checkpoint is named itself from here on.
ModelSource Session::open_teacher(const std::filesystem::path& found_there, std::string& named, const Log& log) const {
  ModelSource source = open_model_together(rank, found_there, log);
  if (source.path != found_there)
    named = (std::filesystem::path(named) / source.path.lexically_relative(found_there)).string();
  return source;
}

/// Nothing where a teacher's ids are those of the text.
std::optional<nn::TokenRows> Session::rows_of(const ModelSource& source, const Log& log) const {
  auto rows = matched_rows(source, *tokenizer,
                           fmt::format("data.tokenizer ({}) is another tokenizer than the teacher's ({})",
                                       config.data.tokenizer, source.path.string()),
                           log);
  if (rows) return rows;
  check_same_ids(source, "the teacher's", log);
  if (tokenizer->vocabulary_size() > source.config.vocabulary)
    fail_usage("data.tokenizer has {} tokens, the vocabulary of the teacher {} {}: they do not belong together",
               tokenizer->vocabulary_size(), source.path.string(), source.config.vocabulary);
  return std::nullopt;
}

std::int64_t Session::usual_vocabulary() const {
  return names_like_teacher() && !teacher_rows_ ? teacher_source_.config.vocabulary : tokenizer->vocabulary_size();
}

void Session::choose_tokenizer(const Log& log) {
  const std::string& name = config.data.tokenizer;
  if (name == "teacher" || name == "model") {
    const ModelSource& source = name == "teacher" && names_teacher() ? teacher_source_ : student_source_;
    if (!source.reader)
      fail_usage("data.tokenizer is \"{}\", but the config names no {}", name,
                 name == "model" ? "model.source" : "teacher.source and no model.source");
    source.require_tokenizer();
    tokenizer = source.tokenizer;
  } else {
    if (name.empty())
      fail_usage("data.tokenizer is empty, expected bytes, teacher, model, or a file or folder with a tokenizer");
    tokenizer = open_tokenizer(found.data.tokenizer, log);
  }
}

/// The first rank reads it.
std::vector<std::int64_t> Session::token_counts(std::int64_t vocabulary) const {
  core::Tensor counts = core::Tensor::zeros(rank.host_memory(), core::DType::I64, {vocabulary});
  on_first_rank(rank, [&] {
    const std::vector<std::int64_t> counted = text->unigram_counts();
    std::copy(counted.begin(), counted.end(), counts.mutable_host<std::int64_t>());
  });
  const core::ExchangesOf scope("how often the text has each token");
  rank.world().all_reduce(counts, core::Reduce::Sum);
  return core::host_values<std::int64_t>(counts);
}

/// From here on tokenizer and teacher have the tokens alone that are in the training text, as the student will: its
/// text is cut into the same ones, and the teacher's distribution is over them.
void Session::cut_vocabulary(const Log& log) {
  const auto whole = std::dynamic_pointer_cast<const data::BpeTokenizer>(tokenizer);
  if (whole == nullptr)
    fail_usage("student_init.vocabulary_count is {}, but {} has no tokenizer with merges (BPE), expected 0",
               config.student_init->vocabulary_count, config.teacher->source);
  if (teacher_rows_)
    fail_usage("student_init.vocabulary_count is {}, expected 0 beside a data.tokenizer with other ids than {}'s",
               config.student_init->vocabulary_count, config.teacher->source);
  for (const DataSourceConfig& source : sources_of(config.data))
    if (!source.tokens.empty())
      fail_usage("student_init.vocabulary_count is {}, but {} holds tokens of the whole vocabulary, expected data.text",
                 config.student_init->vocabulary_count, source.tokens);
  open_text(log);
  data::SmallerVocabulary smaller = data::smaller_vocabulary(
      whole->description(), token_counts(whole->vocabulary_size()), config.student_init->vocabulary_count);
  log->info("the vocabulary: {} of {} stay", std::ssize(smaller.ids), core::counted(whole->vocabulary_size(), "token"));
  tokenizer = std::make_shared<data::BpeTokenizer>(std::move(smaller.description), config.teacher->source);
  teacher_source_.tokenizer = tokenizer;
  teacher_rows_ = nn::TokenRows{.rows = std::move(smaller.ids), .pieces = {}};
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
    const auto meta = data::read_token_meta(*sources.back().file);
    if (const bool has_pairs = meta && meta->has_pairs; has_pairs != config.objective.has_pairs())
      fail_usage("{} is {} pairs, expected {}", prefix, has_pairs ? "of" : "not of",
                 has_pairs ? "objective.preference or objective.reward for it" : "what tokenize --format pairs makes");
  }
  text = std::make_unique<data::Mixture>(sources, loader_options(config, tokenizer->vocabulary_size()));
  for (const data::Loader& loader : text->sources())
    if (loader.num_left_out() > 0)
      log->warn("{}: {} of more than data.sequence_length = {} tokens left out", loader.file().prefix(),
                core::counted(loader.num_left_out(), "pair"), config.data.sequence_length);
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

void Session::start_student() {
  if (adapters) adapters->init_random(config.train.seed);  // before anything runs through the student
  if (!config.student_init) {
    if (!student_source_.reader)
      student->init_random(config.train.seed);
    else if (student->config().reward_head && !student_source_.config.reward_head)
      while_others_hear(rank, [&] { student->load_with_new_reward_head(*student_source_.reader, config.train.seed); });
    else
      load_student(*student_source_.reader);
    return;
  }
  const std::unique_ptr<nn::Transformer> own = teacher_to_start_by();
  cut = std::make_shared<StudentSource>(rank, *config.student_init, own ? *own : *teacher, *teacher_tensors_,
                                        calibration(), student->config(), config.train.seed);
  cut->load(*student);
  start = cut->start();
  check_same_everywhere(rank.world(),  // each stage of a pipeline chooses by itself
                        fmt::format("layers of the start: {}\nexperts of the start: {}\n", start.layers, start.experts));
  if (config.student_init->vocabulary_count > 0) start.vocabulary = tokenizer->vocabulary_size();
  start.calibration = evaluate_start();
}

/// Of the training text that it was chosen by, from its first sequence on.
Evaluation Session::evaluate_start() {
  const std::int64_t count =
      std::max<std::int64_t>(1, config.student_init->report_tokens / config.data.sequence_length);
  HeldOut sample(rank, {.samples = text->fetch(0, count)}, teacher.get(), tokenizer->vocabulary_size(), nullptr,
                 /*bridge=*/nullptr, others.get());
  return sample.evaluate(*student).held_out;
}

ModelSource Session::started_model() const {
  ModelSource model = teacher_source_;
  model.reader = std::shared_ptr<const core::StateReader>(cut, &cut->weights());
  model.config = student->config();
  model.own = nullptr;  // what its run knew of it is the teacher's
  model.adapters.reset();
  model.quantised_as.clear();
  if (model.tokenizer == nullptr || teacher_rows_) model.tokenizer = tokenizer;
  if (teacher_rows_) model.kind = ModelKind::Checkpoint;  // the files of its tokenizer are not copied
  return model;
}

/// The first training text. A search reads the begins of its sequences: they are of more texts than a few whole ones
/// would be, and short ones can be shared evenly.
CalibrationText Session::calibration() const {
  CalibrationText result{.valid_vocabulary = tokenizer->vocabulary_size()};
  result.batch = [this](std::int64_t tokens) {
    const std::int64_t count = std::max<std::int64_t>(1, tokens / config.data.sequence_length);
    const core::Slice mine = core::slice_of(count, rank.mesh().data().rank(), rank.mesh().data().size());
    return make_batch(rank.memory(), text->fetch(mine.first, mine.count), 0, mine.count, mine.first);
  };
  result.staged = [this](std::int64_t tokens) {
    constexpr std::int64_t longest = 128, tokens_a_batch = 256;
    const std::int64_t length = std::min(longest, config.data.sequence_length), most = tokens_a_batch / length;
    const std::int64_t count = std::max<std::int64_t>(1, tokens / length);
    const int ranks = rank.mesh().data().size();
    StagedBatches staged;
    std::int64_t begin = 0;
    for (const std::int64_t end : {(count + 3) / 4, (count + 1) / 2, count}) {
      if (end == begin) continue;
      const core::Slice share = core::slice_of(end - begin, rank.mesh().data().rank(), ranks);
      const std::int64_t most_of_a_rank = (end - begin + ranks - 1) / ranks;
      for (std::int64_t done = 0; done < most_of_a_rank; done += most) {
        const std::int64_t skipped = std::min(done, share.count), n = std::min(most, share.count - skipped);
        const std::int64_t first = begin + share.first + skipped;
        staged.batches.push_back(make_batch(rank.memory(), begins_of(text->fetch(first, n), length), 0, n, first));
      }
      staged.stages.push_back(staged.batches.size());
      begin = end;
    }
    return staged;
  };
  return result;
}

void Session::load_student(const core::StateReader& reader) {
  while_others_hear(rank, [&] { student->load(reader); });
}

void Session::load_student(const ModelSource& checkpoint) {
  if (!adapters) return load_student(*checkpoint.reader);
  core::check(checkpoint.base != nullptr, "{}: has no adapters, expected those of the config",
              checkpoint.path.string());
  load_student(*checkpoint.base);
  const std::int64_t all = adapters_of_all_stages(rank, *adapters);
  const std::int64_t there = std::ranges::count_if(
      checkpoint.own->tensors(), [](const auto& tensor) { return tensor.first.starts_with("adapters/"); });
  core::check(there == all,
              "{}: has {} tensors of adapters, expected {}: adapters.targets names others than its run had",
              checkpoint.own->source(), there, all);
  while_others_hear(rank, [&] { adapters->load(*checkpoint.own); });
}

std::optional<HeldOut> Session::held_out() {
  const std::int64_t wanted = std::max<std::int64_t>(1, config.train.eval_tokens / config.data.sequence_length);
  const std::int64_t there = text->num_held_out_sequences();
  if (there == 0) return std::nullopt;
  const std::int64_t taken = std::min(wanted, there);
  HeldOutText sample{.samples = text->held_out_batch(taken)};
  if (text->has_pairs()) sample.samples = without_filling(sample.samples);
  if (config.objective.preference) sample.preference_beta = config.objective.preference->beta;
  if (config.objective.reward) sample.reward_center = config.objective.reward->center;
  sample.is_sorted = config.objective.bridge == Bridge::Uld;
  if (config.routing.expert_choice)
    sample.router = {.capacity_factor = config.routing.capacity_factor, .expert_choice = true};
  if (config.data.sources.size() > 1) {
    for (std::size_t i = 0; i < config.data.sources.size(); ++i)
      sample.sources.push_back(name_of_source(config.data, i));
    sample.source_of = text->held_out_sources(taken);
  }
  return std::make_optional<HeldOut>(rank, std::move(sample), cached_teacher ? nullptr : teacher.get(),
                                     tokenizer->vocabulary_size(), tokenizer.get(), bridge.get(), others.get(),
                                     cached_teacher.get());
}

StepText Session::step_text(std::int64_t next_sample) const {
  parallel::FileWaits& waits = rank.mesh().world().engine().file_waits();
  const auto words = [&sources = text->sources()] {
    return "reads " + *core::name_of_many(sources.front().file().prefix() + ".bin", sources.size());
  };
  const parallel::FileWait scope(&waits, words);
  StepText step = text_of_step(*text, next_sample, config.batch.sequences_per_step);
  step.fetch = [&waits, words, fetch = std::move(step.fetch)](std::int64_t first, std::int64_t count) {
    const parallel::FileWait while_read(&waits, words);
    return fetch(first, count);
  };
  return step;
}

}  // namespace limbeck::launch
