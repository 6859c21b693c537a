// The mixer of a Mamba-2 layer (Dao and Gu 2024, "Transformers are SSMs", section 7): each head carries a state [P,N]
// along the tokens of a document, which every token decays, writes to and reads.
//
//     layer.mixer = make_mamba(parameters, "layers.0.mamba.", config, /*sequence_parallel=*/false);
//     Var mixed = mamba.forward(tape, pass, x, layer);                        // [T,C] -> [T,C]
//
// The ranks of a tensor group have the heads cut among them: by whole groups, or, of one group, by heads, each rank
// then with all of B and C. No rank is without.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/nn/pass.h"
#include "core/ops/state_scan.h"
#include "core/parameter_set.h"

namespace limbeck::nn {

/// Of each channel, of the tokens up to its own.
struct Filters {
  Parameter* weight;          // [W,K]
  Parameter* bias = nullptr;  // [W]; null: none
};

/// With x, B, C and the gate z linear in a token, the first three filtered and behind SiLU, and steps dt, y = W_o
/// norm(scan(x, dt, B, C) silu(z)), the norm by groups of heads (core/ops/state_scan.h).
struct Mamba {
  Parameter *z, *x;  // [H*P,C], H and G of this rank
  Parameter *b, *c;  // [G*N,C]
  Parameter* dt;     // [H,C]
  Filters of_x, of_b, of_c;
  Parameter *dt_bias, *a_log, *skip;  // [H]
  Parameter* norm;                    // [H*P]
  Parameter* o;                       // [C,H*P]
  core::ScanShape shape;              // of this rank's heads
  std::int64_t inner_width = 0;       // H*P of all ranks
  bool has_one_group = true;          // for the heads of all ranks
  double norm_eps = 1e-5;

  /// x [T,C] -> [T,C], T the tokens of the stream here; `layer` counts from 0 within this model, for the cache. Where
  /// sequences are cut over ranks, what runs of them leave goes to those behind (core/ops/sequence_runs.h).
  Var forward(Tape& tape, const Pass& pass, const Var& x, std::int64_t layer) const;
  /// What a cache has of it.
  CacheLayer cached() const;
};

/// The parameters are named `prefix` and z.weight, ..., A_log, D (docs/parameter_names.md).
Mamba make_mamba(core::ParameterSet& parameters, const std::string& prefix, const ModelConfig& config,
                 bool sequence_parallel);

/// Where `p` is one of those that begin otherwise than matrices and norms, as in the paper's code: A is uniform in 1 to
/// 16, steps are log-uniform in 0.001 to 0.1, D and norms are 1, and filters are uniform within 1 / sqrt(K); a function
/// of seed, name and global index alone. Else false.
bool begin_mamba(Parameter& p, std::uint64_t seed);

}  // namespace limbeck::nn
