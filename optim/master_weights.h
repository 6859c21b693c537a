// The weights that an optimizer steps on: a fragment's own values, or float32 master weights that every step rounds
// into them, where those are bfloat16, or what passes see is rounded otherwise (Parameter::rounding). The gradient is
// that of the rounded values, and is the master weights' as it is.
//
//     MasterWeights weights(fragment);
//     kernels::adamw(device, factors, grad, weights.to_step<float>(), mean, mean_square, fragment.length,
//                    weights.rounded());
//     weights.finish_step();
#pragma once

#include "core/state_dict.h"
#include "optim/fragment.h"

namespace limbeck::optim {

class MasterWeights {
 public:
  /// Master weights begin as the values that the first step finds, unless they are loaded before.
  explicit MasterWeights(const Fragment& fragment);

  const Fragment& fragment() const { return fragment_; }
  core::Parameter& parameter() const { return *fragment_.parameter; }
  /// Of the weights stepped on: float32 or float64.
  core::DType dtype() const { return has_master() ? core::DType::F32 : parameter().value.dtype(); }

  /// The fragment's weights [length], to be changed.
  template <class T>
  T* to_step() {
    if (!has_master()) return fragment_.value().mutable_data<T>();
    fill();
    return master_.mutable_data<T>();
  }
  /// Where a step writes them [length] rounded too, asked behind to_step; null: nowhere. That is where they are master
  /// weights, and on a device that keeps rounded copies of float32 weights (core/ops/packed_weight.h).
  core::bf16* rounded();
  /// What the host rounds, behind a step; nothing where the step has rounded.
  void finish_step();
  /// Takes the values as they are for master weights, unless there are some, and rounds those that the host rounds:
  /// before the first pass.
  void begin();
  /// That to_step and rounded have been asked, for values that are written now without it.
  void note_step();

  /// Adds "optimizer/<name>/master" if there is one; throws where the fragment is no box.
  void add_to(core::StateDict& state) const;
  /// Reads it; a source without it (its weights were float32) has the parameter itself. Where there is none here, but
  /// the source's weights were bfloat16, the parameter's value is read from its master weights.
  void load(const core::StateReader& reader);
  /// Tells f of the master weights, where there are some already.
  void for_each_kept(const KeptOf& f) const {
    if (master_.defined()) f(fragment_, master_, parameter().value.shape());
  }

 private:
  bool is_rounded_by_host() const { return static_cast<bool>(parameter().rounding); }
  bool has_master() const { return is_narrow_ || is_rounded_by_host(); }
  void fill();

  Fragment fragment_;
  bool is_narrow_;
  core::Tensor master_;  // of the fragment's shape; from the first step, or begin()
};

}  // namespace limbeck::optim
