#include "launch/run/gradient_dump.h"

#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <sstream>

#include "core/exchanges_of.h"
#include "data/checkpoints/tensor_boxes.h"
#include "launch/run/model_source.h"
#include "launch/run/same_everywhere.h"

namespace limbeck::launch {
using core::DType;
using core::Tensor;

namespace {

/// As attributes of the file; the fields of a section stand beside the others, those of latents as latent_NAME, of
/// Mamba-2 as mamba_NAME.
void write_numbers(data::Hdf5File& file, const nlohmann::ordered_json& section, const std::string& prefix = "") {
  for (const auto& [field, value] : section.items()) {
    const std::string name = prefix + field;
    if (value.is_object())
      write_numbers(file, value, field == "latent" || field == "mamba" ? field + "_" : "");
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

/// What a rank without a part of a tensor has of it.
core::StateEntry nothing_of(const core::Shape& whole, DType dtype) {
  core::Shape none = whole;
  if (none.rank() > 0) none[0] = 0;
  return {whole, std::vector<std::int64_t>(static_cast<std::size_t>(whole.rank())),
          Tensor::empty(core::Memory::cpu(1), dtype, none), /*write=*/false};
}

}  // namespace

GradientDump::GradientDump(Rank& rank, const std::filesystem::path& file, const nn::ModelConfig& model,
                           const RunConfig& config, const optim::DistillationOptions& objective,
                           std::int64_t valid_vocabulary, const data::TokenBatch& samples,
                           const core::ParameterList& parameters, const std::vector<optim::Fragment>& trained)
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
    number("expert_choice", std::int64_t{config.routing.expert_choice});
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
  std::map<const core::Parameter*, const optim::Fragment*> apart;  // those whose values are dealt
  for (const optim::Fragment& f : trained)
    if (f.sharers.value.defined()) apart[f.parameter] = &f;
  Parts parts;
  std::vector<std::string> frozen;
  for (const core::Parameter* p : parameters) {
    const auto dealt = apart.find(p);
    parts.emplace_back(p->name,
                       dealt == apart.end() ? p->entry(p->value) : dealt->second->entry(dealt->second->value()));
    if (p->is_frozen() && (p->first_replica || rank.mesh().pp().size() == 1)) frozen.push_back(p->name);
  }
  write_all("/parameters", parts);
  std::vector<std::string> of_stages = gather_strings(rank.mesh().pp(), fmt::format("{}", fmt::join(frozen, " ")));
  std::erase(of_stages, "");
  if (file_ && !of_stages.empty()) file_->set_attribute("/", "frozen", fmt::format("{}", fmt::join(of_stages, " ")));
}

void GradientDump::write_all(const std::string& group, const Parts& parts) {
  std::map<std::string, core::StateEntry> here(parts.begin(), parts.end());
  std::string mine;  // a line each: name, type, extents
  for (const auto& [name, entry] : parts)
    mine += fmt::format("{} {} {}\n", name, static_cast<int>(core::sum_dtype(entry.tensor.dtype())),
                        fmt::join(entry.global_shape.extents(), " "));
  std::set<std::string> written;
  for (const std::string& of_stage : gather_strings(rank_.mesh().pp(), mine)) {
    std::istringstream lines(of_stage);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream words(line);
      std::string name;
      int dtype = 0;
      words >> name >> dtype;
      if (!written.insert(name).second) continue;  // both ends of a pipeline have a tied head
      const std::vector<std::int64_t> extents{std::istream_iterator<std::int64_t>(words), {}};
      const auto found = here.find(name);
      write_whole(group, name,
                  found != here.end() ? found->second : nothing_of(core::Shape(extents), static_cast<DType>(dtype)));
    }
  }
}

void GradientDump::write_whole(const std::string& group, const std::string& name, const core::StateEntry& entry) {
  const Tensor part = entry.value().to(core::sum_dtype(entry.tensor.dtype()));
  Tensor whole = Tensor::zeros(rank_.host_memory(), part.dtype(), entry.global_shape);
  if (entry.write) {
    const core::Shape& shape = entry.global_shape;
    const data::TensorBox all{name, part.dtype(), shape, std::vector<std::int64_t>(entry.offset.size(), 0), shape};
    data::for_each_shared_run({name, part.dtype(), shape, entry.offset, part.shape()}, all,
                              [&](std::int64_t from, std::int64_t to, std::int64_t count) {
                                std::memcpy(whole.mutable_host_raw() + core::bytes_of(part.dtype(), to),
                                            part.host_raw() + core::bytes_of(part.dtype(), from),
                                            static_cast<std::size_t>(core::bytes_of(part.dtype(), count)));
                              });
  }
  const core::ExchangesOf scope("what is dumped of", core::name_of_many(name, 1));
  rank_.world().all_reduce(whole, core::Reduce::Sum);
  if (file_) file_->write_dataset(data::hdf5_path(group, name), whole);
}

void GradientDump::write(const StepResult& result, const std::vector<optim::Fragment>& trained) {
  Parts parts;
  for (const optim::Fragment& f : trained)
    parts.emplace_back(f.parameter->name, f.sharers.gradients ? f.entry(f.gradient().reshape(f.shape()))
                                                              : f.parameter->entry(f.parameter->slot->grad));
  write_all("/gradients", parts);
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
