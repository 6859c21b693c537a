// What an optimizer steps on: a range of a parameter's local value, flattened. One fragment a parameter is the whole
// of it; where optimizer state is sharded, a rank has the ranges it owns and the optimizers do not know.
//
//     AdamW adamw(whole_fragments(model.trainable()), {});
//     AdamW sharded({{&weight, /*offset=*/4096, /*length=*/4096}}, {});
//     core::StateEntry entry = fragments[0].entry(moment);      // for a checkpoint, which knows of boxes alone
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "core/comm.h"
#include "core/parameter.h"

namespace limbeck::optim {

/// The ranks among which a value is dealt (core/share.h).
struct Sharers {
  core::Comm* ranks = nullptr;  // null: it is not dealt
  bool writes = false;          // whether this rank writes its share, of those that have the same one
  bool gradients = false;       // of the gradient this rank has its share alone
  core::Tensor value = {};      // where the values of its share lie, [length]; undefined: in the parameter's
};

struct Fragment {
  core::Parameter* parameter = nullptr;
  std::int64_t offset = 0;  // elements, in the flattened local value
  std::int64_t length = 0;
  double rate_factor = 1;                   // of a step's learning rate
  std::optional<double> weight_decay = {};  // in place of the optimizer's
  Sharers sharers = {};                     // who has the rest of the value
  /// Where what an optimizer keeps beside the value lies (core::offload_memory), and kernels read and write it; null:
  /// where the value is.
  core::MemoryPtr kept_in = {};

  bool is_whole() const { return offset == 0 && length == parameter->value.numel(); }
  /// Of what is kept of each of its elements: as it lies in the value where it is a box of it, else [length].
  core::Shape shape() const;
  /// A tensor of that shape in the global value. Throws where the fragment is no box.
  core::StateEntry entry(const core::Tensor& tensor) const;
  /// Its values, of that shape.
  core::Tensor value() const;
  /// The gradient's elements [length]; undefined where there is none.
  core::Tensor gradient() const;
  const core::MemoryPtr& memory_of_kept() const { return kept_in ? kept_in : parameter->value.memory(); }
  bool is_offloaded() const { return memory_of_kept() != parameter->value.memory(); }
  /// Until the host may read and write what is offloaded: the device's kernels may be at it. Else nothing.
  void wait_for_kernels() const;
};

/// Told what is kept of a fragment's elements, `kept`: its part, flattened, of `whole`, where the local value is a
/// stack as many numbers for each of its matrices.
using KeptOf = std::function<void(const Fragment& fragment, const core::Tensor& kept, const core::Shape& whole)>;

/// A rank's share of a value that is dealt, or all of it.
Fragment fragment_of(core::Parameter& parameter, const Sharers& sharers);

/// One fragment a parameter, in the order of the list.
std::vector<Fragment> whole_fragments(const core::ParameterList& parameters);

/// Throws, naming `who` and the parameter, where a fragment's is not trainable, where it lies outside of it, and where
/// two overlap (a tied parameter that is listed twice would be stepped twice).
void check_fragments(std::string_view who, const std::vector<Fragment>& fragments);

/// Throws, naming `who` and the parameter, if it is frozen, neither float32, float64 nor bfloat16, or has a gradient of
/// another number of elements or dtype than its value (of bfloat16 values: float32).
void check_trainable(std::string_view who, const Fragment& fragment);

}  // namespace limbeck::optim
