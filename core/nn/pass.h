// One forward pass: what the layers of a model share while they run over a batch.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/communicators.h"
#include "core/nn/batch.h"
#include "core/nn/kv_cache.h"
#include "core/nn/model_config.h"
#include "core/nn/routing_log.h"
#include "core/ops/linear.h"
#include "core/tape.h"

namespace limbeck::core {
struct Permutation;
struct Routing;
}  // namespace limbeck::core

namespace limbeck::nn {

using core::Parameter;
using core::Tape;
using core::Var;

/// What routers do in training alone.
struct RouterTraining {
  double balance = 0;  // coefficients of the auxiliary losses (docs/gradients.md), means over the MoE layers
  double z = 0;
  BalanceScope balance_scope = BalanceScope::Sequence;
  double capacity_factor = 0;  // core/ops/capacity.h; 0: nothing is dropped, and with expert_choice 1
  bool expert_choice = false;  // experts choose tokens, of whole sequences: later ones count too
  double jitter = 0;           // core/ops/jitter.h; 0: none
  std::uint64_t seed = 0;      // of the jitter
  std::uint64_t step = 0;

  /// Whether a token may be without some of its experts, or any.
  bool leaves_out() const { return expert_choice || capacity_factor > 0; }
};

/// What adds to the stream in a layer.
enum class Block : std::uint8_t { Attention, FeedForward };
inline constexpr std::size_t num_blocks = 2;

/// What a layer's last products read, which Pass::inside is called with.
enum class Inside : std::uint8_t {
  Heads,    // that of attention: what the heads give [T,H_local*D]
  Neurons,  // that of a dense feed-forward, or of the shared experts: [T,F_local]
};

/// What the experts on this rank give, of the tokens that come to them: with all experts on each rank those that this
/// one of a tensor group has a share in.
struct RoutedRows {
  const Tensor& rows;     // [N,C] sorted by expert
  const Tensor& inner;    // [N,F] what their last product reads
  const Tensor& weights;  // [U,K] by which they count
  const core::Permutation& permutation;
};

struct Pass {
  const Batch& batch;
  const Communicators& comms;
  std::vector<core::RopeTable> ropes;  // by Attention::rope
  core::AttentionLayout attention;
  RouterTraining router = {};
  bool recompute = false;                                   // keep only each layer's input
  core::Products products = core::Products::AsActivations;  // of attention's and dense feed-forwards' weights
  bool sequence_parallel = false;  // between the layers each rank of a tensor group has a share of the tokens
  RoutingLog* routing = nullptr;   // recorded into, or replayed where it holds these tokens
  KvCache* cache = nullptr;
  std::vector<CacheRun> cached = {};  // where the batch's sequences go on in it,
  Tensor slots = {};                  // [N] int64, and in which slots
  /// Called with each layer's input and output hidden states [T,C] (not in a replay), or this rank's share of them.
  std::function<void(std::int64_t layer, const Tensor& in, const Tensor& out)> tap = {};
  /// Called with what each layer gives, [T,C] or this rank's share of it, for whoever goes on with it (not in a
  /// replay).
  std::function<void(std::int64_t layer, const Var& out)> gives = {};
  /// Losses of each layer, which are added to its AuxiliaryLosses: of what a router makes of all tokens, and of what
  /// a block adds to the stream, [T,C] or this rank's share of it. Without a value there is none. A replay asks
  /// again.
  std::function<Var(Tape& tape, std::int64_t layer, const core::Routing& routing)> match_routing = {};
  std::function<Var(Tape& tape, Block block, std::int64_t layer, const Var& update)> match_update = {};
  /// [1] float64 each, if it is defined: the squares of the gradients of RouterTraining's losses with respect to the
  /// routers' logits are added (core/ops/aux_losses.h; not in a replay).
  Tensor balance_square = {}, z_square = {};
  /// Called with what each MoE layer's router reads, [T,C] (not in a replay), or this rank's share of it.
  std::function<void(std::int64_t layer, const Tensor& x)> routed = {};
  /// Called where a router's choice is replayed, with that and the one that it would have made itself, [T,K] int32 of
  /// the batch's tokens (not in a replay of a recomputed block).
  std::function<void(std::int64_t layer, const Tensor& replayed, const Tensor& own)> own_choice = {};
  /// Called with the assignments [E] int64 that each MoE layer's experts take, without the dropped ones, and how many
  /// tokens [1] int64 no expert takes, where RouterTraining::leaves_out (not in a replay): of this rank's share of the
  /// tokens, where a tensor group divides them. Chunk by chunk, as `experts` is.
  std::function<void(std::int64_t layer, const Tensor& counts, const Tensor& untaken)> load = {};
  /// Called with what is inside each layer (not in a replay).
  std::function<void(Inside what, const Tensor& x)> inside = {};
  std::function<void(std::int64_t layer, const RoutedRows& rows)> experts = {};
  std::vector<Tensor> rope_rows = {};  // by Attention::rope: [T] int32, the row of its table that turns a token
  /// The ranks that have the other tokens of the batch's sequences; null: these are whole.
  ContextComm* context = nullptr;
  /// By layer of the whole model, those of its experts of which every rank among which they are dealt has a copy in
  /// this pass, ascending: their rows stay where they are. None of layers behind the end.
  std::span<const std::vector<std::int64_t>> replicated = {};
  /// Where experts are dealt to ranks, a layer's tokens go to them in so many chunks, one of which travels while the
  /// experts compute on another. The same on every rank.
  std::int64_t expert_chunks = 1;
  /// Where single tensors are cut, a product that ends in a sum over their ranks is made in so many runs of tokens, one
  /// of which is summed while the next is multiplied; and products that begin with gathered tokens, one of which is
  /// gathered while the one before is multiplied. The same on every rank.
  std::int64_t tensor_chunks = 1;

  /// [N,E] of `dtype`: assignments of each of the batch's sequences to each expert, of all of its tokens (`selection`
  /// is of those here).
  Tensor sequence_counts(const Tensor& selection, std::int64_t num_experts, core::DType dtype) const;
  /// core::limit_capacity by RouterTraining::capacity_factor, over whole sequences too.
  Tensor limit_capacity(const Tensor& selection, std::int64_t num_experts) const;
  /// core::choose_tokens likewise.
  Tensor choose_tokens(const Tensor& scores, std::int64_t experts_per_token) const;
  /// Of the choices in a selection [T,E] of choose_tokens for tokens of this batch as many as are experts, or more:
  /// known without a look at them.
  std::int64_t most_chosen(const Tensor& selection, std::int64_t experts_per_token) const;
  /// Attention of what layers make of the batch's tokens, and of those in a cache.
  Var attend(Tape& tape, const Var& q, const Var& k, const Var& v, const core::AttentionShape& shape,
             const std::optional<Var>& sinks = {}) const;
};

}  // namespace limbeck::nn
