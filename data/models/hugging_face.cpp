#include "data/models/hugging_face.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "data/files/atomic_file.h"
#include "data/files/json_text.h"
#include "data/models/hugging_face_config.h"
#include "data/models/hugging_face_names.h"
#include "data/models/layers_behind.h"
#include "data/models/quantised/quantised.h"

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

/// Whether it is of numbers with a point, and not of what is stored beside weights.
bool has_values(const ModelTensor& tensor) {
  const DType dtype = tensor.dtype();
  return dtype == DType::F32 || dtype == DType::F64 || dtype == DType::BF16 || core::block_format(dtype);
}

/// Whether two tensors hold the same values, as far as so many runs of them, evenly spread, say.
bool are_equal(const ModelTensor& a, const ModelTensor& b,
               std::int64_t most_runs = std::numeric_limits<std::int64_t>::max()) {
  if (a.shape() != b.shape() || !has_values(a) || !has_values(b)) return false;
  constexpr std::int64_t at_once = 1 << 16;
  const std::int64_t num_runs = (a.shape().numel() + at_once - 1) / at_once;
  const std::int64_t apart = ((num_runs - 1) / most_runs + 1) * at_once;
  std::vector<double> of_a(at_once);
  std::vector<double> of_b(at_once);
  for (std::int64_t first = 0; first < a.shape().numel(); first += apart) {
    const std::int64_t count = std::min(at_once, a.shape().numel() - first);
    a.read(first, 1, count, DType::F64, reinterpret_cast<std::byte*>(of_a.data()));
    b.read(first, 1, count, DType::F64, reinterpret_cast<std::byte*>(of_b.data()));
    if (!std::equal(of_a.begin(), of_a.begin() + count, of_b.begin())) return false;
  }
  return true;
}

}  // namespace

HuggingFaceModel::HuggingFaceModel(fs::path folder) : folder_(std::move(folder)) {
  const HuggingFaceConfig read = read_hugging_face_config(folder_);
  family_ = read.family;
  config_ = read.model;
  stored_ = model_tensors(open_files(), read.quantization, source());
  resolve_root();
  resolve_head();
  resolve_predict();
  map_tensors();
}

void HuggingFaceModel::open_file(const std::string& name, SafetensorsEntries& entries) {
  files_.push_back(std::make_shared<SafetensorsFile>(folder_ / name));
  for (const auto& [tensor, entry] : files_.back()->tensors())
    check(entries.emplace(tensor, &entry).second, "{}: tensor {} is in an earlier file too", files_.back()->path(),
          tensor);
}

SafetensorsEntries HuggingFaceModel::open_files() {
  SafetensorsEntries entries;
  constexpr const char* one = "model.safetensors";
  const fs::path index = folder_ / "model.safetensors.index.json";
  if (fs::exists(folder_ / one)) {
    open_file(one, entries);
    if (fs::exists(index))
      notices_.push_back(fmt::format("{}: has {} and {}: the former is read, as transformers does", source(), one,
                                     index.filename().string()));
  } else if (fs::exists(index)) {
    open_shards(index, entries);
  } else {
    const std::string other = other_weights(folder_);
    fail("{}: has neither {} nor {}{}", source(), one, index.filename().string(),
         other.empty() ? "" : fmt::format(", but {}", other));
  }
  return entries;
}

void HuggingFaceModel::open_shards(const fs::path& index, SafetensorsEntries& entries) {
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
    open_file(name, entries);
    for (const auto& [tensor, entry] : files_.back()->tensors()) {
      const auto said = file_of.find(tensor);
      check(said != file_of.end() && said->second == name, "{}: tensor {} is in {}, expected it in {}", index.string(),
            tensor, name, said == file_of.end() ? "none" : said->second);
    }
  }
  for (const auto& [tensor, name] : file_of)
    check(entries.contains(tensor), "{}: tensor {} is not in {}", index.string(), tensor, name);
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

