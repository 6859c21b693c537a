// `limbeck convert`: a model in another format, or the student that a config cuts from it.

#include <algorithm>
#include <cctype>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/counted.h"
#include "data/files/json_text.h"
#include "data/models/gguf_export.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "data/models/hugging_face_config.h"
#include "data/models/peft.h"
#include "data/text/tokenize_journal.h"
#include "data/tokenizers/answer_ends.h"
#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/commands/commands.h"
#include "launch/commands/may_write.h"
#include "launch/console/progress.h"
#include "launch/console/streams.h"
#include "launch/report/distill_report.h"
#include "launch/run/conversion_check.h"
#include "launch/run/model_source.h"
#include "launch/run/quantised_weights.h"
#include "launch/run/run_config.h"
#include "launch/run/session.h"
#include "launch/run/stop_flag.h"
#include "launch/run/threads.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

/// The files that are read while a model is converted.
std::vector<fs::path> files_of(const ModelSource& source) {
  const auto model = std::dynamic_pointer_cast<const data::GgufModel>(source.reader);
  if (model == nullptr) {
    std::vector<fs::path> files = files_of_model(source.path);
    if (source.adapters && !source.adapters->base.empty())
      for (const fs::path& file : files_of_model(source.adapters->base)) files.push_back(file);
    return files;
  }
  const std::vector<std::string> paths = model->file().paths();
  return {paths.begin(), paths.end()};
}

/// What tells whether the source is the one that an interrupted conversion read.
std::string identity_of(const ModelSource& source) {
  std::vector<std::string> files;
  for (const fs::path& path : files_of(source)) {
    const data::InputFile file = data::describe_input(path.string());
    files.push_back(fmt::format("{} {} {}", path.filename().string(), file.bytes, file.time));
  }
  std::sort(files.begin(), files.end());
  return fmt::format("{}", fmt::join(files, "\n"));
}

std::string without_tokenizer(const ModelSource& source) {
  return ", without a tokenizer" + (source.why_no_tokenizer.empty() ? "" : ": " + source.why_no_tokenizer);
}

/// Shows how far it is, and leaves the work where it is when a signal asks to stop.
class Steps {
 public:
  Steps(Log log, std::string unit, std::int64_t units_a_step)
      : log_(std::move(log)), unit_(std::move(unit)), a_step_(units_a_step) {}
  void update(std::int64_t done, std::int64_t all) {
    if (stop_requested()) throw Stopped();
    const std::int64_t step = done / a_step_, last = (all + a_step_ - 1) / a_step_;
    if (!progress_) progress_.emplace(log_, unit_, step, last, 1);
    progress_->update(done == all ? last : step, {});
    if (done == all) progress_->finish();
  }

 private:
  Log log_;
  std::string unit_;
  std::int64_t a_step_;
  std::optional<Progress> progress_;
};

/// What is common to all formats: how it is gone on with, shown and checked.
class Conversion {
 public:
  /// `identity`: of all that the model is made of.
  Conversion(const ModelSource& source, std::string identity, const ConvertOptions& options, const Log& log)
      : source_(source),
        identity_(std::move(identity)),
        options_(options),
        log_(log),
        bytes_(log, "MB", 1'000'000),
        layers_(log, "check", 1) {}

  data::ExportWork work() {
    const int threads = threads_of_rank(options_.threads);
    data::ExportWork work{.identity = identity_, .threads = threads};
    work.notice = [this](const std::string& line) { log_->info("{}", line); };
    work.progress = [this](std::int64_t done, std::int64_t all) { bytes_.update(done, all); };
    if (options_.verify)
      work.verify = [this, threads](const fs::path& written) {
        const ConversionCheckOptions how{
            .threads = threads, .progress = [this](std::int64_t done, std::int64_t all) { layers_.update(done, all); }};
        check_ = check_conversion(source_, open_model(written), how);
      };
    return work;
  }
  /// What a check found, to follow what was written.
  std::string found() const {
    if (!check_) return "";
    return fmt::format("; read back: every value {}, logits of {} tokens within {:.1g} of the largest",
                       check_->is_exact ? "is the same" : "is the same but for its rounding", check_->num_tokens,
                       check_->difference);
  }

 private:
  const ModelSource& source_;
  std::string identity_;
  const ConvertOptions& options_;
  Log log_;
  Steps bytes_, layers_;
  std::optional<ConversionCheck> check_;
};

