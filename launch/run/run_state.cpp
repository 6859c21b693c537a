#include "launch/run/run_state.h"

namespace limbeck::launch {

core::StateDict state_of(nn::Transformer* student, const std::vector<optim::Fragment>& fragments,
                         nn::Adapters* adapters, const optim::Optimizer& optimizer) {
  core::StateDict state;
  if (student != nullptr) state = student->state_dict();
  for (const optim::Fragment& f : fragments)
    if (f.sharers.value.defined()) state[f.parameter->name] = f.entry(f.value());
  if (adapters != nullptr) state.merge(adapters->state_dict());
  state.merge(optimizer.state_dict());
  return state;
}

std::int64_t StateCopy::bytes_of(const core::StateDict& state) {
  std::int64_t bytes = 0;
  for (const auto& [name, entry] : state)
    if (entry.write) bytes += entry.tensor.bytes();
  return bytes;
}

const core::StateDict& StateCopy::take(const core::StateDict& state) {
  for (const auto& [name, entry] : state) {
    if (!entry.write) continue;
    const core::Tensor value = entry.make ? entry.make() : entry.tensor;
    core::StateEntry& mine = copy_[name];
    if (!mine.tensor.defined())
      mine = {entry.global_shape, entry.offset, core::Tensor::empty(memory_, value.dtype(), value.shape())};
    mine.tensor.copy_from(value);
  }
  return copy_;
}

bool saves_beside_steps(const TrainConfig& train) {
  const bool saves_early = train.checkpoint_every_steps > 0 && train.checkpoint_every_steps < train.steps;
  return train.save_in_background && (saves_early || !train.keep_best.empty());
}

}  // namespace limbeck::launch
