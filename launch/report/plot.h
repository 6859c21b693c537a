// Curves over the steps of runs, drawn as SVG, so that no script and no network is needed to see them; the figure holds
// its values too, from which the page's script (plot_script.cpp) draws it over tokens or time, on another axis, more or
// less smooth.
//
//     Plot plot{.title = "Loss", .unit = "nats a token", .curves = {{"loss", &record.series.at("loss")}}};
//     page += to_figure(plot, record.first_step, record.last_step);
//
// A figure of one curve takes some 30 kB at most, however long the run. Colours are classes, which the page's style
// defines.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launch/run/run_record.h"

namespace limbeck::launch {

inline constexpr std::size_t num_colours = 8;

struct Curve {
  std::string label;
  const Series* series = nullptr;
  bool is_marks = false;  // points that stand alone, as evaluations do
  std::size_t run = 0;    // of the runs of the page: whose steps, tokens and times they are
};

struct Plot {
  std::string title = {};
  std::string unit = {};
  std::vector<Curve> curves = {};
  const Series* band_low = nullptr;  // a shaded band, if both are given; at the same steps
  const Series* band_high = nullptr;
  bool is_exact = false;          // never smoothed
  double scale = 1;               // a value is shown times this
  bool from_zero = false;         // the axis has 0
  bool may_be_log = false;        // where positive values span more than two decades
  bool is_by_run = false;         // a curve has the colour of its run, not that of its place
  std::size_t most_points = 400;  // of a curve
};

/// A <figure>; empty where no curve has a point.
std::string to_figure(const Plot& plot, std::int64_t first_step, std::int64_t last_step);

/// A series in few points, each standing for some that follow one another: their mean, least and greatest, at their
/// mean step.
struct Thinned {
  std::vector<double> steps, mean, low, high;
  bool is_exact = true;  // a point is one value: low and high are the mean
};
Thinned thinned(const Series& series, std::size_t most_points);

/// The exponential moving average with its bias corrected (Kingma and Ba, arXiv:1412.6980, section 3): of the first i
/// values with weights w^(i-1) ... w, 1. A weight of 0 leaves them as they are.
std::vector<double> smoothed(const std::vector<double>& values, double weight);
/// The weight that a page begins with: 0 for curves so short that each point is seen, else an average over about a
/// twentieth of the points, five at most.
double first_weight(std::size_t num_points);

/// Multiples of 1, 2 or 5 times a power of ten: the finest with at most `most` of them in [low, high], which is not
/// empty; `least_step` is the smallest distance allowed. At least one.
std::vector<double> round_ticks(double low, double high, int most, double least_step = 0);

/// 1, 2 and 5 times powers of ten, or powers of ten alone, in [low, high], low > 0.
std::vector<double> log_ticks(double low, double high);

/// As axes show it: "0.25", "12k", "1.5M", "2e-4". `step` is the distance to the next tick, 0 on a logarithmic axis;
/// `largest` is the greatest size of a tick, which chooses the unit.
std::string tick_text(double value, double step, double largest);

}  // namespace limbeck::launch
