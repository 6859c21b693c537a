// A teacher in memory, as `precision` says it is kept.
//
//     LoadedTeacher teacher = load_teacher(rank, config, source, tensors, options, passes, log);
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/finite_watch.h"
#include "core/nn/student/vocabulary_rows.h"
#include "core/nn/transformer.h"
#include "launch/config/config.h"
#include "launch/console/log.h"
#include "launch/run/mapped_layers.h"
#include "launch/run/model_source.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

struct LoadedTeacher {
  std::unique_ptr<nn::Transformer> model;
  std::unique_ptr<MappedLayers> streamed;  // null where it fits into memory
  std::string fingerprint;                 // fingerprint_of_teacher: also of what its matrices are quantised as
  /// Whether each pass brings layers, on any rank: from a disk, or from the host's memory to a GPU.
  bool is_brought = false;
};

/// The source's, with as many rows of the vocabulary as `tensors` have.
nn::ModelConfig teacher_architecture(const ModelSource& source, const nn::VocabularyRows& tensors);
/// Reads the weights.
std::string fingerprint_of_teacher(const RunConfig& config, const ModelSource& source);

/// One with so many rows as `tensors` have of the source, and its weights as config.precision keeps them.
std::unique_ptr<nn::Transformer> read_teacher(const RunConfig& config, const ModelSource& source,
                                              const nn::VocabularyRows& tensors, const nn::ModelOptions& options);

/// Collective. `tensors` are the source's, with as many rows of the vocabulary as the student has, so that logits stand
/// beside logits; those behind the tokenizer's tokens count for nothing. `options`: teacher_options, and which part of
/// it this rank has (beside_head, on_stage). `passes`: that each of a run's steps asks it for where it is brought; 0:
/// none does.
LoadedTeacher load_teacher(Rank& rank, const RunConfig& config, const ModelSource& source,
                           const nn::VocabularyRows& tensors, const nn::ModelOptions& options, std::int64_t passes,
                           const Log& log);

/// What a teacher gives of a batch without gradients; of several stages what its own has.
struct GivenRows {
  core::Tensor hidden;                          // [T,Ct], behind the last norm
  std::map<std::int64_t, core::Tensor> layers;  // likewise behind those that are asked for
};
/// Of several stages, of a chunk each, collective, with the others' parts of the same batch. `watch`: of what
/// operations give, or null.
GivenRows rows_given(const LoadedTeacher& teacher, const nn::Batch& batch, const std::vector<std::int64_t>& layers,
                     core::FiniteWatch* watch = nullptr);

}  // namespace limbeck::launch
