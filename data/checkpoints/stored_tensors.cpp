#include "data/checkpoints/stored_tensors.h"

#include <set>

#include "data/checkpoints/checkpoint_paths.h"
#include "data/files/plain_hdf5.h"

namespace limbeck::data {

using core::check;
using core::Shape;
namespace fs = std::filesystem;

namespace {

/// One dataset of the index; where its boxes begin in their files is not known yet.
StoredTensor tensor_from_index(const std::string& where, const std::string& path, const PlainDataset& dataset,
                               const std::set<std::string>& rank_files) {
  const std::string& name = *dataset.name;
  const core::StateInfo& info = dataset.info;
  const Shape global(*dataset.global_shape);
  check(checkpoint_path(name) == path && stored_shape(global) == info.shape,
        "{}: {} has shape {}, but its attributes say {} {}", where, path, info.shape, name, global);
  StoredTensor tensor{{global, info.dtype}, {}};
  check(dataset.sources.size() <= rank_files.size(), "{}: {} has {} sources, expected at most one a rank file, {}",
        where, path, dataset.sources.size(), rank_files.size());
  for (const VirtualSource& source : dataset.sources) {
    check(rank_files.contains(source.file) && source.path == path,
          "{}: {} has its source in {} of \"{}\", expected {} of a rank file that the manifest lists", where, path,
          source.path, source.file, path);
    TensorBox box{name, info.dtype, info.shape, source.offset, source.extent};
    check_box(box, where);
    tensor.boxes.push_back({std::move(box), source.file});
  }
  std::vector<PlacedBox> parts;
  for (const StoredBox& stored : tensor.boxes) parts.push_back({&stored.box, &stored.file});
  if (parts.empty())
    check(info.shape.numel() == 0, "{}: {} {} has no values: no rank file is its source", where, path, info.shape);
  else
    check_tiling(where, parts);
  return tensor;
}

void find_in_rank_file(const PlainHdf5& file, StoredBox& stored) {
  const TensorBox& box = stored.box;
  const std::string path = checkpoint_path(box.name);
  const auto found = file.datasets().find(path);
  check(found != file.datasets().end(), "{}: {} is missing, expected {} {} as in {}", file.file(), path, box.dtype,
        box.extent, index_name);
  const auto& [info, first_byte, is_virtual, sources, name, global_shape] = found->second;
  check(info.dtype == box.dtype && info.shape == box.extent, "{}: {} is {} {}, expected {} {} as in {}", file.file(),
        path, info.dtype, info.shape, box.dtype, box.extent, index_name);
  check(!is_virtual, "{}: {} is not contiguous", file.file(), path);
  check(first_byte >= 0, "{}: {} {} {} has values that do not lie in the file", file.file(), path, info.dtype,
        info.shape);
  stored.first_byte = first_byte;
}

}  // namespace

std::map<std::string, StoredTensor> stored_tensors(const fs::path& folder, const Manifest& manifest) {
  std::set<std::string> rank_files;
  for (const ManifestFile& file : manifest.files)
    if (file.name != index_name) rank_files.insert(file.name);
  std::map<std::string, StoredTensor> tensors;
  const PlainHdf5 index(folder / index_name);
  for (const auto& [path, dataset] : index.datasets()) {
    check(dataset.name && dataset.global_shape, "{}: {} has no attribute {}", index.file(), path,
          dataset.name ? "global_shape" : "name");
    tensors[*dataset.name] = tensor_from_index(index.file(), path, dataset, rank_files);
  }
  std::map<std::string, std::vector<StoredBox*>> by_file;
  for (auto& [name, tensor] : tensors)
    for (StoredBox& stored : tensor.boxes) by_file[stored.file].push_back(&stored);
  for (const auto& [name, boxes] : by_file) {
    const PlainHdf5 file(folder / name);
    for (StoredBox* stored : boxes) find_in_rank_file(file, *stored);
  }
  return tensors;
}

}  // namespace limbeck::data
