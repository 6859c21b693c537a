// `limbeck inspect`: what a file or folder holds, told apart by content.
#include <optional>
#include <string>

#include "core/error.h"
#include "data/files/file_kind.h"
#include "data/files/json_text.h"
#include "launch/commands/commands.h"
#include "launch/commands/inspect_parts.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/run/model_source.h"
#include "launch/run/run_directory.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

Inspection inspect_token_file(const InspectOptions& options) {
  const data::TokenFile file(options.file.string());
  const auto tokenizer = options.tokenizer.empty()
                             ? nullptr
                             : open_tokenizer(options.tokenizer, make_log(launcher_rank().rank, options.verbosity));
  return inspect_tokens(file, tokenizer.get());
}

Inspection inspect_folder(const fs::path& path) {
  if (is_checkpoint(path)) return inspect_checkpoint(path);
  if (RunDirectory::is_run(path)) return inspect_run(path);
  if (fs::exists(path / "config.json")) return inspect_hugging_face(path);
  if (fs::exists(path / "tokenizer.json") || fs::exists(path / "tokenizer.model")) return inspect_tokenizer(path);
  open_model(path);  // says what it is
  core::fail_usage("{}: is no model", path.string());
}

Inspection inspect(const InspectOptions& options) {
  const fs::path& path = options.file;
  if (fs::is_directory(path)) return inspect_folder(path);
  if (fs::exists(path.string() + ".idx")) return inspect_token_file(options);
  const std::optional<std::string> head = data::head_of_file(path);
  if (!head) core::fail_usage("{}: cannot be read, expected a model, a token file or a .h5 file", path.string());
  if (head->starts_with("GGUF")) return inspect_gguf(path);
  if (head->starts_with("\x89HDF") ||
      (head->size() > 512 && head->compare(512, 4, "\x89HDF") == 0))  // behind a user block
    return inspect_hdf5(path);
  if (head->starts_with("MMIDIDX") || path.extension() == ".bin") return inspect_token_file(options);
  if (path.filename() == "tokenizer.json" || path.extension() == ".model") return inspect_tokenizer(path);
  if (head->size() > 8 && head->at(8) == '{') return inspect_safetensors(path);
  const data::FileKind kind = data::kind_of_file(path);
  core::fail_usage("{}: is {}, expected GGUF, HDF5, safetensors, a token file, a tokenizer or a folder with a model",
                   path.string(), kind.name.empty() ? "of no known kind" : kind.name);
}

}  // namespace

int run_inspect(const InspectOptions& options) {
  if (is_left_to_first_rank("inspect")) return 0;
  const Inspection found = inspect(options);
  write_result(options.json ? data::indented(found.to_json()) : found.to_text());
  return 0;
}

}  // namespace limbeck::launch
