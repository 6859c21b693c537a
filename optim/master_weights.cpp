#include "optim/master_weights.h"

#include <fmt/format.h>

#include "core/ops/packed_weight.h"

namespace limbeck::optim {

using core::DType;
using core::Tensor;

MasterWeights::MasterWeights(const Fragment& fragment)
    : fragment_(fragment), is_narrow_(parameter().value.dtype() == DType::BF16) {}

void MasterWeights::fill() {
  if (!is_narrow_ || master_.defined()) return;
  const core::Shape shape = fragment_.is_whole() ? parameter().value.shape() : core::Shape{fragment_.length};
  Tensor flat = parameter().value.reshape({parameter().value.numel()});
  master_ = flat.rows(fragment_.offset, fragment_.length).to(DType::F32).reshape(shape);
}

core::bf16* MasterWeights::rounded() {
  Tensor rounded = is_narrow_ ? parameter().value : core::rounded_to_write(parameter().value);
  return rounded.defined() ? rounded.mutable_data<core::bf16>() + fragment_.offset : nullptr;
}

void MasterWeights::note_step() {
  core::dispatch_float("step", dtype(), [&]<class T>() { to_step<T>(); });
  rounded();
}

void MasterWeights::add_to(core::StateDict& state) const {
  if (!is_narrow_) return;
  const core::Parameter& p = parameter();
  core::StateEntry entry = p.entry(core::outline(p.value, DType::F32));
  entry.make = [this] { return master_.defined() ? master_ : parameter().value.to(DType::F32); };
  state[fmt::format("optimizer/{}/master", p.name)] = std::move(entry);
}

void MasterWeights::load(const core::StateReader& reader) {
  const core::Parameter& p = parameter();
  const std::string name = fmt::format("optimizer/{}/master", p.name);
  const bool has_master = reader.tensors().contains(name);
  if (!is_narrow_ && !has_master) return;
  fill();
  core::StateEntry entry = p.entry(is_narrow_ ? master_ : p.value);
  reader.read(has_master ? name : p.name, entry);
}

}  // namespace limbeck::optim
