// Which experts each token chose, by layer and global token index. Routing is discrete: under float32 a near-tie may
// flip when sums are taken in another order, so comparisons between layouts, and recomputed blocks, replay recorded
// choices.
//
//     RoutingLog log;
//     log.record("layers.3.moe", batch.global_index, selection);
//     std::optional<Tensor> again = log.find("layers.3.moe", batch.global_index);
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace limbeck::nn {

using core::Tensor;

class RoutingLog {
 public:
  /// `selection` [T,K] int32 of the tokens `global_index` [T] int64. Both are kept, and must not be written again.
  void record(const std::string& layer, const Tensor& global_index, const Tensor& selection);
  /// The recorded choice [T,K] of these tokens; nothing if the layer has none for them. Throws where only some are
  /// there. Of the very tensor that was recorded nothing is read on the host.
  std::optional<Tensor> find(const std::string& layer, const Tensor& global_index) const;
  /// Takes over every choice of `other`, in the host's memory: a GPU's is for one rank's thread alone.
  void merge(const RoutingLog& other);
  void clear() { layers_.clear(); }

 private:
  struct Recorded {
    Tensor global_index, selection;
  };
  /// By global token index, from `recorded` as far as it has been read.
  struct Choices {
    std::size_t num_read = 0;
    std::map<std::int64_t, std::vector<std::int32_t>> of_token = {};
  };
  struct Layer {
    std::vector<Recorded> recorded;
    mutable Choices choices = {};
  };
  static const Choices& choices_of(const Layer& layer);

  std::map<std::string, Layer> layers_;
  std::shared_ptr<std::mutex> reading_ = std::make_shared<std::mutex>();  // ranks that are threads may share a log
};

}  // namespace limbeck::nn
