// A mixture of experts on ranks that are threads: each has its part of the experts and of the rows. The same losses
// with 1, 2 or 4 ranks.
#include <fmt/core.h>

#include <cstdlib>

#include "core/nn/moe.h"
#include "core/ops/squared_error.h"
#include "core/random.h"
#include "optim/adamw.h"
#include "parallel/axes/communicators.h"
#include "parallel/axes/gradient_sync.h"
#include "parallel/threads/run_ranks.h"

using namespace limbeck;

constexpr std::int64_t total_rows = 256, width = 8;

void train(const std::shared_ptr<parallel::WorldComm>& world) {
  const auto memory = core::Memory::cpu(/*threads=*/1);
  const parallel::Mesh mesh(world, parallel::parse_layout(fmt::format("ep{}", world->size())));
  const nn::Communicators comms = parallel::make_communicators(mesh);

  const auto place = [&](core::Parameter& p, const core::Cut& cut) { parallel::place(p, mesh, cut); };
  core::ParameterSet parameters({.memory = memory, .place = place});
  const nn::Moe moe =
      nn::make_moe(parameters, "moe", width, {.num_experts = 4, .experts_per_token = 2, .expert_width = 32});
  for (core::Parameter* p : parameters.list()) core::init_normal(*p, /*deviation=*/0.3, /*seed=*/1);
  parallel::GradientSync sync(parameters.list(), mesh, memory);
  optim::AdamW adamw(optim::whole_fragments(parameters.list()), {.weight_decay = 0});

  // This rank's rows of what all ranks draw: y is x, turned by one place where its first number is positive.
  const std::int64_t rows = total_rows / world->size(), first = rows * world->rank();
  const core::RandomStream random(/*seed=*/2, /*step=*/0, "x");
  core::Tensor x = core::Tensor::empty(memory, core::DType::F32, {rows, width}), y = core::empty_like(x);
  for (std::int64_t t = 0; t < rows; ++t)
    for (std::int64_t c = 0; c < width; ++c) {
      const auto at = [&](std::int64_t i) { return static_cast<float>(random.normal((first + t) * width + i)); };
      x.mutable_data<float>()[t * width + c] = at(c);
      y.mutable_data<float>()[t * width + c] = at(at(0) > 0 ? (c + 1) % width : c);
    }
  const nn::Batch batch = nn::one_sequence(memory, std::vector<std::int32_t>(rows), first);

  for (int step = 1; step <= 300; ++step) {
    sync.begin_step();
    core::Tape tape;
    nn::AuxiliaryLosses none;
    const core::Var out = moe.forward(tape, {.batch = batch, .comms = comms}, core::constant(x), none);
    core::Var loss = core::mean_squared_error(tape, out, core::constant(y), total_rows * width);
    tape.backward(loss);
    sync.finish();
    adamw.step(/*rate=*/0.01);
    world->all_reduce(loss.value, core::Reduce::Sum);
    if (step % 100 == 0 && world->rank() == 0)
      fmt::print("step {:3}  loss {:.4f}\n", step, core::host_value(loss.value));
  }
}

int main(int argc, char** argv) { parallel::run_ranks(argc > 1 ? std::atoi(argv[1]) : 2, train); }
