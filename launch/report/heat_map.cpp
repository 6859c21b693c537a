#include "launch/report/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "launch/console/numbers.h"
#include "launch/report/html.h"
#include "launch/report/layer_rows.h"
#include "launch/report/plot_area.h"

namespace limbeck::launch {

namespace {

constexpr std::size_t most_columns = 256;
constexpr std::size_t most_described = 1024;  // cells that have a title of their own
constexpr const char* unused = "unused";

struct Row {
  std::int64_t layer = 0;
  std::vector<double> ratios;  // share over an even share, by column
};

std::string colour_class(double ratio) { return ratio > 0 ? fmt::format("h{}", load_colour(ratio)) : unused; }

Row make_row(std::int64_t layer, const std::vector<std::int64_t>& assignments) {
  const double total = std::accumulate(assignments.begin(), assignments.end(), 0.0);
  const std::size_t num_experts = assignments.size();
  const std::size_t columns = std::min(num_experts, most_columns);
  Row row{layer, {}};
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t begin = c * num_experts / columns, end = (c + 1) * num_experts / columns;
    double sum = 0;
    for (std::size_t e = begin; e < end; ++e) sum += static_cast<double>(assignments[e]);
    const double even = total * static_cast<double>(end - begin) / static_cast<double>(num_experts);
    row.ratios.push_back(even > 0 ? sum / even : 0);
  }
  return row;
}

double cell_width(const Row& row) { return static_cast<double>(area::width) / static_cast<double>(row.ratios.size()); }

/// A rectangle a cell, with its number where there is room.
std::string draw_cells(const Row& row, double y, double height) {
  const double width = cell_width(row);
  const double gap = width > 6 ? 1 : 0;
  std::string svg;
  for (std::size_t i = 0; i < row.ratios.size(); ++i) {
    const std::string colour = colour_class(row.ratios[i]);
    const double x = area::left + static_cast<double>(i) * width;
    svg += fmt::format(
        "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"><title>layer {}, expert {}: "
        "{:.2f} times an even share</title></rect>\n",
        colour, x, y, width - gap, height - gap, row.layer, i, row.ratios[i]);
    if (width >= 20 && height >= 12)
      svg += fmt::format("<text class=\"cell on_{}\" x=\"{:.1f}\" y=\"{:.1f}\">{:.1f}</text>\n", colour,
                         x + (width - gap) / 2, y + height / 2 + 3, row.ratios[i]);
  }
  return svg;
}

/// The same in few bytes: a path for each colour, in units of cells.
std::string draw_small_cells(const Row& row, double y, double height) {
  std::map<std::string, std::string> paths;
  for (std::size_t i = 0; i < row.ratios.size(); ++i)
    paths[colour_class(row.ratios[i])] += fmt::format("M{} 0h1v1h-1z", i);
  std::string svg = fmt::format("<g transform=\"translate({} {:.1f}) scale({:.4f} {:.1f})\">", area::left, y,
                                cell_width(row), height);
  for (const auto& [colour, path] : paths) svg += fmt::format("<path class=\"{}\" d=\"{}\"/>", colour, path);
  return svg + "</g>\n";
}

std::string draw_key(double y) {
  constexpr std::array<const char*, 9> texts = {"≤ ¼", "", "½", "", "even", "", "2×", "", "≥ 4×"};
  constexpr int width = 26;
  std::string svg = fmt::format(
      "<rect class=\"unused\" x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"8\"/><text class=\"x\" x=\"{3}\" "
      "y=\"{4}\">none</text>\n",
      area::left, y, width, area::left + width / 2, y + 20);
  for (int i = 0; i < 9; ++i) {
    const int x = area::left + 40 + i * width;
    svg += fmt::format("<rect class=\"h{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"8\"/>", i, x, y, width);
    svg += fmt::format("<text class=\"x\" x=\"{}\" y=\"{}\">{}</text>\n", x + width / 2, y + 20,
                       texts[static_cast<std::size_t>(i)]);
  }
  return svg;
}

}  // namespace

int load_colour(double ratio) {
  return static_cast<int>(std::clamp(std::round(2 * std::log2(std::max(ratio, 1e-9))), -4.0, 4.0)) + 4;
}

std::string load_map(const std::map<std::int64_t, LayerLoad>& loads, const std::string& of) {
  std::vector<std::int64_t> layers;
  std::int64_t step = 0;
  std::size_t num_experts = 0;
  for (const auto& [layer, load] : loads) {
    if (load.assignments.empty()) continue;
    layers.push_back(layer);
    step = std::max(step, load.assignments_step);
    num_experts = std::max(num_experts, load.assignments.size());
  }
  if (layers.empty()) return "";
  const LayerRows rows(std::move(layers));
  const bool is_described = num_experts <= most_columns && num_experts * rows.count() <= most_described;
  std::string svg;
  for (std::size_t r = 0; r < rows.count(); ++r) {
    const Row row = make_row(rows.layer(r), loads.at(rows.layer(r)).assignments);
    svg += rows.label(r);
    svg += is_described ? draw_cells(row, rows.y(r), rows.height()) : draw_small_cells(row, rows.y(r), rows.height());
  }
  svg += fmt::format("<text class=\"x name\" x=\"{}\" y=\"{:.1f}\">experts 0 to {}</text>\n",
                     area::left + area::width / 2, rows.bottom() + 14, num_experts - 1);
  svg += draw_key(rows.bottom() + 24);
  std::string unit = fmt::format("share of the assignments over an even share, step {}", grouped(step));
  if (num_experts > most_columns) unit += fmt::format("; a cell is the mean of {} experts", num_experts / most_columns);
  return rows.figure({.title = "Expert load by layer", .of = of, .unit = unit}, svg, rows.bottom() + 48);
}

}  // namespace limbeck::launch
