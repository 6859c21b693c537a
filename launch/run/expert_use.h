// Which experts the tokens of a text take: how evenly, and whether experts have tokens and documents of their own.
//
//     ExpertUse use(model.config());
//     nn::RoutingLog log;  pass.routing = &log;  model.forward(off, pass);
//     use.add(log, batch, {{.row = 0, .id = 17, .document = 3}});
//     for (const LayerUse& layer : use.sum_over(rank, num_documents)) layer.token_specialisation;
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/nn/batch.h"
#include "core/nn/model_config.h"
#include "core/nn/routing_log.h"
#include "launch/run/joint_counts.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// Of a layer with experts. A token that takes K experts counts K times.
struct LayerUse {
  std::int64_t layer = 0;
  std::vector<double> assignments;                // of each expert
  std::optional<double> token_specialisation;     // JointSums::specialisation of the token that is read and its experts
  std::optional<double> document_specialisation;  // of its document and its experts
};

class ExpertUse {
 public:
  explicit ExpertUse(const nn::ModelConfig& model);

  bool is_empty() const { return layers_.empty(); }  // of a dense model
  /// A token of a batch that counts.
  struct Token {
    std::int64_t row = 0;
    std::int64_t id = 0;
    std::int64_t document = 0;
  };
  /// `log` holds what the tokens of the batch chose.
  void add(const nn::RoutingLog& log, const nn::Batch& batch, std::span<const Token> tokens);
  /// Collective over the ranks that have other data: of all their tokens, layer by layer.
  std::vector<LayerUse> sum_over(Rank& rank, std::int64_t num_documents) const;

 private:
  struct Layer {
    std::int64_t layer;
    JointCounts by_token, by_document;
  };
  std::int64_t vocabulary_;
  std::vector<Layer> layers_;
};

}  // namespace limbeck::launch
