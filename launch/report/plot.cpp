#include "launch/report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "launch/report/html.h"
#include "launch/report/plot_area.h"

namespace limbeck::launch {

namespace {

constexpr std::size_t most_marks = 100;

struct Point {
  double x, y;
};

/// Values to places in the drawing.
class Axes {
 public:
  Axes(const Plot& plot, std::int64_t first_step, std::int64_t last_step) : scale_(plot.scale) {
    x0_ = static_cast<double>(first_step);
    x1_ = static_cast<double>(last_step);
    if (x1_ <= x0_) {
      x0_ -= 1;
      x1_ += 1;
    }
    double low = std::numeric_limits<double>::infinity();
    double high = -low;
    const auto widen = [&](const Series* series) {
      if (series == nullptr) return;
      for (const double value : series->values) {
        low = std::min(low, bounded(value));
        high = std::max(high, bounded(value));
      }
    };
    for (const Curve& curve : plot.curves) widen(curve.series);
    widen(plot.band_low);
    widen(plot.band_high);
    is_empty_ = low > high;
    if (is_empty_) return;
    is_log_ = plot.may_be_log && low > 0 && high / low > 100;
    if (plot.from_zero && !is_log_) {
      low = std::min(low, 0.0);
      high = std::max(high, 0.0);
    }
    if (is_log_) {
      ticks_ = log_ticks(low, high);
      y0_ = std::log10(low);
      y1_ = std::log10(high);
    } else {
      if (high - low <= 1e-9 * std::max(std::abs(low), std::abs(high)) || high == low) {
        const double around = high == 0 ? 1 : 0.1 * std::abs(high);
        low -= around;
        high += around;
      }
      const double margin = 0.04 * (high - low);
      y0_ = plot.from_zero && low == 0 ? 0 : low - margin;
      y1_ = plot.from_zero && high == 0 ? 0 : high + margin;
      ticks_ = round_ticks(y0_, y1_, 6);
    }
  }

  bool is_empty() const { return is_empty_; }
  bool is_log() const { return is_log_; }
  const std::vector<double>& ticks() const { return ticks_; }
  double x0() const { return x0_; }
  double x1() const { return x1_; }
  double y0() const { return y0_; }
  double y1() const { return y1_; }
  double x(double step) const { return area::left + (step - x0_) / (x1_ - x0_) * area::width; }
  /// Of a value as shown.
  double y_of_shown(double value) const {
    const double at = is_log_ ? std::log10(std::max(value, std::numeric_limits<double>::min())) : value;
    return area::top + (y1_ - at) / (y1_ - y0_) * area::height;
  }
  /// Of a value as recorded.
  double y_of(double value) const { return y_of_shown(bounded(value)); }

 private:
  /// Scaled; so that differences stay finite, and ranges above 0.
  double bounded(double value) const {
    return std::abs(value * scale_) < 1e-290 ? 0 : std::clamp(value * scale_, -1e290, 1e290);
  }

