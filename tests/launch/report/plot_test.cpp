#include "launch/report/plot.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

#include "launch/report/heat_map.h"
#include "launch/report/html.h"
#include "tests/support/xml.h"

namespace limbeck::launch {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::parse_xml;
using ::testing::Pointwise;

Series series(const std::vector<double>& values) {
  Series s;
  for (std::size_t i = 0; i < values.size(); ++i) s.add(static_cast<double>(i + 1), values[i]);
  return s;
}

struct Place {
  double x, y;
};

/// The points of the first polyline of a class.
std::vector<Place> places(const testing::XmlNode& figure, const std::string& kind) {
  std::vector<Place> found;
  for (const testing::XmlNode* line : figure.all("polyline")) {
    if (line->attributes.at("class") != kind) continue;
    std::istringstream in(line->attributes.at("points"));
    char comma = 0;
    for (Place p{}; in >> p.x >> comma >> p.y;) found.push_back(p);
    break;
  }
  return found;
}

TEST(Ticks, AreAtRoundNumbers) {
  EXPECT_THAT(round_ticks(0, 10, 6), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(round_ticks(0, 94, 6), ElementsAre(0, 20, 40, 60, 80));
  EXPECT_THAT(round_ticks(2.31, 4.87, 6), Pointwise(DoubleNear(1e-12), {2.5, 3., 3.5, 4., 4.5}));
  EXPECT_THAT(round_ticks(-0.3, 0.2, 6), Pointwise(DoubleNear(1e-12), {-0.3, -0.2, -0.1, 0., 0.1, 0.2}));
  EXPECT_THAT(round_ticks(1e-4, 3e-4, 3), Pointwise(DoubleNear(1e-15), {1e-4, 2e-4, 3e-4}));
  EXPECT_THAT(round_ticks(0, 2, 6, 1), ElementsAre(0, 1, 2));  // steps are whole
  EXPECT_THAT(round_ticks(-1e290, 1e290, 6), ::testing::SizeIs(::testing::AllOf(::testing::Ge(2), ::testing::Le(6))));
  EXPECT_THAT(log_ticks(0.15, 30), Pointwise(DoubleNear(1e-12), {0.2, 0.5, 1., 2., 5., 10., 20.}));
  EXPECT_THAT(log_ticks(1, 1e5), Pointwise(DoubleNear(1e-6), {1., 10., 100., 1e3, 1e4, 1e5}));
}

TEST(Ticks, AreWrittenShort) {
  EXPECT_EQ(tick_text(0, 20, 80), "0");
  EXPECT_EQ(tick_text(80, 20, 80), "80");
  EXPECT_EQ(tick_text(2.5, 0.5, 4.5), "2.5");
  EXPECT_EQ(tick_text(3, 0.5, 4.5), "3.0");
  EXPECT_EQ(tick_text(-0.2, 0.2, 0.4), "-0.2");
  EXPECT_EQ(tick_text(5000, 5000, 20000), "5k");
  EXPECT_EQ(tick_text(12500, 500, 14000), "12.5k");
  EXPECT_EQ(tick_text(1.5e6, 5e5, 2e6), "1.5M");
  EXPECT_EQ(tick_text(2e-4, 1e-4, 3e-4), "2e-4");
  EXPECT_EQ(tick_text(0.5e-4, 0.5e-4, 1e-4), "0.5e-4");
  EXPECT_EQ(tick_text(0.02, 0, 0.02), "0.02");  // logarithmic
  EXPECT_EQ(tick_text(20, 0, 20), "20");
}

TEST(Plot, AverageIsOverTheNeighboursThatThereAre) {
  const std::vector<double> values{1, 2, 6, 3, 8};
  EXPECT_DOUBLE_EQ(average_around(values, 0, 3), 1.5);
  EXPECT_DOUBLE_EQ(average_around(values, 2, 3), 11.0 / 3);
  EXPECT_DOUBLE_EQ(average_around(values, 4, 3), 5.5);
  EXPECT_DOUBLE_EQ(average_around(values, 2, 1), 6);
  EXPECT_DOUBLE_EQ(average_around(values, 2, 99), 4);
  EXPECT_EQ(smoothing_window(1), 1U);
  EXPECT_EQ(smoothing_window(29), 1U);
  EXPECT_EQ(smoothing_window(10000) % 2, 1U);
}

TEST(Plot, PlacesFollowTheScale) {
  const Series s = series({1, 2, 3});
  const auto figure = parse_xml(to_figure({.title = "T", .curves = {{"a", &s}}}, 1, 3));
  const auto line = places(figure, "line c0");
  ASSERT_EQ(line.size(), 3U);
  EXPECT_EQ(line[0].x, 46);        // the left edge
  EXPECT_EQ(line[2].x, 46 + 344);  // the right one
  EXPECT_EQ(line[1].x, 46 + 172);
  EXPECT_NEAR(line[0].y + line[2].y, 2 * line[1].y, 0.11);  // a straight line, upwards
  EXPECT_GT(line[0].y, line[2].y);
  EXPECT_THAT(places(figure, "raw c0"), IsEmpty());  // too short to be smoothed
  // What the drawing says of its axes leads back to the values.
  double low = 0, high = 0;
  std::istringstream(figure.all("svg")[0]->attributes.at("data-y")) >> low >> high;
  EXPECT_NEAR(high - (line[2].y - 8) / 190 * (high - low), 3, 0.01);
}

TEST(Plot, ALongCurveKeepsItsExtremesAndIsSmall) {
  std::vector<double> values(200000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i) * 0.7);
  values[77777] = 40;
  values[150000] = -30;
  const Series s = series(values);
  const std::string text = to_figure({.title = "T", .curves = {{"a", &s}}}, 1, 200000);
  EXPECT_LT(text.size(), 20000U);
  const auto raw = places(parse_xml(text), "raw c0");
  const auto [high, low] = std::minmax_element(raw.begin(), raw.end(), [](auto a, auto b) { return a.y < b.y; });
  EXPECT_NEAR(high->x, 46 + 344 * 77777. / 199999, 0.1);
  EXPECT_NEAR(low->x, 46 + 344 * 150000. / 199999, 0.1);
}

TEST(Plot, LongCurvesAreSmoothedUnlessTheyAreExact) {
  std::vector<double> values(100);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = i % 2 == 0 ? 1 : 3;
  const Series s = series(values);
  const auto height = [](const std::vector<Place>& line) {
    const auto [high, low] = std::minmax_element(line.begin(), line.end(), [](auto a, auto b) { return a.y < b.y; });
    return low->y - high->y;
  };
  const auto smooth = parse_xml(to_figure({.title = "T", .curves = {{"a", &s}}}, 1, 100));
  EXPECT_LT(height(places(smooth, "line c0")), 0.4 * height(places(smooth, "raw c0")));
  const auto exact = parse_xml(to_figure({.title = "T", .curves = {{"a", &s}}, .is_exact = true}, 1, 100));
  EXPECT_EQ(height(places(exact, "line c0")), height(places(smooth, "raw c0")));
  EXPECT_THAT(places(exact, "raw c0"), IsEmpty());
}

TEST(Plot, OnePointNoPointAndOddValues) {
  Series one;
  one.add(5, 2.5);
  const Series none, same = series({3, 3, 3}), huge = series({-1e308, 1e308, 1e-320, 0});
  EXPECT_EQ(to_figure({.title = "T"}, 1, 1), "");
  EXPECT_EQ(to_figure({.title = "T", .curves = {{"a", &none}}}, 1, 1), "");
  const auto single = parse_xml(to_figure({.title = "T", .curves = {{"a", &one}}}, 5, 5));
  ASSERT_EQ(single.all("circle").size(), 1U);
  EXPECT_EQ(single.all("circle")[0]->attributes.at("cx"), "218.0");  // the middle
  for (const Series* s : std::initializer_list<const Series*>{&one, &same, &huge}) {
    for (const bool log : {false, true}) {
      const std::string text =
          to_figure({.title = "T", .curves = {{"a", s}}, .from_zero = !log, .may_be_log = log}, 0, 4);
      EXPECT_THAT(text, ::testing::Not(HasSubstr("nan")));
      EXPECT_THAT(text, ::testing::Not(HasSubstr("inf")));
      parse_xml(text);
    }
  }
}

TEST(Plot, WideRangesAreLogarithmicWhereAllowed) {
  const Series s = series({0.01, 1, 100, 10000});
  const auto figure = parse_xml(to_figure({.title = "T", .curves = {{"a", &s}}, .may_be_log = true}, 1, 4));
  EXPECT_EQ(figure.all("svg")[0]->attributes.at("data-log"), "1");
  EXPECT_THAT(figure.all("figcaption")[0]->text(), HasSubstr("logarithmic"));
  const auto line = places(figure, "line c0");
  EXPECT_NEAR(line[0].y - line[1].y, line[2].y - line[3].y, 0.11);  // two decades each
  EXPECT_EQ(parse_xml(to_figure({.title = "T", .curves = {{"a", &s}}}, 1, 4)).all("svg")[0]->attributes.at("data-log"),
            "0");
}

TEST(Plot, MarksAreFewAndTheLastIsAmongThem) {
  std::vector<double> values(1234);
  std::iota(values.begin(), values.end(), 0.0);
  const Series s = series(values);
  const auto figure = parse_xml(to_figure({.title = "T", .curves = {{"a", &s, true}}}, 1, 1234));
  const auto marks = figure.all("circle");
  EXPECT_LE(marks.size(), 100U);
  EXPECT_GE(marks.size(), 50U);
  EXPECT_EQ(marks.back()->all("title")[0]->text(), "step 1,234: 1233");
}

TEST(Html, WhatMeansSomethingInMarkupIsEscaped) {
  EXPECT_EQ(escape("a<b>&\"c'"), "a&lt;b&gt;&amp;&quot;c&#39;");
  EXPECT_EQ(escape("line\n\ttab é 😀"), "line\n\ttab é 😀");
  EXPECT_EQ(escape(std::string("\0\x1b\r", 3)), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(escape("\xff\xc3"), "\uFFFD\uFFFD");
  EXPECT_EQ(escape("\uFFFE"), "\uFFFD");
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(-1234567), "-1,234,567");
}

LayerLoad counts(std::vector<std::int64_t> assignments) {
  LayerLoad load;
  load.assignments = std::move(assignments);
  load.assignments_step = 20;
  return load;
}

TEST(HeatMap, ColoursAreSharesOverAnEvenShare) {
  EXPECT_EQ(load_colour(1), 4);
  EXPECT_EQ(load_colour(2), 6);
  EXPECT_EQ(load_colour(4), 8);
  EXPECT_EQ(load_colour(100), 8);
  EXPECT_EQ(load_colour(0.5), 2);
  EXPECT_EQ(load_colour(0.01), 0);
  const auto figure = parse_xml(load_map({{1, counts({10, 10, 20, 0})}, {4, counts({1, 1, 1, 1})}}));
  std::vector<std::string> colours;
  for (const auto* rect : figure.all("rect"))
    if (!rect->all("title").empty()) colours.push_back(rect->attributes.at("class"));
  EXPECT_THAT(colours, ElementsAre("h4", "h4", "h6", "unused", "h4", "h4", "h4", "h4"));
  EXPECT_EQ(figure.all("title")[2]->text(), "layer 1, expert 2: 2.00 times an even share");
  EXPECT_THAT(figure.text(), HasSubstr("experts 0 to 3"));
}

TEST(HeatMap, ManyExpertsAndLayersStaySmall) {
  std::map<std::int64_t, LayerLoad> loads;
  for (std::int64_t layer = 0; layer < 300; ++layer) {
    std::vector<std::int64_t> assignments(1000);
    for (std::size_t e = 0; e < assignments.size(); ++e)
      assignments[e] = static_cast<std::int64_t>((e * 7919 + static_cast<std::size_t>(layer) * 104729) % 97);
    loads[layer] = counts(assignments);
  }
  const std::string text = load_map(loads);
  EXPECT_LT(text.size(), 400000U);
  EXPECT_THAT(parse_xml(text).text(), HasSubstr("one layer in 5"));
}

TEST(HeatMap, NothingAndOneExpert) {
  EXPECT_EQ(load_map({}), "");
  EXPECT_EQ(load_map({{0, LayerLoad{}}}), "");
  EXPECT_EQ(parse_xml(load_map({{0, counts({0})}})).all("title").size(), 1U);
}

}  // namespace
}  // namespace limbeck::launch
