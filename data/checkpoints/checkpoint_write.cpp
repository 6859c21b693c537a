#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "data/checkpoints/checkpoint.h"
#include "data/checkpoints/checkpoint_paths.h"
#include "data/files/atomic_file.h"
#include "data/files/file_fill.h"
#include "data/files/json_text.h"

namespace limbeck::data {

using core::check;
using core::fail;
using core::Shape;
using Json = nlohmann::json;
namespace fs = std::filesystem;

namespace {

void set_root_attributes(Hdf5File& file, std::int64_t step) {
  file.set_attribute("/", "format_version", std::int64_t{Manifest::current_version});
  file.set_attribute("/", "step", step);
}

void set_tensor_attributes(Hdf5File& file, const std::string& path, const TensorBox& box) {
  file.set_attribute(path, "name", box.name);
  file.set_attribute(path, "dtype", std::string(core::name_of(box.dtype)));
  file.set_attribute(path, "global_shape", as_list(box.global_shape));
}

void write_index(const fs::path& path, std::int64_t step, std::span<const RankFileInfo> infos) {
  std::map<std::string, std::vector<PlacedBox>> tensors;
  for (const auto& info : infos)
    for (const auto& box : info.boxes) tensors[box.name].push_back({&box, &info.file.name});
  Hdf5File index = Hdf5File::create(path);
  set_root_attributes(index, step);
  index.set_attribute("/", "ranks", static_cast<std::int64_t>(infos.size()));
  for (const auto& [name, parts] : tensors) {
    check_tiling("checkpoint", parts);
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
      info.boxes.push_back({box.at(0), checkpoint_dtype(box.at(1)), shape(box.at(2)),
                            box.at(3).get<std::vector<std::int64_t>>(), shape(box.at(4))});
      check_box(info.boxes.back(), info.file.name);
    }
    return info;
  } catch (const Json::exception& error) {
    fail("checkpoint: a rank's file info is malformed: {}", json_reason(error));
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

RankFileInfo write_rank_file(const fs::path& folder, int rank, std::int64_t step, const core::StateDict& state,
                             const std::stop_token& stop) {
  RankFileInfo info{{fmt::format("rank_{:05}.h5", rank), 0, 0}, step, {}};
  const fs::path path = folder / info.file.name;
  std::map<std::int64_t, core::StateDict::const_pointer> values;  // by the byte at which they begin
  Hdf5File file = Hdf5File::create(path);
  set_root_attributes(file, step);
  file.set_attribute("/", "rank", std::int64_t{rank});
  for (const auto& named : state) {
    const auto& [name, entry] = named;
    if (!entry.write) continue;
    check(entry.tensor.defined(), "{}: {} {} has no tensor", path.string(), name, entry.global_shape);
    info.boxes.push_back({name, entry.tensor.dtype(), entry.global_shape, entry.offset, entry.tensor.shape()});
    const TensorBox& box = info.boxes.back();
    check_box(box, path.string());
    const std::string dataset = checkpoint_path(name);
    if (box.extent.numel() == 0) continue;
    values[file.reserve_dataset(dataset, box.dtype, stored_shape(box.extent))] = &named;
    set_tensor_attributes(file, dataset, box);
    file.set_attribute(dataset, "offset", box.offset);
  }
  file.close();
  FileFill fill(path, stop);
  for (const auto& [first_byte, named] : values) {
    const auto& [name, entry] = *named;
    const core::Tensor value = entry.value();
    check(value.dtype() == entry.tensor.dtype() && value.numel() == entry.tensor.numel(),
          "{}: {} is {} {}, expected {} {}", path.string(), name, value.dtype(), value.shape(), entry.tensor.dtype(),
          entry.tensor.shape());
    fill.put(first_byte, {value.host_raw(), static_cast<std::size_t>(value.bytes())});
  }
  std::tie(info.file.size, info.file.hash) = fill.finish();
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

void prune_checkpoints(const fs::path& checkpoints, std::int64_t written_step, const Keep& keep) {
  check(keep.newest >= 1, "{}: {} checkpoints to keep, expected 1 or more", checkpoints.string(), keep.newest);
  const auto folders = list_checkpoints(checkpoints);  // the latest first
  const auto written = std::find(folders.begin(), folders.end(), checkpoints / fmt::format("step_{}", written_step));
  check(written != folders.end(), "{}: has no step_{}, expected the one just written", checkpoints.string(),
        written_step);
  const auto stays_for_good = [&](std::int64_t step) {
    return step == keep.best_step || (keep.every_steps > 0 && step % keep.every_steps == 0);
  };
  int kept = 0;
  for (auto folder = folders.begin(); folder != folders.end(); ++folder) {
    const bool is_damaged = folder != written && std::ranges::find(keep.damaged, *folder) != keep.damaged.end();
    const bool may_stay = folder >= written && !is_damaged;
    if (may_stay && kept < keep.newest)
      ++kept;
    else if (!may_stay || !stays_for_good(*step_of(*folder)))
      fs::rename(*folder, folder->string() + ".tmp");  // so that no reader sees one half removed
  }
  remove_temporary_folders(checkpoints);
}

bool point_to_best(const fs::path& checkpoints, std::int64_t step) {
  const fs::path link = checkpoints / "best", temporary = checkpoints / "best.tmp";
  const std::string target = fmt::format("step_{}", step);
  fs::remove_all(temporary);
  if (fs::is_directory(fs::symlink_status(link))) fs::remove_all(link);  // a copy of the run may have followed the link
  if (!fs::is_directory(checkpoints / target)) {
    fs::remove(link);
    return false;
  }
  fs::create_symlink(target, temporary);  // relative: the run may be moved
  fs::rename(temporary, link);
  sync_path(checkpoints);
  return true;
}

}  // namespace limbeck::data
