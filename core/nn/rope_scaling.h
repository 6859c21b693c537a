// The frequencies of rotary positions, stretched for contexts longer than those of the training.
//
//     const RopeAngles angles = rope_angles(config.turning_width(), layer.rope_base, layer.rope_scaling);
//     core::RopeTable table = core::make_rope_table(memory, DType::F32, positions, angles.frequencies, angles.factor);
#pragma once

#include <cstdint>
#include <vector>

#include "core/nn/model_config.h"

namespace limbeck::nn {

struct RopeAngles {
  std::vector<double> frequencies;  // [R/2]
  double factor = 1;                // of cos and sin
};

/// With f(i) = base^(-2i/R), R the channels that turn, n = original_positions and w(i) = 2 pi / f(i), the positions of
/// a turn:
///   Linear  f / factor
///   Llama3  f / factor where w > n / low_frequency_factor, f where w < n / high_frequency_factor, and between
///           them both, in parts that are linear in n / w
///   Yarn    (Peng et al. 2023) f up to the dimension that turns beta_fast times within n, f / factor from that which
///           turns beta_slow times, and between them both, in parts that are linear in the dimension
///   LongRope (Ding et al. 2024) f(i) / factor(i) of short_factors, or, with `is_long`, of long_factors; where factor
///           is above 1 and nothing else is given, cos and sin are times sqrt(1 + ln(factor) / ln(n))
/// as transformers computes them.
RopeAngles rope_angles(std::int64_t turning_width, double base, const RopeScaling& scaling, bool is_long = false);

/// The frequencies by Llama3's rule.
void stretch_as_llama3(std::vector<double>& frequencies, const RopeScaling& scaling);

/// m(mscale) of RopeScaling: what YaRN multiplies the root of attention's scores by, and DeepSeek's the scores.
double yarn_mscale(double factor, double mscale);

}  // namespace limbeck::nn
