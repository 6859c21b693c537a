#include "data/models/hugging_face.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

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

/// Whether a tensor is of layer `num_layers` or a later one: those that predict further tokens lie there.
bool is_of_a_layer_behind(std::string_view name, std::int64_t num_layers) {
  constexpr std::string_view prefix = "model.layers.";
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  std::int64_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  return error == std::errc() && end != name.data() + name.size() && *end == '.' && layer >= num_layers;
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
  resolve_root();
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

/// Some names may be without what they usually begin with: all of a model's, or none.
void HuggingFaceModel::resolve_root() {
  root_ = family_->names.root;
  const bool has_root = std::ranges::any_of(stored_, [&](const auto& t) { return t.first.starts_with(root_); });
  if (family_->may_lack_root && !has_root) root_ = "";
}

/// One of a tied pair is enough; two that differ are not tied, whatever the config says.
void HuggingFaceModel::resolve_head() {
  if (!config_.tied_head) return;
  const std::string embedding = root_ + family_->names.embed + ".weight";
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
  FamilyNames names = family_->names;
  names.root = root_;
  for_each_hugging_face_name(config_, names, [&](const HuggingFaceName& tensor) {
    const Shape expected = tensor.stored_shape();
    Origin& origin = origins_[tensor.name];
    origin.rows = tensor.rows;
    origin.is_transposed = tensor.is_transposed;
    for (const auto& theirs : tensor.stored) {
      const auto found = stored_.find(theirs);
      check(found != stored_.end(), "{}: has no tensor {}, expected one of shape {}", source(), theirs, expected);
      const SafetensorsEntry& entry = *found->second;
      check(entry.shape == expected, "{}: tensor {} has shape {}, expected {}", source(), theirs, entry.shape,
            expected);
      check(entry.dtype != DType::I64, "{}: tensor {} is {}, expected a floating type", source(), theirs, entry.dtype);
      origin.entries.push_back(&entry);
      used.insert(theirs);
    }
    tensors_[tensor.name] = {tensor.shape, origin.entries.front()->dtype};
  });
  std::int64_t num_skipped = 0;
  for (const auto& [name, entry] : stored_) {
    if (is_of_a_layer_behind(name, config_.num_layers) && family_->traits.has_latents) {
      ++num_skipped;
      continue;
    }
    const bool is_ignored = name.ends_with(".rotary_emb.inv_freq") || (config_.tied_head && name == head) ||
                            (family_->is_ignored != nullptr && family_->is_ignored(name));
    check(is_ignored || used.contains(name), "{}: tensor {} {} has no place in this architecture", source(), name,
          entry->shape);
  }
  if (num_skipped > 0)
    notices_.push_back(fmt::format("{}: {} tensors of layers from {} on, which predict further tokens, are not read",
                                   source(), num_skipped, config_.num_layers));
}

namespace {

/// Reads rows [first, first + count) of columns [column, column + width) of a matrix that is stored as [in, out].
void read_transposed(const SafetensorsEntry& origin, std::int64_t first, std::int64_t count, std::int64_t column,
                     std::int64_t width, DType dtype, std::byte* out) {
  const std::int64_t stored_width = origin.shape[1], bytes = core::bytes_of(dtype, 1);
  std::vector<std::byte> values(static_cast<std::size_t>(count * bytes));
  for (std::int64_t c = 0; c < width; ++c) {
    SafetensorsFile::read(origin, (column + c) * stored_width + first, count, dtype, values.data());
    for (std::int64_t r = 0; r < count; ++r)
      std::copy_n(values.data() + r * bytes, bytes, out + (r * width + c) * bytes);
  }
}

}  // namespace

void HuggingFaceModel::fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const {
  const Origin& origin = origins_.at(name);
  const Shape& global = info.shape;
  const Shape& box = entry.tensor.shape();
  const int rank = global.rank();
  const bool is_stack = rank == 3;
  const DType dtype = entry.tensor.dtype();
  const std::int64_t columns = box[rank - 1];
  const std::int64_t rows = rank == 1 ? 1 : box[rank - 2];
  const std::int64_t first_column = entry.offset[rank - 1];
  /// Of row i of the box, its first.
  const auto element = [&](std::int64_t i) {
    if (rank == 1) return origin.rows.of(first_column);
    return origin.rows.of(entry.offset[rank - 2] + i) * global[rank - 1] + first_column;
  };
  std::byte* out = entry.tensor.mutable_host_raw();
  for (std::int64_t matrix = 0; matrix < (is_stack ? box[0] : 1); ++matrix) {
    const SafetensorsEntry& stored = *origin.entries[is_stack ? entry.offset[0] + matrix : 0];
    if (origin.is_transposed) {
      read_transposed(stored, origin.rows.of(entry.offset[0]), rows, first_column, columns, dtype, out);
      continue;
    }
    // Whole rows lie one behind the other.
    const bool is_whole = columns == global[rank - 1] && origin.rows.is_run();
    const std::int64_t runs = is_whole ? 1 : rows;
    const std::int64_t run = is_whole ? rows * columns : columns;
    for (std::int64_t i = 0; i < runs; ++i, out += core::bytes_of(dtype, run))
      SafetensorsFile::read(stored, element(i), run, dtype, out);
  }
}

namespace {

bool is_of_a_model(const std::string& file) {
  return file == "config.json" || file == "manifest.json" || file == "config.textproto" ||
         file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json");
}

/// In the metadata of the weights: the names of the files beside them that were written with them, joined by blanks.
constexpr const char* written_with = "limbeck_files";

/// The files of a folder that an earlier export wrote: weights that say so, and what they name.
std::set<std::string> files_of_export(const fs::path& folder) {
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    std::istringstream names(SafetensorsFile(entry.path()).metadata(written_with));
    for (std::string name; names >> name;) files.insert(name);
    if (!names.str().empty()) files.insert(entry.path().filename().string());
  }
  return files;
}

/// Where a model is written until it is whole: the folder itself, or, where it takes the place of an earlier export, a
/// folder within it. What is not finished is taken away again.
class Unfinished {
 public:
  Unfinished(const fs::path& folder, const HuggingFaceExport& options)
      : folder_(folder), place_(folder), more_(options.files) {
    std::error_code error;
    is_new_ = fs::create_directories(folder, error);
    if (error) core::fail_usage("{}: this folder cannot be made: {}", folder.string(), error.message());
    const std::set<std::string> written = options.replace ? files_of_export(folder) : std::set<std::string>();
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      if (written.contains(name))
        replaced_.push_back(entry.path());
      else if (is_of_a_model(name) || more_.contains(name))
        core::fail_usage("{}: there is {} already, expected a folder without a model{}", folder.string(), name,
                         options.replace ? " or with one that convert wrote" : "");
    }
    if (replaced_.empty()) return;
    place_ = folder / ".unfinished";
    fs::remove_all(place_);  // of an export that was killed
    fs::create_directory(place_);
  }
  ~Unfinished() {
    if (is_finished_) return;
    std::error_code ignored;
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(place_, ignored)) {
      const std::string name = entry.path().filename().string();
      if (is_of_a_model(name) || name.ends_with(".safetensors.tmp") || more_.contains(name))
        files.push_back(entry.path());
    }
    for (const fs::path& file : files) fs::remove(file, ignored);
    // Not where there is something else in it by now.
    if (is_new_ || place_ != folder_) fs::remove(place_, ignored);
  }
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;

  const fs::path& place() const { return place_; }
  void finish() {
    is_finished_ = true;
    if (place_ == folder_) return;
    for (const fs::path& file : replaced_) fs::remove(file);
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(place_)) files.push_back(entry.path());
    for (const fs::path& file : files) fs::rename(file, folder_ / file.filename());
    fs::remove(place_);
  }

 private:
  const fs::path& folder_;
  fs::path place_;
  const std::map<std::string, std::string>& more_;
  std::vector<fs::path> replaced_;
  bool is_new_ = false;
  bool is_finished_ = false;
};

}  // namespace

