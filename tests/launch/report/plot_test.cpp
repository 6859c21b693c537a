#include "launch/report/plot.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
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

/// The points of the first polyline, or other element, of a class.
std::vector<Place> places(const testing::XmlNode& figure, const std::string& kind, const char* element = "polyline") {
  std::vector<Place> found;
  for (const testing::XmlNode* line : figure.all(element)) {
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

TEST(Plot, TheAverageIsExponentialAndWithoutBias) {
  // By hand: weights 1; 0.75, 1; 0.5625, 0.75, 1.
  EXPECT_THAT(smoothed({8, 1, 4}, 0.75),
              Pointwise(DoubleNear(1e-12), {8., (0.75 * 8 + 1) / 1.75, (0.5625 * 8 + 0.75 * 1 + 4) / 2.3125}));
  EXPECT_THAT(smoothed({8, 1, 4}, 0), ElementsAre(8, 1, 4));
  EXPECT_THAT(smoothed({3, 3, 3, 3}, 0.99), Pointwise(DoubleNear(1e-12), {3., 3., 3., 3.}));
  EXPECT_EQ(first_weight(1), 0);
  EXPECT_EQ(first_weight(29), 0);
  EXPECT_GT(first_weight(10000), 0.5);
}

TEST(Plot, PointsStandForEquallyManyThatFollowOneAnother) {
  const Thinned all = thinned(series({5, 1, 3}), 3);
  EXPECT_TRUE(all.is_exact);
  EXPECT_THAT(all.mean, ElementsAre(5, 1, 3));
  const Thinned two = thinned(series({5, 1, 3, 7, 2, 6}), 2);
  EXPECT_FALSE(two.is_exact);
  EXPECT_THAT(two.steps, ElementsAre(2, 5));
  EXPECT_THAT(two.mean, ElementsAre(3, 5));
  EXPECT_THAT(two.low, ElementsAre(1, 2));
  EXPECT_THAT(two.high, ElementsAre(5, 7));
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
  // Its lowest value and its highest lie a twenty-seventh of the height from the edges: 0.04 of what they span.
  EXPECT_NEAR(line[0].y, 8 + 190 - 190 * 0.04 / 1.08, 0.1);
  EXPECT_NEAR(line[2].y, 8 + 190 * 0.04 / 1.08, 0.1);
}

/// What the figure tells the page's script.
nlohmann::json data_of(const testing::XmlNode& figure) {
  return nlohmann::json::parse(figure.all("script").at(0)->text());
}

TEST(Plot, TheFigureHoldsItsValues) {
  const Series a = series({1.25, 2, 3}), low = series({1, 1, 1}), high = series({3, 4, 5});
  Plot plot{.title = "T",
            .curves = {{"</script><b>&", &a, false, 2}},
            .band_low = &low,
            .band_high = &high,
            .is_exact = true,
            .scale = 2,
            .from_zero = true};
  const std::string text = to_figure(plot, 1, 3);
  EXPECT_THAT(text, ::testing::Not(HasSubstr("</script><b>")));
  const nlohmann::json data = data_of(parse_xml(text));
  EXPECT_EQ(data["curves"][0]["label"], "</script><b>&");
  EXPECT_EQ(data["curves"][0]["run"], 2);
  EXPECT_EQ(data["curves"][0]["colour"], 0);
  EXPECT_EQ(data["curves"][0]["x"], nlohmann::json({1, 2, 3}));
  EXPECT_EQ(data["curves"][0]["y"], nlohmann::json({2.5, 4, 6}));
  EXPECT_FALSE(data["curves"][0].contains("low"));
  EXPECT_EQ(data["band"]["high"], nlohmann::json({6, 8, 10}));
  EXPECT_EQ(data["exact"], true);
  EXPECT_EQ(data["zero"], true);
  EXPECT_EQ(data["log"], false);
  plot.is_by_run = true;
  EXPECT_EQ(data_of(parse_xml(to_figure(plot, 1, 3)))["curves"][0]["colour"], 2);
}

TEST(Plot, ALongCurveKeepsItsExtremesAndIsSmall) {
  std::vector<double> values(200000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i) * 0.7);
  values[77777] = 40;
  values[150000] = -30;
  const Series s = series(values);
  const std::string text = to_figure({.title = "T", .curves = {{"a", &s}}}, 1, 200000);
  EXPECT_LT(text.size(), 35000U);
  const auto figure = parse_xml(text);
  const auto raw = places(figure, "raw c0", "polygon");
  const auto [high, low] = std::minmax_element(raw.begin(), raw.end(), [](auto a, auto b) { return a.y < b.y; });
  EXPECT_NEAR(high->x, 46 + 344 * 77777. / 199999, 0.6);  // half of a point's steps
  EXPECT_NEAR(low->x, 46 + 344 * 150000. / 199999, 0.6);
  const nlohmann::json curve = data_of(figure)["curves"][0];
  EXPECT_EQ(curve["high"].get<std::vector<double>>()[155], 40);
  EXPECT_EQ(curve["low"].get<std::vector<double>>()[300], -30);
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
  auto settled = places(smooth, "line c0");
  settled.erase(settled.begin(), settled.begin() + 20);
  EXPECT_LT(height(settled), 0.4 * height(places(smooth, "raw c0")));
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
  EXPECT_EQ(data_of(figure)["log"], true);
  EXPECT_THAT(figure.all("figcaption")[0]->text(), HasSubstr("logarithmic"));
  const auto line = places(figure, "line c0");
  EXPECT_NEAR(line[0].y - line[1].y, line[2].y - line[3].y, 0.11);  // two decades each
  EXPECT_EQ(data_of(parse_xml(to_figure({.title = "T", .curves = {{"a", &s}}}, 1, 4)))["log"], false);
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

TEST(Html, ATextInAScriptCannotEndIt) {
  for (const std::string& text :
       {std::string("</script><!--"), std::string("]]>&amp;"), std::string("\"\\\n\x01 é 😀\u2028")}) {
    const std::string json = script_string(text);
    EXPECT_EQ(json.find_first_of("<>&\n"), std::string::npos) << json;
    EXPECT_TRUE(std::all_of(json.begin(), json.end(), [](char c) { return c >= 0x20 && c < 0x7f; })) << json;
    EXPECT_EQ(nlohmann::json::parse(json).get<std::string>(), text);
  }
  EXPECT_EQ(script_string("\xff"), "\"\\ufffd\"");
}

TEST(Html, WhatMeansSomethingInMarkupIsEscaped) {
  EXPECT_EQ(escape("a<b>&\"c'"), "a&lt;b&gt;&amp;&quot;c&#39;");
  EXPECT_EQ(escape("line\n\ttab é 😀"), "line\n\ttab é 😀");
  EXPECT_EQ(escape(std::string("\0\x1b\r", 3)), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(escape("\xff\xc3"), "\uFFFD\uFFFD");
  EXPECT_EQ(escape("\uFFFE"), "\uFFFD");
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

TEST(HeatMap, EntropyIsShadedByLayerAndStep) {
  std::map<std::int64_t, LayerLoad> loads;
  loads[0].entropy = series({0.5, 0.5, 0.97, 0.97});
  loads[3].entropy = series({0.97, 0.97, 0.97, 0.97});
  loads[10].entropy = series({0.71, 0.97, 0.97, 0.97});
  const auto figure = parse_xml(entropy_map(loads, "a<b"));
  std::vector<std::string> cells;
  for (const auto* path : figure.all("path"))
    cells.push_back(path->attributes.at("class") + " " + path->attributes.at("d"));
  EXPECT_THAT(cells, ElementsAre("e0 M0 0h2v1h-2z", "e8 M2 0h2v1h-2z", "e8 M0 0h4v1h-4z", "e3 M0 0h1v1h-1z",
                                 "e8 M1 0h3v1h-3z"));
  EXPECT_THAT(figure.text(), HasSubstr("Expert load over time, a<b"));
  EXPECT_THAT(figure.text(), HasSubstr("layer 0"));
  EXPECT_EQ(entropy_map({}), "");
  EXPECT_EQ(entropy_map({{0, LayerLoad{}}}), "");
}

TEST(HeatMap, EntropyOfManyLayersAndStepsStaysSmall) {
  std::map<std::int64_t, LayerLoad> loads;
  for (std::int64_t layer = 0; layer < 300; ++layer)
    for (int step = 1; step <= 2000; ++step)
      loads[layer].entropy.add(step, 0.6 + 0.4 * static_cast<double>((step * 7919 + layer * 104729) % 97) / 97);
  const std::string text = entropy_map(loads);
  EXPECT_LT(text.size(), 150000U);
  EXPECT_THAT(parse_xml(text).text(), HasSubstr("one layer in 5"));
}

TEST(HeatMap, NothingAndOneExpert) {
  EXPECT_EQ(load_map({}), "");
  EXPECT_EQ(load_map({{0, LayerLoad{}}}), "");
  EXPECT_EQ(parse_xml(load_map({{0, counts({0})}})).all("title").size(), 1U);
}

}  // namespace
}  // namespace limbeck::launch
