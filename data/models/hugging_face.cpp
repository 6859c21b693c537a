#include "data/models/hugging_face.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <utility>

#include "core/random.h"
#include "data/files/atomic_file.h"
#include "data/files/json_text.h"
#include "data/models/hugging_face_config.h"
#include "data/models/hugging_face_names.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::fail;
using core::Shape;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr const char* embedding = "model.embed_tokens.weight";
constexpr const char* head = "lm_head.weight";

/// What a folder without safetensors has instead; empty: nothing that is known.
std::string other_weights(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name == "adapter_model.safetensors" || name == "adapter_model.bin")
      return name + ", a LoRA adapter without its model";
    if (name.starts_with("consolidated.")) return name + ", Mistral's or Meta's own format";
    if (name.ends_with(".bin") || name.ends_with(".pth") || name.ends_with(".pt"))
      return name + ", PyTorch's own format";
    if (name.ends_with(".gguf")) return name + ", to be named itself";
  }
  return "";
}

/// Whether two tensors hold the same values.
bool are_equal(const SafetensorsEntry& a, const SafetensorsEntry& b) {
  if (a.shape != b.shape || a.dtype == DType::I64 || b.dtype == DType::I64) return false;
  constexpr std::int64_t at_once = 1 << 16;
  std::vector<double> of_a(at_once);
  std::vector<double> of_b(at_once);
  for (std::int64_t first = 0; first < a.shape.numel(); first += at_once) {
    const std::int64_t count = std::min(at_once, a.shape.numel() - first);
    SafetensorsFile::read(a, first, count, DType::F64, reinterpret_cast<std::byte*>(of_a.data()));
    SafetensorsFile::read(b, first, count, DType::F64, reinterpret_cast<std::byte*>(of_b.data()));
    if (!std::equal(of_a.begin(), of_a.begin() + count, of_b.begin())) return false;
  }
  return true;
}

}  // namespace

HuggingFaceModel::HuggingFaceModel(fs::path folder) : folder_(std::move(folder)) {
  const HuggingFaceConfig read = read_hugging_face_config(folder_);
  family_ = read.family;
  config_ = read.model;
  open_files();
  resolve_head();
  map_tensors();
}

void HuggingFaceModel::open_file(const std::string& name) {
  files_.push_back(std::make_unique<SafetensorsFile>(folder_ / name));
  for (const auto& [tensor, entry] : files_.back()->tensors())
    check(stored_.emplace(tensor, &entry).second, "{}: tensor {} is in an earlier file too", files_.back()->path(),
          tensor);
}

void HuggingFaceModel::open_files() {
  constexpr const char* one = "model.safetensors";
  const fs::path index = folder_ / "model.safetensors.index.json";
  if (fs::exists(folder_ / one)) {
    open_file(one);
    if (fs::exists(index))
      notices_.push_back(fmt::format("{}: has {} and {}: the former is read, as transformers does", source(), one,
                                     index.filename().string()));
  } else if (fs::exists(index)) {
    open_shards(index);
  } else {
    const std::string other = other_weights(folder_);
    fail("{}: has neither {} nor {}{}", source(), one, index.filename().string(),
         other.empty() ? "" : fmt::format(", but {}", other));
  }
}

void HuggingFaceModel::open_shards(const fs::path& index) {
  std::map<std::string, std::string> file_of;  // by tensor
  try {
    const Json json = parse_json<Json>(read_text_file(index, 1U << 28U), index.string());
    json.at("weight_map").get_to(file_of);
  } catch (const Json::exception& error) {
    fail("{}: {}", index.string(), json_reason(error));
  }
  std::set<std::string> names;
  for (const auto& [tensor, name] : file_of) names.insert(name);
  for (const auto& name : names)
    check(name.ends_with(".safetensors") && name.find_first_of(std::string_view("/\0", 2)) == std::string::npos,
          "{}: names a file \"{}\", expected NAME.safetensors in the same folder", index.string(), name);
  for (const auto& name : names) {
    open_file(name);
    for (const auto& [tensor, entry] : files_.back()->tensors()) {
      const auto said = file_of.find(tensor);
      check(said != file_of.end() && said->second == name, "{}: tensor {} is in {}, expected it in {}", index.string(),
            tensor, name, said == file_of.end() ? "none" : said->second);
    }
  }
  for (const auto& [tensor, name] : file_of)
    check(stored_.contains(tensor), "{}: tensor {} is not in {}", index.string(), tensor, name);
}

/// One of a tied pair is enough; two that differ are not tied, whatever the config says.
void HuggingFaceModel::resolve_head() {
  if (!config_.tied_head) return;
  const auto table = stored_.find(embedding);
  const auto own = stored_.find(head);
  if (own == stored_.end()) return;
  if (table == stored_.end()) {
    stored_.emplace(embedding, own->second);
  } else if (!are_equal(*own->second, *table->second)) {
    config_.tied_head = false;
    notices_.push_back(
        fmt::format("{}: config.json says tie_word_embeddings, but {} differs from {}: it is a head of its own, as "
                    "transformers does",
                    source(), head, embedding));
  }
}

