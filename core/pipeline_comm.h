// What a model whose layers lie on several ranks needs of the others, beside core/communicators.h.
#pragma once

#include <cstdint>
#include <memory>

#include "core/comm.h"
#include "core/tensor.h"

namespace limbeck::nn {

using core::Tensor;

/// The ranks that have the other layers of a model, of the same tokens: the stages of a pipeline. What one stage sends
/// to another arrives in the order in which it is sent, each kind for itself.
class PipelineComm {
 public:
  enum class Kind : std::uint8_t {
    Stream,    // to the next stage, round the ring,
    Gradient,  // to the one before,
    Taught,    // and what a teacher says, from any stage to another
  };
  virtual ~PipelineComm() = default;
  virtual std::int64_t size() const = 0;
  virtual std::int64_t rank() const = 0;
  virtual void sum(Tensor& x) = 0;  // in place; not differentiable: what one stage knows, of zeros elsewhere
  /// Does not wait until it is taken; x is not written any more. Between GPUs the kernels that are queued once the
  /// handle has gone begin when it has been taken: whoever lets go of it knows that this waits for nothing of his own.
  [[nodiscard]] virtual core::CommHandle send(Kind kind, const Tensor& x, std::int64_t to) = 0;
  /// Fills x, of what was sent in its shape.
  [[nodiscard]] virtual core::CommHandle start_receiving(Kind kind, const Tensor& x, std::int64_t from) = 0;
  void receive(Kind kind, const Tensor& x, std::int64_t from) { start_receiving(kind, x, from).wait(); }
};

/// One stage alone; it lives as long as the program.
const std::shared_ptr<PipelineComm>& single_pipeline();

}  // namespace limbeck::nn
