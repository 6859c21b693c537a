#include "optim/clip.h"

#include <algorithm>
#include <cmath>

#include "kernels/sums.h"
#include "optim/fragment.h"

namespace limbeck::optim {

using core::Tensor;

GradientNorm gradient_norm(const core::ParameterList& parameters, core::Comm& world, double clip) {
  core::check(clip >= 0, "gradient_norm: clip is {}, expected 0 or more", clip);
  for (const core::Parameter* p : parameters) check_trainable("gradient_norm", *p);
  GradientNorm result;
  if (parameters.empty()) return result;

  const auto num_parameters = static_cast<std::int64_t>(parameters.size());
  Tensor squares = Tensor::zeros(parameters.front()->value.memory(), core::DType::F64, {num_parameters});
  double* sums = squares.mutable_data<double>();
  for (const core::Parameter* p : parameters) {
    double* sum = sums++;
    if (!p->first_replica || !p->slot->has_grad) continue;
    const Tensor& grad = p->slot->grad;
    core::dispatch_float("gradient_norm", grad.dtype(), [&]<class T>() {
      core::on_device(grad,
                      [&](const auto& device) { kernels::sum_of_squares(device, grad.data<T>(), grad.numel(), sum); });
    });
  }
  world.all_reduce(squares, core::Reduce::Sum);

  double total = 0;
  const std::vector<double> by_parameter = core::host_values<double>(squares);
  for (std::size_t i = 0; i < by_parameter.size(); ++i) {
    total += by_parameter[i];
    const std::string& name = parameters[i]->name;
    if (!std::isfinite(by_parameter[i]) && (result.not_finite.empty() || name < result.not_finite))
      result.not_finite = name;
  }
  result.norm = std::sqrt(total);
  if (clip > 0 && result.norm > clip && std::isfinite(result.norm)) result.factor = clip / result.norm;
  return result;
}

}  // namespace limbeck::optim
