// Models and runs.
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>
#include <variant>

#include "core/counted.h"
#include "core/error.h"
#include "core/nn/model_config.h"
#include "data/checkpoints/checkpoint.h"
#include "data/files/atomic_file.h"
#include "data/files/hdf5_file.h"
#include "data/files/json_text.h"
#include "data/models/families/family.h"
#include "data/models/gguf.h"
#include "data/models/gguf_model.h"
#include "data/models/safetensors.h"
#include "launch/commands/inspect_parts.h"
#include "launch/console/columns.h"
#include "launch/report/comparison.h"
#include "launch/report/run_results.h"
#include "launch/run/model_source.h"

namespace limbeck::launch {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

/// What an error says is wrong; of a good thing nothing.
template <class F>
std::string why_not(F&& open) {
  try {
    open();
  } catch (const core::Error& error) {
    return error.what();
  }
  return "";
}

void add_tokenizer(Inspection& found, const ModelSource& model) {
  if (model.tokenizer)
    found.add("tokenizer", tokenizer_json(*model.tokenizer),
              fmt::format("{}, answers end with {}", core::counted(model.tokenizer->vocabulary_size(), "token"),
                          fmt::join(model.tokenizer->stop_ids(), " or ")));
  else if (!model.why_no_tokenizer.empty())
    found.add("tokenizer", Json::object({{"why_not", model.why_no_tokenizer}}),
              "cannot be read: " + model.why_no_tokenizer);
}

/// The architecture and what goes with it.
void add_model(Inspection& found, const ModelSource& model) {
  found.add("model", to_json(model.config));
  const auto count = nn::count_parameters(model.config);
  found.add("parameters", {{"total", count.total}, {"active", count.active}},
            fmt::format("{} ({} active a token)", count.total, count.active));
  add_tokenizer(found, model);
  add_summary(found, model);
  if (!model.notices.empty()) found.add_member("notes", model.notices);
  for (const std::string& notice : model.notices) found.add_line("note", notice);
}

/// Of a checkpoint all that it holds itself.
void add_tensors(Inspection& found, const ModelSource& model) {
  for (const auto& [name, info] : (model.own ? model.own : model.reader)->tensors())
    found.add_tensor(name, core::name_of(info.dtype), info.shape, core::bytes_of(info.dtype, info.shape.numel()));
}

void add_checkpoint(Inspection& found, const ModelSource& model) {
  found.add_readable("");
  found.add("step", model.step);
  Json shown = model.trainer;
  if (shown.is_object()) shown.erase("run_config");  // a hundred lines
  found.add("trainer", model.trainer, shown.dump(-1, ' ', false, Json::error_handler_t::replace));
  add_model(found, model);
  add_tensors(found, model);
}

// --- GGUF

std::string value_text(const data::GgufValue& value) {
  return std::visit(
      []<class T>(const T& v) -> std::string {
        if constexpr (std::is_same_v<T, std::string>)
          return shown_text(v);
        else if constexpr (requires { v.size(); })
          return fmt::format("list of {}", v.size());
        else
          return fmt::format("{}", v);
      },
      value);
}

/// Lists are told by their lengths: a vocabulary has a hundred thousand entries.
Json value_json(const data::GgufValue& value) {
  return std::visit(
      []<class T>(const T& v) -> Json {
        if constexpr (!std::is_same_v<T, std::string> && requires { v.size(); })
          return Json::object({{"length", v.size()}});
        else
          return v;
      },
      value);
}

/// Which formats of a file's tensors are not read: "IQ1_S (12 tensors, the first blk.0.ffn_up.weight)".
std::string unreadable_formats(const data::GgufFile& file) {
  std::map<std::string, std::pair<std::size_t, std::string>> formats;  // how many, and the first
  for (const auto& [name, tensor] : file.unreadable()) {
    auto& [count, first] = formats[tensor.format];
    if (count++ == 0 || natural_less(name, first)) first = name;
  }
  std::vector<std::string> texts;
  for (const auto& [format, tensors] : formats)
    texts.push_back(fmt::format("{} ({}, the first {})", format,
                                core::counted(static_cast<std::int64_t>(tensors.first), "tensor"), tensors.second));
  return fmt::format("{}", fmt::join(texts, ", "));
}

/// Why no model can be read from it.
std::string why_not_read(const std::shared_ptr<const data::GgufFile>& file) {
  if (file->unreadable().empty()) return why_not([&] { data::GgufModel model(file); });
  std::string text = fmt::format("formats that are not read: {}", unreadable_formats(*file));
  if (file->has("general.architecture")) {
    const std::string& architecture = file->text("general.architecture");
    const bool is_known =
        std::ranges::any_of(data::families(), [&](const data::Family* f) { return architecture == f->gguf; });
    if (!is_known) text = fmt::format("general.architecture is {}, which is not read; {}", architecture, text);
  }
  return text;
}

}  // namespace

