#include "core/state_dict.h"

#include <algorithm>
#include <cmath>

#include "kernels/blocks.h"

namespace limbeck::core {

namespace {

/// What the reader says of the tensor; throws unless the name is there, the global shape is as asked, and the box lies
/// in it.
const StateInfo& checked_info(const StateReader& reader, const std::string& name, const StateEntry& entry) {
  const auto found = reader.tensors().find(name);
  check(found != reader.tensors().end(), "{}: has no tensor {} (expected shape {})", reader.source(), name,
        entry.global_shape);
  const Shape& shape = found->second.shape;
  check(shape == entry.global_shape, "{}: {} has shape {}, expected {}", reader.source(), name, shape,
        entry.global_shape);
  const Shape& box = entry.tensor.shape();
  bool inside = box.rank() == shape.rank() && static_cast<int>(entry.offset.size()) == shape.rank();
  for (int i = 0; inside && i < shape.rank(); ++i)
    inside = entry.offset[i] >= 0 && box[i] <= shape[i] && entry.offset[i] <= shape[i] - box[i];
  check(inside, "{}: {} has shape {}, which has no box {} at [{}]", reader.source(), name, shape, box,
        fmt::join(entry.offset, ","));
  return found->second;
}

/// The first of `count` values whose exponent, the bits of `mask`, is all ones: infinite or NaN; `count` if none is.
template <class Bits>
std::int64_t first_not_finite(const void* values, Bits mask, std::int64_t count) {
  constexpr std::int64_t block = 4096;  // looked through without a branch, which vector instructions do
  const auto* bits = static_cast<const Bits*>(values);
  for (std::int64_t begin = 0; begin < count; begin += block) {
    const std::int64_t end = std::min(begin + block, count);
    Bits found = 0;
    for (std::int64_t i = begin; i < end; ++i) found |= static_cast<Bits>((bits[i] & mask) == mask ? 1 : 0);
    if (found == 0) continue;
    return std::find_if(bits + begin, bits + end, [&](Bits b) { return (b & mask) == mask; }) - bits;
  }
  return count;
}

/// Throws, naming the place of the first value that is infinite or NaN.
void check_finite(const StateReader& reader, const std::string& name, std::vector<std::int64_t> place,
                  const Tensor& tensor) {
  std::int64_t index = first_not_finite(tensor);
  if (index == tensor.numel()) return;
  for (int i = tensor.shape().rank() - 1; i >= 0; --i) {
    place[i] += index % tensor.shape()[i];
    index /= tensor.shape()[i];
  }
  fail("{}: {} holds NaN or an infinity at [{}], expected finite numbers", reader.source(), name,
       fmt::join(place, ","));
}

}  // namespace

std::int64_t first_not_finite(const Tensor& tensor) {
  const std::int64_t count = tensor.numel();
  if (const auto format = block_format(tensor.dtype())) {
    const std::int64_t elements = kernels::size_of(*format).elements;
    return elements * kernels::first_not_finite({*format, tensor.host_raw()}, count / elements);
  }
  switch (tensor.dtype()) {
    case DType::F32:
      return first_not_finite<std::uint32_t>(tensor.host_raw(), 0x7f800000U, count);
    case DType::F64:
      return first_not_finite<std::uint64_t>(tensor.host_raw(), 0x7ff0000000000000U, count);
    case DType::BF16:
      return first_not_finite<std::uint16_t>(tensor.host_raw(), 0x7f80U, count);
    default:
      return count;
  }
}

void StateReader::read(const std::string& name, StateEntry& entry) const {
  const StateInfo& info = checked_info(*this, name, entry);
  if (entry.tensor.numel() == 0) return;
  const MemoryPtr host = entry.tensor.memory()->host();
  StateEntry there = entry;
  if (host != entry.tensor.memory()) there.tensor = Tensor::empty(host, entry.tensor.dtype(), entry.tensor.shape());
  fill(name, info, there);
  check_finite(*this, name, there.offset, there.tensor);
  if (host != entry.tensor.memory()) entry.tensor.copy_from(there.tensor);
}

std::optional<Tensor> StateReader::lend(const std::string& name, const StateEntry& entry,
                                        const MemoryPtr& memory) const {
  const StateInfo& info = checked_info(*this, name, entry);
  if (entry.tensor.numel() == 0) return std::nullopt;
  const std::optional<Tensor> lent = lend_box(name, info, entry, memory->host());
  if (!lent) return std::nullopt;
  check_finite(*this, name, entry.offset, *lent);
  return lent->in(memory);
}

}  // namespace limbeck::core
