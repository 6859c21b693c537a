// Whole training steps as `limbeck train` queues them, of random tokens: bfloat16 compute, float32 weights, gradients,
// moments and residual stream; on a GPU recorded ones too (train.cuda_graph). A line of JSON; tests/gpu/torch_bench.py
// has PyTorch's step of the same models.
//
//     bench_gpu_step mixture|dense [--device CPU|CUDA] [--tiny] [--steps 10] [--threads 1] [--json FILE]
//     bench_gpu_step mixture|dense --floors                        # runs nothing: what there is to be computed
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/run/devices.h"
#include "launch/run/rank.h"
#include "launch/run/training_step.h"
#include "optim/objectives.h"
#include "parallel/threads/run_ranks.h"

namespace limbeck::bench {
namespace {

using Json = nlohmann::ordered_json;
constexpr int warm_up = 3;

struct Options {
  std::string model;
  launch::DeviceKind device = launch::DeviceKind::Cuda;
  bool tiny = false;
  bool floors = false;
  int steps = 10;
  int threads = 1;
  std::string json;
};

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  for (auto a = arguments.begin(); a != arguments.end(); ++a) {
    const auto value = [&] {
      if (a + 1 == arguments.end()) core::fail_usage("{} needs a value", *a);
      return *++a;
    };
    if (*a == "--tiny")
      options.tiny = true;
    else if (*a == "--floors")
      options.floors = true;
    else if (*a == "--device")
      options.device = value() == "CPU" ? launch::DeviceKind::Cpu : launch::DeviceKind::Cuda;
    else if (*a == "--steps")
      options.steps = std::stoi(value());
    else if (*a == "--threads")
      options.threads = std::stoi(value());
    else if (*a == "--json")
      options.json = value();
    else
      options.model = *a;
  }
  if ((options.model != "mixture" && options.model != "dense") || options.steps < 1 || options.threads < 1)
    core::fail_usage(
        "expected mixture|dense [--device CPU|CUDA] [--tiny] [--floors] [--steps N] [--threads N] [--json FILE]");
  return options;
}

struct Shape {
  nn::ModelConfig model;
  std::int64_t sequences = 8, length = 2048;
};

/// "mixture": 12 layers of 32 experts of width 512, of which a token has 4. "dense": Qwen2.5-0.5B's shape, without the
/// biases of its q, k and v.
Shape shape_of(const Options& options) {
  Shape shape;
  nn::ModelConfig& m = shape.model;
  const bool is_mixture = options.model == "mixture";
  m.vocabulary = is_mixture ? 32000 : 151936;
  m.width = is_mixture ? 1024 : 896;
  m.num_layers = is_mixture ? 12 : 24;
  m.num_heads = is_mixture ? 16 : 14;
  m.num_kv_heads = is_mixture ? 4 : 2;
  m.head_width = 64;
  if (is_mixture)
    m.moe.num_experts = 32, m.moe.experts_per_token = 4, m.moe.expert_width = 512;
  else
    m.mlp_width = 4864, m.tied_head = true;
  if (options.tiny) {
    m.vocabulary = 320, m.width = 64, m.num_layers = 2, m.num_heads = 4, m.num_kv_heads = 2, m.head_width = 16;
    if (is_mixture)
      m.moe.num_experts = 4, m.moe.experts_per_token = 2, m.moe.expert_width = 32;
    else
      m.mlp_width = 96;
    shape.sequences = 2, shape.length = 32;
  }
  m.max_positions = shape.length;
  return shape;
}

Json describe(const Options& options, const Shape& s) {
  const nn::ModelConfig& m = s.model;
  Json of = {{"L", m.num_layers}, {"C", m.width},      {"H", m.num_heads}, {"G", m.num_kv_heads},
             {"D", m.head_width}, {"V", m.vocabulary}, {"N", s.sequences}, {"S", s.length}};
  if (m.moe.num_experts > 0)
    of["E"] = m.moe.num_experts, of["K"] = m.moe.experts_per_token, of["F"] = m.moe.expert_width;
  else
    of["F"] = m.mlp_width;
  const auto tokens = static_cast<double>(s.sequences * s.length);
  const nn::ParameterCount parameters = nn::count_parameters(m);
  return {{"kind", "step"},
          {"name", options.model},
          {"of", of},
          {"tied", m.tied_head},
          {"parameters", parameters.total},
          {"flops", tokens * nn::training_flops_per_token(m, s.length)},
          // Of the optimizer and the norm alone: what activations move depends on what is fused.
          {"bytes", 32.0 * static_cast<double>(parameters.total)}};
}

data::TokenBatch random_tokens(const Shape& s) {
  data::TokenBatch batch;
  batch.num_sequences = s.sequences;
  batch.sequence_length = s.length;
  std::uint64_t state = 1;
  const auto token = [&] {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::int32_t>((state >> 33U) % static_cast<std::uint64_t>(s.model.vocabulary));
  };
  for (std::int64_t n = 0; n < s.sequences; ++n)
    for (std::int64_t i = 0; i < s.length; ++i) {
      batch.tokens.push_back(token());
      batch.targets.push_back(token());
      batch.positions.push_back(static_cast<std::int32_t>(i));
      batch.documents.push_back(0);
    }
  return batch;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

/// Adds what was measured.
void measure(const Options& options, const Shape& s, const std::shared_ptr<parallel::WorldComm>& world, Json& line) {
  launch::Rank rank(world, "dp1", options.threads, false, launch::memory_of_rank(options.device, options.threads));
  nn::ModelOptions model_options = rank.sharded(core::DType::F32);
  model_options.compute = core::DType::BF16;
  model_options.residual = core::DType::F32;
  nn::Transformer model(s.model, model_options);
  parallel::GradientSync sync(model.parameters(), rank.mesh(), rank.memory());
  parallel::SharedValues values(model.parameters(), sync.groups(), parallel::GradientSync::default_bucket_bytes);
  optim::Optimizer optimizer(optim::apply_groups(model.parameters(), {}), {});
  const optim::LanguageModelling objective;
  model.init_random(1);
  const data::TokenBatch samples = random_tokens(s);
  const auto median_seconds = [&](bool records) {
    launch::TrainingStep training_step(rank, {model, nullptr, objective}, sync, optimizer, values,
                                       optim::whole_fragments(model.parameters()),
                                       {.clip_norm = 1, .records = records});
    std::vector<double> times;
    for (int step = 1; step <= warm_up + options.steps; ++step) {
      const auto begin = std::chrono::steady_clock::now();
      const launch::TrainingStep::Done done = training_step.run(samples, {}, 1e-4);
      done.check(step);
      line["loss"] = done.result.loss();
      if (step > warm_up)
        times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return median(times);
  };

  const double seconds = median_seconds(/*records=*/false);
  line["seconds"] = seconds;
  line["tokens_per_s"] = static_cast<double>(s.sequences * s.length) / seconds;
  line["peak_bytes"] = rank.memory()->statistics().peak_bytes;
  if (!rank.memory()->is_host()) line["recorded_seconds"] = median_seconds(/*records=*/true);
}

void run(const Options& options) {
  const Shape shape = shape_of(options);
  Json line = describe(options, shape);
  if (!options.floors) {
    line["side"] = "limbeck";
    parallel::run_ranks(
        1, [&](const std::shared_ptr<parallel::WorldComm>& world) { measure(options, shape, world, line); });
  }
  fmt::print("{}\n", line.dump());
  if (options.json.empty()) return;
  std::ofstream file(options.json, std::ios::app);
  file << line.dump() << "\n";
  core::check(file.flush().good(), "{}: cannot be written", options.json);
}

}  // namespace
}  // namespace limbeck::bench

int main(int argc, char** argv) try {
  limbeck::bench::run(limbeck::bench::parse({argv + 1, argv + argc}));
} catch (const limbeck::core::UsageError& error) {
  fmt::print(stderr, "bench_gpu_step: error: {}\n", error.what());
  return 2;
} catch (const std::exception& error) {
  fmt::print(stderr, "bench_gpu_step: error: {}\n", error.what());
  return 1;
}