void HuggingFaceModel::map_tensors() {
  std::set<std::string> used;
  for_each_hugging_face_name(config_, family_->names, [&](const HuggingFaceName& tensor) {
    const auto& [name, shape, stored, is_stack] = tensor;
    const Shape expected = is_stack ? Shape(shape.extents().subspan(1)) : shape;
    auto& origins = origins_[name];
    for (const auto& theirs : stored) {
      const auto found = stored_.find(theirs);
      check(found != stored_.end(), "{}: has no tensor {}, expected one of shape {}", source(), theirs, expected);
      const SafetensorsEntry& entry = *found->second;
      check(entry.shape == expected, "{}: tensor {} has shape {}, expected {}", source(), theirs, entry.shape,
            expected);
      check(entry.dtype != DType::I64, "{}: tensor {} is {}, expected a floating type", source(), theirs, entry.dtype);
      origins.push_back(&entry);
      used.insert(theirs);
    }
    tensors_[name] = {shape, origins.front()->dtype};
  });
  for (const auto& [name, entry] : stored_) {
    const bool is_ignored = name.ends_with(".rotary_emb.inv_freq") || (config_.tied_head && name == head);
    check(is_ignored || used.contains(name), "{}: tensor {} {} has no place in this architecture", source(), name,
          entry->shape);
  }
}

void HuggingFaceModel::fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const {
  const auto& origins = origins_.at(name);
  const Shape& global = info.shape;
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const bool is_stack = rank == 3;
  const DType dtype = entry.tensor.dtype();
  const std::int64_t columns = box[rank - 1];
  const std::int64_t rows = rank == 1 ? 1 : box[rank - 2];
  const std::int64_t first_row = rank == 1 ? 0 : entry.offset[rank - 2];
  std::byte* out = entry.tensor.mutable_host_raw();
  for (std::int64_t matrix = 0; matrix < (is_stack ? box[0] : 1); ++matrix) {
    const SafetensorsEntry& origin = *origins[is_stack ? entry.offset[0] + matrix : 0];
    // Whole rows lie one behind the other.
    const bool is_whole = columns == global[rank - 1];
    const std::int64_t runs = is_whole ? 1 : rows;
    const std::int64_t run = is_whole ? rows * columns : columns;
    bytes_read_ += core::bytes_of(origin.dtype, runs * run);
    for (std::int64_t i = 0; i < runs; ++i, out += core::bytes_of(dtype, run))
      SafetensorsFile::read(origin, (first_row + i) * global[rank - 1] + entry.offset[rank - 1], run, dtype, out);
  }
}

namespace {

bool is_of_a_model(const std::string& file) {
  return file == "config.json" || file == "manifest.json" || file == "config.textproto" ||
         file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json");
}

/// In the metadata of the weights: the names of the files beside them that were written with them, joined by blanks.
constexpr const char* written_with = "limbeck_files";

/// Names of files, joined by blanks.
std::set<std::string> names_in(const std::string& text) {
  std::istringstream in(text);
  return {std::istream_iterator<std::string>(in), {}};
}

/// The files of a folder that an earlier export wrote: weights that say so, and what they name.
std::set<std::string> files_of_export(const fs::path& folder) {
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    const auto names = names_in(SafetensorsFile(entry.path()).metadata(written_with));
    files.insert(names.begin(), names.end());
    if (!names.empty()) files.insert(entry.path().filename().string());
  }
  return files;
}

