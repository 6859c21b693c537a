#include "launch/run/gradient_dump.h"

namespace limbeck::launch {
using core::Tensor;

GradientDump::GradientDump(Rank& rank, const std::filesystem::path& file, const nn::ModelConfig& model,
                           const RunConfig& config, std::int64_t valid_vocabulary, const data::TokenBatch& samples,
                           const core::ParameterList& parameters)
    : rank_(rank),
      has_teacher_(config.teacher.has_value()),
      balance_weight_(config.moe_loss.balance_weight),
      z_weight_(config.moe_loss.z_weight) {
  if (rank.is_first()) {
    file_.emplace(data::Hdf5File::create(temporary_.emplace(file).name()));
    const core::Shape shape = {samples.num_sequences, samples.sequence_length};
    const auto column = [&](const char* path, const std::vector<std::int32_t>& values) {
      file_->write_dataset(path, Tensor::from<std::int32_t>(rank.memory(), shape, values));
    };
    column("/tokens", samples.tokens);
    column("/targets", samples.targets);
    column("/positions", samples.positions);
    column("/documents", samples.documents);
    const auto number = [&](const char* name, data::Hdf5Attribute value) { file_->set_attribute("/", name, value); };
    number("vocabulary", model.vocabulary);
    number("valid_vocabulary", valid_vocabulary);
    number("width", model.width);
    number("num_layers", model.num_layers);
    number("num_heads", model.num_heads);
    number("num_kv_heads", model.num_kv_heads);
    number("head_width", model.head_width);
    number("mlp_width", model.mlp_width);
    number("num_experts", model.moe.num_experts);
    number("experts_per_token", model.moe.experts_per_token);
    number("expert_width", model.moe.expert_width);
    number("shared_width", model.moe.shared_width);
    number("renormalise", std::int64_t{model.moe.renormalise});
    number("tied_head", std::int64_t{model.tied_head});
    number("norm_eps", model.norm_eps);
    number("rope_base", model.rope_base);
    number("balance_weight", config.moe_loss.balance_weight);
    number("z_weight", config.moe_loss.z_weight);
    number("global_balance", std::int64_t{config.moe_loss.balance_scope == nn::BalanceScope::GlobalBatch});
    number("capacity_factor", config.routing.capacity_factor);
    number("jitter", config.routing.jitter);
    number("seed", static_cast<std::int64_t>(config.train.seed));
    number("cross_entropy_weight", config.objective.cross_entropy_weight);
    number("temperature", config.objective.temperature);
    number("config", to_textproto(config));
  }
  std::vector<std::string> frozen;
  for (const core::Parameter* p : parameters) {
    write_whole("/parameters", *p, p->value.dtype() == core::DType::BF16 ? p->value.to(core::DType::F32) : p->value);
    if (p->is_frozen()) frozen.push_back(p->name);
  }
  if (file_ && !frozen.empty()) file_->set_attribute("/", "frozen", fmt::format("{}", fmt::join(frozen, " ")));
}

void GradientDump::write_whole(const std::string& group, const core::Parameter& parameter, const Tensor& part) {
  Tensor whole = Tensor::zeros(rank_.memory(), part.dtype(), parameter.global_shape);
  if (parameter.first_replica)
    core::dispatch_float("dump", part.dtype(), [&]<class T>() {
      const T* from = part.data<T>();
      T* to = whole.mutable_data<T>();
      core::for_each_element(parameter, [&](std::int64_t i, std::int64_t global) { to[global] = from[i]; });
    });
  rank_.world().all_reduce(whole, core::Reduce::Sum);
  if (file_) file_->write_dataset(data::hdf5_path(group, parameter.name), whole);
}

void GradientDump::write(const StepResult& result, const core::ParameterList& parameters) {
  for (const core::Parameter* p : parameters) write_whole("/gradients", *p, p->slot->grad);
  if (!file_) return;
  const auto loss = [&](const char* path, double value) {
    file_->write_dataset(path, Tensor::from<double>(rank_.memory(), {}, std::span<const double>(&value, 1)));
  };
  const double n = result.head.tokens;
  loss("/loss/total", result.loss());
  loss("/loss/ce", result.head.ce / n);
  if (has_teacher_) loss("/loss/kl", result.head.kl / n);
  if (balance_weight_ > 0) loss("/loss/balance", result.balance / balance_weight_);
  if (z_weight_ > 0) loss("/loss/z", result.z / z_weight_);
  file_->close();
  file_.reset();
  temporary_->keep();
}

}  // namespace limbeck::launch
