// A tensor of a model directory under the name that a family has for it, however its values are stored: as they are, or
// quantised (data/models/quantised). What reads models asks for values alone.
//
//     const ModelTensor& w = *tensors.at("model.layers.0.mlp.experts.down_proj");        // [E,F,C]
//     w.read(/*first=*/c, /*stride=*/C, /*count=*/F, DType::F32, out);                    // a column of expert 0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/models/safetensors.h"

namespace limbeck::data {

class ModelTensor {
 public:
  ModelTensor(core::Shape shape, core::DType dtype) : shape_(shape), dtype_(dtype) {}
  virtual ~ModelTensor() = default;

  const core::Shape& shape() const { return shape_; }
  /// In which it is stored, or what it is when it is dequantised.
  core::DType dtype() const { return dtype_; }
  /// Writes elements first, first + stride, ..., `count` of them, to `out`: float32, float64 or bfloat16.
  virtual void read(std::int64_t first, std::int64_t stride, std::int64_t count, core::DType to,
                    std::byte* out) const = 0;
  /// Where all of it lies in a mapped file, as its dtype has it; null where it does not, or not in float32 or bfloat16.
  virtual const std::byte* mapped() const { return nullptr; }
  /// Where the dtype is one of blocks: the same elements as blocks, bit for bit. False where they do not lie in whole
  /// blocks one behind the other.
  virtual bool read_blocks(std::int64_t /*first*/, std::int64_t /*stride*/, std::int64_t /*count*/,
                           std::byte* /*out*/) const {
    return false;
  }

 private:
  core::Shape shape_;
  core::DType dtype_;
};

/// What files have, by name.
using SafetensorsEntries = std::map<std::string, const SafetensorsEntry*>;
/// By the names of a family.
using ModelTensors = std::map<std::string, std::shared_ptr<const ModelTensor>>;

/// A floating type, as it lies in the file.
class PlainTensor final : public ModelTensor {
 public:
  explicit PlainTensor(const SafetensorsEntry& entry) : ModelTensor(entry.shape, entry.dtype), entry_(entry) {}
  void read(std::int64_t first, std::int64_t stride, std::int64_t count, core::DType to,
            std::byte* out) const override {
    SafetensorsFile::read(entry_, first, count, to, out, stride);
  }
  const std::byte* mapped() const override {
    return dtype() == core::DType::F32 || dtype() == core::DType::BF16 ? entry_.data : nullptr;
  }

 private:
  const SafetensorsEntry& entry_;
};

/// Values that are computed in float32.
class QuantisedTensor : public ModelTensor {
 public:
  using ModelTensor::ModelTensor;
  void read(std::int64_t first, std::int64_t stride, std::int64_t count, core::DType to, std::byte* out) const final;

 private:
  virtual void values(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const = 0;
};

}  // namespace limbeck::data
