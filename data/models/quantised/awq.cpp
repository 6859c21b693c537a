// Weights of AWQ (Lin et al. 2023), as AutoAWQ saves them for its "gemm" kernels: 4 bits, whole numbers q in groups of
// inputs with a scale and a zero each.
//
// MODULE.qweight int32 [in,out/8], of which a word has 8 outputs of one input; from the lowest bits on they are outputs
// 0, 2, 4, 6, 1, 3, 5, 7. MODULE.qzeros int32 [groups,out/8] likewise; MODULE.scales [groups,out]. MODULE.weight
// [out,in] is scale (q - zero).
#include "data/models/quantised/bits.h"
#include "data/models/quantised/quantised.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;

namespace {

constexpr std::int64_t in_word = 8;

class Awq final : public QuantisedTensor {
 public:
  Awq(const SafetensorsEntry& weight, const SafetensorsEntry& zeros, const SafetensorsEntry& scales)
      : QuantisedTensor({weight.shape[1] * in_word, weight.shape[0]}, DType::F32),
        weight_(weight),
        zeros_(zeros),
        scales_(scales),
        group_(weight.shape[0] / scales.shape[0]) {}

 private:
  void values(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const override {
    const std::int64_t outputs = shape()[0], words = outputs / in_word;
    for_each_place(shape()[1], first, stride, count, [&](std::int64_t row, std::int64_t column, std::int64_t i) {
      const std::int64_t group = column / group_, of_word = row % in_word;
      const std::int64_t place = of_word / 2 + (of_word % 2 == 0 ? 0 : in_word / 2);
      const int q = nibble_at(weight_, column * words + row / in_word, place);
      const int zero = nibble_at(zeros_, group * words + row / in_word, place);
      out[i] = scale_at(scales_, group * outputs + row) * static_cast<float>(q - zero);
    });
  }

  const SafetensorsEntry &weight_, &zeros_, &scales_;
  std::int64_t group_;
};

void read_module(QuantisedParts& parts, const std::string& module) {
  const std::string name = module + ".weight";
  const SafetensorsEntry& weight = parts.take(module + ".qweight", name, DType::I32);
  check(weight.shape.rank() == 2, "{}: tensor {}.qweight has shape {}, expected [in,out/8]", parts.where(), module,
        weight.shape);
  const std::int64_t inputs = weight.shape[0], words = weight.shape[1];
  const SafetensorsEntry& scales = parts.take_scales(module + ".scales", name, words * in_word);
  const std::int64_t groups = scales.shape[0], said = parts.config().integer_or("group_size", 128);
  check(said == -1 ? groups == 1 : said > 0 && groups == inputs / said && inputs % said == 0,
        "{}: tensor {}.scales has {} groups for {} inputs, expected groups of group_size = {}", parts.where(), module,
        groups, inputs, said);
  const SafetensorsEntry& zeros = parts.take(module + ".qzeros", name, DType::I32, {groups, words});
  parts.add(name, std::make_shared<Awq>(weight, zeros, scales));
}

}  // namespace

void read_awq(QuantisedParts& parts) {
  const ConfigFields& config = parts.config();
  config.expect("bits", 4);
  config.expect("zero_point", true);
  const auto version = config.json().value("version", ConfigFields::Json("gemm"));
  check(version == "gemm" || version == "GEMM", "{}: version is {}, which is not supported: expected gemm",
        config.where(), version.dump());
  for (const std::string& module : parts.names_with(".qweight")) read_module(parts, module);
}

}  // namespace limbeck::data
