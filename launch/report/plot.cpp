#include "launch/report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "launch/console/numbers.h"
#include "launch/report/html.h"
#include "launch/report/plot_area.h"

namespace limbeck::launch {

namespace {

constexpr std::size_t most_marks = 100;

struct Point {
  double x, y;
};

/// Scaled; so that differences stay finite, and ranges above 0.
double bounded(double value, double scale) {
  return std::abs(value * scale) < 1e-290 ? 0 : std::clamp(value * scale, -1e290, 1e290);
}

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
      if (series == nullptr || series->values.empty()) return;
      low = std::min(low, bounded(series->least(), scale_));
      high = std::max(high, bounded(series->greatest(), scale_));
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
  double x(double step) const { return area::left + (step - x0_) / (x1_ - x0_) * area::width; }
  /// Of a value as shown.
  double y_of_shown(double value) const {
    const double at = is_log_ ? std::log10(std::max(value, std::numeric_limits<double>::min())) : value;
    return area::top + (y1_ - at) / (y1_ - y0_) * area::height;
  }
  /// Of a value as recorded.
  double y_of(double value) const { return y_of_shown(bounded(value, scale_)); }

 private:
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

/// The curve's points, at `values`.
std::vector<Point> places(const Thinned& curve, const std::vector<double>& values, const Axes& axes) {
  std::vector<Point> points;
  for (std::size_t i = 0; i < values.size(); ++i) points.push_back({axes.x(curve.steps[i]), axes.y_of(values[i])});
  return points;
}

std::string draw_area(const std::string& kind, std::vector<Point> there, const std::vector<Point>& back) {
  there.insert(there.end(), back.rbegin(), back.rend());
  return fmt::format("<polygon class=\"{}\" points=\"{}\" />\n", kind, points_text(there));
}

std::string draw_line(const std::string& kind, const std::vector<Point>& points) {
  return fmt::format("<polyline class=\"{}\" points=\"{}\" />\n", kind, points_text(points));
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

/// The average, and faint behind it what was recorded: of a thinned curve the area that its values take.
std::string draw_curve(const Thinned& curve, const std::string& colour, double weight, const Axes& axes) {
  if (curve.mean.size() == 1)
    return fmt::format("<circle class=\"dot {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\" />\n", colour,
                       axes.x(curve.steps[0]), axes.y_of(curve.mean[0]));
  std::string behind;
  if (!curve.is_exact)
    behind = draw_area("raw " + colour, places(curve, curve.low, axes), places(curve, curve.high, axes));
  else if (weight > 0)
    behind = draw_line("raw " + colour, places(curve, curve.mean, axes));
  return behind + draw_line("line " + colour, places(curve, smoothed(curve.mean, weight), axes));
}

std::string draw_band(const Plot& plot, double weight, const Axes& axes) {
  if (plot.band_low == nullptr || plot.band_high == nullptr) return "";
  const Thinned low = thinned(*plot.band_low, plot.most_points), high = thinned(*plot.band_high, plot.most_points);
  return draw_area("band c0", places(low, smoothed(low.mean, weight), axes),
                   places(high, smoothed(high.mean, weight), axes));
}

// --- values for the script

std::string numbers(const std::vector<double>& values, double scale) {
  std::string text;
  for (const double value : values) text += fmt::format("{}{:.5g}", text.empty() ? "" : ",", bounded(value, scale));
  return "[" + text + "]";
}
std::string steps_text(const std::vector<double>& steps) {
  std::string text;
  for (const double step : steps) text += fmt::format("{}{:.10g}", text.empty() ? "" : ",", step);
  return "[" + text + "]";
}

std::string data_of(const Curve& curve, const Thinned& points, std::size_t colour, const Plot& plot) {
  std::string text =
      fmt::format(R"({{"label":{},"run":{},"colour":{},"marks":{},"x":{},"y":{})", script_string(curve.label),
                  curve.run, colour, curve.is_marks, steps_text(points.steps), numbers(points.mean, plot.scale));
  if (!points.is_exact)
    text += fmt::format(R"(,"low":{},"high":{})", numbers(points.low, plot.scale), numbers(points.high, plot.scale));
  return text + "}";
}

std::string band_data(const Plot& plot) {
  if (plot.band_low == nullptr || plot.band_high == nullptr) return "";
  const Thinned low = thinned(*plot.band_low, plot.most_points), high = thinned(*plot.band_high, plot.most_points);
  return fmt::format(R"(,"band":{{"x":{},"low":{},"high":{}}})", steps_text(low.steps), numbers(low.mean, plot.scale),
                     numbers(high.mean, plot.scale));
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

Thinned thinned(const Series& series, std::size_t most_points) {
  const std::size_t n = series.values.size();
  const std::size_t count = std::min(n, most_points);
  Thinned result;
  result.is_exact = count == n && series.low.empty();
  for (std::size_t i = 0; i < count; ++i) {
    const auto begin = static_cast<std::ptrdiff_t>(i * n / count),
               end = static_cast<std::ptrdiff_t>((i + 1) * n / count);
    const auto mean = [&](const std::vector<double>& values) {
      double sum = 0;  // of parts, so that it stays finite
      for (auto k = begin; k < end; ++k) sum += values[static_cast<std::size_t>(k)] / static_cast<double>(end - begin);
      return sum;
    };
    const auto& lows = series.low.empty() ? series.values : series.low;
    const auto& highs = series.high.empty() ? series.values : series.high;
    result.steps.push_back(mean(series.steps));
    result.mean.push_back(mean(series.values));
    result.low.push_back(*std::min_element(lows.begin() + begin, lows.begin() + end));
    result.high.push_back(*std::max_element(highs.begin() + begin, highs.begin() + end));
  }
  return result;
}

std::vector<double> smoothed(const std::vector<double>& values, double weight) {
  std::vector<double> result;
  double average = 0, correction = 1;
  for (const double value : values) {
    average = weight * average + (1 - weight) * value;
    correction *= weight;
    result.push_back(average / (1 - correction));
  }
  return result;
}

double first_weight(std::size_t num_points) {
  constexpr std::size_t short_curve = 30;  // points
  if (num_points < short_curve) return 0;
  return std::min(0.8, std::round(100 - 2000 / static_cast<double>(num_points)) / 100);  // over a twentieth of them
}

std::string to_figure(const Plot& plot, std::int64_t first_step, std::int64_t last_step) {
  const Axes axes(plot, first_step, last_step);
  if (axes.is_empty()) return "";
  std::size_t longest = 0;
  bool only_marks = true;
  for (const Curve& curve : plot.curves) {
    if (curve.series == nullptr || curve.is_marks) continue;
    longest = std::max(longest, curve.series->values.size());
    only_marks = false;
  }
  const double weight = plot.is_exact ? 0 : first_weight(longest);
  std::string drawn = draw_band(plot, weight, axes), marks, keys, data;
  std::size_t number = 0;
  for (const Curve& curve : plot.curves) {
    if (curve.series == nullptr || curve.series->values.empty()) continue;
    const std::size_t place = (plot.is_by_run ? curve.run : number) % num_colours;
    ++number;
    const std::string colour = fmt::format("c{}", place);
    const Thinned points = thinned(*curve.series, plot.most_points);
    if (curve.is_marks) {
      if (only_marks && points.mean.size() > 1) drawn += draw_line("raw " + colour, places(points, points.mean, axes));
      marks += draw_marks(curve, colour, plot, axes);
    } else {
      drawn += draw_curve(points, colour, weight, axes);
    }
    data += fmt::format("{}{}", data.empty() ? "" : ",", data_of(curve, points, place, plot));
    keys += fmt::format("<span class=\"key {} {}\">{}</span>", curve.is_marks ? "marks" : "curve", colour,
                        escape(curve.label));
  }
  if (plot.band_low != nullptr) keys += "<span class=\"key shade c0\">least to greatest of the layers</span>";
  std::string caption = fmt::format("<b>{}</b> <span class=\"unit\">{}{}</span>", escape(plot.title), escape(plot.unit),
                                    axes.is_log() ? ", logarithmic" : "");
  if (number > 1 || plot.band_low != nullptr || plot.is_by_run)
    caption += fmt::format("<span class=\"keys\">{}</span>", keys);
  return fmt::format(
      "<figure class=\"plot\">\n<figcaption>{}</figcaption>\n<svg class=\"plot\" viewBox=\"0 0 {} {}\" role=\"img\" "
      "aria-label=\"{}\">\n{}{}{}</svg>\n"
      "<script "
      "type=\"application/json\">{{\"log\":{},\"zero\":{},\"exact\":{}{},\"curves\":[{}]}}</script>\n</figure>\n",
      caption, area::full_width, area::full_height, escape(plot.title), draw_axes(axes), drawn, marks, axes.is_log(),
      plot.from_zero, plot.is_exact, band_data(plot), data);
}

}  // namespace limbeck::launch