namespace {

/// What a stored tensor is made of: a tensor of ours, or matrix `index` of a stack.
struct Part {
  const HuggingFaceName* name;
  std::int64_t index;
};

core::Tensor transposed(const core::Tensor& matrix, const core::MemoryPtr& memory) {
  const std::int64_t rows = matrix.shape()[0], columns = matrix.shape()[1], bytes = core::bytes_of(matrix.dtype(), 1);
  core::Tensor result = core::Tensor::empty(memory, matrix.dtype(), {columns, rows});
  const std::byte* from = matrix.host_raw();
  std::byte* to = result.mutable_host_raw();
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c)
      std::copy_n(from + (r * columns + c) * bytes, bytes, to + (c * rows + r) * bytes);
  return result;
}

core::Tensor stored_tensor(const core::StateReader& model, const std::vector<Part>& parts, const SafetensorsPlan& plan,
                           const core::MemoryPtr& memory) {
  const bool is_transposed = parts.front().name->is_transposed;
  const Shape lying = is_transposed ? Shape{plan.shape[1], plan.shape[0]} : plan.shape;
  const core::Tensor whole = core::Tensor::empty(memory, plan.dtype, lying);
  for (const auto& [name, index] : parts) {
    Shape box = name->shape;
    std::vector<std::int64_t> offset(box.extents().size(), 0);
    if (name->is_stack) {
      box[0] = 1;
      offset[0] = index;
    }
    const std::int64_t rows = name->is_stack ? lying[0] : name->shape[0];
    const bool is_run = name->rows.is_run();
    const core::Tensor own =
        is_run ? whole.rows(name->rows.of(0), rows).reshape(box) : core::Tensor::empty(memory, plan.dtype, box);
    core::StateEntry entry{name->shape, offset, own, true};
    model.read(name->name, entry);
    for (std::int64_t row = 0; !is_run && row < rows; ++row)
      whole.rows(name->rows.of(row), 1).copy_from(own.rows(row, 1));
  }
  return is_transposed ? transposed(whole, memory) : whole;
}

}  // namespace

