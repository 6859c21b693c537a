// How parameters and optimizer state are spoken of between the parts: by name, global shape and the slice that a rank
// holds. Files, converters and checkpoints see nothing else, so nothing there knows about parallelism.
//
//     StateDict state = model.state_dict();
//     reader.read("layers.3.moe.experts.gate", state.at("layers.3.moe.experts.gate"));
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
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

  /// On the host.
  Tensor value() const {
    const Tensor t = make ? make() : tensor;
    return t.in(t.memory()->host());
  }

  /// An entry that is the whole tensor.
  static StateEntry whole(Tensor tensor) {
    return {tensor.shape(), std::vector<std::int64_t>(static_cast<std::size_t>(tensor.shape().rank()), 0), tensor,
            true};
  }
};

using StateDict = std::map<std::string, StateEntry>;

/// Whether a name is of a model's parameter: what a run keeps beside its model is SECTION/NAME, as in
/// optimizer/norm.weight/exp_avg.
inline bool is_of_model(std::string_view name) { return name.find('/') == std::string_view::npos; }

/// What a file says of a tensor it holds.
struct StateInfo {
  Shape shape;  // global
  DType dtype = DType::F32;
};

/// The first of the values that is infinite or NaN; numel() where none is. Of a tensor on the host.
std::int64_t first_not_finite(const Tensor& tensor);

/// Named tensors somewhere: a checkpoint, a Hugging Face directory, a GGUF file. Names are Limbeck's module paths.
class StateReader {
 public:
  virtual ~StateReader() = default;
  /// Where the tensors come from, for messages.
  virtual std::string source() const = 0;
  virtual const std::map<std::string, StateInfo>& tensors() const = 0;
  /// Fills entry.tensor (float32, float64 or bfloat16: converted), wherever it lies, with its box. Throws, naming
  /// source and tensor, where the name is missing, the global shape is another, or a value is not finite.
  void read(const std::string& name, StateEntry& entry) const;
  /// The box of entry.tensor, of which only the shape counts, in the dtype in which the source keeps it: in memory of
  /// the source where it lies there in this order, else a copy in `memory`. Nothing where the source does not keep it
  /// as a tensor could be (a box that cuts blocks, parts of different dtypes). Throws as read() does.
  std::optional<Tensor> lend(const std::string& name, const StateEntry& entry, const MemoryPtr& memory) const;

 private:
  /// lend() of a box of one element or more that lies in the tensor `info`, to memory of the host.
  virtual std::optional<Tensor> lend_box(const std::string&, const StateInfo&, const StateEntry&,
                                         const MemoryPtr&) const {
    return std::nullopt;
  }
  /// read() of a box of one element or more that lies in the tensor `info`, into a tensor on the host.
  virtual void fill(const std::string& name, const StateInfo& info, StateEntry& entry) const = 0;
};

}  // namespace limbeck::core
