// Where the values of a checkpoint's tensors lie: what index.h5 says of them, held against every rank file, so that
// whoever reads values needs HDF5 no more and nothing is taken on trust.
//
//     const auto tensors = stored_tensors(folder, manifest);
//     tensors.at("norm.weight").boxes[0].file            // "rank_00000.h5"; first_byte: where in it
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/state_dict.h"
#include "data/checkpoints/manifest.h"
#include "data/checkpoints/tensor_boxes.h"

namespace limbeck::data {

/// A box whose values lie one behind the other in a file of the checkpoint. A scalar's box has the shape [1].
struct StoredBox {
  TensorBox box;
  std::string file;
  std::int64_t first_byte = 0;
};

struct StoredTensor {
  core::StateInfo info;
  std::vector<StoredBox> boxes;  // tile it
};

/// Every tensor by its name. Opens one file at a time. Throws, naming the file and the path in it, where index.h5 shows
/// anything but whole datasets of the manifest's rank files that tile each tensor, and where a rank file cannot be
/// opened or does not hold such a dataset, contiguous and of the same dtype and shape.
std::map<std::string, StoredTensor> stored_tensors(const std::filesystem::path& folder, const Manifest& manifest);

}  // namespace limbeck::data
