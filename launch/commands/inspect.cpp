// `limbeck inspect`: what a file or folder holds, told apart by content.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "core/error.h"
#include "data/files/file_kind.h"
#include "data/files/hdf5_file.h"
#include "data/models/gguf.h"
#include "data/models/safetensors.h"
#include "data/text/token_file.h"
#include "launch/commands/commands.h"
#include "launch/commands/inspect_tokens.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/run/model_source.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

std::string size_text(double bytes) {
  if (bytes < 1024) return fmt::format("{:.0f} B", bytes);
  if (bytes < 1024.0 * 1024) return fmt::format("{:.1f} KiB", bytes / 1024);
  return fmt::format("{:.1f} MiB", bytes / 1024 / 1024);
}

/// Text from a file, short and without control characters.
std::string shown(std::string_view text) {
  constexpr std::size_t most = 60;
  std::string out;
  for (const char c : text.substr(0, most)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
  return text.size() > most ? fmt::format("\"{}...\" ({} bytes)", out, text.size()) : fmt::format("\"{}\"", out);
}

void print_field(std::string_view name, std::string_view value) { print_result("{:<12}{}\n", name, value); }

class TensorList {
 public:
  void add(const std::string& name, core::DType dtype, const core::Shape& shape) {
    const std::int64_t bytes = core::bytes_of(dtype, shape.numel());
    rows_ += fmt::format("  {:<52} {:<9} {:<20} {:>12}\n", one_line(name), core::name_of(dtype),
                         fmt::format("{}", shape), size_text(static_cast<double>(bytes)));
    bytes_ += bytes;
    elements_ += shape.numel();
    ++count_;
  }
  void print() const {
    print_field("tensors",
                fmt::format("{}, {} elements, {}", count_, elements_, size_text(static_cast<double>(bytes_))));
    write_result(rows_);
  }

 private:
  std::string rows_;
  std::int64_t count_ = 0;
  std::int64_t elements_ = 0;
  std::int64_t bytes_ = 0;
};

std::string value_text(const data::GgufValue& value) {
  return std::visit(
      []<class T>(const T& v) -> std::string {
        if constexpr (std::is_same_v<T, std::string>)
          return shown(v);
        else if constexpr (requires { v.size(); })
          return fmt::format("list of {}", v.size());
        else
          return fmt::format("{}", v);
      },
      value);
}

int inspect_gguf(const fs::path& path) {
  const data::GgufFile file(path.string());
  print_field("kind", "GGUF");
  if (file.num_parts() > 1) print_field("parts", fmt::format("{}", file.num_parts()));
  print_field("keys", fmt::format("{}", file.metadata().size()));
  for (const auto& [key, value] : file.metadata()) print_result("  {:<52} {}\n", shown(key), value_text(value));
  TensorList list;
  for (const auto& [name, tensor] : file.tensors()) list.add(name, tensor.dtype, tensor.shape);
  list.print();
  return 0;
}

int inspect_hdf5(const fs::path& path) {
  const auto file = data::Hdf5File::open(path);
  print_field("kind", "HDF5");
  TensorList list;
  for (const auto& name : file.datasets()) {
    const auto info = file.dataset_info(name);
    list.add(name, info.dtype, info.shape);
  }
  list.print();
  return 0;
}

int inspect_safetensors(const fs::path& path) {
  const data::SafetensorsFile file(path);
  print_field("kind", "safetensors");
  TensorList list;
  for (const auto& [name, tensor] : file.tensors()) list.add(name, tensor.dtype, tensor.shape);
  list.print();
  return 0;
}

int inspect_tokens(const InspectOptions& options) {
  const data::TokenFile file(options.file.string());
  const auto tokenizer = options.tokenizer.empty()
                             ? nullptr
                             : open_tokenizer(options.tokenizer, make_log(launcher_rank().rank, options.verbosity));
  write_result(token_file_text(file, tokenizer.get()));
  return 0;
}

int inspect_model(const fs::path& path) {
  const ModelSource model = open_model(path);
  const bool is_checkpoint = model.kind == ModelKind::Checkpoint;
  print_field("kind", is_checkpoint ? "checkpoint" : "Hugging Face directory");
  print_field("path", model.path.string());
  if (is_checkpoint) {
    print_field("step", fmt::format("{}", model.step));
    print_field("trainer", model.trainer.dump());
  }
  print_field("model", to_json(model.config).dump());
  const auto count = nn::count_parameters(model.config);
  print_field("parameters", fmt::format("{} ({} active a token)", count.total, count.active));
  if (model.tokenizer)
    print_field("tokenizer", fmt::format("{} tokens, answers end with {}", model.tokenizer->vocabulary_size(),
                                         fmt::join(model.tokenizer->stop_ids(), " or ")));
  else if (!model.why_no_tokenizer.empty())
    print_field("tokenizer", "cannot be read: " + model.why_no_tokenizer);
  for (const auto& notice : model.notices) print_field("note", notice);
  TensorList list;
  for (const auto& [name, info] : model.reader->tensors()) list.add(name, info.dtype, info.shape);
  list.print();
  return 0;
}

}  // namespace

int run_inspect(const InspectOptions& options) {
  if (is_left_to_first_rank("inspect")) return 0;
  const fs::path& path = options.file;
  if (fs::is_directory(path)) return inspect_model(path);
  if (fs::exists(path.string() + ".idx")) return inspect_tokens(options);
  const std::optional<std::string> head = data::head_of_file(path);
  if (!head) core::fail_usage("{}: cannot be read, expected a model, a token file or a .h5 file", path.string());
  if (head->starts_with("GGUF")) return inspect_gguf(path);
  if (head->starts_with("\x89HDF") ||
      (head->size() > 512 && head->compare(512, 4, "\x89HDF") == 0))  // behind a user block
    return inspect_hdf5(path);
  if (head->starts_with("MMIDIDX") || path.extension() == ".bin") return inspect_tokens(options);
  if (head->size() > 8 && head->at(8) == '{') return inspect_safetensors(path);
  const data::FileKind kind = data::kind_of_file(path);
  core::fail_usage("{}: is {}, expected GGUF, HDF5, safetensors, a token file or a folder with a model", path.string(),
                   kind.name.empty() ? "of no known kind" : kind.name);
}

}  // namespace limbeck::launch