/// transformers says of its own folders that there are such layers, and leaves them out.
void HuggingFaceModel::resolve_predict() {
  const auto predicts = [&](const auto& tensor) {
    return is_of_a_layer_behind(tensor.first, "model.layers.", config_.num_layers);
  };
  if (std::ranges::none_of(stored_, predicts)) config_.num_predict_layers = 0;
}

void HuggingFaceModel::map_tensors() {
  std::set<std::string> used;
  FamilyNames names = family_->names;
  names.root = root_;
  for_each_hugging_face_name(config_, names, [&](const HuggingFaceName& tensor) {
    const Shape& expected = tensor.stored_shape;
    if (tensor.is_copy) {
      const std::string& theirs = tensor.stored.front();
      const auto found = stored_.find(theirs);
      if (found == stored_.end()) return;
      used.insert(theirs);
      constexpr std::int64_t most_runs = 4;  // it is not to be read whole to be left alone
      if (!are_equal(*found->second, *origins_.at(tensor.name).tensors.front(), most_runs))
        notices_.push_back(
            fmt::format("{}: {} differs from what it is a copy of, {}, which is taken", source(), theirs, tensor.name));
      return;
    }
    Origin& origin = origins_[tensor.name];
    origin = {{}, tensor.is_stack, tensor.rows, tensor.first, tensor.strides};
    for (const auto& theirs : tensor.stored) {
      const auto found = stored_.find(theirs);
      check(found != stored_.end(), "{}: has no tensor {}, expected one of shape {}", source(), theirs, expected);
      const ModelTensor& entry = *found->second;
      check(entry.shape() == expected, "{}: tensor {} has shape {}, expected {}", source(), theirs, entry.shape(),
            expected);
      check(has_values(entry), "{}: tensor {} is {}, expected a floating type", source(), theirs, entry.dtype());
      origin.tensors.push_back(found->second);
      used.insert(theirs);
    }
    tensors_[tensor.name] = {tensor.shape, origin.tensors.front()->dtype()};
  });
  const std::int64_t num_layers = config_.num_layers + config_.num_predict_layers;
  std::int64_t num_skipped = 0;
  for (const auto& [name, entry] : stored_) {
    if (family_->traits.predicts && !used.contains(name) && is_of_a_layer_behind(name, "model.layers.", num_layers)) {
      ++num_skipped;
      continue;
    }
    const bool is_ignored = name.ends_with(".rotary_emb.inv_freq") || (config_.tied_head && name == head) ||
                            (family_->is_ignored != nullptr && family_->is_ignored(name));
    check(is_ignored || used.contains(name), "{}: tensor {} {} has no place in this architecture", source(), name,
          entry->shape());
  }
  if (num_skipped > 0) notices_.push_back(notice_of_layers_behind(source(), num_skipped, num_layers));
}

template <class F>
void HuggingFaceModel::for_each_run(const Origin& origin, const Shape& global, const core::StateEntry& entry,
                                    F&& f) const {
  const Shape& box = entry.tensor.shape();
  // Of a stored tensor: planes of rows of columns.
  const int begin = origin.is_stack ? 1 : 0, rank = global.rank() - begin;
  const auto extent = [&](int back) { return back <= rank ? box[global.rank() - back] : 1; };
  const auto offset = [&](int back) { return back <= rank ? entry.offset[global.rank() - back] : 0; };
  const auto stride = [&](int back) { return back <= rank ? origin.strides[rank - back] : 0; };
  const std::int64_t columns = extent(1);
  // Whole rows may lie one behind the other.
  const bool is_whole = columns == global[global.rank() - 1] && origin.rows.is_run() &&
                        (extent(2) == 1 || stride(2) == columns * stride(1));
  // Of which the rows' order is the file's: of rows, or of the elements of a bias.
  const auto place = [&](int back, std::int64_t i) {
    return (back == rank ? origin.rows.of(offset(back) + i) : offset(back) + i) * stride(back);
  };
  // A bias in another order goes value by value.
  const bool is_scattered = rank == 1 && !origin.rows.is_run();
  const std::int64_t rows = is_whole ? 1 : extent(2);
  const std::int64_t run = is_scattered ? 1 : is_whole ? extent(2) * columns : columns;
  for (std::int64_t matrix = 0; matrix < (origin.is_stack ? box[0] : 1); ++matrix)
    for (std::int64_t plane = 0; plane < extent(3); ++plane)
      for (std::int64_t row = 0; row < rows; ++row)
        for (std::int64_t value = 0; value < (is_scattered ? columns : 1); ++value)
          f(*origin.tensors[origin.is_stack ? entry.offset[0] + matrix : 0],
            origin.first + place(3, plane) + place(2, row) + place(1, value), stride(1), run);
}

