// Weights of GPTQ (Frantar et al. 2022), as AutoGPTQ and GPTQModel save them: 4 bits, whole numbers q in groups of
// inputs with a scale and a zero each.
//
// MODULE.qweight int32 [in/8,out], of which a word has 8 inputs of one output, the first in the lowest bits;
// MODULE.qzeros int32 [groups,out/8] likewise of outputs; MODULE.scales [groups,out]; MODULE.g_idx int32 [in], the
// group of each input, which with act-order (desc_act) is any. MODULE.weight [out,in] is scale (q - zero), where the
// file has zero - 1 (of 4 bits) unless checkpoint_format is gptq_v2.
#include "data/models/quantised/bits.h"
#include "data/models/quantised/quantised.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;

namespace {

constexpr std::int64_t in_word = 8;

struct GptqParts {
  const SafetensorsEntry *weight, *zeros, *scales, *groups;
  int zero_offset = 0;
};

class Gptq final : public QuantisedTensor {
 public:
  explicit Gptq(const GptqParts& parts)
      : QuantisedTensor({parts.weight->shape[1], parts.weight->shape[0] * in_word}, DType::F32), parts_(parts) {}

 private:
  void values(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const override {
    const std::int64_t outputs = shape()[0];
    for_each_place(shape()[1], first, stride, count, [&](std::int64_t row, std::int64_t column, std::int64_t i) {
      const std::int64_t group = number_at<std::int32_t>(*parts_.groups, column);
      const int q = nibble_at(*parts_.weight, column / in_word * outputs + row, column % in_word);
      const int zero = nibble_at(*parts_.zeros, group * (outputs / in_word) + row / in_word, row % in_word);
      const int moved = (zero + parts_.zero_offset) & 15;
      out[i] = scale_at(*parts_.scales, group * outputs + row) * static_cast<float>(q - moved);
    });
  }

  GptqParts parts_;
};

void read_module(QuantisedParts& parts, const std::string& module, int zero_offset) {
  const std::string name = module + ".weight";
  const std::string& where = parts.where();
  GptqParts of{};
  of.zero_offset = zero_offset;
  of.weight = &parts.take(module + ".qweight", name, DType::I32);
  check(of.weight->shape.rank() == 2 && of.weight->shape[1] % in_word == 0,
        "{}: tensor {}.qweight has shape {}, expected [in/8,out] with out in eights", where, module, of.weight->shape);
  const std::int64_t inputs = of.weight->shape[0] * in_word, outputs = of.weight->shape[1];
  of.scales = &parts.take_scales(module + ".scales", name, outputs);
  const std::int64_t groups = of.scales->shape[0];
  of.zeros = &parts.take(module + ".qzeros", name, DType::I32, {groups, outputs / in_word});
  of.groups = &parts.take(module + ".g_idx", name, DType::I32, {inputs});
  for (std::int64_t i = 0; i < inputs; ++i) {
    const std::int64_t group = number_at<std::int32_t>(*of.groups, i);
    check(group >= 0 && group < groups, "{}: tensor {}.g_idx has {} at [{}], expected 0 to {}", where, module, group, i,
          groups - 1);
  }
  parts.add(name, std::make_shared<Gptq>(of));
}

}  // namespace

void read_gptq(QuantisedParts& parts) {
  const ConfigFields& config = parts.config();
  config.expect("bits", 4);
  const auto format = config.json().value("checkpoint_format", ConfigFields::Json("gptq"));
  check(format == "gptq" || format == "gptq_v2", "{}: checkpoint_format is {}, expected gptq or gptq_v2",
        config.where(), format.dump());
  for (const std::string& module : parts.names_with(".qweight")) read_module(parts, module, format == "gptq" ? 1 : 0);
}

}  // namespace limbeck::data
