#include "launch/run/model_source.h"

#include <type_traits>
#include <utility>

#include "core/counted.h"
#include "core/error.h"
#include "core/nn/adapters.h"
#include "data/checkpoints/checkpoint.h"
#include "data/files/atomic_file.h"
#include "data/files/file_kind.h"
#include "data/files/json_at.h"
#include "data/files/json_text.h"
#include "data/models/foreign_model.h"
#include "data/models/gguf_model.h"
#include "data/models/hugging_face.h"
#include "data/tokenizers/tokenizer_folder.h"
#include "data/tokenizers/tokenizer_gguf.h"
#include "data/tokenizers/tokenizer_json.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "launch/config/config_fields.h"
#include "launch/run/model_fingerprint.h"
#include "launch/run/run_directory.h"

namespace limbeck::launch {

namespace fs = std::filesystem;
using core::check;
using core::fail;
using core::fail_usage;
using nlohmann::json;

namespace {

/// What config_fields.h has fields of, neither text nor a list.
template <class T>
constexpr bool is_section = std::is_class_v<T> && !requires(T t) {
  t.size();
};

/// Visitors for config_fields.h.
class JsonWriter {
 public:
  template <class T, class... Range>
  void operator()(const char* name, T& value, const Range&...) {
    if constexpr (is_section<T>) {
      JsonWriter nested;
      fields(nested, value);
      out[name] = std::move(nested.out);
    } else {
      out[name] = value;
    }
  }
  void derived(const char* name, std::int64_t value, std::int64_t) { out[name] = value; }
  nlohmann::ordered_json out;
};

/// What is absent, of an older checkpoint for one, stays as it is.
class JsonReader {
 public:
  explicit JsonReader(data::JsonAt in) : in_(std::move(in)) { in_.object(); }
  template <class T, class... Range>
  void operator()(const char* name, T& value, const Range&...) {
    if (!in_.json().contains(name)) return;
    if constexpr (is_section<T>) {
      JsonReader nested(in_.at(name));
      fields(nested, value);
    } else {
      get(in_.at(name), value);
    }
  }
  void derived(const char* name, std::int64_t& value, std::int64_t) { (*this)(name, value); }

 private:
  static void get(const data::JsonAt& in, std::int64_t& value) { value = in.whole(); }
  static void get(const data::JsonAt& in, std::vector<std::int64_t>& values) {
    values.clear();
    for (std::size_t i = 0; i < in.array().size(); ++i) values.push_back(in.at(i).whole());
  }
  template <class T>
  static void get(const data::JsonAt& in, T& value) {
    in.json().get_to(value);
  }

