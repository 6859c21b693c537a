// What a run's models are, before there is one: architectures, and how they lie on a rank.
//
//     const nn::ModelConfig student = student_architecture(config, student_source, teacher_source, vocabulary);
//     nn::Transformer model(student, student_options(rank, config));
#pragma once

#include <cstdint>

#include "core/nn/adapters.h"
#include "core/nn/transformer.h"
#include "launch/config/config.h"
#include "launch/run/model_source.h"
#include "launch/run/rank.h"

namespace limbeck::launch {

/// Of the student that the config names: that of `student` (model.source), of the `teacher` that it is cut from, or of
/// the config. Either source may be empty. `usual_vocabulary` is its vocabulary where the config does not say it.
/// Throws a UsageError where the objective asks for another head than it has. Layers that predict further tokens would
/// fall behind the model if they were not trained with it: they are not there then.
nn::ModelConfig student_architecture(const RunConfig& config, const ModelSource& student, const ModelSource& teacher,
                                     std::int64_t usual_vocabulary);

/// Throws a UsageError where data.sequence_length is more than the positions of the student, or of a teacher whose ids
/// are those of the text (null: none), or where the tokenizer has more tokens than the student.
void check_reads(const RunConfig& config, std::int64_t num_tokens, const nn::ModelConfig& student,
                 const nn::ModelConfig* teacher);

/// With values, activations and the stream between the layers as a student has them.
nn::ModelOptions with_precision(nn::ModelOptions options, const PrecisionConfig& precision);
/// Where its values are dealt, they have no memory before they are filled.
nn::ModelOptions student_options(const Rank& rank, const RunConfig& config);
nn::ModelOptions teacher_options(const Rank& rank, const PrecisionConfig& precision);
/// Of one that is made, beside the teacher, where objective.control is UNTRAINED: as its passes read it.
nn::ModelOptions untrained_options(const Rank& rank, const PrecisionConfig& precision);
/// Of the teacher's activations.
core::DType teacher_compute(const PrecisionConfig& precision);
/// Of a pipeline the last stage has such a teacher, for its hidden states are wanted where the student's head is; the
/// others a model without layers.
nn::ModelOptions beside_head(const Rank& rank, nn::ModelOptions options);
nn::AdapterOptions adapter_options(const AdaptersConfig& config);

}  // namespace limbeck::launch
