// What objectives do where a vocabulary is cut over ranks.
//
//     reduce_maxima(device, chunk.vocabulary, maxima, indices);
#pragma once

#include "core/communicators.h"
#include "kernels/distillation.h"
#include "kernels/elementwise.h"

namespace limbeck::optim {

/// Maxima [..] of each part become those of all, and indices [..], the lowest of each part, the lowest over the parts
/// whose maximum that is.
template <class D>
void reduce_maxima(const D& device, nn::TensorComm& comm, core::Tensor& maxima, core::Tensor& indices) {
  if (comm.size() == 1) return;
  const std::int64_t n = indices.numel();
  const core::Tensor own = maxima.clone();
  comm.max(maxima);
  // By a maximum of negated indices.
  kernels::negate_where_maximal(device, own.data<double>(), maxima.data<double>(), indices.mutable_data<double>(), n);
  comm.max(indices);
  kernels::scale(device, indices.data<double>(), -1.0, indices.mutable_data<double>(), n);
}

}  // namespace limbeck::optim