  data::JsonAt in_;
};

json parse_extra(const std::string& extra, const std::string& where) {
  auto parsed = data::parse_json<json>(extra, where + ": the extra text of its manifest");
  check(parsed.is_object() && parsed.contains("model") && parsed.contains("tokenizer") &&
            parsed["tokenizer"].is_string() && parsed.contains("trainer"),
        "{}: its manifest's extra text has no model, tokenizer and trainer, so it was not made by a training run",
        where);
  return parsed;
}

/// Opens a model that others are made of, `depth` models below the one that was asked for.
ModelSource open_at(const fs::path& path, data::Checkpoint::Verify verify, int depth);

/// What the adapters of a checkpoint are of.
std::shared_ptr<const core::StateReader> open_base(const AdapterState& adapters, const fs::path& where, int depth) {
  constexpr int most_depth = 8;
  check(depth < most_depth, "{}: adapters of adapters, more than {} models deep", where.string(), most_depth);
  if (!fs::exists(adapters.base))
    fail("{}: its adapters are of the model {}, which is not there", where.string(), adapters.base);
  const ModelSource base = open_at(adapters.base, data::Checkpoint::Verify::Sizes, depth + 1);
  const std::string found = model_fingerprint(*base.reader, base.config);
  check(
      found == adapters.fingerprint,
      "{}: its adapters are of the model {} with fingerprint {}, which has {}: expected the model it was trained with",
      where.string(), adapters.base, adapters.fingerprint, found);
  return base.reader;
}

/// Of a model that was trained by experts that choose tokens, which nothing can that decodes.
std::optional<std::string> choice_notice(const data::JsonAt& trainer, const nn::ModelConfig& config,
                                         const fs::path& path) {
  if (!trainer.flag("expert_choice", false)) return std::nullopt;
  const data::JsonAt kl = trainer.get("choice_kl");
  return fmt::format(
      "{}: its experts chose tokens while it was trained (routing.expert_choice); here, and in what it "
      "is written as, each token chooses {}{}",
      path.string(), core::counted(config.moe.experts_per_token, "expert"),
      kl.is_null() ? "" : fmt::format(": on its run's held-out text at a KL of {:.4f} nats", kl.number()));
}

ModelSource open_checkpoint(const fs::path& path, data::Checkpoint::Verify verify, int depth) {
  auto checkpoint = std::make_shared<data::Checkpoint>(path, verify);
  const json extra = parse_extra(checkpoint->extra(), path.string());
  ModelSource source{.kind = ModelKind::Checkpoint, .path = path};
  source.config = model_config_from_json(extra["model"], path.string());
  source.tokenizer = data::tokenizer_from_json(extra["tokenizer"].get<std::string>(), path.string());
  source.step = checkpoint->step();
  source.trainer = extra["trainer"];
  source.own = source.reader = checkpoint;
  if (source.trainer.is_object() && source.trainer.contains("quantised_as"))
    source.quantised_as = data::JsonAt(source.trainer, path.string() + ": its run's state").at("quantised_as").text();
  if (source.trainer.is_object())
    if (const auto notice = choice_notice({source.trainer, path.string() + ": its run's state"}, source.config, path))
      source.notices.push_back(*notice);
  if (source.trainer.is_object() && source.trainer.contains("adapters")) {
    const data::JsonAt trainer(source.trainer, path.string() + ": its run's state");
    source.adapters = adapter_state_from_json(trainer.at("adapters"));
    source.base = source.adapters->base.empty() ? source.own : open_base(*source.adapters, path, depth);
    const nn::AdapterOptions options{source.adapters->rank, source.adapters->alpha, {}};
    source.reader = std::make_shared<nn::MergedAdapters>(source.base, source.own, options.scale());
    if (source.base != source.own) return source;
  }
  std::int64_t values = 0;
  for (const auto& [name, info] : checkpoint->tensors())
    if (core::is_of_model(name)) values += info.shape.numel();
  const std::int64_t parameters = nn::count_parameters(source.config).total;
  check(values == parameters, "{}: its tensors have {} values, expected {}, the parameters of its model", path.string(),
        values, parameters);
  return source;
}

ModelSource open_gguf(const fs::path& path) {
  const auto file = std::make_shared<const data::GgufFile>(path.string());
  const auto model = std::make_shared<data::GgufModel>(file);
  ModelSource source{.kind = ModelKind::Gguf, .path = path, .reader = model, .config = model->model_config()};
  source.notices = model->notices();
  if (!file->has("tokenizer.ggml.tokens")) return source;
  try {  // a model without one is still good for token files
    source.tokenizer = data::tokenizer_from_gguf(*file);
  } catch (const core::Error& error) {
    source.why_no_tokenizer = error.what();
  }
  return source;
}

struct FolderTokenizer {
  std::shared_ptr<const data::Tokenizer> tokenizer;  // null where there is none that is read
  std::string why_not;                               // what is there cannot be read; also where another one can
  std::string notice() const { return why_not + ": tokenizer.model is taken"; }
};

/// Of the files in a folder the first that can be read: tokenizer.json, as transformers takes, or tokenizer.model.
FolderTokenizer tokenizer_of_folder(const fs::path& folder) {
  FolderTokenizer result;
  const auto attempt = [&](const char* name, const auto& open) {
    if (result.tokenizer != nullptr || !fs::exists(folder / name)) return;
    try {
      result.tokenizer = open(folder / name);
    } catch (const core::Error& error) {
      result.why_not += (result.why_not.empty() ? "" : "; ") + std::string(error.what());
    }
  };
  attempt("tokenizer.json", data::open_hugging_face_tokenizer);
  attempt("tokenizer.model", data::sentencepiece_from_file);
  for (const char* other : {"tekken.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"})
    if (result.tokenizer == nullptr && result.why_not.empty() && fs::exists(folder / other))
      result.why_not = fmt::format("{}: is not read, expected tokenizer.json or tokenizer.model beside it",
                                   (folder / other).string());
  return result;
}

ModelSource open_hugging_face(const fs::path& path) {
  const auto model = std::make_shared<data::HuggingFaceModel>(path);
  ModelSource source{.kind = ModelKind::HuggingFace, .path = path, .reader = model, .config = model->model_config()};
  source.notices = model->notices();
  const FolderTokenizer found = tokenizer_of_folder(path);  // a model without one is still good for token files
  source.tokenizer = found.tokenizer;
  if (source.tokenizer == nullptr)
    source.why_no_tokenizer = found.why_not;
  else if (!found.why_not.empty())
    source.notices.push_back(found.notice());
  return source;
}

bool starts_with(const fs::path& file, std::string_view magic) {
  return data::head_of_file(file).value_or("").starts_with(magic);
}

}  // namespace

const data::Tokenizer& ModelSource::require_tokenizer() const {
  if (tokenizer == nullptr && !why_no_tokenizer.empty()) fail("{}", why_no_tokenizer);
  if (tokenizer == nullptr)
    fail("{}: has no tokenizer, expected a GGUF file, a checkpoint or a folder with tokenizer.model or tokenizer.json",
         path.string());
  return *tokenizer;
}

void say_notices(const ModelSource& source, const Log& log) {
  for (const auto& notice : source.notices) log->warn("{}", notice);
}

std::map<std::string, std::string> tokenizer_files(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (data::is_tokenizer_file(name) && entry.is_regular_file())
      files[name] = data::read_text_file(entry.path(), std::uintmax_t{1} << 28U);
  }
  return files;
}

