#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/checkpoints/checkpoint.h"
#include "data/checkpoints/checkpoint_paths.h"
#include "data/files/atomic_file.h"
#include "data/files/json_text.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::fail;
using core::Shape;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

constexpr std::array<DType, 4> written_dtypes = {DType::F32, DType::F64, DType::BF16, DType::I64};

DType dtype_named(const std::string& name) {
  for (const DType dtype : written_dtypes)
    if (core::name_of(dtype) == name) return dtype;
  fail("dtype is {}, expected float32, float64, bfloat16 or int64", name);
}

void check_box(const TensorBox& box, const std::string& where) {
  check(std::find(written_dtypes.begin(), written_dtypes.end(), box.dtype) != written_dtypes.end(),
        "{}: {} has dtype {}, expected float32, float64, bfloat16 or int64", where, box.name, box.dtype);
  const int rank = box.global_shape.rank();
  bool inside = box.extent.rank() == rank && static_cast<int>(box.offset.size()) == rank;
  for (int i = 0; inside && i < rank; ++i)
    inside = box.offset[i] >= 0 && box.extent[i] <= box.global_shape[i] &&
             box.offset[i] <= box.global_shape[i] - box.extent[i];
  check(inside, "{}: {}: the box {} at [{}] does not lie in the global shape {}", where, box.name, box.extent,
        fmt::join(box.offset, ","), box.global_shape);
}

void set_root_attributes(Hdf5File& file, std::int64_t step) {
  file.set_attribute("/", "format_version", std::int64_t{Manifest::current_version});
  file.set_attribute("/", "step", step);
}

void set_tensor_attributes(Hdf5File& file, const std::string& path, const TensorBox& box) {
  file.set_attribute(path, "name", box.name);
  file.set_attribute(path, "dtype", std::string(core::name_of(box.dtype)));
  file.set_attribute(path, "global_shape", as_list(box.global_shape));
}

/// A box and the file it lies in.
struct Part {
  const TensorBox* box;
  const std::string* file;
};

bool overlap(const TensorBox& a, const TensorBox& b) {
  for (int i = 0; i < a.extent.rank(); ++i)
    if (a.offset[i] + a.extent[i] <= b.offset[i] || b.offset[i] + b.extent[i] <= a.offset[i]) return false;
  return true;
}

/// Boxes inside the shape that do not overlap and have as many elements as it tile it. Empty boxes count for nothing.
void check_tiling(const std::vector<Part>& parts) {
  const TensorBox& first = *parts.front().box;
  std::int64_t elements = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const TensorBox& box = *parts[i].box;
    check(box.global_shape == first.global_shape && box.dtype == first.dtype,
          "checkpoint: {} is {} {} in {}, but {} {} in {}", box.name, box.dtype, box.global_shape, *parts[i].file,
          first.dtype, first.global_shape, *parts.front().file);
    if (box.extent.numel() == 0) continue;
    elements += box.extent.numel();
    for (std::size_t j = 0; j < i; ++j)
      check(parts[j].box->extent.numel() == 0 || !overlap(*parts[j].box, box),
            "checkpoint: {} {}: the box {} at [{}] of {} overlaps {} at [{}] of {}", box.name, box.global_shape,
            box.extent, fmt::join(box.offset, ","), *parts[i].file, parts[j].box->extent,
            fmt::join(parts[j].box->offset, ","), *parts[j].file);
  }
  check(elements == first.global_shape.numel(), "checkpoint: {} {} has a gap: {} of {} elements were written",
        first.name, first.global_shape, elements, first.global_shape.numel());
}

void write_index(const fs::path& path, std::int64_t step, std::span<const RankFileInfo> infos) {
  std::map<std::string, std::vector<Part>> tensors;
  for (const auto& info : infos)
    for (const auto& box : info.boxes) tensors[box.name].push_back({&box, &info.file.name});
  Hdf5File index = Hdf5File::create(path);
  set_root_attributes(index, step);
  index.set_attribute("/", "ranks", static_cast<std::int64_t>(infos.size()));
  for (const auto& [name, parts] : tensors) {
    check_tiling(parts);
    const TensorBox& tensor = *parts.front().box;
    const std::string dataset = checkpoint_path(name);
    std::vector<VirtualSource> sources;
    for (const auto& [box, file] : parts)
      if (box->extent.numel() > 0)
        sources.push_back({*file, dataset, stored_offset(box->offset), stored_shape(box->extent)});
    if (sources.empty())
      index.create_dataset(dataset, tensor.dtype, stored_shape(tensor.global_shape));
    else
      index.create_virtual_dataset(dataset, tensor.dtype, stored_shape(tensor.global_shape), sources);
    set_tensor_attributes(index, dataset, tensor);
  }
  index.close();
}

bool is_temporary(const fs::path& folder) {
  const std::string name = folder.filename().string();
  return name.starts_with("step_") && name.ends_with(".tmp");
}

