// Steps of distilling the golden mixture from itself, on any device and layout.
//
//     GoldenSteps steps(world.comm, {.layout = "ep2", .ranks = 2}, memory);
//     const GoldenSteps::Step step = steps.run();          // forward, backward, norm, optimizer
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/device/offload.h"
#include "launch/run/sharing.h"
#include "launch/run/training_step.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/layouts.h"

namespace limbeck::testing {

struct StepSettings {
  std::string layout = "dp1";
  int ranks = 1;
  bool recompute = false;
  bool uses_muon = false;
  double capacity_factor = 0;
  core::DType compute = core::DType::F32;
  bool fp8_products = false;
  double rate = 1e-3;
  bool eight_bit = false;  // moments
  bool records = false;
  std::int64_t num_predict_layers = 0;
  bool has_states = false;  // the first layer is of Mamba-2
  bool matches = false;     // each layer is held to the other one of the teacher's
  core::DType weights = core::DType::F32;
  bool sequence_parallel = false;
  std::int64_t micro_batches = 2;
  launch::ParallelConfig stages = {};  // how a pipeline runs
  parallel::ExpertExchange exchange = parallel::ExpertExchange::Auto;
  int ranks_a_node = 0;                                    // for whoever makes the world
  std::vector<std::vector<std::int64_t>> replicated = {};  // experts, by layer
  double clip = 1;
  parallel::Sharding sharding = {};
  std::int64_t tensor_chunks = 1;
  std::vector<optim::Group> groups = {};
  bool has_expert_biases = false;  // of experts' products, and those that experts are chosen by
  std::int64_t num_experts = 0;    // of the student; 0: as many as the teacher
  std::int64_t expert_chunks = 1;
  bool sharded_teacher = false;  // its experts are cut as the student's
  bool offload_state = false;    // the optimizer's lies in the host's memory
  bool offload_teacher = false;  // and so do the teacher's layers
  bool own_head = false;         // of the student, where the golden model's is its embedding
};

/// The same in float64.
inline StepSettings float64(StepSettings settings) {
  settings.weights = settings.compute = core::DType::F64;
  return settings;
}

class GoldenSteps {
 public:
  /// Collective. A student of random weights whose teacher is the golden model.
  GoldenSteps(std::shared_ptr<parallel::WorldComm> world, const StepSettings& settings, core::MemoryPtr memory)
      : settings_(settings),
        rank_(std::move(world), settings.layout, 1, settings.sequence_parallel, std::move(memory), settings.exchange),
        pipeline_(pipeline_of(rank_, config(), settings.stages, settings.micro_batches)),
        student_(config(), options()),
        teacher_(golden_.config(), teacher_options()),
        trained_(optim::apply_groups(student_.parameters(), settings.groups, names_of_stages())),
        sync_(optim::parameters_of(trained_), rank_.mesh(), rank_.memory(), core::sum_dtype(settings.weights),
              bucket_bytes, settings.sharding),
        values_(optim::parameters_of(trained_), sync_.groups(), bucket_bytes),
        fragments_(optim::fragments_of(trained_ = launch::dealt(std::move(trained_), sync_.groups(), values_))),
        optimizer_(trained_,
                   {.uses_muon = settings.uses_muon,
                    .adamw = {.eight_bit_from = settings.eight_bit ? 1 : 0},
                    .kept_in = settings.offload_state ? core::offload_memory(rank_.memory()) : nullptr},
                   [this](const std::string& axis) -> core::Comm& { return rank_.mesh().along(axis); }) {
    student_.init_random(1);
    student_.set_weights(values_.weights());
    values_.begin();
    optimizer_.begin_training();
    values_.gather();
    teacher_.load(golden_.parameters());
  }