/// Each converts and says what was written.
std::string convert_to_gguf(const ModelSource& source, const ConvertOptions& options, core::DType dtype,
                            data::ExportWork work) {
  // What the passes of the run saw are the blocks of its master weights, not those of what blocks hold.
  const bool is_as_trained = source.quantised_as == options.dtype;
  const std::optional<MasterReader> masters =
      is_as_trained ? std::make_optional<MasterReader>(*source.own) : std::nullopt;
  const core::StateReader& model = masters ? static_cast<const core::StateReader&>(*masters) : *source.reader;
  const std::int64_t num_otherwise =
      data::export_gguf(model, source.config, options.destination,
                        {.dtype = dtype, .tokenizer = source.tokenizer.get(), .work = std::move(work)});
  std::string what = "a GGUF file, " + options.dtype + (is_as_trained ? ", as its run trained it" : "");
  if (num_otherwise > 0)
    what += fmt::format(", {} matrices in another format because their rows are no multiple of {}", num_otherwise,
                        core::info(dtype).block_elements);
  if (source.tokenizer == nullptr) return what + without_tokenizer(source);
  const auto bpe = std::dynamic_pointer_cast<const data::BpeTokenizer>(source.tokenizer);
  if (bpe != nullptr && bpe->description().byte_fallback)
    what += ", its tokenizer (BPE with byte_fallback) in SentencePiece's form";
  return what;
}

/// The token that a tokenizer fills texts up with, where none of them ends with it.
std::optional<std::int64_t> padding_token(const data::HuggingFaceExport& out, const data::Tokenizer* tokenizer) {
  const auto config = out.files.find("tokenizer_config.json");
  if (config == out.files.end() || tokenizer == nullptr) return std::nullopt;
  const auto json = data::parse_json<nlohmann::json>(config->second, config->first);
  nlohmann::json token = json.is_object() ? json.value("pad_token", nlohmann::json()) : nlohmann::json();
  if (token.is_object()) token = token.value("content", nlohmann::json());
  const auto id = token.is_string() ? tokenizer->id_of(token.get<std::string>()) : std::nullopt;
  const bool ends_texts = id && (*id == tokenizer->end_of_text_id() || std::ranges::count(out.eos_tokens, *id) > 0);
  return id && !ends_texts ? std::optional<std::int64_t>(*id) : std::nullopt;
}

std::string convert_to_folder(const ModelSource& source, const ConvertOptions& options, core::DType dtype,
                              data::ExportWork work) {
  std::string what = "a Hugging Face directory, " + options.dtype;
  data::HuggingFaceExport out;
  out.dtype = dtype;
  out.replace = options.force;
  out.work = std::move(work);
  std::error_code error;  // of a folder that is not there
  if (options.force && fs::equivalent(source.path, options.destination, error))
    core::fail_usage("{}: is what is read ({}), expected another folder to write", options.destination.string(),
                     options.source.string());
  if (source.tokenizer != nullptr) {
    const data::HuggingFaceTokenizer tokenizer = source.tokenizer->to_hugging_face();
    out.files = {{"tokenizer.json", tokenizer.tokenizer_json},
                 {"tokenizer_config.json", tokenizer.tokenizer_config_json},
                 {"tokenizer.model", tokenizer.tokenizer_model},
                 {"generation_config.json", tokenizer.generation_config_json}};
    std::erase_if(out.files, [](const auto& file) { return file.second.empty(); });
    out.bos_token = source.tokenizer->start_of_text_id();
    out.eos_tokens = {source.tokenizer->eos_id()};
    const auto& others = source.tokenizer->other_ends();
    out.eos_tokens.insert(out.eos_tokens.end(), others.begin(), others.end());
  }
  if (source.kind == ModelKind::HuggingFace) {  // what came in goes out, read or not
    out.files = tokenizer_files(source.path);
    if (const auto bos = data::read_bos_token(source.path, source.config.vocabulary)) out.bos_token = bos;
    if (source.tokenizer == nullptr) {
      const std::string config = data::read_generation_config(source.path);
      const auto ends = data::answer_ends(config, source.path.string(), source.config.vocabulary);
      out.eos_tokens.assign(ends.begin(), ends.end());
      if (!source.why_no_tokenizer.empty()) what += ", its tokenizer's files copied unread: " + source.why_no_tokenizer;
    }
  } else if (source.tokenizer == nullptr) {
    what += without_tokenizer(source);
  }
  if (source.config.reward_head) out.padding_token = padding_token(out, source.tokenizer.get());
  data::export_hugging_face(*source.reader, source.config, options.destination, out);
  return what;
}

int convert_adapter(const ConvertOptions& options) {
  const ModelSource source = open_model(options.source);
  if (!source.adapters)
    core::fail_usage("{}: has no adapters, expected a run or a checkpoint with some", options.source.string());
  const AdapterState& adapters = *source.adapters;
  data::export_peft(*source.own, source.config, options.destination,
                    {.rank = adapters.rank, .alpha = adapters.alpha, .base = adapters.base, .replace = options.force});
  print_result("{} -> {}: adapters of rank {} of {}\n", options.source.string(), options.destination.string(),
               adapters.rank, adapters.base.empty() ? "a model of the run's own" : adapters.base);
  return 0;
}

