#include "tests/support/golden_model.h"

#include <algorithm>
#include <cmath>

#include "tests/support/teacher_file.h"

namespace limbeck::testing {

Hdf5Group::Hdf5Group(std::shared_ptr<const data::Hdf5File> file, const std::string& group)
    : file_(std::move(file)), group_(group) {
  for (const std::string& path : file_->datasets()) {
    if (!path.starts_with(group + "/")) continue;
    std::string name = path.substr(group.size() + 1);
    std::replace(name.begin(), name.end(), '/', '.');
    tensors_[name] = file_->dataset_info(path);
  }
}

std::string Hdf5Group::source() const { return file_->file().string() + ":" + group_; }

void Hdf5Group::fill(const std::string& name, const core::StateInfo& /*info*/, core::StateEntry& entry) const {
  file_->read(data::hdf5_path(group_, name), entry.tensor.dtype(), entry.tensor.mutable_raw(), entry.offset,
              entry.tensor.shape());
}

GoldenModel::Kept& GoldenModel::kept(const std::string& name) {
  static std::mutex mutex;
  static std::map<std::string, Kept> files;
  const std::lock_guard lock(mutex);
  Kept& kept = files[name];
  if (!kept.file)
    kept.file = std::make_shared<const data::Hdf5File>(data::Hdf5File::open(golden_path("models/" + name)));
  return kept;
}

GoldenModel::GoldenModel(const std::string& name) : kept_(&kept(name)) {}

double GoldenModel::number(const std::string& attribute, const std::string& group) const {
  const data::Hdf5Attribute value = kept_->file->attribute(group, attribute);
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return static_cast<double>(*integer);
  return std::get<double>(value);
}

nn::ModelConfig GoldenModel::config(const std::string& group) const {
  const auto n = [&](const char* name) { return std::llround(number(name, group)); };
  nn::ModelConfig c;
  c.vocabulary = n("vocabulary");
  c.width = n("width");
  c.num_layers = n("num_layers");
  c.num_heads = n("num_heads");
  c.num_kv_heads = n("num_kv_heads");
  c.head_width = n("head_width");
  c.mlp_width = n("mlp_width");
  c.max_positions = 64;
  c.norm_eps = number("norm_eps", group);
  c.rope_base = number("rope_base", group);
  c.tied_head = n("tied_head") != 0;
  c.moe.num_experts = n("num_experts");
  c.moe.experts_per_token = n("experts_per_token");
  c.moe.expert_width = n("expert_width");
  c.moe.renormalise = n("renormalise") != 0;
  if (!has("shared_width")) return c;
  c.moe.shared_width = n("shared_width");
  for (std::int64_t layer = 0; layer < n("leading_dense"); ++layer) c.moe.dense_layers.push_back(layer);
  return c;
}

nn::RouterTraining GoldenModel::router() const {
  nn::RouterTraining router{.balance = number("balance_weight"), .z = number("z_weight")};
  if (!has("capacity_factor")) return router;
  router.balance_scope = number("global_balance") != 0 ? nn::BalanceScope::GlobalBatch : nn::BalanceScope::Sequence;
  router.capacity_factor = number("capacity_factor");
  router.jitter = number("jitter");
  router.seed = static_cast<std::uint64_t>(number("seed"));
  router.expert_choice = has("expert_choice") && number("expert_choice") != 0;
  return router;
}

const std::vector<double>& GoldenModel::values(const std::string& path) const {
  const std::lock_guard lock(kept_->mutex);
  const auto known = kept_->values.find(path);
  if (known != kept_->values.end()) return known->second;
  const core::StateInfo info = kept_->file->dataset_info(path);
  std::vector<double> result(static_cast<std::size_t>(info.shape.numel()));
  const std::vector<std::int64_t> offset(static_cast<std::size_t>(info.shape.rank()), 0);
  kept_->file->read(path, core::DType::F64, result.data(), offset, info.shape);
  return kept_->values.emplace(path, std::move(result)).first->second;
}

data::TokenBatch GoldenModel::samples() const {
  const auto column = [&](const char* path) {
    const std::vector<double>& v = values(path);
    return std::vector<std::int32_t>(v.begin(), v.end());
  };
  data::TokenBatch samples;
  const core::Shape shape = kept_->file->dataset_info("/tokens").shape;
  samples.num_sequences = shape[0];
  samples.sequence_length = shape[1];
  samples.tokens = column("/tokens");
  samples.targets = column("/targets");
  samples.positions = column("/positions");
  samples.documents = column("/documents");
  return samples;
}

double GoldenModel::worst_gradient_error(const core::ParameterList& parameters, const std::string& group) const {
  std::map<std::string, std::vector<double>> expected;
  for (const core::Parameter* p : parameters) expected[p->name] = values(data::hdf5_path(group, p->name));
  return testing::worst_gradient_error(parameters, expected);
}

double worst_gradient_error(const core::ParameterList& parameters,
                            const std::map<std::string, std::vector<double>>& expected) {
  const auto greatest_of = [](const std::vector<double>& values) {
    double greatest = 0;
    for (const double v : values) greatest = std::max(greatest, std::abs(v));
    return greatest;
  };
  double greatest = 0;
  for (const core::Parameter* p : parameters) greatest = std::max(greatest, greatest_of(expected.at(p->name)));
  double worst = 0;
  for (const core::Parameter* p : parameters) {
    if (p->is_frozen()) continue;
    const std::vector<double>& whole = expected.at(p->name);
    const std::vector<double> mine = values_of(p->slot->grad);
    double error = 0;
    core::for_each_element(*p, [&](std::int64_t i, std::int64_t global) {
      const double d = std::abs(mine[static_cast<std::size_t>(i)] - whole[static_cast<std::size_t>(global)]);
      error = std::max(error, std::isnan(d) ? 1e300 : d);
    });
    worst = std::max(worst, error / std::max(greatest_of(whole), greatest / 100));
  }
  return worst;
}

std::vector<double> values_of(const core::Tensor& t) {
  std::vector<double> result;
  core::dispatch_float("values_of", t.dtype(), [&]<class T>() {
    const std::vector<T> values = core::host_values<T>(t);
    result.assign(values.begin(), values.end());
  });
  return result;
}

}  // namespace limbeck::testing