  struct Step {
    launch::StepResult result;
    double norm = 0;
  };
  /// The gradients stay until the next.
  Step run() { return run(golden_.samples(), settings_.rate); }
  Step run(const data::TokenBatch& samples, double rate) {
    const launch::TrainingStep::Done done =
        run_match(samples,
                  {.micro_batches = settings_.micro_batches,
                   .pipeline = &pipeline_,
                   .router = {.balance = 0.01, .z = 1e-3, .capacity_factor = settings_.capacity_factor},
                   .replicated = settings_.replicated,
                   .expert_chunks = settings_.expert_chunks,
                   .tensor_chunks = settings_.tensor_chunks,
                   .recompute = settings_.recompute},
                  rate);
    return {done.result, done.norm.norm};
  }
  /// As a run that goes on.
  void load(const core::StateReader& state) {
    for (const optim::Fragment& f : fragments_) {
      core::StateEntry entry = f.entry(f.value().to(core::sum_dtype(settings_.weights)));
      state.read(f.parameter->name, entry);
      f.value().copy_from(entry.tensor.to(
          settings_.weights == core::DType::BF16 && !f.parameter->is_matrix() ? core::DType::F32 : settings_.weights));
    }
    optimizer_.load(state);
    values_.gather();
  }
  data::TokenBatch samples() const { return golden_.samples(); }
  launch::TrainingStep& training_step() { return step_; }

  /// Parameters and what the optimizer keeps: what this rank would write of it.
  core::StateDict state() const {
    core::StateDict state = optimizer_.state_dict();
    for (const optim::Fragment& f : fragments_) state[f.parameter->name] = f.entry(f.value());
    return state;
  }

  launch::Rank& rank() { return rank_; }
  nn::Transformer& student() { return student_; }
  nn::Transformer& teacher() { return teacher_; }
  optim::Optimizer& optimizer() { return optimizer_; }
  const std::vector<optim::Fragment>& fragments() const { return fragments_; }
  parallel::SharedValues& values() { return values_; }

 private:
  launch::TrainingStep::Done run_match(const data::TokenBatch& samples, launch::StepOptions options, double rate) {
    if (settings_.matches) {
      options.hidden = launch::HiddenMatch{.weight = 0.5, .layers = {1, 0}};
      options.updates.fill(launch::HiddenMatch{.weight = 0.3, .layers = {1, 0}});
      options.routers = launch::RouterMatch{.weight = 0.2, .layers = {1, 0}};
    }
    return step_.run(samples, options, rate);
  }
  nn::ModelConfig config() const {
    nn::ModelConfig config = golden_.config();
    config.num_predict_layers = settings_.num_predict_layers;
    if (settings_.own_head) config.tied_head = false;
    config.moe.expert_bias = config.moe.selection_bias = settings_.has_expert_biases;
    if (settings_.num_experts > 0) config.moe.num_experts = settings_.num_experts;
    if (settings_.has_states)
      config.mamba = {.num_heads = 4, .head_width = 6, .state_width = 5, .num_groups = 2, .attention_layers = {1}};
    return config;
  }
  nn::ModelOptions options() const {
    nn::ModelOptions options = rank_.sharded(settings_.weights);
    options.compute = settings_.compute;
    options.fp8_products = settings_.fp8_products;
    options.with_predict = true;
    return pipeline_.part_of(options, rank_.mesh().pp().rank());
  }

  nn::ModelOptions teacher_options() const {
    const core::DType dtype = core::sum_dtype(settings_.weights);
    nn::ModelOptions options = settings_.sharded_teacher ? rank_.frozen_shard(dtype) : rank_.frozen_copy(dtype);
    options.offload_layers = settings_.offload_teacher;
    return options;
  }

  /// Of a pipeline those of all stages: the teacher's are the student's.
  std::vector<std::string> names_of_stages() {
    std::vector<std::string> names;
    if (rank_.mesh().pp().size() == 1) return names;
    for (const core::Parameter* p : teacher_.parameters()) names.push_back(p->name);
    return names;
  }

  static constexpr std::int64_t bucket_bytes = 64 << 10;

  StepSettings settings_;
  GoldenModel golden_{"moe.h5"};
  launch::Rank rank_;
  launch::Pipeline pipeline_;
  nn::Transformer student_, teacher_;
  std::vector<optim::Trained> trained_;
  parallel::GradientSync sync_;
  parallel::SharedValues values_;
  std::vector<optim::Fragment> fragments_;
  optim::Optimizer optimizer_;
  optim::Distillation objective_{{.ce_weight = 0.3, .temperature = 2}};
  launch::TrainingStep step_{rank_,
                             {student_, &teacher_, objective_},
                             sync_,
                             optimizer_,
                             values_,
                             fragments_,
                             {settings_.clip, settings_.records, names_of_stages()}};
};

}  // namespace limbeck::testing
