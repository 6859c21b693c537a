// How even the experts' load was, layer by layer over the steps.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "launch/report/heat_map.h"
#include "launch/report/layer_rows.h"
#include "launch/report/plot.h"
#include "launch/report/plot_area.h"

namespace limbeck::launch {

namespace {

constexpr std::size_t most_columns = 86;  // of 4 units each
constexpr int num_shades = 9;

int shade(double entropy) {
  return std::clamp(static_cast<int>(std::floor((entropy - 0.55) / 0.05 + 1e-9)), 0, num_shades - 1);
}

/// Means of the values in equally many parts of the steps [first, last]; less than 0 where a part has none.
std::vector<double> means(const Series& series, double first, double last, std::size_t num_parts) {
  std::vector<double> sums(num_parts, 0), counts(num_parts, 0);
  for (std::size_t i = 0; i < series.values.size(); ++i) {
    const double at = (series.steps[i] - first) / (last - first + 1) * static_cast<double>(num_parts);
    const auto part = std::min(static_cast<std::size_t>(std::max(at, 0.0)), num_parts - 1);
    sums[part] += series.values[i];
    counts[part] += 1;
  }
  for (std::size_t part = 0; part < num_parts; ++part) sums[part] = counts[part] > 0 ? sums[part] / counts[part] : -1;
  return sums;
}

/// A row of cells in few bytes: a path for each colour, in units of cells; cells of one colour side by side are one.
std::string draw_row(const std::vector<double>& values, double y, double height) {
  std::array<std::string, num_shades> paths;
  for (std::size_t begin = 0, end = 0; begin < values.size(); begin = end) {
    for (end = begin + 1;
         end < values.size() && shade(values[end]) == shade(values[begin]) && (values[end] < 0) == (values[begin] < 0);)
      ++end;
    if (values[begin] >= 0)
      paths[static_cast<std::size_t>(shade(values[begin]))] +=
          fmt::format("M{} 0h{}v1h-{}z", begin, end - begin, end - begin);
  }
  std::string svg = fmt::format("<g transform=\"translate({} {:.1f}) scale({:.4f} {:.2f})\">", area::left, y,
                                static_cast<double>(area::width) / static_cast<double>(values.size()), height);
  for (std::size_t i = 0; i < paths.size(); ++i)
    if (!paths[i].empty()) svg += fmt::format("<path class=\"e{}\" d=\"{}\"/>", i, paths[i]);
  return svg + "</g>\n";
}

std::string draw_steps(double first, double last, double bottom) {
  const std::vector<double> ticks = round_ticks(first, last, 6, 1);
  const double step = ticks.size() > 1 ? ticks[1] - ticks[0] : 0;
  std::string svg;
  for (const double tick : ticks) {
    const double x = area::left + (tick - first + 0.5) / (last - first + 1) * area::width;
    svg += fmt::format("<text class=\"x\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", x, bottom + 14,
                       tick_text(tick, step, ticks.back()));
  }
  return svg + fmt::format("<text class=\"x name\" x=\"{}\" y=\"{:.1f}\">step</text>\n", area::left + area::width / 2,
                           bottom + 28);
}

std::string draw_key(double y) {
  constexpr int width = 26;
  std::string svg;
  for (int i = 0; i < num_shades; ++i) {
    const int x = area::left + 40 + i * width;
    svg += fmt::format("<rect class=\"e{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"8\"/>", i, x, y, width);
    const std::string text = i == 0                ? "≤ 0.6"
                             : i == num_shades - 1 ? "≥ 0.95"
                             : i % 2 == 0          ? fmt::format("{:.1f}", 0.55 + 0.05 * i)
                                                   : "";
    svg += fmt::format("<text class=\"x\" x=\"{}\" y=\"{}\">{}</text>\n", x + width / 2, y + 20, text);
  }
  return svg;
}

}  // namespace

std::string entropy_map(const std::map<std::int64_t, LayerLoad>& loads, const std::string& of) {
  std::vector<std::int64_t> layers;
  double first = 0, last = 0;
  std::size_t most_steps = 0;
  for (const auto& [layer, load] : loads) {
    const Series& entropy = load.entropy;
    if (entropy.steps.empty()) continue;
    first = layers.empty() ? entropy.steps.front() : std::min(first, entropy.steps.front());
    last = std::max(last, entropy.steps.back());
    most_steps = std::max(most_steps, entropy.steps.size());
    layers.push_back(layer);
  }
  if (most_steps < 2) return "";
  const LayerRows rows(std::move(layers));
  std::string svg;
  for (std::size_t r = 0; r < rows.count(); ++r) {
    svg += rows.label(r);
    svg += draw_row(means(loads.at(rows.layer(r)).entropy, first, last, std::min(most_columns, most_steps)), rows.y(r),
                    rows.height() - (rows.height() > 8 ? 1 : 0));
  }
  svg += draw_steps(first, last, rows.bottom()) + draw_key(rows.bottom() + 40);
  return rows.figure({.title = "Expert load over time", .of = of, .unit = "entropy by layer; 1: all experts alike"},
                     svg, rows.bottom() + 64);
}

}  // namespace limbeck::launch
