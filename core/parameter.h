// A parameter: its name, global shape, where this rank's part lies in it, its value and its gradient.
//
// The placement is the one source for the slices of checkpoints, gradient reductions, the de-duplicated gradient norm
// and verification. Gradient reductions are sums: objectives divide by global counts.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/state_dict.h"
#include "core/tensor.h"

namespace limbeck::core {

struct Parameter;

/// Where the gradient of a value accumulates. A parameter's slot is pinned: its gradient stays in the same memory (a
/// bucket).
struct Slot {
  Tensor grad;
  bool has_grad = false;           // grad holds a value (else its contents are stale)
  Parameter* parameter = nullptr;  // set for parameters, whose slots are pinned
  bool is_pinned() const { return parameter != nullptr; }
};
using SlotPtr = std::shared_ptr<Slot>;

/// What one mesh axis does to a parameter.
enum class AxisRole : std::uint8_t {
  Sharded,          // every rank of the axis holds a part: `dimension`, `offset`, `length`
  Replicated,       // every rank holds the same; their gradients are equal already
  PartialGradient,  // every rank holds the same; the gradient is the sum over the axis
};

struct AxisPlacement {
  std::string axis;  // a name of the mesh: "dp", "tp", "edp", "ep", "etp"
  AxisRole role = AxisRole::Replicated;
  int dimension = 0;  // for Sharded; uneven parts are allowed
  std::int64_t offset = 0;
  std::int64_t length = 0;
};

/// How a parameter may be cut; the mesh decides into how many parts (parallel/axes/mesh.h, place).
struct Cut {
  int dimension = -1;     // cut by tensor parallelism; -1: the parameter is whole on every rank
  std::int64_t unit = 1;  // in pieces of so many, such as the rows of a group of heads, which stay together
  bool is_expert =
      false;  // stacked experts [E,...]: whole experts go to different ranks, and `dimension` is cut within
  bool sees_share = false;  // if whole: each rank uses it on a share of the tokens, which gives a part of its gradient
};

/// What adapters add to a matrix W (core/nn/adapters.h): scale B A, of a few rows A and columns B.
struct LowRank {
  const Parameter *a, *b;  // [r,in] [out,r]; of a stack of experts [E,r,in] [E,out,r]
  double scale;
};

struct Parameter {
  std::string name;  // module path, the same under every layout
  Shape global_shape;
  std::vector<AxisPlacement> placement;
  Tensor value;                         // this rank's part
  SlotPtr slot;                         // null when frozen
  bool decays = true;                   // weight decay applies (not to norms, biases, routers' biases)
  bool is_stack = false;                // of experts, [E,...]
  bool first_replica = true;            // of the ranks that hold this part, this one writes it and counts it
  Cut cut = {};                         // by which it was placed
  std::optional<LowRank> adapter = {};  // which its layer adds
  /// Of a matrix of which passes see other values than are stepped on: those become these, in rows that lie one behind
  /// the other (optim/master_weights.h).
  std::function<void(std::span<float> values)> rounding = {};

  bool is_frozen() const { return slot == nullptr; }
  /// Whether products read it, or it is a stack of such: else a vector such as a norm's weight, experts' biases [E,F],
  /// or the filters of channels.
  bool is_matrix() const { return decays && global_shape.rank() > (is_stack ? 2 : 1); }
  /// Start of this rank's part in each dimension of the global shape.
  std::vector<std::int64_t> offset() const;
  /// Entry of the value (or of another tensor of the same part, such as a moment or the gradient).
  StateEntry entry(const Tensor& tensor) const { return {global_shape, offset(), tensor, first_replica}; }
};

using ParameterList = std::vector<Parameter*>;

/// Whether a pattern of fnmatch(3) is of the whole name: * (dots too), ?, [0-3]. An empty one is of none.
bool is_of_pattern(const std::string& name, const std::string& pattern);

/// The flat index in the global tensor of the first element of each row of a part, the last dimension being the rows'.
std::vector<std::int64_t> global_rows(const StateEntry& part);
inline std::vector<std::int64_t> global_rows(const Parameter& p) { return global_rows(p.entry(p.value)); }

/// Calls f(i, g) for every element of a part: i its flat index in the part, g that in the global tensor.
template <class F>
void for_each_element(const StateEntry& part, F&& f) {
  std::int64_t i = 0;
  for (const std::int64_t row : global_rows(part))
    for (std::int64_t c = 0; c < part.tensor.shape()[part.tensor.shape().rank() - 1]; ++c) f(i++, row + c);
}
template <class F>
void for_each_element(const Parameter& p, F&& f) {
  for_each_element(p.entry(p.value), f);
}

}  // namespace limbeck::core
