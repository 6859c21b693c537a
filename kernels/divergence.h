// Divergences of two distributions, outcome by outcome, alike on every device: p is the teacher's, q the student's
// probability (docs/gradients.md).
//
//     const DivergenceTerm<float> term = divergence_term<Divergence::ReverseKl>(p, q, log_q - log_p, mix);
//     value += term.value; mean += term.pull;              // over all outcomes
//     dz = weight * (term.pull - q * mean);                // z the logit of the outcome
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/exp.h"
#include "kernels/log.h"

namespace limbeck::kernels {

enum class Divergence : std::uint8_t {
  ForwardKl,       // KL(p || q)
  ReverseKl,       // KL(q || p)
  JensenShannon,   // b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q, b the mix, 0 < b < 1
  SkewKl,          // KL(p || a p + (1 - a) q), a the mix, 0 < a < 1 (Ko et al. 2024, DistiLLM)
  ReverseSkewKl,   // KL(q || a q + (1 - a) p)
  TotalVariation,  // half of the sum of |p - q|
};

/// Of one outcome: its part of the divergence D, and q dD/dq, where parts that are q times a constant are left out:
/// they change no gradient of a logit.
template <class T>
struct DivergenceTerm {
  T value;
  T pull;
};

/// e^x and ln x of a divergence's ratios: templates, so that a GPU takes them too.
template <class T>
constexpr T ratio_of(T log_ratio) {
  if constexpr (std::is_same_v<T, float>)
    return exponential(log_ratio);
  else
    return std::exp(log_ratio);
}
template <class T>
constexpr T log_of(T ratio) {
  if constexpr (std::is_same_v<T, float>)
    return logarithm(ratio);
  else
    return std::log(ratio);
}

/// `log_ratio` is log q - log p, finite or not; beyond +-80, of double +-700, the smaller of the two counts for so much
/// of the other: float32 has no number for less.
template <Divergence Kind, class T>
constexpr DivergenceTerm<T> divergence_term(T p, T q, T log_ratio, T mix) {
  if constexpr (Kind == Divergence::TotalVariation) {
    const T half = T(0.5);
    return {q > p ? half * (q - p) : half * (p - q), q > p ? half * q : q < p ? -half * q : T(0)};
  } else {
    constexpr T most = std::is_same_v<T, float> ? 80 : 700;
    T d = log_ratio < -most ? -most : log_ratio;
    d = d > most ? most : d;
    if constexpr (Kind == Divergence::ForwardKl) {
      return {-p * d, -p};
    } else if constexpr (Kind == Divergence::ReverseKl) {
      return {q * d, q * d};
    } else {
      const T ratio = ratio_of(d);
      const T own = Kind == Divergence::ReverseSkewKl ? 1 - mix : mix;  // the share of p in m
      const T m = own + (1 - own) * ratio;                              // over p
      const T log_m = log_of(m);                                        // of m / p
      if constexpr (Kind == Divergence::SkewKl) return {-p * log_m, -(1 - mix) * q / m};
      const T of_q = q * (d - log_m);  // q log(q / m)
      if constexpr (Kind == Divergence::JensenShannon) return {(1 - mix) * of_q - mix * p * log_m, (1 - mix) * of_q};
      return {of_q, of_q - mix * q * ratio / m};
    }
  }
}

/// f.template operator()<Kind>() for a kind that is known at run time.
template <class F>
constexpr auto with_divergence(Divergence kind, F f) {
  switch (kind) {
    case Divergence::ReverseKl:
      return f.template operator()<Divergence::ReverseKl>();
    case Divergence::JensenShannon:
      return f.template operator()<Divergence::JensenShannon>();
    case Divergence::SkewKl:
      return f.template operator()<Divergence::SkewKl>();
    case Divergence::ReverseSkewKl:
      return f.template operator()<Divergence::ReverseSkewKl>();
    case Divergence::TotalVariation:
      return f.template operator()<Divergence::TotalVariation>();
    case Divergence::ForwardKl:
      break;
  }
  return f.template operator()<Divergence::ForwardKl>();
}

}  // namespace limbeck::kernels