Inspection inspect_gguf(const fs::path& path) {
  const auto file = std::make_shared<const data::GgufFile>(path.string(), data::GgufFile::Formats::Any);
  Inspection found("GGUF", path);
  if (file->num_parts() > 1) found.add("parts", file->num_parts());
  const std::string reason = why_not_read(file);
  found.add_readable(reason);
  if (reason.empty()) add_model(found, open_model(path));
  Json metadata = Json::object();
  found.add_line("keys", fmt::format("{}", file->metadata().size()));
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> keys;
  for (const auto& [key, _] : file->metadata()) keys.push_back(key);
  std::sort(keys.begin(), keys.end(), natural_less);
  for (const std::string& key : keys) {
    const data::GgufValue& value = file->metadata().at(key);
    metadata[key] = value_json(value);
    rows.push_back({shown_text(key), value_text(value)});
  }
  found.add_lines(aligned(rows, 2));
  found.add_member("metadata", std::move(metadata));
  for (const auto& [name, tensor] : file->tensors())
    found.add_tensor(name, core::name_of(tensor.dtype), tensor.shape, tensor.bytes);
  for (const auto& [name, tensor] : file->unreadable()) found.add_tensor(name, tensor.format, tensor.shape, {});
  return found;
}

Inspection inspect_hugging_face(const fs::path& folder) {
  Inspection found("Hugging Face directory", folder);
  ModelSource model;
  const std::string reason = why_not([&] { model = open_model(folder); });
  found.add_readable(reason);
  if (reason.empty()) {
    add_model(found, model);
    add_tensors(found, model);
    return found;
  }
  // What is there all the same.
  constexpr std::uintmax_t most_bytes = std::uintmax_t{1} << 24U;
  why_not([&] {
    const std::string file = (folder / "config.json").string();
    const auto config = data::parse_json<Json>(data::read_text_file(file, most_bytes), file);
    for (const char* field : {"architectures", "model_type", "quantization_config"})
      if (config.is_object() && config.contains(field) && !config[field].is_null()) found.add(field, config[field]);
  });
  std::set<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".safetensors" && entry.is_regular_file()) files.insert(entry.path());
  for (const fs::path& path : files) {
    const std::string damage = why_not([&] {
      const data::SafetensorsFile file(path);
      for (const auto& [name, tensor] : file.tensors())
        found.add_tensor(name, core::name_of(tensor.dtype), tensor.shape,
                         core::bytes_of(tensor.dtype, tensor.shape.numel()));
    });
    if (!damage.empty() && damage != reason) found.add_line("note", damage);
  }
  return found;
}

Inspection inspect_checkpoint(const fs::path& folder) {
  Inspection found("checkpoint", folder);
  add_checkpoint(found, open_model(folder));
  return found;
}

Inspection inspect_run(const fs::path& folder) {
  Inspection found("run directory", folder);
  const RunResults run = read_run(RunDirectory(folder));
  found.add_member("run", results_json(run));
  found.add_lines(fmt::format("\n{}\n", results_text(run)));
  ModelSource model;
  const std::string reason = why_not([&] { model = open_model(folder); });
  if (!reason.empty()) {
    found.add_readable(reason);
    return found;
  }
  found.add("checkpoint", model.path.string());
  add_checkpoint(found, model);
  return found;
}

Inspection inspect_hdf5(const fs::path& path) {
  const auto file = data::Hdf5File::open(path);
  Inspection found("HDF5", path);
  for (const auto& name : file.datasets()) {
    const auto info = file.dataset_info(name);
    found.add_tensor(name, core::name_of(info.dtype), info.shape, core::bytes_of(info.dtype, info.shape.numel()));
  }
  return found;
}

Inspection inspect_safetensors(const fs::path& path) {
  const data::SafetensorsFile file(path);
  Inspection found("safetensors", path);
  for (const auto& [name, tensor] : file.tensors())
    found.add_tensor(name, core::name_of(tensor.dtype), tensor.shape,
                     core::bytes_of(tensor.dtype, tensor.shape.numel()));
  return found;
}

}  // namespace limbeck::launch
