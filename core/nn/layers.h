// The parts of a transformer layer. Each holds pointers to its parameters, which the Transformer owns; forward()
// computes eagerly and records on the tape. One source serves every layout: what differs is behind Pass::comms and in
// core/nn/stream.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/nn/pass.h"
#include "core/ops/router.h"

namespace limbeck::nn {

struct Attention {
  Parameter *q, *k, *v, *o;    // [H*D,C] [G*D,C] [G*D,C] [C,H*D], H and G of this rank
  core::AttentionShape shape;  // of this rank's heads; there may be none

  /// x [T,C] -> [T,C], T the tokens of the stream here; `layer` counts from 0 within this model, for the cache.
  Var forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t layer) const;
};

/// Dense feed-forward: down(silu(gate x) * up x).
struct Mlp {
  Parameter *gate, *up, *down;  // [F_local,C] [F_local,C] [C,F_local]

  Var forward(Tape& tape, const Pass& pass, const Var& x) const;
};

/// The auxiliary losses of one or more layers, scalars [1]; without a value where there is no such loss.
struct AuxiliaryLosses {
  Var balance;
  Var z;
};

/// Mixture of experts: softmax router, top-k, nothing dropped unless Pass::router says so; and experts that every token
/// sees, whose output is added. Every rank of a tensor group routes all tokens, and sends its share of them to the
/// experts; the shared ones are cut like a dense feed-forward.
struct Moe {
  std::string name;  // "layers.3.moe"
  std::int64_t layer = 0;
  std::int64_t num_moe_layers = 1;  // of the whole model: auxiliary losses are means over them
  MoeConfig config;
  Parameter* router;            // [E,C]
  Parameter *gate, *up, *down;  // this rank's experts: [E_local,F_local,C] [E_local,F_local,C] [E_local,C,F_local]
  std::optional<Mlp> shared;

  Var forward(Tape& tape, const Pass& pass, const Var& x, AuxiliaryLosses& losses) const;

 private:
  core::Routing route(Tape& tape, const Pass& pass, const Var& x, AuxiliaryLosses& losses) const;
};

struct Layer {
  std::int64_t index = 0;  // in the whole model
  double norm_eps = 1e-5;
  Parameter *attention_norm, *mlp_norm;  // [C]
  Attention attention;
  std::variant<Mlp, Moe> feed_forward;

  /// x [T,C] -> [T,C]; `local` counts from 0 within this model.
  Var forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t local, AuxiliaryLosses& losses) const;
};

}  // namespace limbeck::nn