  double scale_;
  bool is_empty_ = false;
  bool is_log_ = false;
  double x0_ = 0, x1_ = 1, y0_ = 0, y1_ = 1;
  std::vector<double> ticks_;
};

std::string points_text(const std::vector<Point>& points) {
  std::string text;
  for (const Point& p : points) text += fmt::format("{}{:.1f},{:.1f}", text.empty() ? "" : " ", p.x, p.y);
  return text;
}

/// The places of a curve; where there are more than two a column, the highest and the lowest of each.
std::vector<Point> envelope(const Series& series, const Axes& axes) {
  const std::vector<double>& values = series.values;
  std::vector<Point> points;
  const auto column = [&](std::size_t i) { return std::floor(axes.x(series.steps[i])); };
  const bool is_thinned = values.size() > 2 * static_cast<std::size_t>(area::width);
  for (std::size_t i = 0; i < values.size();) {
    std::size_t end = i + 1, low = i, high = i;
    for (; is_thinned && end < values.size() && column(end) == column(i); ++end) {
      if (values[end] < values[low]) low = end;
      if (values[end] > values[high]) high = end;
    }
    points.push_back({axes.x(series.steps[std::min(low, high)]), axes.y_of(values[std::min(low, high)])});
    if (low != high)
      points.push_back({axes.x(series.steps[std::max(low, high)]), axes.y_of(values[std::max(low, high)])});
    i = end;
  }
  return points;
}

/// The moving average, one point a column at most.
std::vector<Point> averaged(const Series& series, std::size_t window, const Axes& axes) {
  std::vector<Point> points;
  for (std::size_t i = 0; i < series.values.size(); ++i) {
    const double x = axes.x(series.steps[i]);
    if (points.empty() || i + 1 == series.values.size() || x - points.back().x >= 1)
      points.push_back({x, axes.y_of(average_around(series.values, i, window))});
  }
  return points;
}

std::string draw_marks(const Curve& curve, const std::string& colour, const Plot& plot, const Axes& axes) {
  std::string svg;
  const std::size_t n = curve.series->values.size();
  const std::size_t stride = (n + most_marks - 1) / most_marks;
  for (std::size_t i = (n - 1) % stride; i < n; i += stride)  // the last one is among them
    svg += fmt::format(
        "<circle class=\"mark {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3.5\"><title>step {}: {:.4g}</title></circle>\n",
        colour, axes.x(curve.series->steps[i]), axes.y_of(curve.series->values[i]),
        grouped(static_cast<std::int64_t>(curve.series->steps[i])), curve.series->values[i] * plot.scale);
  return svg;
}

std::string draw_curve(const Curve& curve, const std::string& colour, const Plot& plot, const Axes& axes) {
  const Series& series = *curve.series;
  const auto line = [&](const char* kind, const std::vector<Point>& points) {
    return fmt::format("<polyline class=\"{} {}\" points=\"{}\" />\n", kind, colour, points_text(points));
  };
  if (series.values.size() == 1)
    return fmt::format("<circle class=\"dot {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" />\n", colour,
                       axes.x(series.steps[0]), axes.y_of(series.values[0]));
  const std::size_t window = plot.is_exact ? 1 : smoothing_window(series.values.size());
  if (window == 1) return line("line", envelope(series, axes));
  return line("raw", envelope(series, axes)) + line("line", averaged(series, window, axes));
}

std::string draw_band(const Plot& plot, const Axes& axes) {
  if (plot.band_low == nullptr || plot.band_high == nullptr) return "";
  const std::size_t window = smoothing_window(plot.band_low->values.size());
  std::vector<Point> points = averaged(*plot.band_low, window, axes);
  const std::vector<Point> back = averaged(*plot.band_high, window, axes);
  points.insert(points.end(), back.rbegin(), back.rend());
  return fmt::format("<polygon class=\"band c0\" points=\"{}\" />\n", points_text(points));
}

std::vector<std::string> tick_texts(const std::vector<double>& ticks, bool is_log) {
  const double step = is_log || ticks.size() < 2 ? 0 : ticks[1] - ticks[0];
  std::vector<std::string> texts;
  for (const double tick : ticks)
    texts.push_back(tick_text(tick, step, is_log ? tick : std::max(std::abs(ticks.front()), std::abs(ticks.back()))));
  return texts;
}

std::string draw_axes(const Axes& axes) {
  std::string svg;
  const double right = area::left + area::width, bottom = area::top + area::height;
  const std::vector<std::string> values = tick_texts(axes.ticks(), axes.is_log());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double y = axes.y_of_shown(axes.ticks()[i]);
    svg +=
        fmt::format("<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" />", area::left, right, y, y);
    svg += fmt::format("<text class=\"y\" x=\"{}\" y=\"{:.1f}\">{}</text>\n", area::left - 6, y + 3.5, values[i]);
  }
  const std::vector<double> ticks = round_ticks(axes.x0(), axes.x1(), 6, 1);
  const std::vector<std::string> steps = tick_texts(ticks, false);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double x = axes.x(ticks[i]);
    svg += fmt::format("<line class=\"axis\" x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\" />", x, x, bottom,
                       bottom + 4);
    svg += fmt::format("<text class=\"x\" x=\"{:.1f}\" y=\"{}\">{}</text>\n", x, bottom + 16, steps[i]);
  }
  svg +=
      fmt::format("<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\" />", area::left, right, bottom, bottom);
  svg +=
      fmt::format("<text class=\"x name\" x=\"{}\" y=\"{}\">step</text>\n", area::left + area::width / 2, bottom + 30);
  return svg;
}

}  // namespace

std::string to_figure(const Plot& plot, std::int64_t first_step, std::int64_t last_step) {
  const Axes axes(plot, first_step, last_step);
  if (axes.is_empty()) return "";
  std::string drawn = draw_band(plot, axes), marks, keys;
  const bool only_marks =
      std::all_of(plot.curves.begin(), plot.curves.end(), [](const Curve& curve) { return curve.is_marks; });
  int number = 0;
  for (const Curve& curve : plot.curves) {
    if (curve.series == nullptr || curve.series->values.empty()) continue;
    const std::string colour = fmt::format("c{}", number++ % 4);
    if (curve.is_marks) {
      if (only_marks && curve.series->values.size() > 1)
        drawn += fmt::format("<polyline class=\"raw {}\" points=\"{}\" />\n", colour,
                             points_text(envelope(*curve.series, axes)));
      marks += draw_marks(curve, colour, plot, axes);
    } else
      drawn += draw_curve(curve, colour, plot, axes);
    keys += fmt::format("<span class=\"key {} {}\">{}</span>", curve.is_marks ? "marks" : "curve", colour,
                        escape(curve.label));
  }
  if (plot.band_low != nullptr) keys += "<span class=\"key shade c0\">least to greatest of the layers</span>";
  std::string caption = fmt::format("<b>{}</b> <span class=\"unit\">{}{}</span>", escape(plot.title), escape(plot.unit),
                                    axes.is_log() ? ", logarithmic" : "");
  if (number > 1 || plot.band_low != nullptr) caption += fmt::format("<span class=\"keys\">{}</span>", keys);
  return fmt::format(
      "<figure>\n<figcaption>{}</figcaption>\n<svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" "
      "data-x=\"{:.17g} {:.17g}\" data-y=\"{:.17g} {:.17g}\" data-log=\"{}\">\n{}{}{}</svg>\n</figure>\n",
      caption, area::full_width, area::full_height, escape(plot.title), axes.x0(), axes.x1(), axes.y0(), axes.y1(),
      axes.is_log() ? 1 : 0, draw_axes(axes), drawn, marks);
}

}  // namespace limbeck::launch
