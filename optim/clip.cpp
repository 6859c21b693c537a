#include "optim/clip.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/exchanges_of.h"
#include "kernels/sums.h"

namespace limbeck::optim {

using core::DType;
using core::Tensor;

GradientNorm::GradientNorm(const std::vector<Fragment>& fragments, core::Comm& world, double clip,
                           std::vector<std::string> names, core::MemoryPtr memory)
    : names_(std::move(names)) {
  core::check(clip >= 0, "gradient_norm: clip is {}, expected 0 or more", clip);
  for (const Fragment& f : fragments) check_trainable("gradient_norm", f);
  if (names_.empty())
    for (const Fragment& f : fragments) names_.push_back(f.parameter->name);
  if (names_.empty()) return;

  const auto num_parameters = std::ssize(names_);
  if (memory == nullptr)
    memory = fragments.empty() ? core::Memory::cpu(1) : fragments.front().parameter->value.memory();
  squares_ = Tensor::zeros(memory, DType::F64, {num_parameters});
  double* const sums = squares_.mutable_data<double>();
  std::size_t place = 0;  // fragments and names are mostly in one order
  for (const Fragment& f : fragments) {
    const core::Parameter* const p = f.parameter;
    if (place == names_.size() || names_[place] != p->name)
      place = static_cast<std::size_t>(std::ranges::find(names_, p->name) - names_.begin());
    core::check(place < names_.size(), "gradient_norm: {} is not among the names", p->name);
    double* const sum = sums + place++;
    if (!(f.sharers.gradients ? f.sharers.writes : p->first_replica) || !p->slot->has_grad) continue;
    const Tensor& grad = p->slot->grad;
    core::dispatch_float("gradient_norm", grad.dtype(), [&]<class T>() {
      core::on_device(grad,
                      [&](const auto& device) { kernels::sum_of_squares(device, grad.data<T>(), grad.numel(), sum); });
    });
  }
  const core::ExchangesOf scope("norms of gradients");
  world.all_reduce(squares_, core::Reduce::Sum);
  factor_ = Tensor::empty(memory, DType::F64, {1});
  core::on_device(squares_, [&](const auto& device) {
    kernels::clip_factor(device, squares_.data<double>(), num_parameters, clip, factor_.mutable_data<double>());
  });
}

void GradientNorm::start_reading() {
  if (squares_.defined()) copy_.emplace(squares_);
}

GradientNorm::Values GradientNorm::values() {
  Values result;
  if (!copy_) start_reading();
  if (!copy_) return result;
  double total = 0;
  const std::span<const double> by_parameter = copy_->get<double>();
  for (std::size_t i = 0; i < by_parameter.size(); ++i) {
    total += by_parameter[i];
    if (!std::isfinite(by_parameter[i]) && (result.not_finite.empty() || names_[i] < result.not_finite))
      result.not_finite = names_[i];
  }
  result.norm = std::sqrt(total);
  return result;
}

}  // namespace limbeck::optim
