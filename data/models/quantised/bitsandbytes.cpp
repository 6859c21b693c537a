// Weights as bitsandbytes saves them.
//
// Four bits (NF4, FP4; Dettmers et al. 2023, "QLoRA"): NAME uint8 [N/2,1], two codes a byte, the first in the high
// half; a value is NAME.quant_map[code] times the block's NAME.absmax. With double quantisation absmax is a code too:
// NAME.nested_quant_map[code] times its block's NAME.nested_absmax, plus an offset. Numbers of these, and the shape,
// are the JSON of NAME.quant_state.bitsandbytes__KIND.
//
// Eight bits (Dettmers et al. 2022, "LLM.int8()"): MODULE.weight int8 [out,in], a row of which is times MODULE.SCB /
// 127.
#include <nlohmann/json.hpp>
#include <string>

#include "data/files/json_text.h"
#include "data/models/quantised/bits.h"
#include "data/models/quantised/quantised.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;

namespace {

constexpr std::int64_t codes = 16;

struct FourBitParts {
  const SafetensorsEntry *packed, *table, *absmax;
  const SafetensorsEntry *nested_table = nullptr, *nested_absmax = nullptr;
  std::int64_t block = 0, nested_block = 0;
  float offset = 0;
};

class FourBits final : public QuantisedTensor {
 public:
  FourBits(const Shape& shape, const FourBitParts& parts) : QuantisedTensor(shape, DType::F32), parts_(parts) {
    for (std::int64_t i = 0; i < codes; ++i) table_[i] = number_at<float>(*parts.table, i);
  }

 private:
  float scale_of(std::int64_t block) const {
    if (parts_.nested_table == nullptr) return number_at<float>(*parts_.absmax, block);
    const float value = number_at<float>(*parts_.nested_table, number_at<std::uint8_t>(*parts_.absmax, block));
    return value * number_at<float>(*parts_.nested_absmax, block / parts_.nested_block) + parts_.offset;
  }
  void values(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const override {
    std::int64_t block = -1;
    float scale = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t at = first + i * stride;
      if (at / parts_.block != block) scale = scale_of(block = at / parts_.block);
      const auto pair = number_at<std::uint8_t>(*parts_.packed, at / 2);
      out[i] = table_[at % 2 == 0 ? pair >> 4U : pair & 15U] * scale;
    }
  }

  FourBitParts parts_;
  float table_[codes];
};

/// NAME.quant_state...
ConfigFields state_of(QuantisedParts& parts, const std::string& name, const std::string& end) {
  const SafetensorsEntry& bytes = parts.take(name + end, name, DType::U8);
  const std::string where = parts.where() + ": tensor " + name + end;
  const std::string text(reinterpret_cast<const char*>(bytes.data), static_cast<std::size_t>(bytes.shape.numel()));
  return {parse_json<ConfigFields::Json>(text, where), where};
}

void read_four_bits(QuantisedParts& parts, const std::string& name, const std::string& end) {
  const ConfigFields state = state_of(parts, name, end);
  const ConfigFields::Json extents = state.json().value("shape", ConfigFields::Json());
  check(extents.is_array() && extents.size() == 2 && extents[0].is_number_unsigned() && extents[1].is_number_unsigned(),
        "{}: shape is {}, expected that of a matrix", state.where(), extents.dump());
  const Shape shape{extents[0].get<std::int64_t>(), extents[1].get<std::int64_t>()};
  const auto positive = [&](const char* field) {
    const std::int64_t value = state.integer(field);
    check(value > 0, "{}: {} is {}, expected a positive number", state.where(), field, value);
    return value;
  };
  FourBitParts of{};
  of.block = positive("blocksize");
  const auto ceiling = [](std::int64_t a, std::int64_t b) { return a / b + (a % b != 0 ? 1 : 0); };
  const std::int64_t blocks = ceiling(shape.numel(), of.block);
  of.packed = &parts.take(name, name, DType::U8, {ceiling(shape.numel(), 2), 1});
  of.table = &parts.take(name + ".quant_map", name, DType::F32, {codes});
  const bool is_nested = parts.has(name + ".nested_absmax");
  of.absmax = &parts.take(name + ".absmax", name, is_nested ? DType::U8 : DType::F32, {blocks});
  if (is_nested) {
    of.nested_block = positive("nested_blocksize");
    of.offset = static_cast<float>(state.number("nested_offset"));
    of.nested_table = &parts.take(name + ".nested_quant_map", name, DType::F32, {256});
    of.nested_absmax = &parts.take(name + ".nested_absmax", name, DType::F32, {ceiling(blocks, of.nested_block)});
  }
  parts.add(name, std::make_shared<FourBits>(shape, of));
}

class EightBits final : public QuantisedTensor {
 public:
  EightBits(const SafetensorsEntry& weight, const SafetensorsEntry& scales)
      : QuantisedTensor(weight.shape, DType::F32), weight_(weight), scales_(scales) {}

 private:
  void values(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const override {
    constexpr auto inverse = static_cast<float>(1 / 127.0);
    for_each_place(shape()[1], first, stride, count, [&](std::int64_t row, std::int64_t column, std::int64_t i) {
      const auto code = static_cast<float>(number_at<std::int8_t>(weight_, row * shape()[1] + column));
      out[i] = code * number_at<float>(scales_, row) * inverse;
    });
  }

  const SafetensorsEntry &weight_, &scales_;
};

void read_eight_bits(QuantisedParts& parts, const std::string& module) {
  const std::string name = module + ".weight";
  const SafetensorsEntry& weight = parts.take(name, name, DType::I8);
  check(weight.shape.rank() == 2, "{}: tensor {} has shape {}, expected [out,in]", parts.where(), name, weight.shape);
  const SafetensorsEntry& scales = parts.take(module + ".SCB", name, DType::F32, {weight.shape[0]});
  if (const std::string format = module + ".weight_format"; parts.has(format)) {
    const SafetensorsEntry& entry = parts.take(format, name, DType::U8, {});
    check(number_at<std::uint8_t>(entry, 0) == 0, "{}: tensor {} is {}, expected 0: rows one behind the other",
          parts.where(), format, number_at<std::uint8_t>(entry, 0));
  }
  parts.add(name, std::make_shared<EightBits>(weight, scales));
}

}  // namespace

void read_bitsandbytes(QuantisedParts& parts) {
  for (const std::string end : {".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4"})
    for (const std::string& name : parts.names_with(end)) read_four_bits(parts, name, end);
  for (const std::string& module : parts.names_with(".SCB")) read_eight_bits(parts, module);
}

}  // namespace limbeck::data