core::DType dtype_of(const ConvertOptions& options) {
  using core::DType;
  static const std::map<std::string, DType> written = {
      {"float32", DType::F32}, {"float16", DType::F16}, {"bfloat16", DType::BF16},
      {"Q8_0", DType::Q8_0},   {"Q6_K", DType::Q6_K},   {"Q5_K_M", DType::Q5_K},
      {"Q4_K_M", DType::Q4_K}, {"Q4_0", DType::Q4_0},   {"MXFP4", DType::MXFP4}};
  const auto found = written.find(options.dtype);
  if (found == written.end())
    core::fail_usage("--dtype is {}, expected float32, float16, bfloat16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0 or MXFP4",
                     options.dtype);
  return found->second;
}

bool is_gguf(const fs::path& destination) {
  std::string name = destination.filename().string();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.ends_with(".gguf");
}

/// Says what was written.
std::string write_model(const ModelSource& source, std::string identity, const ConvertOptions& options,
                        const Log& log) {
  Conversion conversion(source, std::move(identity), options, log);
  const bool to_file = is_gguf(options.destination);
  const std::string what =
      (to_file ? convert_to_gguf : convert_to_folder)(source, options, dtype_of(options), conversion.work());
  return fmt::format("{} -> {}: {}{}", options.source.string(), options.destination.string(), what, conversion.found());
}

/// False: a signal asked to stop.
bool finishes(const Log& log, const std::function<void()>& work) {
  try {
    work();
    return true;
  } catch (const Stopped&) {
    log->info("stopped, and what is written is kept; the same command goes on");
    return false;
  }
}

RunConfig config_of_start(const ConvertOptions& options) {
  RunConfig config = load_given_config(options.init, options.sets);
  if (!config.student_init)
    core::fail_usage("--init: {} has no section student_init, expected how a student is cut from {}",
                     options.init.back().string(), options.source.string());
  if (!config.teacher) config.teacher.emplace();
  config.teacher->source = fs::absolute(options.source).string();
  config.teacher->cache.clear();
  config.teacher->teaches.clear();  // the student is cut from, and held against, this one alone
  config.teacher->others.clear();
  if (options.threads > 0) config.train.threads = options.threads;
  check_for_distill(config);
  return config;
}

/// The student that a config cuts from SRC. All ranks choose it, the first writes it.
int convert_start(const ConvertOptions& options) {
  const RunConfig config = config_of_start(options);
  bool is_done = false;
  in_world(config, fmt::format("command: convert\ndestination: {}\n", options.destination.string()), [&](Rank& rank) {
    const Log log = make_log(rank.world().rank(), options.verbosity);
    is_done = finishes(log, [&] {
      Session session(rank, config, log);
      const std::string identity = fmt::format("{}\n{}\n{}", identity_of(session.teacher_source()),
                                               to_textproto(config), session.text_fingerprint);
      session.start_student();
      for (const std::string& line : to_lines(session.start)) log->info("{}", line);
      on_first_rank(rank, [&] {
        const Evaluation& moved = session.start.calibration;
        const std::string what = write_model(session.started_model(), identity, options, log);
        print_result("{}; KL {:.4f} to {}, top-1 agreement {:.3f}, on {} of the training text\n", what, moved.kl,
                     options.source.string(), moved.agreement, core::counted(moved.tokens, "token"));
      });
    });
  });
  return is_done ? 0 : 3;
}

}  // namespace

int run_convert(const ConvertOptions& options) {
  const bool starts = !options.init.empty();
  if (!starts && is_left_to_first_rank("convert")) return 0;
  if (options.adapter) return convert_adapter(options);
  const core::DType dtype = dtype_of(options);
  if (!is_gguf(options.destination) && dtype != core::DType::F32 && dtype != core::DType::BF16 &&
      dtype != core::DType::MXFP4)
    core::fail_usage(
        "--dtype is {}, expected float32, bfloat16 or MXFP4 for a Hugging Face directory (or DST as FILE.gguf)",
        options.dtype);
  const auto check_file = [&](const std::vector<fs::path>& read) {
    if (is_gguf(options.destination)) check_may_write(options.destination, options.force, read);
  };
  check_file(files_of_model(options.source));
  catch_stop_signals();
  if (starts) return convert_start(options);

  const ModelSource source = open_model(options.source);
  const Log log = make_log(launcher_rank().rank, options.verbosity);
  say_notices(source, log);
  if (!source.quantised_as.empty() && source.quantised_as != options.dtype)
    log->warn("its run trained it for --dtype {}: in {} its weights are those, rounded once more", source.quantised_as,
              options.dtype);
  check_file(files_of(source));
  const bool is_done =
      finishes(log, [&] { print_result("{}\n", write_model(source, identity_of(source), options, log)); });
  return is_done ? 0 : 3;
}

}  // namespace limbeck::launch
