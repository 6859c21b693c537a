// Curves over the steps of a run, drawn as SVG: no script and no network is needed to read them.
//
//     Plot plot{.title = "Loss", .unit = "nats a token", .curves = {{"loss", &record.series.at("loss")}}};
//     page += to_figure(plot, record.first_step, record.last_step);
//
// A curve of many points is drawn as least and greatest of every pixel column (faint) and as a moving average. A figure
// takes some 15 kB at most, however long the run. Colours are classes, which the page's style defines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/run/run_record.h"

namespace limbeck::launch {

struct Curve {
  std::string label;
  const Series* series = nullptr;
  bool is_marks = false;  // points that stand alone, as evaluations do
};

struct Plot {
  std::string title = {};
  std::string unit = {};
  std::vector<Curve> curves = {};
  const Series* band_low = nullptr;  // a shaded band, if both are given; at the same steps
  const Series* band_high = nullptr;
  bool is_exact = false;    // no average is drawn
  double scale = 1;         // a value is shown times this
  bool from_zero = false;   // the axis has 0
  bool may_be_log = false;  // where positive values span more than two decades
};

/// A <figure>; empty where no curve has a point.
std::string to_figure(const Plot& plot, std::int64_t first_step, std::int64_t last_step);

/// Multiples of 1, 2 or 5 times a power of ten: the finest with at most `most` of them in [low, high], which is not
/// empty; `least_step` is the smallest distance allowed. At least one.
std::vector<double> round_ticks(double low, double high, int most, double least_step = 0);

/// 1, 2 and 5 times powers of ten, or powers of ten alone, in [low, high], low > 0.
std::vector<double> log_ticks(double low, double high);

/// As axes show it: "0.25", "12k", "1.5M", "2e-4". `step` is the distance to the next tick, 0 on a logarithmic axis;
/// `largest` is the greatest size of a tick, which chooses the unit.
std::string tick_text(double value, double step, double largest);

/// The mean of value i and its neighbours, `window` (odd) in all; fewer at the ends.
double average_around(const std::vector<double>& values, std::size_t i, std::size_t window);
/// The window that a curve of so many points is drawn with, about a fiftieth; 1 for short ones.
std::size_t smoothing_window(std::size_t num_points);

}  // namespace limbeck::launch
