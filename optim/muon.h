// Muon (Jordan et al., 2024) with the scale and the decay of Liu et al., 2025 ("Muon is scalable for LLM training",
// Moonlight): Nesterov momentum, made orthogonal, steps of the size that AdamW's have.
//
//     Muon muon(fragments_of(hidden), {}, [&](const std::string& axis) -> core::Comm& { return mesh.group(axis); });
//     muon.step(rate, norm.factor());       // and AdamW for what is no hidden matrix
//
// A stack of matrices [E,rows,cols] is stepped matrix by matrix. Matrices that are cut over ranks are made whole before
// they are made orthogonal; every rank of the axis then does the same products. Of those that are dealt among sharers
// each is multiplied by one of them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/comm.h"
#include "core/state_dict.h"
#include "optim/dealt_matrices.h"
#include "optim/fragment.h"
#include "optim/master_weights.h"
#include "optim/moment.h"
#include "optim/step_numbers.h"

namespace limbeck::optim {

struct MuonSettings {
  double momentum = 0.95;     // in [0, 1)
  double weight_decay = 0.1;  // on parameters with `decays`
};

/// The ranks along an axis of the mesh, by its name in a parameter's placement.
using AxisComm = std::function<core::Comm&(const std::string& axis)>;

/// What Muon is for: matrices, or stacks of them, inside the layers (routers too; not the embedding, the head, norms).
bool is_hidden_matrix(const core::Parameter& parameter);

class Muon {
 public:
  /// Takes zero momentum from each parameter's memory. Throws on frozen parameters, on what is neither [rows,cols] nor
  /// [E,rows,cols], on fragments that are neither the whole local value nor a share of it, and on settings out of
  /// range. `axis_comm` gives the ranks along the axes that cut rows or columns, which must outlive the optimizer; it
  /// may be empty where there are none.
  Muon(const std::vector<Fragment>& fragments, const MuonSettings& settings, const AxisComm& axis_comm = {});

  /// Collective over the axes that cut matrices, and over sharers. With r = rate times the fragment's factor and the
  /// update of kernels/muon.h made orthogonal:
  ///     value = (1 - r * weight_decay) * value - r * 0.2 * sqrt(max(rows, cols)) * update
  /// rows and cols are those of the whole matrix. A parameter without a gradient has a zero one.
  void step(double rate, const core::Tensor& grad_scale = {}) {
    begin_step(rate);
    queue_step(grad_scale);
  }
  /// As AdamW's.
  void begin_step(double rate);
  void queue_step(const core::Tensor& grad_scale = {});
  void note_step();
  void begin_training();

  /// "optimizer/<name>/momentum_buffer", and of bfloat16 weights the master weights, "optimizer/<name>/master", placed
  /// as the parameter is; valid while the optimizer is.
  core::StateDict state_dict() const;
  void load(const core::StateReader& reader);
  /// Tells f of all that is kept beside the parameters, in one order.
  void for_each_kept(const KeptOf& f) const;

 private:
  struct State {
    MasterWeights weights;
    Moment momentum;
    std::vector<core::Comm*> cut_over = {};        // ranks that together hold whole matrices, by axis
    std::shared_ptr<const std::string> name = {};  // for messages
  };
  /// Those of one group of sharers.
  struct Dealt {
    std::vector<std::size_t> states;
    DealtMatrices matrices;
  };
  void find_dealt(const std::vector<Fragment>& fragments);
  void form_update(State& state, const double* scale, core::Tensor& update);
  /// Of the local values of whole matrices [rows,cols] or [E,rows,cols].
  void orthogonalise(const State& state, core::Tensor& update) const;
  void take_step(std::size_t i, const double* scale, const core::Tensor& update);

  MuonSettings settings_;
  std::vector<State> states_;
  std::vector<std::size_t> whole_;  // states of which this rank has whole matrices
  std::vector<Dealt> dealt_;
  StepNumbers numbers_;  // kernels::DecayedStep of each
};

}  // namespace limbeck::optim
