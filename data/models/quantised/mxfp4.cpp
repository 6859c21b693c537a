// MXFP4 of gpt-oss: blocks of 32 values of 4 bits with a power of two each (OCP Microscaling Formats 1.0).
//
// NAME_blocks uint8 [E,N,G,16], two values a byte, the low half first, and NAME_scales uint8 [E,N,G] are NAME [E,32
// G,N], the transposed matrices that the unquantised checkpoint has.
#include <algorithm>
#include <cmath>
#include <limits>

#include "data/models/quantised/quantised.h"
#include "kernels/block_values.h"
#include "kernels/blocks.h"

namespace limbeck::data {

using core::DType;
using core::Shape;

namespace {

constexpr std::int64_t block = 32, packed = 16;

class Mxfp4 final : public QuantisedTensor {
 public:
  Mxfp4(const SafetensorsEntry& blocks, const SafetensorsEntry& scales)
      : QuantisedTensor({scales.shape[0], scales.shape[2] * block, scales.shape[1]}, DType::MXFP4),
        blocks_(blocks.data),
        scales_(scales.data) {}

  bool read_blocks(std::int64_t first, std::int64_t stride, std::int64_t count, std::byte* out) const override {
    const Place at = place_of(first);
    if (stride != rows() || at.k % block != 0 || count % block != 0 || at.k + count > width()) return false;
    const std::int64_t begin = block_of(at);
    for (std::int64_t i = 0; i < count / block; ++i, out += 1 + packed) repack(begin + i, out);
    return true;
  }

 private:
  struct Place {
    std::int64_t expert, k, row;
  };
  std::int64_t width() const { return shape()[1]; }
  std::int64_t rows() const { return shape()[2]; }
  Place place_of(std::int64_t index) const {
    const std::int64_t of_expert = index % (width() * rows());
    return {index / (width() * rows()), of_expert / rows(), of_expert % rows()};
  }
  std::int64_t block_of(const Place& at) const {
    return (at.expert * rows() + at.row) * (width() / block) + at.k / block;
  }
  /// As ggml has it: the scale, then 16 bytes of value i and, above it, value 16 + i.
  void repack(std::int64_t index, std::byte* out) const {
    const std::byte* pairs = blocks_ + index * packed;
    const auto value = [&](int i) { return i % 2 == 0 ? pairs[i / 2] & std::byte{15} : pairs[i / 2] >> 4; };
    out[0] = scales_[index];
    for (int i = 0; i < packed; ++i) out[1 + i] = value(i) | value(packed + i) << 4;
  }
  void expand(std::int64_t index, float (&out)[block]) const {
    std::byte bytes[1 + packed];
    repack(index, bytes);
    const kernels::Blocks blocks{kernels::BlockFormat::MXFP4, bytes};
    kernels::expand(blocks, 1, out);
    if (kernels::first_not_finite(blocks, 1) == 0) std::fill_n(out, block, std::numeric_limits<float>::quiet_NaN());
  }
  void values(std::int64_t first, std::int64_t stride, std::int64_t count, float* out) const override {
    float values[block];
    std::int64_t expanded = -1;
    for (std::int64_t i = 0; i < count; ++i) {
      const Place at = place_of(first + i * stride);
      if (const std::int64_t index = block_of(at); index != expanded) expand(expanded = index, values);
      out[i] = values[at.k % block];
    }
  }

  const std::byte *blocks_, *scales_;
};

}  // namespace

void read_mxfp4(QuantisedParts& parts) {
  for (const std::string& name : parts.names_with("_blocks")) {
    const SafetensorsEntry& blocks = parts.take(name + "_blocks", name, DType::U8);
    core::check(blocks.shape.rank() == 4 && blocks.shape[3] == packed,
                "{}: tensor {}_blocks has shape {}, expected [E,N,G,{}]", parts.where(), name, blocks.shape, packed);
    const Shape scales(blocks.shape.extents().first(3));
    parts.add(name, std::make_shared<Mxfp4>(blocks, parts.take(name + "_scales", name, DType::U8, scales)));
  }
}

}  // namespace limbeck::data
