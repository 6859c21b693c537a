// The figures of an evaluation by name, as train.keep_best takes them: "ce" of the held-out sample, "kl" against the
// teacher, "web.bits_per_byte" of the evaluation set "web", "held_out/code.ce" of a mixture's source.
//
//     const FigureName name = figure_name("web.bits_per_byte");     // {"web", "bits_per_byte"}
//     if (rises(name)) ...                                          // greater is better
#pragma once

#include <array>
#include <string>
#include <string_view>

namespace limbeck::launch {

struct FigureName {
  std::string set;     // empty: the held-out sample
  std::string figure;  // of figure_names
};

inline constexpr std::array<std::string_view, 12> figure_names = {"ce",
                                                                  "perplexity",
                                                                  "bits_per_byte",
                                                                  "kl",
                                                                  "top1_agreement",
                                                                  "sum_min",
                                                                  "kl_lower_bound",
                                                                  "sum_min_upper_bound",
                                                                  "kl_estimate",
                                                                  "preference_loss",
                                                                  "preference_accuracy",
                                                                  "preference_margin"};

/// Cut at the last dot; whether there is such a set or figure is not looked at.
FigureName figure_name(std::string_view text);

/// Whether it is one of figure_names; those of them that need a teacher, or pairs of responses; those of which more is
/// better.
bool is_figure(const FigureName& name);
bool needs_teacher(const FigureName& name);
bool needs_pairs(const FigureName& name);
bool rises(const FigureName& name);

}  // namespace limbeck::launch