/// Where a model is written until it is whole: a folder within that of the model, which is kept where the work is
/// interrupted.
class Unfinished {
 public:
  /// `identity` is the model's and that of what it is made of.
  Unfinished(const fs::path& folder, const HuggingFaceExport& options, std::string identity)
      : folder_(folder), place_(folder / ".unfinished"), identity_(std::move(identity)) {
    std::error_code error;
    is_new_ = fs::create_directories(folder, error);
    if (error) core::fail_usage("{}: this folder cannot be made: {}", folder.string(), error.message());
    if (read_moving()) return;
    fs::remove(place_ / moving, error);
    const std::set<std::string> written = options.replace ? files_of_export(folder) : std::set<std::string>();
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (written.contains(name))
        replaced_.insert(name);
      else if (is_of_a_model(name) || options.files.contains(name))
        core::fail_usage("{}: there is {} already, expected a folder without a model{}", folder.string(), name,
                         options.replace ? " or with one that convert wrote" : "");
    }
    fs::create_directory(place_);
  }

  const fs::path& place() const { return place_; }
  /// The model is whole, and was being moved to its folder when its writer was killed.
  bool is_whole() const { return !moved_.empty(); }

  void discard() {
    std::error_code ignored;
    fs::remove_all(place_, ignored);
    if (is_new_) fs::remove(folder_, ignored);  // not where there is something else in it by now
  }

  /// Moves the model, `files`, to its folder, in which it is none until its config.json is there.
  void finish(const std::set<std::string>& files) {
    if (!is_whole()) {
      moved_ = files;
      write_file_atomically(place_ / moving,
                            fmt::format("{}\n{}\n{}\n", identity_, fmt::join(moved_, " "), fmt::join(replaced_, " ")));
    }
    if (replaced_.contains(config)) fs::remove(folder_ / config);
    replaced_.erase(config);
    for (const std::string& name : moved_)
      if (name != config && fs::exists(place_ / name)) fs::rename(place_ / name, folder_ / name);
    for (const std::string& name : replaced_)
      if (!moved_.contains(name)) fs::remove(folder_ / name);
    sync_path(folder_);
    if (fs::exists(place_ / config)) fs::rename(place_ / config, folder_ / config);
    sync_path(folder_);
    fs::remove_all(place_);
  }

  static constexpr const char* journal = "journal";

 private:
  static constexpr const char* config = "config.json";
  static constexpr const char* moving = "moving";  // identity, files, files that they take the place of

  bool read_moving() {
    if (!fs::exists(place_ / moving)) return false;
    std::istringstream text(read_text_file(place_ / moving, 1U << 28U));
    std::string identity, moved, replaced;
    std::getline(text, identity);
    std::getline(text, moved);
    std::getline(text, replaced);
    if (identity != identity_) return false;
    moved_ = names_in(moved);
    replaced_ = names_in(replaced);
    if (!fs::exists(place_ / config)) replaced_.erase(config);  // it has been moved
    return true;
  }

  fs::path folder_, place_;
  std::string identity_;
  std::set<std::string> moved_, replaced_;
  bool is_new_ = false;
};

}  // namespace

void export_hugging_face(const core::StateReader& model, const nn::ModelConfig& config, const fs::path& folder,
                         const HuggingFaceExport& options) {
  if (const auto beyond_all = beyond_all_families(config))
    fail("Hugging Face export: {}: no format of others holds this model, but a Limbeck checkpoint", *beyond_all);
  std::map<std::string, std::string> texts = options.files;
  std::string written = "config.json model.safetensors.index.json";
  for (const auto& [name, _] : options.files) written += " " + name;
  texts["config.json"] = hugging_face_config(config, options);
  const Family& family = family_for(config, "Hugging Face export");
  std::vector<SafetensorsPlan> plan;
  std::vector<ExportTensor> tensors;
  for_each_hugging_face_name(config, family.names, [&](const HuggingFaceName& name) {
    const Shape shape = name.is_stack ? Shape(name.shape.extents().subspan(1)) : name.shape;
    for (std::size_t i = 0; i < name.stored.size(); ++i) {
      plan.push_back({name.stored[i], options.dtype, shape});
      tensors.push_back({.stored = name.stored[i],
                         .name = name.name,
                         .shape = name.shape,
                         .matrix = name.is_stack ? static_cast<std::int64_t>(i) : -1,
                         .dtype = options.dtype});
    }
  });
  const SafetensorsShards shards = safetensors_shards(plan, options.max_shard_bytes);
  if (!shards.index.empty()) texts["model.safetensors.index.json"] = shards.index;
  std::string identity = options.work.identity;
  for (const auto& [name, text] : texts) identity += fmt::format("\n{} {}\n{}", name, text.size(), text);
  identity = fmt::format("{:016x}", core::hash_name(identity, core::hash_seed));

  Unfinished unfinished(folder, options, identity);
  std::set<std::string> names;
  for (const auto& [name, _] : texts) names.insert(name);
  for (const auto& shard : shards.files) names.insert(shard.name);
  if (unfinished.is_whole()) return unfinished.finish(names);
  std::vector<TensorFiles::File> files;
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {written_with, written}};
  for (const auto& shard : shards.files) {
    const fs::path path = unfinished.place() / shard.name;
    files.push_back({path, safetensors_head(shard.plan, metadata, path.string()), {}});
    for (const SafetensorsPlan& tensor : shard.plan) files.back().tensors.push_back({tensor.bytes()});
  }
  TensorFiles out(std::move(files), unfinished.place() / Unfinished::journal, identity, options.work.notice);
  try {
    export_tensors(model, tensors, out, options.work, options.values_at_once, folder.string());
    out.close();
    for (const auto& [name, text] : texts) write_file_atomically(unfinished.place() / name, text);
    if (options.work.verify) options.work.verify(unfinished.place());
    unfinished.finish(names);
  } catch (const core::Error&) {
    unfinished.discard();
    throw;
  }
}

}  // namespace limbeck::data
