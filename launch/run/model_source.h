// Any model that a command is given: a checkpoint, a run directory (its newest good checkpoint), a Hugging Face
// directory or a GGUF file, told apart by content.
//
//     ModelSource teacher = open_model(config.teacher->source);
//     nn::ModelConfig architecture = teacher.config;
//     teacher.reader->read("embed.weight", entry);
//     auto ids = teacher.require_tokenizer().encode("The idea");
//
// A checkpoint carries its architecture and tokenizer in the manifest's extra text:
//
//     finish_checkpoint(temporary, infos, checkpoint_extra(architecture, *tokenizer, {{"tokens", 1024}}));
//     nlohmann::json trainer = open_model(folder).trainer;                                    // {"tokens": 1024}
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/model_config.h"
#include "core/state_dict.h"
#include "data/checkpoints/checkpoint.h"
#include "data/files/json_at.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/console/log.h"

namespace limbeck::launch {

enum class ModelKind : std::uint8_t { Checkpoint, HuggingFace, Gguf };

/// A student's adapters, and what they are of.
struct AdapterState {
  std::int64_t rank = 0;
  double alpha = 0;
  std::string base = {};         // the model's path, absolute; empty: the checkpoint holds it
  std::string fingerprint = {};  // of that model (model_fingerprint)
};
nlohmann::json to_json(const AdapterState& state);
/// Throws, naming the place, where a field is absent or makes no sense.
AdapterState adapter_state_from_json(const data::JsonAt& json);

struct ModelSource {
  ModelKind kind = ModelKind::Checkpoint;
  std::filesystem::path path;  // of the checkpoint itself where a run directory was given
  std::shared_ptr<const core::StateReader> reader = nullptr;
  nn::ModelConfig config = {};
  std::shared_ptr<const data::Tokenizer> tokenizer = nullptr;  // null where the source has none that is read
  std::string why_no_tokenizer = {};                           // where it has one that is not
  std::vector<std::string> notices = {};                       // what people should know of it, a line each
  std::int64_t step = 0;                                       // of a checkpoint
  nlohmann::json trainer = nullptr;                            // of a checkpoint: what checkpoint_extra was given
  // Of a checkpoint:
  std::shared_ptr<const core::StateReader> own = nullptr;  // what it holds itself, optimizer state too
  std::shared_ptr<const core::StateReader> base =
      nullptr;  // with adapters, which `reader` has merged: what they are of
  std::optional<AdapterState> adapters = {};
  std::string quantised_as = {};  // what its run's passes saw its weights as (quantised_weights.h)

  /// Throws, naming the source, where there is no tokenizer.
  const data::Tokenizer& require_tokenizer() const;
};

/// Throws a UsageError where nothing at `path` is a model, an Error where it is a damaged one. `verify`: how much of a
/// checkpoint is checked. Damaged checkpoints of a run directory that are newer than the one taken are logged.
ModelSource open_model(const std::filesystem::path& path,
                       data::Checkpoint::Verify verify = data::Checkpoint::Verify::Hashes);

/// A warning for each.
void say_notices(const ModelSource& source, const Log& log);

/// True for a folder with a manifest, unless it has a config.json: a Hugging Face directory may have any manifest.
bool is_checkpoint(const std::filesystem::path& path);

/// True for a file (no folder) that begins as a model does.
bool is_model_file(const std::filesystem::path& path);

/// The files of the tokenizer that lie in a Hugging Face directory, and its generation_config.json, by name.
std::map<std::string, std::string> tokenizer_files(const std::filesystem::path& folder);

/// "bytes", a SentencePiece file NAME.model, a tokenizer.json, a folder with one of them, or the tokenizer of a model.
/// What data.tokenizer and --tokenizer name, "teacher" aside. Warns of what people should know of it.
std::shared_ptr<const data::Tokenizer> open_tokenizer(const std::string& name,
                                                      const Log& log = make_log(launcher_rank().rank));

/// The extra text of a checkpoint's manifest: architecture, tokenizer, and the trainer's own state.
std::string checkpoint_extra(const nn::ModelConfig& config, const data::Tokenizer& tokenizer,
                             const nlohmann::json& trainer);

/// The architecture as JSON, and back (checked).
nlohmann::ordered_json to_json(const nn::ModelConfig& config);
nn::ModelConfig model_config_from_json(const nlohmann::json& json, const std::string& where);

}  // namespace limbeck::launch