void remove_temporary_folders(const fs::path& checkpoints) {
  std::vector<fs::path> leftovers;
  for (const auto& item : fs::directory_iterator(checkpoints))
    if (is_temporary(item.path())) leftovers.push_back(item.path());
  for (const auto& folder : leftovers) fs::remove_all(folder);
}

}  // namespace

std::string to_text(const RankFileInfo& info) {
  Json boxes = Json::array();
  for (const auto& box : info.boxes)
    boxes.push_back({box.name, core::name_of(box.dtype), as_list(box.global_shape), box.offset, as_list(box.extent)});
  return Json({{"file", info.file.name},
               {"size", info.file.size},
               {"hash", info.file.hash},
               {"step", info.step},
               {"boxes", std::move(boxes)}})
      .dump();
}

RankFileInfo rank_file_info_from_text(const std::string& text) {
  try {
    const auto json = parse_json<Json>(text, "checkpoint: a rank's file info is malformed");
    RankFileInfo info{{json.at("file"), json.at("size"), json.at("hash")}, json.at("step"), {}};
    const auto shape = [](const Json& list) { return Shape(list.get<std::vector<std::int64_t>>()); };
    for (const auto& box : json.at("boxes")) {
      info.boxes.push_back({box.at(0), dtype_named(box.at(1)), shape(box.at(2)),
                            box.at(3).get<std::vector<std::int64_t>>(), shape(box.at(4))});
      check_box(info.boxes.back(), info.file.name);
    }
    return info;
  } catch (const Json::exception& error) {
    fail("checkpoint: a rank's file info is malformed: {}", error.what());
  }
}

fs::path begin_checkpoint(const fs::path& checkpoints, std::int64_t step) {
  check(step >= 0, "{}: step is {}, expected 0 or more", checkpoints.string(), step);
  fs::create_directories(checkpoints);
  remove_temporary_folders(checkpoints);
  const fs::path temporary = checkpoints / fmt::format("step_{}.tmp", step);
  fs::create_directory(temporary);
  return temporary;
}

RankFileInfo write_rank_file(const fs::path& folder, int rank, std::int64_t step, const core::StateDict& state) {
  RankFileInfo info{{fmt::format("rank_{:05}.h5", rank), 0, 0}, step, {}};
  const fs::path path = folder / info.file.name;
  Hdf5File file = Hdf5File::create(path);
  set_root_attributes(file, step);
  file.set_attribute("/", "rank", std::int64_t{rank});
  for (const auto& [name, entry] : state) {
    if (!entry.write) continue;
    check(entry.tensor.defined(), "{}: {} {} has no tensor", path.string(), name, entry.global_shape);
    info.boxes.push_back({name, entry.tensor.dtype(), entry.global_shape, entry.offset, entry.tensor.shape()});
    const TensorBox& box = info.boxes.back();
    check_box(box, path.string());
    const std::string dataset = checkpoint_path(name);
    if (box.extent.numel() == 0) continue;
    file.write_dataset(dataset, entry.value().reshape(stored_shape(box.extent)));
    set_tensor_attributes(file, dataset, box);
    file.set_attribute(dataset, "offset", box.offset);
  }
  file.close();
  info.file = describe_file(folder, info.file.name);  // from the page cache
  sync_path(path);
  return info;
}

fs::path finish_checkpoint(const fs::path& temporary, std::span<const RankFileInfo> infos, const std::string& extra) {
  check(is_temporary(temporary) && !infos.empty(), "{}: expected a folder step_N.tmp and one rank's file or more",
        temporary.string());
  const fs::path name = temporary.parent_path() / temporary.stem();
  Manifest manifest;
  manifest.step = infos.front().step;
  manifest.extra = extra;
  for (const auto& info : infos) {
    check(info.step == manifest.step && name.filename() == fmt::format("step_{}", info.step), "{}: {} is of step {}",
          temporary.string(), info.file.name, info.step);
    manifest.files.push_back(info.file);
  }
  write_index(temporary / index_name, manifest.step, infos);
  sync_path(temporary / index_name);
  manifest.files.push_back(describe_file(temporary, index_name));
  for (const auto& file : manifest.files) {
    const auto problem = check_file(temporary, file, false);
    check(!problem, "{}", problem.value_or(""));
  }
  write_manifest(temporary, manifest);  // flushes the folder too
  replace_folder(temporary, name);
  return name;
}

void prune_checkpoints(const fs::path& checkpoints, int keep, std::int64_t written_step) {
  check(keep >= 1, "{}: {} checkpoints to keep, expected 1 or more", checkpoints.string(), keep);
  const auto folders = list_checkpoints(checkpoints);  // the latest first
  const auto written = std::find(folders.begin(), folders.end(), checkpoints / fmt::format("step_{}", written_step));
  check(written != folders.end(), "{}: has no step_{}, expected the one just written", checkpoints.string(),
        written_step);
  for (auto folder = folders.begin(); folder != folders.end(); ++folder)
    if (folder < written || folder - written >= keep)
      fs::rename(*folder, folder->string() + ".tmp");  // so that no reader sees one half removed
  remove_temporary_folders(checkpoints);
}

}  // namespace limbeck::data
