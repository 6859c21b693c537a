// Which experts each token chose, by layer and global token index. Routing is discrete: under float32 a near-tie may
// flip when sums are taken in another order, so comparisons between layouts, and recomputed blocks, replay recorded
// choices.
//
//     RoutingLog log;
//     log.record("layers.3.moe", batch.global_index, selection);
//     std::optional<Tensor> again = log.find("layers.3.moe", batch.global_index, memory);
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace limbeck::nn {

using core::Tensor;

class RoutingLog {
 public:
  /// `selection` [T,K] int32 of the tokens `global_index` [T] int64.
  void record(const std::string& layer, const Tensor& global_index, const Tensor& selection);
  /// The recorded choice [T,K] of these tokens; nothing if the layer has none for them. Throws where only some are
  /// there.
  std::optional<Tensor> find(const std::string& layer, const Tensor& global_index) const;
  /// Takes over every choice of `other`.
  void merge(const RoutingLog& other);
  void clear() { layers_.clear(); }

 private:
  struct Layer {
    std::int64_t experts_per_token = 0;
    std::map<std::int64_t, std::vector<std::int32_t>> choice;  // by global token index
  };
  std::map<std::string, Layer> layers_;
};

}  // namespace limbeck::nn
