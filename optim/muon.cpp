#include "optim/muon.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/exchanges_of.h"
#include "core/slice.h"
#include "kernels/muon.h"
#include "optim/newton_schulz.h"

namespace limbeck::optim {
namespace {

using core::check;
using core::Shape;
using core::Tensor;

/// Every matrix of [rows,cols] or [E,rows,cols].
void orthogonalise_each(Tensor& x) {
  const Shape& shape = x.shape();
  const int rank = shape.rank();
  const Shape matrix{shape[rank - 2], shape[rank - 1]};
  const std::int64_t count = rank == 3 ? shape[0] : 1;
  Tensor stack = x.reshape({count, matrix.numel()});
  for (std::int64_t e = 0; e < count; ++e) {
    Tensor one = stack.rows(e, 1).reshape(matrix);
    orthogonalise(one);
  }
}

/// The box of `part` in `whole`, at `row` and `column` of each matrix: filled from it, or read into it.
enum class Direction : bool { IntoWhole, OutOfWhole };
void copy_box(Direction direction, Tensor& part, Tensor& whole, std::int64_t row, std::int64_t column) {
  const int rank = part.shape().rank();
  const std::int64_t rows = part.shape()[rank - 2], columns = part.shape()[rank - 1];
  const std::int64_t all_rows = whole.shape()[rank - 2], all_columns = whole.shape()[rank - 1];
  const std::int64_t element = core::bytes_of(part.dtype(), 1);
  const std::int64_t count = rank == 3 ? part.shape()[0] : 1;
  if (part.numel() == 0) return;
  core::on_device(part, [&](const auto& device) {
    for (std::int64_t e = 0; e < count; ++e) {
      std::byte* p = part.mutable_raw() + e * rows * columns * element;
      std::byte* w = whole.mutable_raw() + ((e * all_rows + row) * all_columns + column) * element;
      if (direction == Direction::IntoWhole)
        kernels::copy_rows(device, p, columns * element, w, all_columns * element, columns * element, rows);
      else
        kernels::copy_rows(device, w, all_columns * element, p, columns * element, columns * element, rows);
    }
  });
}

}  // namespace

bool is_hidden_matrix(const core::Parameter& parameter) {
  return parameter.is_matrix() && (parameter.name.starts_with("layers.") || parameter.name.starts_with("predict."));
}

Muon::Muon(const std::vector<Fragment>& fragments, const MuonSettings& settings, const AxisComm& axis_comm)
    : settings_(settings) {
  check(settings.momentum >= 0 && settings.momentum < 1, "muon: momentum is {}, expected 0 to below 1",
        settings.momentum);
  check(settings.weight_decay >= 0, "muon: weight_decay is {}, expected 0 or more", settings.weight_decay);
  check_fragments("muon", fragments);
  numbers_ = StepNumbers(fragments);
  for (const Fragment& f : fragments) {
    const core::Parameter& p = *f.parameter;
    const int rank = p.global_shape.rank();
    check(rank == 2 || rank == 3, "muon: {} has shape {}, expected [rows,cols] or [E,rows,cols]", p.name,
          p.global_shape);
    check(f.is_whole() || f.sharers.ranks != nullptr,
          "muon: fragment of {} is {} elements at {}, expected the whole {}", p.name, f.length, f.offset,
          p.value.shape());
    const MasterWeights weights(f);
    State state{.weights = weights,
                .momentum = Moment(f, weights.dtype(), Moment::Form::Plain),
                .name = core::name_of_many(p.name, 1)};
    for (const core::AxisPlacement& a : p.placement) {
      if (a.role != core::AxisRole::Sharded || a.dimension < rank - 2) continue;
      check(axis_comm || a.length == p.global_shape[a.dimension],
            "muon: {} is cut along {}, expected the group of its ranks", p.name, a.axis);
      // The size decides, not the length: one rank may have all and another nothing.
      if (axis_comm && axis_comm(a.axis).size() > 1) state.cut_over.push_back(&axis_comm(a.axis));
    }
    states_.push_back(std::move(state));
  }
  find_dealt(fragments);
}

/// Those that are dealt by row, by the ranks that share them; who has whole matrices of others multiplies with those.
void Muon::find_dealt(const std::vector<Fragment>& fragments) {
  std::map<core::Comm*, std::vector<double>> loads;
  std::vector<core::Comm*> order;
  for (std::size_t i = 0; i < fragments.size(); ++i) {
    core::Comm* const ranks = fragments[i].sharers.ranks;
    const core::Parameter& p = *fragments[i].parameter;
    if (ranks == nullptr || ranks->size() == 1) {
      whole_.push_back(i);
      continue;
    }
    const auto [load, is_new] = loads.try_emplace(ranks, static_cast<std::size_t>(ranks->size()), 0.0);
    if (is_new) order.push_back(ranks);
    if (DealtMatrices::is_dealt(p, ranks->size())) continue;
    whole_.push_back(i);
    for (int r = 0; r < ranks->size(); ++r)
      load->second[static_cast<std::size_t>(r)] +=
          DealtMatrices::cost_of(p) * static_cast<double>(core::slice_of(p.value.shape()[0], r, ranks->size()).count);
  }
  for (core::Comm* ranks : order) {
    std::vector<std::size_t> states;
    std::vector<Fragment> of_ranks;
    for (std::size_t i = 0; i < fragments.size(); ++i) {
      if (fragments[i].sharers.ranks != ranks || !DealtMatrices::is_dealt(*fragments[i].parameter, ranks->size()))
        continue;
      states.push_back(i);
      of_ranks.push_back(fragments[i]);
    }
    if (!states.empty()) dealt_.push_back({states, DealtMatrices(*ranks, of_ranks, loads[ranks])});
  }
}

void Muon::begin_step(double rate) {
  for (const State& state : states_) check_trainable("muon", state.weights.fragment());
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const Fragment& fragment = states_[i].weights.fragment();
    const core::Parameter& p = *fragment.parameter;
    const int rank = p.global_shape.rank();
    const double own_rate = rate * fragment.rate_factor;
    const double weight_decay = p.decays ? fragment.weight_decay.value_or(settings_.weight_decay) : 0;
    const auto longer_side = static_cast<double>(std::max(p.global_shape[rank - 2], p.global_shape[rank - 1]));
    core::dispatch_float("muon", states_[i].weights.dtype(), [&]<class T>() {
      numbers_.set(i, kernels::DecayedStep<T>{static_cast<T>(1 - own_rate * weight_decay),
                                              static_cast<T>(own_rate * 0.2 * std::sqrt(longer_side))});
    });
  }
  numbers_.bring();
}

