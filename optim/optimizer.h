// The optimizer of a run: AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.
//
//     Optimizer optimizer(apply_groups(model.parameters(), groups), {.uses_muon = true}, axis_comm);
//     optimizer.step(schedule.rate(optimizer.num_steps() + 1), norm.factor());
//     for (auto& [name, entry] : optimizer.state_dict()) writer.write(name, entry);   // and num_steps() beside it
#pragma once

#include "optim/adamw.h"
#include "optim/groups.h"
#include "optim/muon.h"

namespace limbeck::optim {

struct OptimizerSettings {
  bool uses_muon = false;
  AdamWSettings adamw = {};
  MuonSettings muon = {};
  double adamw_rate_factor = 1;  // with Muon: of the rate of what AdamW trains
  core::MemoryPtr kept_in = {};  // Fragment::kept_in of all
};

class Optimizer {
 public:
  /// With Muon, hidden matrices whose group does not say `adamw` are Muon's. Throws as both do.
  Optimizer(const std::vector<Trained>& trained, const OptimizerSettings& settings, const AxisComm& axis_comm = {});

  /// Collective over the axes that cut Muon's matrices.
  void step(double rate, const core::Tensor& grad_scale = {}) {
    begin_step(rate);
    queue_step(grad_scale);
  }
  /// As AdamW's.
  void begin_step(double rate);
  void queue_step(const core::Tensor& grad_scale = {});
  void note_step();
  void begin_training();

  std::int64_t num_steps() const { return adamw_.num_steps(); }
  void set_num_steps(std::int64_t num_steps) { adamw_.set_num_steps(num_steps); }
  /// What both keep of each parameter; valid while the optimizer is.
  core::StateDict state_dict() const;
  void load(const core::StateReader& reader);
  /// Tells f of all that both keep beside the parameters, in one order: for who moves it between ranks.
  void for_each_kept(const KeptOf& f) const;
  /// Of what both keep, in the host's memory alone.
  std::int64_t offloaded_bytes() const;

 private:
  Muon muon_;
  AdamW adamw_;
};

}  // namespace limbeck::optim
