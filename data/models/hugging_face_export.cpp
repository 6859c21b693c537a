// export_hugging_face, which hugging_face.h declares.
#include <fmt/ranges.h>

#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "core/random.h"
#include "data/files/atomic_file.h"
#include "data/models/hugging_face.h"
#include "data/models/hugging_face_config.h"
#include "data/models/hugging_face_names.h"
#include "data/models/mxfp4_export.h"

namespace limbeck::data {

using core::DType;
using core::fail;
using core::Shape;
namespace fs = std::filesystem;

namespace {

/// To where they lie in the stored tensor.
void place_values(const core::Tensor& values, const HuggingFaceName& name, core::Tensor& stored) {
  const Shape& shape = values.shape();
  const int last = shape.rank() - 1;
  const std::int64_t size = core::info(values.dtype()).block_bytes, columns = shape[last];
  const std::byte* from = values.host_raw();
  std::byte* to = stored.mutable_host_raw();
  const auto place = [&](int d, std::int64_t i) {
    return (d == 0 ? name.rows.of(i) : i) * name.strides[static_cast<std::size_t>(d)];
  };
  for (std::int64_t row = 0; row < shape.numel() / columns; ++row) {
    std::int64_t of_row = name.first, rest = row;
    for (int d = last - 1; d >= 0; rest /= shape[d--]) of_row += place(d, rest % shape[d]);
    for (std::int64_t c = 0; c < columns; ++c, from += size)
      std::memcpy(to + (of_row + place(last, c)) * size, from, static_cast<std::size_t>(size));
  }
}

/// The tensor that is made of these, or of a stack of matrices that one.
core::Tensor joined(const core::StateReader& model, const std::vector<const HuggingFaceName*>& parts,
                    std::int64_t matrix) {
  const auto memory = core::Memory::cpu(1);
  Shape shape = parts.front()->stored_shape;
  const bool is_stack = shape.rank() == 3 && parts.front()->shape.rank() == 3;  // else of filters [C,1,K]
  if (is_stack) shape[0] = 1;
  core::Tensor whole = core::Tensor::zeros(memory, DType::F32, shape);
  for (const HuggingFaceName* part : parts) {
    Shape box = part->shape;
    std::vector<std::int64_t> offset(box.extents().size(), 0);
    if (is_stack) {
      box[0] = 1;
      offset[0] = matrix;
    }
    core::StateEntry entry{part->shape, offset, core::Tensor::empty(memory, DType::F32, box), true};
    model.read(part->name, entry);
    place_values(entry.tensor, *part, whole);
  }
  return whole;
}

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
  const nn::ModelConfig held = in_family(family, config);
  if (held.num_predict_layers < config.num_predict_layers && options.work.notice)
    options.work.notice(fmt::format("{}: layers that predict further tokens ({}) are left out: {} has none",
                                    folder.string(), config.num_predict_layers, family.name));
  std::vector<HuggingFaceName> names;
  for_each_hugging_face_name(held, family.names, [&](const HuggingFaceName& name) { names.push_back(name); });
  std::vector<SafetensorsPlan> plan;
  std::vector<ExportTensor> tensors;
  std::map<std::string, std::vector<const HuggingFaceName*>> parts;  // of those that are not one of ours as it is
  for (const HuggingFaceName& name : names)
    if (!name.is_as_stored()) parts[name.stored.front()].push_back(&name);
  const bool is_mxfp4 = options.dtype == DType::MXFP4;
  for (const HuggingFaceName& name : names) {
    const DType dtype = name.is_wide ? DType::F32 : is_mxfp4 ? DType::BF16 : options.dtype;
    if (const auto found = parts.find(name.stored.front()); found != parts.end()) {
      if (found->second.front() != &name) continue;
      if (is_mxfp4 && name.shape.rank() == 3) {
        for (PlannedTensor& part : mxfp4_tensors(found->second)) {
          plan.push_back(std::move(part.plan));
          tensors.push_back(std::move(part.tensor));
        }
        continue;
      }
      plan.push_back({name.stored.front(), dtype, name.stored_shape});
      const bool is_filter = name.stored_shape.rank() == 3 && name.shape.rank() == 2;  // made as one matrix
      tensors.push_back({.stored = name.stored.front(),
                         .shape = is_filter ? Shape{name.stored_shape[0], name.stored_shape[2]} : name.stored_shape,
                         .dtype = dtype,
                         .make = [all = &found->second](const core::StateReader& of, std::int64_t matrix) {
                           return joined(of, *all, matrix);
                         }});
      continue;
    }
    for (std::size_t i = 0; i < name.stored.size(); ++i) {
      plan.push_back({name.stored[i], dtype, name.stored_shape});
      tensors.push_back({.stored = name.stored[i],
                         .name = name.name,
                         .shape = name.shape,
                         .matrix = name.is_stack ? static_cast<std::int64_t>(i) : -1,
                         .dtype = dtype});
    }
  }
  const SafetensorsShards shards = safetensors_shards(plan, options.max_shard_bytes);
  if (!shards.index.empty()) texts["model.safetensors.index.json"] = shards.index;
  std::string identity = options.work.identity;
  for (const auto& [name, text] : texts) identity += fmt::format("\n{} {}\n{}", name, text.size(), text);
  identity = fmt::format("{:016x}", core::hash_name(identity, core::hash_seed));

  Unfinished unfinished(folder, options, identity);
  std::set<std::string> all_files;
  for (const auto& [name, _] : texts) all_files.insert(name);
  for (const auto& shard : shards.files) all_files.insert(shard.name);
  if (unfinished.is_whole()) return unfinished.finish(all_files);
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
    unfinished.finish(all_files);
  } catch (const core::Error&) {
    unfinished.discard();
    throw;
  }
}

}  // namespace limbeck::data
