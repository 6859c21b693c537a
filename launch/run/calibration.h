// Whether a model is as often right as it says: its predictions by how probable it holds what it holds most likely.
//
//     Calibration c;
//     c.add(/*confidence=*/0.9, /*is_right=*/true);
//     c.error();                                     // 0.1
#pragma once

#include <array>
#include <cstddef>
#include <optional>

namespace limbeck::launch {

/// The expected calibration error of Naeini, Cooper, Hauskrecht 2015 with the bins of Guo et al. 2017 ("On calibration
/// of modern neural networks"): bin b of B has the confidences in (b / B, (b + 1) / B].
class Calibration {
 public:
  static constexpr std::size_t num_bins = 15;

  /// `confidence`: the greatest probability; `is_right`: what has it came.
  void add(double confidence, bool is_right);
  void add(const Calibration& other);
  /// sum over the bins of n_b / n |share that was right - mean confidence|. Nothing without a prediction.
  std::optional<double> error() const;
  /// By bin: how many were right, less the sum of the confidences. The error is the sum of these without their signs,
  /// over the number of predictions.
  std::array<double, num_bins> gaps() const;

 private:
  struct Bin {
    double count = 0, right = 0, confidence = 0;
  };
  std::array<Bin, num_bins> bins_;
};

}  // namespace limbeck::launch
