#include "launch/run/gradient_dump.h"

#include "launch/run/model_source.h"

namespace limbeck::launch {
using core::Tensor;

namespace {

/// As attributes of the file; the fields of a section stand beside the others, those of latents as latent_NAME.
void write_numbers(data::Hdf5File& file, const nlohmann::ordered_json& section, const std::string& prefix = "") {
  for (const auto& [field, value] : section.items()) {
    const std::string name = prefix + field;
    if (value.is_object())
      write_numbers(file, value, field == "latent" ? "latent_" : "");
    else if (value.is_array())
      file.set_attribute("/", name, value.get<std::vector<std::int64_t>>());
    else if (value.is_string())
      file.set_attribute("/", name, value.get<std::string>());
    else if (value.is_number_float())
      file.set_attribute("/", name, value.get<double>());
    else
      file.set_attribute("/", name, value.is_boolean() ? std::int64_t{value.get<bool>()} : value.get<std::int64_t>());
  }
}

}  // namespace

GradientDump::GradientDump(Rank& rank, const std::filesystem::path& file, const nn::ModelConfig& model,
                           const RunConfig& config, const optim::DistillationOptions& objective,
                           std::int64_t valid_vocabulary, const data::TokenBatch& samples,
                           const core::ParameterList& parameters)
    : rank_(rank),
      has_teacher_(config.teacher.has_value()),
      hidden_weight_(config.objective.hidden_states.weight),
      routers_weight_(config.objective.routers.weight),
      update_weights_{config.objective.attention.weight, config.objective.feed_forward.weight},
      balance_weight_(config.moe_loss.balance_weight),
      z_weight_(config.moe_loss.z_weight) {
  if (rank.is_first()) {
    file_.emplace(data::Hdf5File::create(temporary_.emplace(file).name()));
    const core::Shape shape = {samples.num_sequences, samples.sequence_length};
    const auto column = [&](const char* path, const std::vector<std::int32_t>& values) {
      file_->write_dataset(path, Tensor::from<std::int32_t>(rank.host_memory(), shape, values));
    };
    column("/tokens", samples.tokens);
    column("/targets", samples.targets);
    column("/positions", samples.positions);
    column("/documents", samples.documents);
    const auto number = [&](const char* name, data::Hdf5Attribute value) { file_->set_attribute("/", name, value); };
    write_numbers(*file_, to_json(model));
    number("valid_vocabulary", valid_vocabulary);
    number("balance_weight", config.moe_loss.balance_weight);
    number("z_weight", config.moe_loss.z_weight);
    number("global_balance", std::int64_t{config.moe_loss.balance_scope == nn::BalanceScope::GlobalBatch});
    number("capacity_factor", config.routing.capacity_factor);
    number("jitter", config.routing.jitter);
    number("seed", static_cast<std::int64_t>(config.train.seed));
    number("cross_entropy_weight", objective.ce_weight);
    number("temperature", objective.temperature);
    number("divergence", static_cast<std::int64_t>(objective.divergence));
    number("mix", objective.mix);
    number("predict_weight", config.objective.predict_weight);
    number("hidden_weight", config.objective.hidden_states.weight);
    for (std::size_t block = 0; block < nn::num_blocks; ++block)
      number(fmt::format("{}_weight", update_names[block]).c_str(), update_weights_[block]);
    number("routers_weight", config.objective.routers.weight);
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
  Tensor whole = Tensor::zeros(rank_.host_memory(), part.dtype(), parameter.global_shape);
  if (parameter.first_replica)
    core::dispatch_float("dump", part.dtype(), [&]<class T>() {
      const Tensor here = part.in(rank_.host_memory());
      const T* from = here.host<T>();
      T* to = whole.mutable_host<T>();
      core::for_each_element(parameter, [&](std::int64_t i, std::int64_t global) { to[global] = from[i]; });
    });
  rank_.world().all_reduce(whole, core::Reduce::Sum);
  if (file_) file_->write_dataset(data::hdf5_path(group, parameter.name), whole);
}

void GradientDump::write(const StepResult& result, const core::ParameterList& parameters) {
  for (const core::Parameter* p : parameters) write_whole("/gradients", *p, p->slot->grad);
  if (!file_) return;
  const auto loss = [&](const char* path, double value) {
    file_->write_dataset(path, Tensor::from<double>(rank_.host_memory(), {}, std::span<const double>(&value, 1)));
  };
  const double n = result.head.tokens;
  loss("/loss/total", result.loss());
  loss("/loss/ce", result.head.ce / n);
  if (has_teacher_) loss("/loss/kl", result.head.kl / n);
  if (!result.predict.empty()) loss("/loss/predict", result.predict_loss());
  if (hidden_weight_ > 0) loss("/loss/hidden", result.hidden / hidden_weight_);
  for (std::size_t block = 0; block < nn::num_blocks; ++block)
    if (update_weights_[block] > 0)
      loss(fmt::format("/loss/{}", update_names[block]).c_str(), result.updates[block] / update_weights_[block]);
  if (routers_weight_ > 0) loss("/loss/routing", result.routing / routers_weight_);
  if (balance_weight_ > 0) loss("/loss/balance", result.balance / balance_weight_);
  if (z_weight_ > 0) loss("/loss/z", result.z / z_weight_);
  file_->close();
  file_.reset();
  temporary_->keep();
}

}  // namespace limbeck::launch
