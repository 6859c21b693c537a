// Layers of a frozen model whose values stay in the host's memory: a device has those of the layer that runs and of the
// next one, which travel beside its kernels. They are copied as they are, blocks of a quantised model as blocks.
//
//     HostLayers layers(model.parameters(), memory);        // which lie in offload_memory(memory)
//     model.set_weights({.layers = &layers});
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/nn/layers_ahead.h"
#include "kernels/copy_queue.h"

namespace limbeck::nn {

class HostLayers final : public LayersAhead {
 public:
  /// Of the layers' parameters those whose values lie elsewhere than in `memory`, a device's: what they have is kept
  /// there, mapped files are copied, and the values themselves lie in `memory` from here on, empty while their layer
  /// does not run. The parameters must outlive this.
  HostLayers(const core::ParameterList& parameters, const core::MemoryPtr& memory);

  /// Of the host's memory.
  std::int64_t bytes() const { return bytes_; }

 private:
  struct Value {
    core::Tensor here;   // the parameter's own
    core::Tensor there;  // on the host
  };
  void start(std::size_t layer) override;
  void finish(std::size_t layer) override;
  void let_go(std::size_t layer) override;

  std::vector<std::vector<Value>> layers_;
  std::int64_t bytes_ = 0;
  std::optional<std::size_t> under_way_;
  kernels::CopyQueuePtr copies_;  // null in a memory that holds nothing
};

}  // namespace limbeck::nn
