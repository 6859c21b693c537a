#include "data/models/families/deepseek_mixture.h"

namespace limbeck::data {

namespace {

std::int64_t integer(const ConfigFields& fields, const char* name, const std::optional<std::int64_t>& otherwise) {
  return otherwise ? fields.integer_or(name, *otherwise) : fields.integer(name);
}

}  // namespace

void read_deepseek_mixture(const ConfigFields& fields, nn::ModelConfig& config,
                           const DeepseekMixtureDefaults& otherwise) {
  nn::MoeConfig& moe = config.moe;
  read_dense_width(fields, config);
  moe.weight_scale = fields.number_or("routed_scaling_factor", 1);
  const std::int64_t shared = integer(fields, "n_shared_experts", otherwise.shared);
  core::check(shared > 0 && shared <= nn::ModelLimits::num_experts, "{}: n_shared_experts is {}, expected 1 to {}",
              fields.where(), shared, nn::ModelLimits::num_experts);
  core::check(moe.expert_width > 0 && moe.expert_width <= nn::ModelLimits::width,
              "{}: moe_intermediate_size is {}, expected 1 to {}", fields.where(), moe.expert_width,
              nn::ModelLimits::width);
  moe.shared_width = shared * moe.expert_width;
  const std::int64_t dense = fields.integer_or("first_k_dense_replace", otherwise.dense);
  core::check(dense >= 0 && dense < config.num_layers,
              "{}: first_k_dense_replace is {}, expected fewer than num_hidden_layers = {}, so that some have experts",
              fields.where(), dense, config.num_layers);
  for (std::int64_t layer = 0; layer < dense; ++layer) moe.dense_layers.push_back(layer);
}

void read_groups(const ConfigFields& fields, nn::MoeConfig& moe, const DeepseekMixtureDefaults& otherwise) {
  moe.num_groups = integer(fields, "n_group", otherwise.groups);
  moe.groups_per_token = integer(fields, "topk_group", otherwise.groups);
}

void read_sigmoid_router(const ConfigFields& fields, nn::MoeConfig& moe, const DeepseekMixtureDefaults& otherwise) {
  moe.scores = nn::RouterScores::Sigmoid;
  moe.selection_bias = true;
  moe.renormalise = fields.flag("norm_topk_prob", true);
  moe.group_score = nn::GroupScore::BestTwo;
  read_groups(fields, moe, otherwise);
}

void write_deepseek_mixture(const nn::ModelConfig& config, ConfigFields::Json& json) {
  const nn::MoeConfig& moe = config.moe;
  json["first_k_dense_replace"] = moe.dense_layers.size();
  json["n_shared_experts"] = moe.shared_width / moe.expert_width;
  json["routed_scaling_factor"] = moe.weight_scale;
  json["norm_topk_prob"] = moe.renormalise;
  json["n_group"] = moe.num_groups;
  json["topk_group"] = moe.groups_per_token;
}

std::optional<std::string> beyond_deepseek_mixture(const nn::MoeConfig& moe, nn::GroupScore group_score) {
  if (moe.expert_width > 0 && moe.shared_width % moe.expert_width != 0)
    return fmt::format("moe.shared_width is {}, expected a multiple of moe.expert_width = {}", moe.shared_width,
                       moe.expert_width);
  if (moe.groups_per_token < moe.num_groups && moe.group_score != group_score)
    return fmt::format("moe.group_score is the best{} of a group, expected the best{}",
                       group_score == nn::GroupScore::Best ? " two" : "",
                       group_score == nn::GroupScore::Best ? "" : " two");
  return std::nullopt;
}

}  // namespace limbeck::data
