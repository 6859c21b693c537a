// One forward pass: what the layers of a model share while they run over a batch.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/communicators.h"
#include "core/nn/batch.h"
#include "core/nn/model_config.h"
#include "core/nn/routing_log.h"
#include "core/tape.h"

namespace limbeck::nn {

using core::Parameter;
using core::Tape;
using core::Var;

/// Keys and values of the tokens seen so far, of one sequence; a model fills it as it generates.
class KvCache {
 public:
  /// Room for `capacity` tokens in each of `num_layers` layers; key_width = G*D, value_width = G*Dv, G of this rank.
  KvCache(const MemoryPtr& memory, core::DType dtype, std::int64_t num_layers, std::int64_t capacity,
          std::int64_t key_width, std::int64_t value_width);
  std::int64_t length() const { return length_; }
  std::int64_t capacity() const { return capacity_; }
  /// Writes the rows of new tokens behind those of this layer and returns all of them, [length + T, ...].
  std::pair<Tensor, Tensor> append(std::int64_t layer, const Tensor& keys, const Tensor& values);
  /// The T new tokens are in every layer.
  void advance(std::int64_t num_tokens) { length_ += num_tokens; }

 private:
  std::vector<Tensor> keys_, values_;  // one a layer
  std::int64_t length_ = 0;
  std::int64_t capacity_;
};

/// What routers do in training alone.
struct RouterTraining {
  double balance = 0;  // coefficients of the auxiliary losses (docs/gradients.md), means over the MoE layers
  double z = 0;
  BalanceScope balance_scope = BalanceScope::Sequence;
  double capacity_factor = 0;  // core/ops/capacity.h; 0: nothing is dropped
  double jitter = 0;           // core/ops/jitter.h; 0: none
  std::uint64_t seed = 0;      // of the jitter
  std::uint64_t step = 0;
};

struct Pass {
  const Batch& batch;
  const Communicators& comms;
  core::RopeTable rope;
  core::AttentionLayout attention;
  RouterTraining router = {};
  bool recompute = false;          // keep only each layer's input
  bool sequence_parallel = false;  // between the layers each rank of a tensor group has a share of the tokens
  RoutingLog* routing = nullptr;   // recorded into, or replayed where it holds these tokens
  KvCache* cache = nullptr;
  /// Called with each layer's input and output hidden states [T,C] (not in a replay), or this rank's share of them.
  std::function<void(std::int64_t layer, const Tensor& in, const Tensor& out)> tap = {};
  /// Called with the assignments [E] int64 that each MoE layer's experts take, without the dropped ones (not in a
  /// replay): of this rank's share of the tokens, where a tensor group divides them.
  std::function<void(std::int64_t layer, const Tensor& counts)> load = {};
};

}  // namespace limbeck::nn
