#include "optim/master_weights.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/ops/packed_weight.h"

namespace limbeck::optim {

using core::DType;
using core::Tensor;

MasterWeights::MasterWeights(const Fragment& fragment)
    : fragment_(fragment), is_narrow_(parameter().value.dtype() == DType::BF16) {
  const core::Shape& shape = parameter().value.shape();
  core::check(!is_rounded_by_host() || (parameter().value.dtype() == DType::F32 &&
                                        fragment_.shape()[shape.rank() - 1] == shape[shape.rank() - 1]),
              "master weights: {} is rounded by the host, expected whole rows of it, in float32", parameter().name);
}

void MasterWeights::fill() {
  if (!has_master() || master_.defined()) return;
  master_ = fragment_.value().to(DType::F32).in(fragment_.memory_of_kept());
}

void MasterWeights::begin() {
  fill();
  finish_step();
}

void MasterWeights::finish_step() {
  if (!is_rounded_by_host()) return;
  fragment_.wait_for_kernels();
  const core::Parameter& p = parameter();
  Tensor values = Tensor::empty(p.value.memory()->host(), DType::F32, master_.shape());
  values.copy_from(master_);
  p.rounding({values.mutable_host<float>(), static_cast<std::size_t>(values.numel())});
  fragment_.value().copy_from(values);
}

core::bf16* MasterWeights::rounded() {
  // What a device keeps is of all of the value, and serves no more where the rest of it comes from other ranks.
  if (is_rounded_by_host() || (!is_narrow_ && !fragment_.is_whole())) return nullptr;
  Tensor rounded = is_narrow_ ? fragment_.value() : core::rounded_to_write(parameter().value);
  return rounded.defined() ? rounded.mutable_data<core::bf16>() : nullptr;
}

void MasterWeights::note_step() {
  core::dispatch_float("step", dtype(), [&]<class T>() { to_step<T>(); });
  rounded();
}

void MasterWeights::add_to(core::StateDict& state) const {
  if (!has_master()) return;
  core::StateEntry entry = fragment_.entry(core::outline(fragment_.value(), DType::F32));
  entry.make = [this] {
    fragment_.wait_for_kernels();
    return master_.defined() ? master_ : fragment_.value().to(DType::F32);
  };
  state[fmt::format("optimizer/{}/master", parameter().name)] = std::move(entry);
}

void MasterWeights::load(const core::StateReader& reader) {
  const core::Parameter& p = parameter();
  const std::string name = fmt::format("optimizer/{}/master", p.name);
  const bool is_there = reader.tensors().contains(name);
  if (!has_master() && !is_there) return;
  fill();
  fragment_.wait_for_kernels();
  core::StateEntry entry = fragment_.entry(has_master() ? master_ : fragment_.value());
  reader.read(is_there ? name : p.name, entry);
  finish_step();
}

}  // namespace limbeck::optim
