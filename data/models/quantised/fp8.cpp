// Block-scaled FP8 of DeepSeek-V3 (arXiv 2412.19437, 3.3.2): NAME is e4m3 [N,M], and NAME_scale_inv float32 the factor
// of each block of weight_block_size rows and columns, of which the last of a matrix may be smaller.
#include "core/nn/model_config.h"
#include "data/models/quantised/bits.h"
#include "data/models/quantised/quantised.h"
#include "kernels/e4m3.h"

namespace limbeck::data {

using core::check;
using core::DType;

namespace {

struct Block {
  std::int64_t rows = 128, columns = 128;
};

class Fp8 final : public QuantisedTensor {
 public:
  Fp8(const SafetensorsEntry& codes, const SafetensorsEntry& factors, const Block& block)
      : QuantisedTensor(codes.shape, DType::F32), codes_(codes), factors_(factors), block_(block) {}

 private:
  void values(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const override {
    const std::int64_t columns = shape()[1], blocks = factors_.shape[1];
    for_each_place(columns, first, stride, count, [&](std::int64_t row, std::int64_t column, std::int64_t i) {
      const auto code = number_at<kernels::e4m3>(codes_, row * columns + column);
      const std::int64_t block = row / block_.rows * blocks + column / block_.columns;
      out[i] = static_cast<float>(code) * number_at<float>(factors_, block);
    });
  }

  const SafetensorsEntry &codes_, &factors_;
  Block block_;
};

Block read_block(const ConfigFields& config) {
  if (!config.has("weight_block_size")) return {};
  const auto& size = config.json()["weight_block_size"];
  const auto is_extent = [&](std::size_t i) {
    return size[i].is_number_integer() && size[i] > 0 && size[i] <= nn::ModelLimits::width;
  };
  check(size.is_array() && size.size() == 2 && is_extent(0) && is_extent(1),
        "{}: weight_block_size is {}, expected the rows and columns of a block", config.where(), size.dump());
  return {size[0].get<std::int64_t>(), size[1].get<std::int64_t>()};
}

}  // namespace

void read_fp8(QuantisedParts& parts) {
  constexpr const char* behind = "_scale_inv";
  parts.config().expect("fmt", "e4m3");
  const Block block = read_block(parts.config());
  std::vector<std::string> names;
  for (const auto& [name, entry] : parts.entries())
    if (entry->is_e4m3) names.push_back(name);
  for (const std::string& name : names) {
    const SafetensorsEntry& codes = parts.take(name, name, DType::U8);
    check(codes.shape.rank() == 2, "{}: tensor {} of float8 has shape {}, expected a matrix", parts.where(), name,
          codes.shape);
    const core::Shape blocks = {(codes.shape[0] + block.rows - 1) / block.rows,
                                (codes.shape[1] + block.columns - 1) / block.columns};
    parts.add(name, std::make_shared<Fp8>(codes, parts.take(name + behind, name, DType::F32, blocks), block));
  }
}

}  // namespace limbeck::data
