// `limbeck convert`: a model in another format.

#include <algorithm>
#include <cctype>
#include <map>
#include <memory>
#include <optional>
#include <utility>

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
#include "launch/run/conversion_check.h"
#include "launch/run/model_source.h"
#include "launch/run/quantised_weights.h"
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
  Conversion(const ModelSource& source, const ConvertOptions& options, const Log& log)
      : source_(source), options_(options), log_(log), bytes_(log, "MB", 1'000'000), layers_(log, "check", 1) {}

  data::ExportWork work() {
    const int threads = threads_of_rank(options_.threads);
    data::ExportWork work{.identity = identity_of(source_), .threads = threads};
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

}  // namespace

int run_convert(const ConvertOptions& options) {
  if (is_left_to_first_rank("convert")) return 0;
  if (options.adapter) return convert_adapter(options);
  using core::DType;
  static const std::map<std::string, DType> written = {
      {"float32", DType::F32}, {"float16", DType::F16}, {"bfloat16", DType::BF16},
      {"Q8_0", DType::Q8_0},   {"Q6_K", DType::Q6_K},   {"Q5_K_M", DType::Q5_K},
      {"Q4_K_M", DType::Q4_K}, {"Q4_0", DType::Q4_0},   {"MXFP4", DType::MXFP4}};
  const auto found = written.find(options.dtype);
  if (found == written.end())
    core::fail_usage("--dtype is {}, expected float32, float16, bfloat16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0 or MXFP4",
                     options.dtype);
  const DType dtype = found->second;
  std::string name = options.destination.filename().string();
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool is_gguf = name.ends_with(".gguf");
  if (!is_gguf && dtype != DType::F32 && dtype != DType::BF16 && dtype != DType::MXFP4)
    core::fail_usage(
        "--dtype is {}, expected float32, bfloat16 or MXFP4 for a Hugging Face directory (or DST as FILE.gguf)",
        options.dtype);
  if (is_gguf) check_may_write(options.destination, options.force, files_of_model(options.source));

  const ModelSource source = open_model(options.source);
  const Log log = make_log(launcher_rank().rank, options.verbosity);
  say_notices(source, log);
  if (!source.quantised_as.empty() && source.quantised_as != options.dtype)
    log->warn("its run trained it for --dtype {}: in {} its weights are those, rounded once more", source.quantised_as,
              options.dtype);
  if (is_gguf) check_may_write(options.destination, options.force, files_of(source));
  catch_stop_signals();
  Conversion conversion(source, options, log);
  try {
    const std::string what = (is_gguf ? convert_to_gguf : convert_to_folder)(source, options, dtype, conversion.work());
    print_result("{} -> {}: {}{}\n", options.source.string(), options.destination.string(), what, conversion.found());
  } catch (const Stopped&) {
    log->info("stopped, and what is written is kept; the same command goes on");
    return 3;
  }
  return 0;
}

}  // namespace limbeck::launch
