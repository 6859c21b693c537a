// A model of given shapes in memory, as if some file held it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/nn/model_config.h"
#include "core/state_dict.h"
#include "data/models/families/families.h"
#include "data/models/gguf_names.h"

namespace limbeck::testing {

/// Of the llama family; its values differ everywhere.
class MadeModel : public core::StateReader {
 public:
  explicit MadeModel(const nn::ModelConfig& config) {
    int number = 0;
    for (const auto& name : data::gguf_names(config, data::llama_family())) {
      tensors_[name.name] = {name.shape, core::DType::F32};
      auto& values = values_[name.name];
      ++number;
      for (std::int64_t i = 0; i < name.shape.numel(); ++i)
        values.push_back(std::sin(static_cast<float>(i) * 0.7F + static_cast<float>(number)) *
                         static_cast<float>(number));
    }
  }
  std::string source() const override { return "made"; }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }
  std::vector<float>& values(const std::string& name) { return values_.at(name); }
  std::int64_t most_values() const { return most_values_; }  // that were asked for at once

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override {
    const core::Shape& box = entry.tensor.shape();
    auto* out = entry.tensor.mutable_data<float>();
    const std::vector<float>& values = values_.at(name);
    for (std::int64_t i = 0; i < box.numel(); ++i) {
      std::int64_t at = 0;
      std::int64_t stride = 1;
      std::int64_t rest = i;
      for (int d = box.rank() - 1; d >= 0; --d) {
        at += (entry.offset[d] + rest % box[d]) * stride;
        rest /= box[d];
        stride *= info.shape[d];
      }
      out[i] = values[at];
    }
    most_values_ = std::max<std::int64_t>(most_values_, box.numel());
  }

  std::map<std::string, core::StateInfo> tensors_;
  std::map<std::string, std::vector<float>> values_;
  mutable std::atomic<std::int64_t> most_values_ = 0;  // read on several threads
};

inline std::vector<float> values_in(const core::StateReader& reader, const std::string& name) {
  const auto memory = core::Memory::cpu(1);
  auto entry = core::StateEntry::whole(core::Tensor::zeros(memory, core::DType::F32, reader.tensors().at(name).shape));
  reader.read(name, entry);
  return core::host_values<float>(entry.tensor);
}

}  // namespace limbeck::testing
