// The parameters of a model: made where the mesh wants them, at addresses that stay.
//
//     ParameterSet parameters({.memory = memory});
//     Parameter& up = parameters.add("up.weight", {256, 64});              // whole, on this rank alone
//     init_normal(up, /*deviation=*/0.02, /*seed=*/1);
//     AdamW adamw(whole_fragments(parameters.list()), {});
//     parameters.forget_gradients();                                       // before each step's backward
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "core/parameter.h"

namespace limbeck::core {

/// Where a parameter lies: fills in placement and first_replica (parallel/axes/mesh.h, place).
using PlacementRule = std::function<void(Parameter&, const Cut&)>;

struct ParameterOptions {
  MemoryPtr memory;
  DType dtype = DType::F32;        // BF16: of matrices alone; vectors such as norms are then float32
  bool frozen = false;             // without slots
  PlacementRule place = {};        // none: this rank holds everything
  bool matrices_are_lent = false;  // and have no memory of their own (StateReader::lend)
  bool filled_later = false;       // values have no memory until it is refilled
};

class ParameterSet {
 public:
  explicit ParameterSet(ParameterOptions options) : options_(std::move(options)) {}
  ParameterSet(const ParameterSet&) = delete;
  ParameterSet& operator=(const ParameterSet&) = delete;

  /// This rank's part, uninitialised.
  Parameter& add(const std::string& name, const Shape& global_shape, const Cut& cut = {}, bool decays = true);
  /// The same of what no gradient flows into, in a model that is trained too.
  Parameter& add_frozen(const std::string& name, const Shape& global_shape, const Cut& cut = {});

  /// Where those lie that are added from here on.
  void set_memory(MemoryPtr memory) { options_.memory = std::move(memory); }

  /// In the order in which they were added.
  ParameterList list();
  /// Gradients are to begin at zero again. Where they are reduced over ranks, GradientSync::begin_step does it.
  void forget_gradients();

 private:
  ParameterOptions options_;
  std::deque<Parameter> parameters_;
};

/// Normal numbers around 0, a function of seed, name and global index alone: the same in every layout.
void init_normal(Parameter& p, double deviation, std::uint64_t seed);

}  // namespace limbeck::core