bool is_model_file(const fs::path& path) { return fs::is_regular_file(path) && starts_with(path, "GGUF"); }

bool is_checkpoint(const fs::path& path) {
  return fs::exists(path / "manifest.json") && !fs::exists(path / "config.json");
}

namespace {

ModelSource open_at(const fs::path& path, data::Checkpoint::Verify verify, int depth) {
  if (!fs::exists(path)) fail_usage("{}: there is no such file or folder, expected a model", path.string());
  if (fs::is_directory(path)) {
    if (is_checkpoint(path)) return open_checkpoint(path, verify, depth);
    if (RunDirectory::is_run(path)) {
      std::vector<std::string> bad;
      const auto newest = data::newest_good_checkpoint(RunDirectory(path).checkpoints(),
                                                       [&](const std::string& line) { bad.push_back(line); });
      if (!newest) fail("{}: has no good checkpoint{}", path.string(), bad.empty() ? "" : ": " + bad.back());
      const Log log = make_log(launcher_rank().rank, Verbosity::Quiet);
      for (const std::string& line : bad) log->error("{}", one_line(line));
      return open_checkpoint(*newest, data::Checkpoint::Verify::Sizes, depth);
    }
    if (fs::exists(path / "config.json")) return open_hugging_face(path);
  } else if (is_model_file(path)) {
    return open_gguf(path);
  }
  if (const std::string known = data::foreign_model(path); !known.empty())
    fail_usage("{}: {}, expected a checkpoint, a run directory, a Hugging Face directory or a GGUF file", path.string(),
               known);
  const data::FileKind kind = data::kind_of_file(path);
  fail_usage("{}: is {}, expected a checkpoint, a run directory, a Hugging Face directory or a GGUF file",
             path.string(), fs::is_directory(path) || kind.name.empty() ? "no model" : kind.name);
}

}  // namespace

ModelSource open_model(const fs::path& path, data::Checkpoint::Verify verify) { return open_at(path, verify, 0); }

std::shared_ptr<const data::Tokenizer> open_tokenizer(const std::string& name, const Log& log) {
  if (name == "bytes") return data::byte_tokenizer();
  if (name.ends_with(".model") && fs::is_regular_file(name)) return data::sentencepiece_from_file(name);
  if (fs::is_regular_file(name) && starts_with(name, "GGUF")) return data::tokenizer_from_gguf(data::GgufFile(name));
  if (fs::is_regular_file(name) && data::kind_of_file(name).name == "JSON")
    return data::open_hugging_face_tokenizer(name);
  if (fs::is_directory(name)) {
    const FolderTokenizer found = tokenizer_of_folder(name);
    if (found.tokenizer != nullptr) {
      if (!found.why_not.empty()) log->warn("{}", found.notice());
      return found.tokenizer;
    }
    if (!found.why_not.empty()) fail("{}", found.why_not);
  }
  const ModelSource source = open_model(name);
  say_notices(source, log);
  source.require_tokenizer();
  return source.tokenizer;
}

json to_json(const AdapterState& state) {
  return {{"rank", state.rank}, {"alpha", state.alpha}, {"base", state.base}, {"fingerprint", state.fingerprint}};
}

AdapterState adapter_state_from_json(const data::JsonAt& stored) {
  AdapterState state{.rank = stored.at("rank").index(nn::ModelLimits::width + 1),
                     .alpha = stored.at("alpha").number(),
                     .base = stored.at("base").text(),
                     .fingerprint = stored.at("fingerprint").text()};
  if (state.rank == 0) stored.at("rank").refuse("1 or more");
  return state;
}

std::string checkpoint_extra(const nn::ModelConfig& config, const data::Tokenizer& tokenizer, const json& trainer) {
  nlohmann::ordered_json extra;
  extra["model"] = to_json(config);
  extra["trainer"] = trainer;
  extra["tokenizer"] = tokenizer.to_json();
  return extra.dump();
}

nlohmann::ordered_json to_json(const nn::ModelConfig& config) {
  ModelSection section;
  section.architecture = config;
  JsonWriter writer;
  fields(writer, section);
  writer.out.erase("source");
  if (!config.reward_head) writer.out.erase("reward_head");  // fingerprints of other models are what they were
  return std::move(writer.out);
}

nn::ModelConfig model_config_from_json(const json& model, const std::string& where) {
  ModelSection section;
  section.architecture = {};  // whose sizes no model has
  json with_source = model;
  try {
    with_source["source"] = "";
    JsonReader reader(data::JsonAt(with_source, where));
    fields(reader, section);
    nn::validate(section.architecture, "model");
  } catch (const json::exception& error) {
    fail("{}: the architecture cannot be read: {}", where, data::json_reason(error));
  } catch (const core::UsageError& error) {
    fail("{}: {}", where, error.what());
  }
  return section.architecture;
}

}  // namespace limbeck::launch
