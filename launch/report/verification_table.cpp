#include "launch/report/verification_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/counted.h"
#include "launch/console/columns.h"

namespace limbeck::launch {
namespace {

constexpr std::size_t most_flips = 5;  // that a layout tells to people

std::string number(double difference) {
  if (difference == 0) return "0";
  return std::isfinite(difference) ? fmt::format("{:.1e}", difference) : "not finite";
}

std::vector<std::string> row(const VerifiedLayout& layout, double tolerance) {
  const LayoutDifferences& d = layout.differences;
  const std::string verdict = d.within(tolerance) ? "ok" : "FAIL";
  std::vector<std::string> cells = {layout.layout, fmt::format("{}", layout.num_ranks)};
  if (!d.error.empty()) {
    cells.insert(cells.end(), {"-", "-", "-", "-", "-", "-", "-", verdict});
    return cells;
  }
  const auto name = [](const LayoutDifferences::Worst& worst) {
    return worst.parameter.empty() ? "-" : worst.parameter;
  };
  cells.insert(cells.end(), {number(d.loss), number(d.gradient_norm), number(d.gradient.difference), name(d.gradient),
                             number(d.weight.difference), name(d.weight), fmt::format("{}", d.num_flips), verdict});
  return cells;
}

/// Where a layout that fails begins to differ.
std::string place_text(const VerifiedLayout& layout, double tolerance) {
  const LayoutDifferences& d = layout.differences;
  if (!d.error.empty()) return d.error;
  std::string text;
  if (d.weight.difference > tolerance && d.weight.step == 0)
    text = fmt::format("{} begins with other weights; ", d.weight.parameter);
  if (const auto first = d.first_layer(tolerance))
    return text + fmt::format("what layer {} gives in the first step is the first that differs, by {}", *first,
                              number(d.hidden[static_cast<std::size_t>(*first)]));
  if (d.first_loss > tolerance) return text + "what the layers give is the same, the loss of it is not";
  if (d.first_gradient.difference > tolerance)
    return text +
           fmt::format("forward all is the same, backward the gradient of {} is not", d.first_gradient.parameter);
  if (std::max({d.loss, d.gradient.difference, d.weight.difference}) <= tolerance)
    return text + "losses, gradients and weights are the same, the gradient's norm is not";
  return text + "the first step's loss and gradients are the same, what the optimizer makes of them is not";
}

std::string flips_text(const VerifiedLayout& layout) {
  const LayoutDifferences& d = layout.differences;
  if (d.num_flips == 0) return "";
  std::string text = fmt::format("\n{}: {} would have gone to other experts, and took the reference's:\n",
                                 layout.layout, core::counted(d.num_flips, "token"));
  for (std::size_t i = 0; i < std::min(d.flips.size(), most_flips); ++i) {
    const Flip& flip = d.flips[i];
    text += fmt::format("  step {}, layer {}, token {}: {} in place of {}\n", flip.step, flip.layer, flip.token,
                        flip.own, flip.reference);
  }
  if (d.num_flips > static_cast<std::int64_t>(most_flips)) text += "  and more (--json)\n";
  return text;
}

nlohmann::ordered_json difference_json(double difference) {
  return std::isfinite(difference) ? nlohmann::ordered_json(difference) : nlohmann::ordered_json();
}

nlohmann::ordered_json worst_json(const LayoutDifferences::Worst& worst) {
  return {{"difference", difference_json(worst.difference)}, {"parameter", worst.parameter}, {"step", worst.step}};
}

nlohmann::ordered_json layout_json(const VerifiedLayout& layout, double tolerance) {
  const LayoutDifferences& d = layout.differences;
  nlohmann::ordered_json json = {
      {"layout", layout.layout}, {"ranks", layout.num_ranks}, {"passes", d.within(tolerance)}};
  if (!d.error.empty()) {
    json["error"] = d.error;
    return json;
  }
  json["loss"] = difference_json(d.loss);
  json["gradient_norm"] = difference_json(d.gradient_norm);
  json["gradient"] = worst_json(d.gradient);
  json["weight"] = worst_json(d.weight);
  json["hidden"] = nlohmann::ordered_json::array();
  for (const double difference : d.hidden) json["hidden"].push_back(difference_json(difference));
  json["flips"] = d.num_flips;
  json["flipped"] = nlohmann::ordered_json::array();
  for (const Flip& flip : d.flips)
    json["flipped"].push_back({{"step", flip.step},
                               {"layer", flip.layer},
                               {"token", flip.token},
                               {"reference", flip.reference},
                               {"own", flip.own}});
  return json;
}

}  // namespace

bool Verification::passes() const {
  return std::ranges::all_of(layouts, [&](const VerifiedLayout& l) { return l.differences.within(tolerance); });
}

std::string verification_text(const Verification& verification) {
  const double tolerance = verification.tolerance;
  std::vector<std::vector<std::string>> rows = {
      {"layout", "ranks", "loss", "norm", "gradient", "of", "weight", "of", "flips", ""}};
  for (const VerifiedLayout& layout : verification.layouts) rows.push_back(row(layout, tolerance));
  std::string text =
      fmt::format("{} of {} in {}: the largest differences from one rank, by its own numbers (tolerance {:g})\n\n",
                  core::counted(verification.num_steps, "step"), core::counted(verification.num_tokens, "token"),
                  verification.precision, tolerance);
  text += aligned(rows, 2);
  for (const VerifiedLayout& layout : verification.layouts)
    if (!layout.differences.within(tolerance))
      text += fmt::format("\n{}: {}\n", layout.layout, place_text(layout, tolerance));
  for (const VerifiedLayout& layout : verification.layouts) text += flips_text(layout);
  const auto passed = std::ranges::count_if(verification.layouts,
                                            [&](const VerifiedLayout& l) { return l.differences.within(tolerance); });
  text += fmt::format("\n{} of {} layouts give the numbers of one rank.\n", passed, verification.layouts.size());
  return text;
}

nlohmann::ordered_json verification_json(const Verification& verification) {
  nlohmann::ordered_json json = {{"precision", fmt::format("{}", verification.precision)},
                                 {"tolerance", verification.tolerance},
                                 {"steps", verification.num_steps},
                                 {"tokens", verification.num_tokens},
                                 {"passes", verification.passes()}};
  json["layouts"] = nlohmann::ordered_json::array();
  for (const VerifiedLayout& layout : verification.layouts)
    json["layouts"].push_back(layout_json(layout, verification.tolerance));
  return json;
}

}  // namespace limbeck::launch
