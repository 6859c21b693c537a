// Tiny models of a family, as transformers saves them, and what transformers computes of them in float64
// (tests/golden/make_families.py): of the first all of it, of the others projections.
//
//     const FamilyReference reference("qwen3_moe");
//     const data::HuggingFaceModel model(reference.folder());
//     reference.values("/logits"); reference.gradients().at("layers.0.attention.q.weight");
//     expect_near(logits_of(model, model.model_config(), reference.samples(), DType::F32), reference.values("/logits"),
//     1e-5);
//     for (int i = 0; i < FamilyReference::num_others; ++i) FamilyReference("qwen3_moe", i).values("/gradients");
#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "data/files/hdf5_file.h"
#include "data/models/hugging_face.h"
#include "data/text/loader.h"
#include "tests/support/golden_model.h"
#include "tests/support/made_weights.h"
#include "tests/support/places.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::testing {

class FamilyReference {
 public:
  static constexpr int num_others = 2;

  explicit FamilyReference(const std::string& family) : FamilyReference(family, std::string()) {}
  FamilyReference(const std::string& family, int other) : FamilyReference(family, "/others/" + std::to_string(other)) {}

  /// Made of weights.txt, where the family has that; there until the process ends.
  const std::filesystem::path& folder() const { return folder_; }
  std::vector<double> values(const std::string& of) const {
    const std::string path = group_ + of;
    const core::Shape shape = file_.dataset_info(path).shape;
    std::vector<double> result(static_cast<std::size_t>(shape.numel()));
    file_.read(path, core::DType::F64, result.data(),
               std::vector<std::int64_t>(static_cast<std::size_t>(shape.rank()), 0), shape);
    return result;
  }
  std::int64_t seed() const { return file_.attribute<std::int64_t>(group_.empty() ? "/" : group_, "seed"); }
  /// Of model.safetensors.
  std::vector<ListedTensor> tensors() const { return read_weight_list(golden_ / "weights.txt"); }
  data::TokenBatch samples() const {
    const auto column = [&](const char* path) {
      const std::vector<double> v = values(path);
      return std::vector<std::int32_t>(v.begin(), v.end());
    };
    const core::Shape shape = file_.dataset_info(group_ + "/tokens").shape;
    return {shape[0], shape[1], column("/tokens"), column("/targets"), column("/positions"), column("/documents")};
  }
  /// Of the first, by our names: the file has them in the order of the weights.
  std::map<std::string, std::vector<double>> gradients() const {
    const TemporaryFolder folder;
    std::filesystem::copy_file(folder_ / "config.json", folder / "config.json");
    const std::string weights = read_file(folder_ / "model.safetensors");
    std::uint64_t header = 0;
    std::memcpy(&header, weights.data(), sizeof header);
    const std::vector<double> values = this->values("/gradients");
    const std::vector<float> narrow(values.begin(), values.end());
    write_file(
        folder / "model.safetensors",
        weights.substr(0, 8 + header) + std::string(reinterpret_cast<const char*>(narrow.data()), 4 * narrow.size()));
    const data::HuggingFaceModel model(folder.path());
    std::map<std::string, std::vector<double>> all;
    for (const auto& [name, info] : model.tensors()) {
      core::StateEntry entry =
          core::StateEntry::whole(core::Tensor::zeros(core::Memory::cpu(1), core::DType::F64, info.shape));
      model.read(name, entry);
      all[name] = values_of(entry.tensor);
    }
    return all;
  }

 private:
  FamilyReference(const std::string& family, std::string group);

  std::filesystem::path golden_;
  data::Hdf5File file_;
  std::string group_;
  std::filesystem::path folder_;
};

/// The model that config.json and weights.txt of a folder describe, as a directory that is there until the process
/// ends.
std::filesystem::path made_folder(const std::filesystem::path& golden, std::int64_t seed);

/// The first model of a family, likewise.
std::filesystem::path family_folder(const std::string& family);

/// Each within `tolerance` of the largest that is expected.
void expect_near(const std::vector<double>& values, const std::vector<double>& expected, double tolerance);

/// Of all tokens of the samples, packed as they are.
std::vector<double> logits_of(const core::StateReader& source, const nn::ModelConfig& config,
                              const data::TokenBatch& samples, core::DType dtype, bool as_kept = false);

/// The tokens of one document, as a batch of one row without targets.
data::TokenBatch document_of(const std::vector<std::int32_t>& tokens);

/// The values of a tensor of a safetensors file, row by row; transposed, column by column.
std::vector<float> stored_values(const data::SafetensorsFile& file, const std::string& name, bool transposed);

}  // namespace limbeck::testing
