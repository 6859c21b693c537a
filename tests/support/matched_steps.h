// Two steps of the golden student of matching.h5, taught by the golden teacher, which has its width, and held to two of
// that one's layers: what tests of teachers share that do not run beside the student.
//
//     const MatchedSteps expected = matched_steps_of_one_rank();
//     with_relaid_teacher(world, "dp4", "pp2tp2", /*is_sharded=*/false, [&](Rank& rank, RelaidTeacher& relaid) {
//       expect_matched_steps(rank, {.relaid = &relaid}, micro_batches, expected);
//     });
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "launch/run/relaid_teacher.h"
#include "launch/run/step.h"
#include "launch/run/teacher_service.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/layouts.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::testing {

/// Who teaches.
struct StepTeacher {
  const nn::Transformer* beside = nullptr;
  launch::RemoteTeacher* remote = nullptr;
  bool asks_ahead = false;  // the remote one
  launch::RelaidTeacher* relaid = nullptr;
};

/// Collective: then(rank, teacher), with a student's layout and the golden teacher in one of its own over the same
/// ranks; those of the student's last stage have the head.
template <class Then>
void with_relaid_teacher(const std::shared_ptr<parallel::WorldComm>& world, const char* student, const char* teacher,
                         bool is_sharded, const Then& then) {
  const core::DType dtype = core::DType::F64;
  const GoldenModel golden("matching.h5");
  const nn::ModelConfig config = golden.config("/teacher");
  const std::int64_t length = golden.samples().sequence_length;
  const char* fingerprint = "00112233aabbccdd";
  launch::Rank rank(world, student, 1), side(rank, teacher, parallel::ExpertExchange::Auto);
  launch::RelaidTeacher relaid(rank, side,
                               {.width = config.width, .hidden = dtype, .stream = dtype, .fingerprint = fingerprint});
  if (rank.is_last_stage()) {
    nn::Transformer beside(config, rank.frozen_copy(dtype));
    beside.load(golden.parameters("/teacher/parameters"));
    relaid.keep_head(beside.head().value, beside.head_bias().value);
  }
  launch::LoadedTeacher loaded;
  loaded.model = std::make_unique<nn::Transformer>(
      config, launch::on_stage(side, is_sharded ? side.frozen_shard(dtype) : side.frozen_copy(dtype), config, length));
  loaded.model->load(golden.parameters("/teacher/parameters"));
  loaded.fingerprint = fingerprint;
  relaid.take(std::move(loaded), length);
  then(rank, relaid);
}

/// Calls then(result, parameters) behind each step; the second reads all sequences but the first.
template <class Then>
void run_matched_steps(launch::Rank& rank, const StepTeacher& teacher, std::int64_t micro_batches, const Then& then) {
  const GoldenModel golden("matching.h5");
  const launch::Pipeline pipeline = pipeline_of(rank, golden.config(), {}, micro_batches);
  nn::Transformer student(golden.config(),
                          pipeline.part_of(rank.sharded(core::DType::F64), rank.mesh().pp().rank()));
  student.load(golden.parameters());
  parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), core::DType::F64);
  const optim::Distillation objective({.ce_weight = 0.3, .temperature = 1.5});
  const launch::StepText first(golden.samples());
  const launch::StepText second(first.fetch(1, first.num_sequences - 1));
  const std::array<const launch::StepText*, 2> texts = {&first, &second};
  const launch::HiddenMatch hidden{.weight = 0.6, .layers = {0, 2}};
  if (teacher.relaid != nullptr) teacher.relaid->want_layers({0, 2});
  if (teacher.remote != nullptr) {
    teacher.remote->want_layers({0, 2});
    if (teacher.asks_ahead)
      for (const launch::StepText* text : texts)
        teacher.remote->ask(launch::batches_of(rank, *text, micro_batches, true));
  }
  for (const launch::StepText* text : texts) {
    const launch::StepResult result = launch::forward_backward(rank,
                                                               {.student = student,
                                                                .teacher = teacher.beside,
                                                                .objective = objective,
                                                                .remote = teacher.remote,
                                                                .relaid = teacher.relaid},
                                                               *text,
                                                               {.micro_batches = micro_batches,
                                                                .pipeline = &pipeline,
                                                                .hidden = hidden},
                                                               sync);
    then(result, student.parameters());
  }
}

struct MatchedSteps {
  std::vector<launch::StepResult> results;
  std::vector<std::map<std::string, std::vector<double>>> gradients;
};

/// Of one rank, with the teacher beside the student.
inline MatchedSteps matched_steps_of_one_rank() {
  const GoldenModel golden("matching.h5");
  MatchedSteps steps;
  run_ranks(1, [&](RankWorld& world) {
    launch::Rank rank(world.comm, "dp1", 1);
    nn::Transformer teacher(golden.config("/teacher"), rank.frozen_copy(core::DType::F64));
    teacher.load(golden.parameters("/teacher/parameters"));
    run_matched_steps(rank, {.beside = &teacher}, 1,
                      [&](const launch::StepResult& result, const core::ParameterList& parameters) {
                        steps.results.push_back(result);
                        auto& all = steps.gradients.emplace_back();
                        for (const core::Parameter* p : parameters) all[p->name] = values_of(p->slot->grad);
                      });
  });
  EXPECT_GT(steps.results[0].hidden, 0);
  EXPECT_NE(steps.results[0].loss(), steps.results[1].loss());
  return steps;
}

inline void expect_matched_steps(launch::Rank& rank, const StepTeacher& teacher, std::int64_t micro_batches,
                                 const MatchedSteps& expected) {
  std::size_t step = 0;
  run_matched_steps(rank, teacher, micro_batches,
                    [&](const launch::StepResult& result, const core::ParameterList& parameters) {
                      EXPECT_NEAR(result.loss(), expected.results[step].loss(), 1e-11);
                      EXPECT_NEAR(result.hidden, expected.results[step].hidden, 1e-11);
                      EXPECT_NEAR(result.head.kl, expected.results[step].head.kl, 1e-10);
                      EXPECT_LE(worst_gradient_error(parameters, expected.gradients[step]), 1e-9);
                      ++step;
                    });
  EXPECT_EQ(step, 2U);
}

}  // namespace limbeck::testing