void HuggingFaceModel::fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const {
  const DType dtype = entry.tensor.dtype();
  std::byte* out = entry.tensor.mutable_host_raw();
  for_each_run(origins_.at(name), info.shape, entry,
               [&](const ModelTensor& tensor, std::int64_t first, std::int64_t stride, std::int64_t count) {
                 tensor.read(first, stride, count, dtype, out);
                 const core::DTypeInfo& stored = core::info(tensor.dtype());
                 bytes_read_ += (count + stored.block_elements - 1) / stored.block_elements * stored.block_bytes;
                 out += core::bytes_of(dtype, count);
               });
}

std::optional<core::Tensor> HuggingFaceModel::lend_mapped(const Origin& origin, const core::StateInfo& info,
                                                          const core::StateEntry& entry,
                                                          const core::MemoryPtr& memory) const {
  const std::byte *begin = nullptr, *end = nullptr;  // of what lies one behind the other
  bool is_run = true;
  for_each_run(origin, info.shape, entry,
               [&](const ModelTensor& tensor, std::int64_t first, std::int64_t stride, std::int64_t count) {
                 const std::byte* all = tensor.mapped();
                 is_run = is_run && all != nullptr && tensor.dtype() == info.dtype && (stride == 1 || count == 1);
                 if (!is_run) return;
                 const std::byte* at = all + core::bytes_of(info.dtype, first);
                 if (begin == nullptr) begin = end = at;
                 is_run = at == end;
                 end += core::bytes_of(info.dtype, count);
               });
  if (!is_run || begin == nullptr || reinterpret_cast<std::uintptr_t>(begin) % core::info(info.dtype).block_bytes != 0)
    return std::nullopt;
  const auto owner = std::ranges::find_if(files_, [&](const auto& file) { return file->has(begin); });
  if (owner == files_.end()) return std::nullopt;
  bytes_read_ += end - begin;
  return core::Tensor(std::make_shared<core::Storage>(memory, end - begin, const_cast<std::byte*>(begin), *owner), 0,
                      info.dtype, entry.tensor.shape());
}

std::optional<core::Tensor> HuggingFaceModel::lend_box(const std::string& name, const core::StateInfo& info,
                                                       const core::StateEntry& entry,
                                                       const core::MemoryPtr& memory) const {
  const Origin& origin = origins_.at(name);
  const Shape& box = entry.tensor.shape();
  if (!core::block_format(info.dtype)) return lend_mapped(origin, info, entry, memory);
  const auto is_of_blocks = [&](const auto& tensor) { return tensor->dtype() == info.dtype; };
  if (!std::ranges::all_of(origin.tensors, is_of_blocks) ||
      box[box.rank() - 1] % core::info(info.dtype).block_elements != 0)
    return std::nullopt;
  core::Tensor copy = core::Tensor::empty(memory, info.dtype, box);
  std::byte* out = copy.mutable_host_raw();
  bool lies_there = true;
  for_each_run(origin, info.shape, entry,
               [&](const ModelTensor& tensor, std::int64_t first, std::int64_t stride, std::int64_t count) {
                 lies_there = lies_there && tensor.read_blocks(first, stride, count, out);
                 out += core::bytes_of(info.dtype, count);
               });
  if (!lies_there) return std::nullopt;
  bytes_read_ += copy.bytes();
  return copy;
}

}  // namespace limbeck::data
