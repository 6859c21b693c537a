// The distance of one row of hidden states from another and its gradient, from sums over their columns
// (kernels/match_rows.h), alike on every device.
#pragma once

#include <cmath>

#include "kernels/match_rows.h"

namespace limbeck::kernels {

/// Over the columns of rows x and y.
template <class Real>
struct RowSums {
  Real xy = 0, xx = 0, yy = 0, apart = 0;  // apart: of (x - y)^2
  constexpr bool have_angle() const { return xx > 0 && yy > 0; }
};

template <class Real>
constexpr Real distance_of(RowDistance kind, const RowSums<Real>& s, Real width) {
  if (kind == RowDistance::SquaredError) return s.apart / width;
  return s.have_angle() ? 1 - s.xy / (std::sqrt(s.xx) * std::sqrt(s.yy)) : Real(1);
}

/// The square of the length of the gradient of `factor` times the distance with respect to x.
template <class Real>
constexpr Real gradient_square(RowDistance kind, const RowSums<Real>& s, Real factor, Real width) {
  if (kind == RowDistance::SquaredError) return 4 * factor * factor * s.apart / (width * width);
  if (!s.have_angle()) return 0;
  const Real cosine = s.xy / (std::sqrt(s.xx) * std::sqrt(s.yy));
  return cosine * cosine < 1 ? factor * factor * (1 - cosine) * (1 + cosine) / s.xx : Real(0);
}

/// What x and y are times in the gradient of `factor` times the distance.
template <class Real>
struct RowFactors {
  Real for_x = 0, for_y = 0;
  constexpr RowFactors() = default;
  constexpr RowFactors(RowDistance kind, const RowSums<Real>& s, Real factor, Real width) {
    if (kind == RowDistance::SquaredError) {
      for_x = 2 * factor / width;
      for_y = -for_x;
    } else if (s.have_angle()) {
      const Real norms = std::sqrt(s.xx) * std::sqrt(s.yy);
      for_x = factor * s.xy / (norms * s.xx);
      for_y = -factor / norms;
    }
  }
};

}  // namespace limbeck::kernels
