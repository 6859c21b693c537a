// Weights of tiny models that are made of their names, as tests/golden/made_weights.py makes them, so that no file has
// to hold them; and the directions that long arrays are projected on there.
//
//     write_made_model(golden_folder() / "families" / "llama", folder.path(), /*seed=*/1);  // config.json, weights
//     projections("lm_head.weight", gradient);                                            // on four directions
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/shape.h"

namespace limbeck::testing {

struct ListedTensor {
  std::string name;
  core::Shape shape;
  double mean, deviation;
};

/// Of weights.txt, in the file's order.
std::vector<ListedTensor> read_weight_list(const std::filesystem::path& file);

std::vector<float> made_values(const ListedTensor& tensor, std::uint64_t seed);

/// What a folder with weights.txt describes, as config.json and model.safetensors in `target`, and config_v4.json where
/// there is one.
void write_made_model(const std::filesystem::path& folder, const std::filesystem::path& target, std::uint64_t seed);

/// On the directions of -1 and 1 of a name.
std::array<double, 4> projections(const std::string& name, std::span<const double> values);

}  // namespace limbeck::testing
