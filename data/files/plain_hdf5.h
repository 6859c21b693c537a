// The HDF5 files of checkpoints and teacher caches, read without the HDF5 library: it trusts what a file says of itself
// (bytes that were made for the purpose end it by a crash), and these may come from anywhere. What the library writes
// for Limbeck is known: groups, contiguous and virtual datasets of plain types, in the format's newer structures
// (superblock 2 or 3). Everything else is refused, with the byte it stands at. The structures are those of "HDF5 File
// Format Specification Version 3.0"; their check sums are not looked at, for the manifest has a hash of the whole file.
//
//     PlainHdf5 file(folder / "index.h5");
//     for (const auto& [path, dataset] : file.datasets()) ...       // "/model/norm/weight"
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/state_dict.h"
#include "data/files/hdf5_file.h"

namespace limbeck::data {

struct PlainDataset {
  core::StateInfo info;
  std::int64_t first_byte = -1;  // of a contiguous dataset's values in the file, where all of them lie; -1: none
  bool is_virtual = false;
  std::vector<VirtualSource> sources;  // of a virtual dataset
  std::optional<std::string> name;     // the attributes that checkpoints have
  std::optional<std::vector<std::int64_t>> global_shape;
};

class PlainHdf5 {
 public:
  /// Reads all structures; throws, naming the file and the byte, for one that is not as Limbeck's files have it: for
  /// links that are not hard, a second link to one object, more than 32 groups deep, other layouts and types, external
  /// storage, virtual sources that are not whole datasets of files beside this one seen at a box, and whatever does not
  /// lie in the file.
  /// `with_bytes`: datasets of uint8 too, which checkpoints have none of.
  explicit PlainHdf5(const std::filesystem::path& file, bool with_bytes = false);

  const std::string& file() const { return file_; }
  const std::map<std::string, PlainDataset>& datasets() const { return datasets_; }

 private:
  std::string file_;
  std::map<std::string, PlainDataset> datasets_;
};

}  // namespace limbeck::data
