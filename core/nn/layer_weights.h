// Whoever has a model's weights whole only while they are used.
//
//     model.set_weights({.layers = &layers});     // from here on told of each layer's runs, forward and backward
#pragma once

#include <cstdint>
#include <optional>

#include "core/tape.h"

namespace limbeck::nn {

/// Who may take over a parameter.
class FilledWeights {
 public:
  virtual ~FilledWeights() = default;
  /// Behind the filling of one of the model's parameters, before the next one's.
  virtual void filled(core::Parameter&) {}
};

class LayerWeights : public FilledWeights {
 public:
  /// Before a layer, by its number in the whole model, runs forward. What is pushed here runs behind its backward.
  virtual void before(core::Tape& tape, std::int64_t layer) = 0;
  /// Behind it. What is pushed here runs before its backward, in which a recomputed layer runs forward once more.
  virtual void behind(core::Tape& tape, std::int64_t layer) = 0;
};

/// The tables at a model's ends: of tokens and their positions, and the head's. A tied head's is the first.
enum class End : std::uint8_t { Embedding, Head };

/// That of a parameter; none of the others.
inline std::optional<End> end_of(const core::Parameter& parameter) {
  if (parameter.name == "head.weight") return End::Head;
  if (parameter.name == "embed.weight" || parameter.name == "position_embed.weight") return End::Embedding;
  return std::nullopt;
}

class EndWeights : public FilledWeights {
 public:
  /// Its tables are whole until free() has been called as often. No backward reads them.
  virtual void bring(End end) = 0;
  virtual void free(End end) = 0;
};

/// Null: always whole.
struct ModelWeights {
  LayerWeights* layers = nullptr;
  LayerWeights* predictors = nullptr;  // by their depths
  EndWeights* ends = nullptr;
};

/// An end that is whole while this is there.
class WholeEnd {
 public:
  WholeEnd(EndWeights* weights, End end) : weights_(weights), end_(end) {
    if (weights_ != nullptr) weights_->bring(end_);
  }
  ~WholeEnd() {
    if (weights_ != nullptr) weights_->free(end_);
  }
  WholeEnd(const WholeEnd&) = delete;
  WholeEnd& operator=(const WholeEnd&) = delete;

 private:
  EndWeights* weights_;
  End end_;
};

}  // namespace limbeck::nn
