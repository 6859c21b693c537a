// The fields of DeepSeek's mixtures, which GLM's have too: shared experts, groups of experts, the first layers dense.
#pragma once

#include <optional>
#include <string>

#include "data/models/families/family.h"

namespace limbeck::data {

/// Where config.json says nothing; none: it has to say it.
struct DeepseekMixtureDefaults {
  std::optional<std::int64_t> shared = {}, groups = {};
  std::int64_t dense = 0;
};

/// Shared experts, the outputs' scale and the first layers.
void read_deepseek_mixture(const ConfigFields& fields, nn::ModelConfig& config,
                           const DeepseekMixtureDefaults& otherwise = {});
void read_groups(const ConfigFields& fields, nn::MoeConfig& moe, const DeepseekMixtureDefaults& otherwise = {});
/// The router of DeepSeek-V3: sigmoids, a bias, groups by their best two.
void read_sigmoid_router(const ConfigFields& fields, nn::MoeConfig& moe, const DeepseekMixtureDefaults& otherwise = {});
void write_deepseek_mixture(const nn::ModelConfig& config, ConfigFields::Json& json);
/// As Family::beyond.
std::optional<std::string> beyond_deepseek_mixture(const nn::MoeConfig& moe, nn::GroupScore group_score);

}  // namespace limbeck::data
