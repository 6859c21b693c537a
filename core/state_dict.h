// How parameters and optimizer state are spoken of between the parts: by name, global shape and the slice that a rank
// holds. Files, converters and checkpoints see nothing else, so nothing there knows about parallelism.
//
//     StateDict state = model.state_dict();
//     reader.read("layers.3.moe.experts.gate", state.at("layers.3.moe.experts.gate"));
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace limbeck::core {

/// A box of a global tensor: `tensor` covers [offset, offset + tensor.shape()) of `global_shape`. What is kept in
/// another form (8 bits) is made when it is read: `make` makes it, and `tensor` is its outline.
struct StateEntry {
  Shape global_shape;
  std::vector<std::int64_t> offset;  // one a dimension
  Tensor tensor;
  bool write = true;  // exactly one rank of those that hold the same box writes it
  std::function<Tensor()> make = {};

  Tensor value() const { return make ? make() : tensor; }

  /// An entry that is the whole tensor.
  static StateEntry whole(Tensor tensor) {
    return {tensor.shape(), std::vector<std::int64_t>(static_cast<std::size_t>(tensor.shape().rank()), 0), tensor,
            true};
  }
};

using StateDict = std::map<std::string, StateEntry>;

/// What a file says of a tensor it holds.
struct StateInfo {
  Shape shape;  // global
  DType dtype = DType::F32;
};

/// Named tensors somewhere: a checkpoint, a Hugging Face directory, a GGUF file. Names are Limbeck's module paths.
class StateReader {
 public:
  virtual ~StateReader() = default;
  /// Where the tensors come from, for messages.
  virtual std::string source() const = 0;
  virtual const std::map<std::string, StateInfo>& tensors() const = 0;
  /// Fills entry.tensor (float32, float64 or bfloat16: converted) with its box; throws where the name is missing or the
  /// global shape is another, naming source, tensor and both shapes.
  virtual void read(const std::string& name, StateEntry& entry) const = 0;
};

/// What every reader checks first: the name is there, the global shape is as asked, the box lies in it. Returns what
/// the reader says of the tensor.
inline const StateInfo& check_entry(const StateReader& reader, const std::string& name, const StateEntry& entry) {
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

}  // namespace limbeck::core
