// How a run's model lies on the stages of its pipeline (layouts with pp), and what each of them does when.
//
//     const Pipeline pipeline = pipeline_of(config, architecture, rank.mesh().pp().size());
//     nn::Transformer student(architecture, pipeline.part_of(rank.sharded(dtype), rank.mesh().pp().rank()));
//     queue_passes(rank, models, input, {.micro_batches = n, .pipeline = &pipeline}, sync);
#pragma once

#include <string>
#include <vector>

#include "core/comm.h"
#include "core/nn/transformer.h"
#include "core/slice.h"
#include "launch/config/config.h"
#include "launch/run/stage_costs.h"
#include "parallel/pipeline/schedule.h"

namespace limbeck::launch {

struct Pipeline {
  std::vector<core::Slice> layers;      // of each virtual stage, in the model's order
  parallel::PipelineSchedule schedule;  // of a step's micro-batches
  parallel::PipelineCosts costs;        // of a token (costs_of_stages); none of one stage

  int stage_of(std::int64_t layer) const;
  /// What the stage of this number has of a model.
  nn::ModelOptions part_of(nn::ModelOptions options, int stage) const;
};

/// As `parallel` says it; of one stage all layers and one micro-batch after the other. Layers are dealt by their FLOP;
/// where weights are apart, they lie in the gaps that the stages' costs leave (parallel::with_gaps_filled). The same on
/// every rank whose arguments are. Throws a UsageError where parallel.stages are not the model's layers.
Pipeline pipeline_of(const RunConfig& config, const nn::ModelConfig& model, int num_stages,
                     const StagePasses& passes = {});

/// Of a model whose head is not computed and that learns nothing, such as a teacher on ranks of its own: a chunk of
/// layers a stage, of which the costliest costs the least, and one micro-batch after the other.
Pipeline pipeline_without_head(const nn::ModelConfig& model, std::int64_t sequence_length, int num_stages);

/// Throws a UsageError where parallel.teacher_layout, over the student's ranks, is none of so many.
void check_teacher_layout(const ParallelConfig& config, int num_ranks);
/// Likewise where it, over the student's ranks or parallel.teacher_ranks, has more stages than the teacher layers, or a
/// tp that those refuse.
void check_teacher_cut(const RunConfig& config, const nn::ModelConfig& teacher, int num_students);

/// Throws a UsageError where a run asks for what a pipeline of so many stages does not do.
void check_pipeline(const RunConfig& config, const nn::ModelConfig& student, int num_stages);

/// What is where, when, and how much of the time a stage waits; a line each.
std::vector<std::string> to_lines(const Pipeline& pipeline);

/// Collective over ranks that have each worked it out: throws a UsageError on all of them where it is not the same on
/// all, which would wait for each other in a step: it names two of them, and the first of the layers and actions that
/// are others, "pipeline.stage 1.action 3 is W0 on rank 2 and B1 on rank 0". `name`: what it calls it.
void check_same_pipeline(core::Comm& world, const Pipeline& pipeline, const std::string& name = "pipeline");

}  // namespace limbeck::launch
