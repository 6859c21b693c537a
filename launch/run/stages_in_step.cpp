#include "launch/run/stages_in_step.h"

namespace limbeck::launch {

void StagesInStep::next() {
  const std::int64_t stages = rank_.pipeline().size();
  if (stages == 1 || pieces_++ % (2 * stages) != 0) return;
  core::Tensor nothing = core::Tensor::zeros(rank_.host_memory(), core::DType::F64, {1});
  rank_.pipeline().sum(nothing);
}

}  // namespace limbeck::launch
