#include "core/ops/cosine.h"

#include <numeric>

#include "kernels/cosine.h"

namespace limbeck::core {

double cosine_distance(const Tensor& x, const Tensor& y) {
  check(x.shape().rank() == 2, "cosine_distance: x has shape {}, expected [T,C]", x.shape());
  check(y.shape() == x.shape(), "cosine_distance: y has shape {}, expected {} as x", y.shape(), x.shape());
  check(y.dtype() == x.dtype(), "cosine_distance: y is {}, expected {} as x", y.dtype(), x.dtype());
  Tensor distance = Tensor::empty(x.memory(), DType::F64, {x.shape()[0]});
  dispatch_activation("cosine_distance", x.dtype(), [&]<class T>() {
    on_device(x, [&](const auto& device) {
      kernels::cosine_distance(device, x.data<T>(), y.data<T>(), distance.mutable_data<double>(), x.shape()[0],
                               x.shape()[1]);
    });
  });
  const auto values = host_values<double>(distance);
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace limbeck::core
