// What a teacher says of a micro-batch: for the head, and for the layers of a student that are held to its own.
//
//     const Taught taught = teach(step, micro_batch);
//     head_loss(..., taught.outputs, ...);
//     core::match_rows(tape, hidden, taught.layers.at(layer), ...);
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <vector>

#include "core/tape.h"
#include "launch/run/step.h"

namespace limbeck::launch {

struct StepSums;

/// What is of the whole step, and outlives its passes.
struct StepContext {
  Rank& rank;
  const StepModels& models;
  const StepInput& input;
  const StepOptions& options;
  StepSums& sums;
  core::Tape::WeightParts weight_parts;

  /// Whoever watches is told of what the tape does from here on, of a micro-batch in this stage's chunk.
  void watch_finite(core::Tape& tape, const char* pass, std::size_t micro, std::int64_t chunk, bool is_backward) const;
};

/// Rows are [T,.] of the micro-batch's tokens on this rank, by the teacher's layer.
struct Taught {
  struct Routing {
    core::Tensor probabilities;  // [T,E]
    core::Tensor weights;        // [T] float64, of tokens; undefined: 1
  };
  std::map<std::int64_t, core::Tensor> layers;                                    // hidden states
  std::array<std::map<std::int64_t, core::Tensor>, nn::num_blocks> updates = {};  // what is added, by nn::Block
  std::map<std::int64_t, Routing> routing = {};
  std::vector<core::TeacherOutput> outputs = {};  // by those that teach any of the batch

  /// Takes what the options ask for of a pass that is about to run; this has to outlive it.
  void watch(nn::Pass& pass, const StepOptions& options);
};

/// Whether smoothed labels stand in the teacher's place.
inline bool is_smoothed(const StepOptions& options) { return options.control.kind == Control::SmoothedLabels; }
/// Whether layers of the student are held to the teacher's.
bool matches_layers(const StepOptions& options);

/// The teacher's layer that a student's is held to; -1: none, as of layers that predict.
std::int64_t match_of(const std::vector<std::int64_t>& layers, std::int64_t layer);

/// Where the head is: runs the teachers, without gradients, or takes what a cache or other ranks have said. With a
/// bridge nothing: its teacher has other tokens.
Taught teach(const StepContext& step, std::size_t micro);

}  // namespace limbeck::launch
