#include "optim/optimizer.h"

namespace limbeck::optim {
namespace {

std::vector<Fragment> choose(const std::vector<Trained>& trained, const OptimizerSettings& settings, bool for_muon) {
  std::vector<Trained> chosen;
  for (Trained t : trained) {
    const bool is_muons = settings.uses_muon && !t.group.adamw && is_hidden_matrix(*t.parameter);
    if (is_muons != for_muon) continue;
    if (settings.uses_muon && !for_muon) t.group.rate_factor *= settings.adamw_rate_factor;
    chosen.push_back(std::move(t));
  }
  std::vector<Fragment> fragments = fragments_of(chosen);
  for (Fragment& f : fragments) f.kept_in = settings.kept_in;
  return fragments;
}

}  // namespace

Optimizer::Optimizer(const std::vector<Trained>& trained, const OptimizerSettings& settings, const AxisComm& axis_comm)
    : muon_(choose(trained, settings, /*for_muon=*/true), settings.muon, axis_comm),
      adamw_(choose(trained, settings, /*for_muon=*/false), settings.adamw) {}

void Optimizer::begin_step(double rate) {
  muon_.begin_step(rate);
  adamw_.begin_step(rate);
}

void Optimizer::queue_step(const core::Tensor& grad_scale) {
  muon_.queue_step(grad_scale);
  adamw_.queue_step(grad_scale);
}

void Optimizer::note_step() {
  muon_.note_step();
  adamw_.note_step();
}

void Optimizer::begin_training() {
  muon_.begin_training();
  adamw_.begin_training();
}

core::StateDict Optimizer::state_dict() const {
  core::StateDict state = adamw_.state_dict();
  state.merge(muon_.state_dict());
  return state;
}

void Optimizer::for_each_kept(const KeptOf& f) const {
  adamw_.for_each_kept(f);
  muon_.for_each_kept(f);
}

std::int64_t Optimizer::offloaded_bytes() const {
  std::int64_t bytes = 0;
  for_each_kept([&](const Fragment& f, const core::Tensor& kept, const core::Shape&) {
    if (f.is_offloaded()) bytes += kept.bytes();
  });
  return bytes;
}

void Optimizer::load(const core::StateReader& reader) {
  adamw_.load(reader);
  muon_.load(reader);
}

}  // namespace limbeck::optim
