// The mixture of experts of a layer.
//
//     Moe moe = make_moe(parameters, "moe", width, {.num_experts = 8, .experts_per_token = 2, .expert_width = 64});
//     Var y = moe.forward(tape, {.batch = batch, .comms = comms}, x, losses);      // [T,C] -> [T,C]
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/nn/mlp.h"
#include "core/nn/pass.h"
#include "core/ops/router.h"
#include "core/parameter_set.h"

namespace limbeck::nn {

/// The auxiliary losses of one or more layers, scalars [1]; without a value where there is no such loss.
struct AuxiliaryLosses {
  Var balance;
  Var z;
  Var routing;                          // of Pass::match_routing
  std::array<Var, num_blocks> updates;  // of Pass::match_update, by Block
};

/// Adds a term to a sum, where either may be without a value.
void add_term(Tape& tape, Var& sum, const Var& term);

/// Mixture of experts: a router, top-k, nothing dropped unless Pass::router says so; and experts that every token
/// sees, whose output is added. Every rank of a tensor group routes all tokens, and sends its share of them to the
/// experts; the shared ones are cut like a dense feed-forward.
struct Moe {
  std::string name;                 // "layers.3.moe"
  std::int64_t layer = 0;           // for Pass::load
  std::int64_t num_moe_layers = 1;  // of the whole model: auxiliary losses are means over them
  MoeConfig config;
  Parameter* router;                    // [E,C]
  Parameter* selection_bias = nullptr;  // [E], or none: frozen in every model, moved by the load of the experts
  Parameter* router_bias = nullptr;     // [E]
  Parameter *gate, *up, *down;  // this rank's experts: [E_local,F_local,C] [E_local,F_local,C] [E_local,C,F_local]
  // [E_local,F_local], and of `down` its part of the columns [E_local,C_local]: with etp each rank adds its own.
  Parameter *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;
  /// [E]: where each expert lies in the stack that the ranks hold together; empty: in the model's order. Choices,
  /// counts and the router are by expert; rows of the stacks alone are by place.
  std::vector<std::int32_t> places = {};
  Activation activation = Activation::Silu;
  double activation_limit = 0;
  std::optional<Mlp> shared;
  Parameter* shared_gate = nullptr;  // [1,C], or none: the shared experts' output is times the sigmoid of its product

  Var forward(Tape& tape, const Pass& pass, const Var& x, AuxiliaryLosses& losses) const;

 private:
  core::Routing route(Tape& tape, const Pass& pass, const Var& x, AuxiliaryLosses& losses) const;
};

/// Router and experts under `name`, without the shared ones; `router` is how the router may be cut.
Moe make_moe(core::ParameterSet& parameters, const std::string& name, std::int64_t width, const MoeConfig& config,
             const core::Cut& router = {});

}  // namespace limbeck::nn
