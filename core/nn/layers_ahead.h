// Layers whose values are brought before they run, the next one's while one runs, and freed behind: forward, and
// backward in the other direction. What bringing is, who derives from it says.
//
//     class LayerValues final : public nn::LayersAhead { ... };     // gathered from ranks (parallel/axes)
//     class HostLayers final : public nn::LayersAhead { ... };      // copied from the host's memory
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/nn/layer_weights.h"

namespace limbeck::nn {

/// N of a parameter layers.N.*, or of another prefix; nothing of other names.
std::optional<std::int64_t> layer_of(const core::Parameter& parameter, std::string_view prefix = "layers.");

class LayersAhead : public LayerWeights {
 public:
  // Brought before use, the next one in the same direction asked for, freed behind it, but for the last layer's, with
  // which backward begins.
  void before(core::Tape& tape, std::int64_t layer) final;
  void behind(core::Tape& tape, std::int64_t layer) final;

 protected:
  enum class Stand : std::uint8_t { Freed, UnderWay, Whole };
  /// Layers 0 to count - 1, all of them like this. Those behind are left alone.
  void begin(std::size_t count, Stand stand) { stands_.assign(count, stand); }
  /// Also one that was on its way in vain.
  void free(std::size_t layer);
  void free_all();

 private:
  virtual void start(std::size_t layer) = 0;   // of one that is freed
  virtual void finish(std::size_t layer) = 0;  // of one that was started
  virtual void let_go(std::size_t layer) = 0;  // of one that is whole
  void ask_for(std::int64_t layer);
  void bring(std::int64_t layer);
  bool has(std::int64_t layer) const { return layer >= 0 && layer < std::ssize(stands_); }

  std::vector<Stand> stands_;
};

}  // namespace limbeck::nn