void Muon::form_update(State& state, const double* scale, Tensor& update) {
  const Tensor grad = state.weights.fragment().gradient();
  core::dispatch_float("muon", update.dtype(), [&]<class T>() {
    core::on_device(update, [&](const auto& device) {
      kernels::nesterov(device, static_cast<T>(settings_.momentum), scale, grad.defined() ? grad.data<T>() : nullptr,
                        state.momentum.data<T>(), update.mutable_data<T>(), update.numel());
    });
  });
}

void Muon::take_step(std::size_t i, const double* scale, const Tensor& update) {
  State& state = states_[i];
  core::dispatch_float("muon", update.dtype(), [&]<class T>() {
    core::on_device(update, [&](const auto& device) {
      T* weights = state.weights.to_step<T>();
      kernels::decayed_step(device, numbers_.at<kernels::DecayedStep<T>>(i), scale, update.data<T>(), weights,
                            update.numel(), state.weights.rounded());
    });
  });
  state.weights.finish_step();
}

void Muon::queue_step(const core::Tensor& grad_scale) {
  const double* const scale = grad_scale.defined() ? grad_scale.data<double>() : nullptr;
  for (const std::size_t i : whole_) {
    State& state = states_[i];
    Tensor update = Tensor::empty(state.weights.parameter().value.memory(), state.weights.dtype(),
                                  state.weights.fragment().shape());
    form_update(state, scale, update);
    orthogonalise(state, update);
    take_step(i, scale, update);
  }
  for (auto& [states, matrices] : dealt_) {
    const State& first = states_[states.front()];
    matrices.begin(first.weights.parameter().value.memory(), first.weights.dtype());
    for (std::size_t k = 0; k < states.size(); ++k) {
      Tensor update = matrices.rows_of(k);
      form_update(states_[states[k]], scale, update);
    }
    matrices.change([&, &of = states](std::size_t k, Tensor& matrix) { orthogonalise(states_[of[k]], matrix); });
    for (std::size_t k = 0; k < states.size(); ++k) take_step(states[k], scale, matrices.rows_of(k));
    matrices.end();
  }
}

void Muon::begin_training() {
  for (State& state : states_) state.weights.begin();
}

void Muon::note_step() {
  for (State& state : states_) state.weights.note_step();
}

// Of a matrix that is cut over an axis each rank writes its box into zeros and the sum over the axis is the whole: any
// cut, even or not, and exact.
void Muon::orthogonalise(const State& state, Tensor& update) const {
  if (state.cut_over.empty()) return orthogonalise_each(update);
  const core::Shape& global = state.weights.parameter().global_shape;
  const std::vector<std::int64_t> offset = state.weights.parameter().offset();
  const std::int64_t row = offset[static_cast<std::size_t>(global.rank() - 2)];
  const std::int64_t column = offset[static_cast<std::size_t>(global.rank() - 1)];
  Shape shape = update.shape();
  shape[shape.rank() - 2] = global[global.rank() - 2];
  shape[shape.rank() - 1] = global[global.rank() - 1];
  Tensor whole = Tensor::zeros(update.memory(), update.dtype(), shape);
  copy_box(Direction::IntoWhole, update, whole, row, column);
  const core::ExchangesOf scope("update of", state.name);
  for (core::Comm* ranks : state.cut_over) ranks->all_reduce(whole, core::Reduce::Sum);
  orthogonalise_each(whole);
  copy_box(Direction::OutOfWhole, update, whole, row, column);
}

core::StateDict Muon::state_dict() const {
  core::StateDict entries;
  for (const State& state : states_) {
    state.momentum.add_to(entries, "momentum_buffer");
    state.weights.add_to(entries);
  }
  return entries;
}

void Muon::for_each_kept(const KeptOf& f) const {
  for (const State& state : states_) {
    state.momentum.for_each_kept(f);
    state.weights.for_each_kept(f);
  }
}

void Muon::load(const core::StateReader& reader) {
  for (State& state : states_) {
    state.momentum.load(reader, "momentum_buffer");
    state.weights.load(reader);
  }
}

}  // namespace limbeck::optim
