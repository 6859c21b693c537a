#include "launch/config/figure.h"

#include <algorithm>

namespace limbeck::launch {

FigureName figure_name(std::string_view text) {
  const std::size_t dot = text.rfind('.');
  if (dot == std::string_view::npos) return {"", std::string(text)};
  return {std::string(text.substr(0, dot)), std::string(text.substr(dot + 1))};
}

bool is_figure(const FigureName& name) {
  return std::find(figure_names.begin(), figure_names.end(), name.figure) != figure_names.end();
}

bool needs_teacher(const FigureName& name) {
  return name.figure.starts_with("kl") || name.figure == "top1_agreement" || name.figure.starts_with("sum_min");
}

bool needs_pairs(const FigureName& name) { return name.figure.starts_with("preference_"); }

bool rises(const FigureName& name) {
  return name.figure == "top1_agreement" || name.figure.starts_with("sum_min") ||
         name.figure == "preference_accuracy" || name.figure == "preference_margin";
}

}  // namespace limbeck::launch
