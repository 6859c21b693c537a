// Llama 3's scaling of rotary frequencies, from what they are divided by: files hold these factors alone.
//
//     const auto scaling = fit_llama3(core::rope_frequencies(64, 500000), factors);     // of 8, 1, 4 and 8192
//     scaling->factor;                                                                   // 8
#pragma once

#include <optional>
#include <span>

#include "core/nn/model_config.h"

namespace limbeck::data {

/// A scaling, Llama3 or Linear, by which each frequency is divided by its factor, to 1e-5; nothing where there is none.
/// Factors do not tell all of a Llama3 scaling: it is that of Llama 3.1 where that gives them, else one of
/// low_frequency_factor 1 where a whole number of original positions gives them, else one of 8192 positions.
std::optional<nn::RopeScaling> fit_llama3(std::span<const double> frequencies, std::span<const float> factors);

}  // namespace limbeck::data
