// What objectives have in common of their passes over a chunk of logits.
//
//     reduce_maxima(chunk.vocabulary, maxima, indices);           // where a vocabulary is cut over ranks
//     with_gradient<float>(chunk, [&](auto* gradient) { kernels::logits_gradient(..., gradient, ...); });
#pragma once

#include "core/communicators.h"
#include "core/ops/objective.h"
#include "kernels/distillation.h"
#include "kernels/elementwise.h"

namespace limbeck::optim {

/// Maxima [..] of each part become those of all, and indices [..], the lowest of each part, the lowest over the parts
/// whose maximum that is.
inline void reduce_maxima(nn::TensorComm& comm, core::Tensor& maxima, core::Tensor& indices) {
  if (comm.size() == 1) return;
  const std::int64_t n = indices.numel();
  const core::Tensor own = maxima.clone();
  comm.max(maxima);
  // By a maximum of negated indices.
  core::on_device(indices, [&](const auto& device) {
    kernels::negate_where_maximal(device, own.data<double>(), maxima.data<double>(), indices.mutable_data<double>(), n);
  });
  comm.max(indices);
  core::on_device(indices, [&](const auto& device) {
    kernels::scale(device, indices.data<double>(), -1.0, indices.mutable_data<double>(), n);
  });
}

/// f of where the chunk's gradient goes, a T* or, of float logits, perhaps a bf16*; of a null T* where none is wanted.
template <class T, class F>
void with_gradient(core::LogitsChunk& chunk, F f) {
  if (!chunk.gradient.defined())
    f(static_cast<T*>(nullptr));
  else if (chunk.gradient.dtype() == chunk.student.dtype())
    f(chunk.gradient.mutable_data<T>());
  else if constexpr (std::is_same_v<T, float>)
    f(chunk.gradient.mutable_data<core::bf16>());
}

}  // namespace limbeck::optim
