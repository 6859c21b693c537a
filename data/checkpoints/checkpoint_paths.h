// Names inside a checkpoint, for its writer and its reader.
//
//     std::string path = checkpoint_path("layers.0.attention_norm.weight");
//     file.write_dataset(path, tensor.reshape(stored_shape(tensor.shape())));
#pragma once

#include <string>
#include <vector>

#include "core/shape.h"
#include "core/state_dict.h"
#include "data/files/hdf5_file.h"

namespace limbeck::data {

inline constexpr const char* index_name = "index.h5";

/// "layers.0.mlp.up.weight" -> "/model/layers/0/mlp/up/weight"; "optimizer/norm.weight/exp_avg" ->
/// "/optimizer/norm/weight/exp_avg".
inline std::string checkpoint_path(const std::string& name) {
  return hdf5_path(core::is_of_model(name) ? "/model" : "", name);
}

/// Virtual datasets have one dimension or more: a scalar is stored as [1], its global_shape attribute is empty.
inline core::Shape stored_shape(const core::Shape& shape) { return shape.rank() == 0 ? core::Shape{1} : shape; }
inline std::vector<std::int64_t> stored_offset(const std::vector<std::int64_t>& offset) {
  return offset.empty() ? std::vector<std::int64_t>{0} : offset;
}
inline std::vector<std::int64_t> as_list(const core::Shape& shape) {
  return {shape.extents().begin(), shape.extents().end()};
}

}  // namespace limbeck::data
