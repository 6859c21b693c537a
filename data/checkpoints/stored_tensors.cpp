#include "data/checkpoints/stored_tensors.h"

#include <set>

#include "data/checkpoints/checkpoint_paths.h"
#include "data/files/hdf5_file.h"

namespace limbeck::data {

using core::check;
using core::Shape;
namespace fs = std::filesystem;

namespace {

/// One dataset of the index; where its boxes begin in their files is not known yet.
StoredTensor tensor_from_index(const Hdf5File& index, const std::string& path, const std::string& name,
                               const std::set<std::string>& rank_files) {
  const std::string where = index.file().string();
  core::StateInfo info = index.dataset_info(path);
  const Shape global(index.attribute<std::vector<std::int64_t>>(path, "global_shape"));
  check(checkpoint_path(name) == path && stored_shape(global) == info.shape,
        "{}: {} has shape {}, but its attributes say {} {}", where, path, info.shape, name, global);
  StoredTensor tensor{{global, info.dtype}, {}};
  std::vector<VirtualSource> sources = index.virtual_sources(path);
  check(sources.size() <= rank_files.size(), "{}: {} has {} sources, expected at most one a rank file, {}", where, path,
        sources.size(), rank_files.size());
  for (VirtualSource& source : sources) {
    check(rank_files.contains(source.file) && source.path == path,
          "{}: {} has its source in {} of \"{}\", expected {} of a rank file that the manifest lists", where, path,
          source.path, source.file, path);
    TensorBox box{name, info.dtype, info.shape, std::move(source.offset), source.extent};
    check_box(box, where);
    tensor.boxes.push_back({std::move(box), std::move(source.file)});
  }
  std::vector<PlacedBox> parts;
  for (const StoredBox& stored : tensor.boxes) parts.push_back({&stored.box, &stored.file});
  if (parts.empty())
    check(info.shape.numel() == 0, "{}: {} {} has no values: no rank file is its source", where, path, info.shape);
  else
    check_tiling(where, parts);
  return tensor;
}

void find_in_rank_file(const Hdf5File& file, StoredBox& stored) {
  const TensorBox& box = stored.box;
  const std::string path = checkpoint_path(box.name);
  const core::StateInfo info = file.dataset_info(path);
  check(info.dtype == box.dtype && info.shape == box.extent, "{}: {} is {} {}, expected {} {} as in {}",
        file.file().string(), path, info.dtype, info.shape, box.dtype, box.extent, index_name);
  stored.first_byte = file.first_byte(path);
}

}  // namespace

std::map<std::string, StoredTensor> stored_tensors(const fs::path& folder, const Manifest& manifest) {
  std::set<std::string> rank_files;
  for (const ManifestFile& file : manifest.files)
    if (file.name != index_name) rank_files.insert(file.name);
  std::map<std::string, StoredTensor> tensors;
  {
    const Hdf5File index = Hdf5File::open(folder / index_name);
    for (const std::string& path : index.datasets()) {
      const auto name = index.attribute<std::string>(path, "name");
      tensors[name] = tensor_from_index(index, path, name, rank_files);
    }
  }
  std::map<std::string, std::vector<StoredBox*>> by_file;
  for (auto& [name, tensor] : tensors)
    for (StoredBox& stored : tensor.boxes) by_file[stored.file].push_back(&stored);
  for (const auto& [name, boxes] : by_file) {
    const Hdf5File file = Hdf5File::open(folder / name);
    for (StoredBox* stored : boxes) find_in_rank_file(file, *stored);
  }
  return tensors;
}

}  // namespace limbeck::data
