#include "data/models/quantised/quantised.h"

#include <array>

namespace limbeck::data {

using core::check;
using core::DType;

namespace {

struct Method {
  std::string_view name;  // quant_method
  void (*read)(QuantisedParts& parts);
};
constexpr std::array methods = {Method{"mxfp4", read_mxfp4}, Method{"bitsandbytes", read_bitsandbytes},
                                Method{"gptq", read_gptq}, Method{"awq", read_awq}, Method{"fp8", read_fp8}};

}  // namespace

const SafetensorsEntry& QuantisedParts::take(const std::string& name, const std::string& of, core::DType dtype) {
  const auto found = entries_.find(name);
  check(found != entries_.end(), "{}: has no tensor {}, a part of the quantised {}", where_, name, of);
  const SafetensorsEntry& entry = *found->second;
  check(entry.dtype == dtype, "{}: tensor {} is {}, expected {} as a part of the quantised {}", where_, name,
        entry.dtype, dtype, of);
  entries_.erase(found);
  return entry;
}

const SafetensorsEntry& QuantisedParts::take(const std::string& name, const std::string& of, core::DType dtype,
                                             const core::Shape& shape) {
  const SafetensorsEntry& entry = take(name, of, dtype);
  check(entry.shape == shape, "{}: tensor {} has shape {}, expected {} as a part of the quantised {}", where_, name,
        entry.shape, shape, of);
  return entry;
}

const SafetensorsEntry& QuantisedParts::take_scales(const std::string& name, const std::string& of,
                                                    std::int64_t outputs) {
  const auto found = entries_.find(name);
  check(found != entries_.end(), "{}: has no tensor {}, a part of the quantised {}", where_, name, of);
  const SafetensorsEntry& entry = *found->second;
  const DType dtype = entry.dtype;
  check(dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16,
        "{}: tensor {} is {}, expected a floating type as a part of the quantised {}", where_, name, dtype, of);
  check(entry.shape.rank() == 2 && entry.shape[0] > 0 && entry.shape[1] == outputs,
        "{}: tensor {} has shape {}, expected [groups,{}] as a part of the quantised {}", where_, name, entry.shape,
        outputs, of);
  return take(name, of, dtype);
}

std::vector<std::string> QuantisedParts::names_with(std::string_view end) const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : entries_)
    if (name.ends_with(end)) names.push_back(name.substr(0, name.size() - end.size()));
  return names;
}

void QuantisedParts::add(const std::string& name, std::shared_ptr<const ModelTensor> tensor) {
  check(!entries_.contains(name) && made_.emplace(name, std::move(tensor)).second,
        "{}: tensor {} is there twice, quantised and not", where_, name);
}

ModelTensors QuantisedParts::finish() {
  for (const auto& [name, entry] : entries_) {
    check(!entry->is_e4m3, "{}: tensor {} is float8 (e4m3), expected a quantization_config that says how", where_,
          name);
    made_.emplace(name, std::make_shared<PlainTensor>(*entry));
  }
  return std::move(made_);
}

ModelTensors model_tensors(const SafetensorsEntries& entries, const std::optional<ConfigFields>& quantization,
                           const std::string& where) {
  static const ConfigFields none(ConfigFields::Json::object(), "");
  QuantisedParts parts(entries, quantization ? *quantization : none, where);
  if (quantization) {
    const auto name = quantization->json().value("quant_method", ConfigFields::Json());
    const Method* chosen = nullptr;
    std::string known;
    for (const Method& method : methods) {
      if (name == method.name) chosen = &method;
      known += (known.empty() ? "" : ", ") + std::string(method.name);
    }
    check(chosen != nullptr, "{}: quant_method is {}, expected one of {}", quantization->where(), name.dump(), known);
    chosen->read(parts);
  }
  return parts.finish();
}

}  // namespace limbeck::data
