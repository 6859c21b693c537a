#include "launch/report/layer_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "launch/report/html.h"
#include "launch/report/plot_area.h"

namespace limbeck::launch {

namespace {

constexpr std::size_t most_rows = 64;

}  // namespace

LayerRows::LayerRows(std::vector<std::int64_t> layers)
    : layers_(std::move(layers)),
      stride_((layers_.size() + most_rows - 1) / most_rows),
      height_(std::clamp(area::height / static_cast<double>(count()), 5.0, 24.0)) {}

double LayerRows::y(std::size_t row) const { return area::top + static_cast<double>(row) * height_; }

std::string LayerRows::label(std::size_t row) const {
  if (row % static_cast<std::size_t>(std::ceil(12 / height_)) != 0) return "";
  return fmt::format("<text class=\"y\" x=\"{}\" y=\"{:.1f}\">{}</text>\n", area::left - 6, y(row) + height_ / 2 + 3.5,
                     row == 0 ? fmt::format("layer {}", layer(row)) : fmt::format("{}", layer(row)));
}

std::string LayerRows::figure(const MapTitle& title, const std::string& svg, double full_height) const {
  return fmt::format(
      "<figure>\n<figcaption><b>{0}{1}</b> <span class=\"unit\">{2}{3}</span></figcaption>\n<svg viewBox=\"0 0 {4} "
      "{5:.0f}\" role=\"img\" aria-label=\"{0}\">\n{6}</svg>\n</figure>\n",
      title.title, title.of.empty() ? "" : fmt::format(", {}", escape(title.of)), title.unit,
      stride_ > 1 ? fmt::format("; one layer in {}", stride_) : "", area::full_width, full_height, svg);
}

}  // namespace limbeck::launch
