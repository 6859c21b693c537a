#include "optim/master_weights.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/ops/packed_weight.h"

namespace limbeck::optim {

using core::DType;
using core::Tensor;

MasterWeights::MasterWeights(const Fragment& fragment)
    : fragment_(fragment), is_narrow_(parameter().value.dtype() == DType::BF16) {
  core::check(!is_rounded_by_host() || (fragment_.is_whole() && parameter().value.dtype() == DType::F32),
              "master weights: {} is rounded by the host, expected all of it, in float32", parameter().name);
}

void MasterWeights::fill() {
  if (!has_master() || master_.defined()) return;
  const core::Shape shape = fragment_.is_whole() ? parameter().value.shape() : core::Shape{fragment_.length};
  Tensor flat = parameter().value.reshape({parameter().value.numel()});
  master_ = flat.rows(fragment_.offset, fragment_.length).to(DType::F32).reshape(shape);
}

void MasterWeights::begin() {
  fill();
  finish_step();
}

void MasterWeights::finish_step() {
  if (!is_rounded_by_host()) return;
  core::Parameter& p = parameter();
  Tensor values = Tensor::empty(p.value.memory()->host(), DType::F32, p.value.shape());
  values.copy_from(master_);
  p.rounding({values.mutable_host<float>(), static_cast<std::size_t>(values.numel())});
  p.value.copy_from(values);
}

core::bf16* MasterWeights::rounded() {
  if (is_rounded_by_host()) return nullptr;
  Tensor rounded = is_narrow_ ? parameter().value : core::rounded_to_write(parameter().value);
  return rounded.defined() ? rounded.mutable_data<core::bf16>() + fragment_.offset : nullptr;
}

void MasterWeights::note_step() {
  core::dispatch_float("step", dtype(), [&]<class T>() { to_step<T>(); });
  rounded();
}

void MasterWeights::add_to(core::StateDict& state) const {
  if (!has_master()) return;
  const core::Parameter& p = parameter();
  core::StateEntry entry = p.entry(core::outline(p.value, DType::F32));
  entry.make = [this] { return master_.defined() ? master_ : parameter().value.to(DType::F32); };
  state[fmt::format("optimizer/{}/master", p.name)] = std::move(entry);
}

void MasterWeights::load(const core::StateReader& reader) {
  const core::Parameter& p = parameter();
  const std::string name = fmt::format("optimizer/{}/master", p.name);
  const bool is_there = reader.tensors().contains(name);
  if (!has_master() && !is_there) return;
  fill();
  core::StateEntry entry = p.entry(has_master() ? master_ : p.value);
  reader.read(is_there ? name : p.name, entry);
  finish_step();
}

}  // namespace limbeck::optim
