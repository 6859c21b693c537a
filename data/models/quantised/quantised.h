// Weights that other programs have quantised, in the safetensors of a model directory: what takes several tensors there
// (codes, scales, tables) is one of values here, under the name of the weight. `quant_method` of config.json's
// quantization_config says which kind they are.
//
//     const ModelTensors tensors = model_tensors(entries, quantization, "model");     // FAMILY'S NAME -> values
//
// A kind is a file beside this, a line below and one in quantised.cpp.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/models/families/config_fields.h"
#include "data/models/model_tensor.h"

namespace limbeck::data {

/// All tensors of a model: those that are not quantised as they are. Throws, naming the tensor, where parts are missing
/// or do not fit each other, and where the method is not known.
ModelTensors model_tensors(const SafetensorsEntries& entries, const std::optional<ConfigFields>& quantization,
                           const std::string& where);

/// What a kind is made of.
class QuantisedParts {
 public:
  QuantisedParts(const SafetensorsEntries& entries, const ConfigFields& config, std::string where)
      : entries_(entries), config_(config), where_(std::move(where)) {}

  const ConfigFields& config() const { return config_; }
  const std::string& where() const { return where_; }
  /// The tensors that are left, by name.
  const SafetensorsEntries& entries() const { return entries_; }
  bool has(const std::string& name) const { return entries_.contains(name); }
  /// Takes a part of `of` away from what is left. Throws where it is missing or of another dtype.
  const SafetensorsEntry& take(const std::string& name, const std::string& of, core::DType dtype);
  /// The same; throws where the shape is another.
  const SafetensorsEntry& take(const std::string& name, const std::string& of, core::DType dtype,
                               const core::Shape& shape);
  /// Scales [groups,outputs], in float32, float16 or bfloat16, of one group or more.
  const SafetensorsEntry& take_scales(const std::string& name, const std::string& of, std::int64_t outputs);
  /// The names that end so, without the end.
  std::vector<std::string> names_with(std::string_view end) const;
  /// What is made of parts.
  void add(const std::string& name, std::shared_ptr<const ModelTensor> tensor);
  /// With what nobody took.
  ModelTensors finish();

 private:
  SafetensorsEntries entries_;
  const ConfigFields& config_;
  std::string where_;
  ModelTensors made_;
};

void read_mxfp4(QuantisedParts& parts);
void read_bitsandbytes(QuantisedParts& parts);
void read_gptq(QuantisedParts& parts);
void read_awq(QuantisedParts& parts);
void read_fp8(QuantisedParts& parts);

}  // namespace limbeck::data
