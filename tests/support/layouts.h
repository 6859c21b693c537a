// What the layout tests share between ranks that are threads and ranks under MPI.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "launch/run/pipeline.h"
#include "launch/run/step.h"
#include "optim/clip.h"
#include "optim/objectives.h"
#include "parallel/threads/thread_world.h"
#include "tests/support/golden_model.h"

namespace limbeck::testing {

/// Choices that PyTorch's weights lead to, as one rank alone makes them; replayed where sums are taken in another
/// order.
inline nn::RoutingLog reference_routing(const GoldenModel& golden) {
  const auto memory = core::Memory::cpu(1);
  nn::Transformer model(golden.config(), {.memory = memory, .dtype = core::DType::F64, .frozen = true});
  model.load(golden.parameters());
  nn::RoutingLog log;
  const data::TokenBatch samples = golden.samples();
  const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
  nn::Pass pass = model.pass(batch);
  pass.routing = &log;
  pass.router = golden.router();
  core::Tape off(core::Tape::Mode::Off);
  model.forward(off, pass);
  return log;
}

/// Loss and gradients of the golden batch under one layout.
struct Gradients {
  double loss = 0;
  std::map<std::string, std::vector<double>> whole = {};  // by parameter: of one rank alone, the global gradient
};

inline launch::ParallelConfig with_schedule(launch::PipelineKind kind, std::int64_t chunks) {
  launch::ParallelConfig parallel;
  parallel.schedule = kind;
  parallel.chunks = chunks;
  return parallel;
}

/// Of a model of which a rank's stage has some layers: all of them, without pp.
inline launch::Pipeline pipeline_of(const launch::Rank& rank, const nn::ModelConfig& model,
                                    const launch::ParallelConfig& parallel, std::int64_t micro_batches) {
  launch::RunConfig config;
  config.parallel = parallel;
  config.batch.micro_batches = micro_batches;
  return launch::pipeline_of(config, model, rank.mesh().pp().size());
}

/// Checks this rank's loss and gradients against PyTorch's (1e-5 in float32 under the reference's routing; 1e-7 in
/// float64, with which the golden gradients are stored) and, in float64 with free routing, against `one_rank` (1e-11).
inline Gradients check_gradients_of(launch::Rank& rank, const std::string& file, core::DType dtype,
                                    launch::StepOptions options, const Gradients* one_rank,
                                    std::int64_t bucket_bytes = 4096, const launch::ParallelConfig& parallel = {}) {
  const GoldenModel golden(file);
  const bool is_double = dtype == core::DType::F64;
  const launch::Pipeline pipeline = pipeline_of(rank, golden.config(), parallel, options.micro_batches);
  nn::Transformer model(golden.config(), pipeline.part_of(rank.sharded(dtype), rank.mesh().pp().rank()));
  options.pipeline = &pipeline;
  model.load(golden.parameters());
  parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory(), dtype, bucket_bytes);
  const optim::LanguageModelling objective;
  nn::RoutingLog reference;
  if (!is_double) {
    reference = reference_routing(golden);
    options.routing = &reference;
  }
  options.router = golden.router();
  const launch::StepResult result =
      launch::forward_backward(rank, {model, nullptr, objective}, golden.samples(), options, sync);
  const double expected = golden.value("/loss/total");
  EXPECT_NEAR(result.loss(), expected, (is_double ? 1e-11 : 1e-5) * std::abs(expected));
  EXPECT_LE(golden.worst_gradient_error(model.parameters()), is_double ? 1e-7 : 1e-5);
  const double norm = golden.values("/steps/grad_norm").at(0);
  std::vector<std::string> names;
  const Hdf5Group all = golden.parameters();
  for (const auto& [name, tensor] : all.tensors()) names.push_back(name);
  EXPECT_NEAR(optim::GradientNorm(optim::whole_fragments(model.parameters()), rank.world(), 0, names).values().norm,
              norm, (is_double ? 1e-11 : 1e-5) * norm);
  EXPECT_EQ(result.expert_load.size(), static_cast<std::size_t>(golden.config().num_moe_layers()));
  for (std::size_t i = 0; i < result.expert_load.size(); ++i)
    EXPECT_EQ(result.expert_load[i], golden.values(fmt::format("/routing/layers/{}/counts", i)));

  Gradients gradients{.loss = result.loss()};
  for (const core::Parameter* p : model.parameters()) gradients.whole[p->name] = values_of(p->slot->grad);
  if (one_rank && is_double) {
    EXPECT_NEAR(result.loss(), one_rank->loss, 1e-11 * std::abs(one_rank->loss));
    EXPECT_LE(worst_gradient_error(model.parameters(), one_rank->whole), 1e-11);
  }
  return gradients;
}

/// Checked when it is first asked for; kept, for every rank of every layout asks.
inline const Gradients& gradients_of_one_rank(const std::string& file, core::DType dtype) {
  static std::mutex mutex;
  static std::map<std::pair<std::string, core::DType>, Gradients> kept;
  const std::lock_guard lock(mutex);
  const auto [place, is_new] = kept.try_emplace({file, dtype});
  if (is_new) {
    launch::Rank alone(parallel::ThreadWorld(1).comm(0), "dp1", 1);
    place->second = check_gradients_of(alone, file, dtype, {}, nullptr);
  }
  return place->second;
}

/// The same on every rank of a layout; the reference is a run of one rank with one micro-batch and nothing recomputed.
inline void expect_golden(launch::Rank& rank, const std::string& file, core::DType dtype,
                          const launch::StepOptions& options = {}, std::int64_t bucket_bytes = 4096,
                          const launch::ParallelConfig& parallel = {}) {
  check_gradients_of(rank, file, dtype, options, &gradients_of_one_rank(file, dtype), bucket_bytes, parallel);
}

/// Every golden model, with 1 and 3 micro-batches; with 1 where the balance loss is of the whole batch.
inline void expect_every_golden(launch::Rank& rank, core::DType dtype) {
  expect_golden(rank, "moe_global_balance.h5", dtype);
  for (const char* file :
       {"dense.h5", "dense_uneven.h5", "moe.h5", "moe_idle_expert.h5", "moe_options.h5", "moe_expert_choice.h5"})
    for (const std::int64_t micro_batches : {1, 3}) {
      SCOPED_TRACE(fmt::format("{} {} micro-batches {}", file, micro_batches, dtype));
      expect_golden(rank, file, dtype, {.micro_batches = micro_batches});
    }
}

}  // namespace limbeck::testing