void export_hugging_face(const core::StateReader& model, const nn::ModelConfig& config, const fs::path& folder,
                         const HuggingFaceExport& options) {
  const std::string config_text = hugging_face_config(config, options);
  std::vector<HuggingFaceName> names;
  const Family& family = family_for(config, "Hugging Face export");
  for_each_hugging_face_name(config, family.names, [&](const HuggingFaceName& name) { names.push_back(name); });
  std::vector<SafetensorsPlan> plan;
  std::map<std::string, std::vector<Part>> origins;  // by theirs
  for (const auto& name : names)
    for (std::size_t i = 0; i < name.stored.size(); ++i) {
      std::vector<Part>& parts = origins[name.stored[i]];
      if (parts.empty())
        plan.push_back({name.stored[i], name.is_wide ? DType::F32 : options.dtype, name.stored_shape()});
      parts.push_back({&name, static_cast<std::int64_t>(i)});
    }
  Unfinished unfinished(folder, options);
  std::string written = "config.json model.safetensors.index.json";
  for (const auto& [name, _] : options.files) written += " " + name;
  const auto memory = core::Memory::cpu(1);
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {written_with, written}};
  write_safetensors(unfinished.place(), plan, options.max_shard_bytes, metadata, [&](const SafetensorsPlan& tensor) {
    return stored_tensor(model, origins.at(tensor.name), tensor, memory);
  });
  for (const auto& [name, contents] : options.files) write_file_atomically(unfinished.place() / name, contents);
  write_file_atomically(unfinished.place() / "config.json", config_text);
  unfinished.finish();
}

}  // namespace limbeck::data
