#include "launch/console/columns.h"

#include <algorithm>

#include "data/tokenizers/unicode.h"

namespace limbeck::launch {

std::size_t width_of(const std::string& text) { return data::code_points(data::repair_utf8(text).utf8).size(); }

std::string aligned(const std::vector<std::vector<std::string>>& rows, std::size_t indent) {
  constexpr std::size_t most = 80;
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()), 0);
    for (std::size_t i = 0; i < row.size(); ++i)
      if (const std::size_t width = width_of(row[i]); width <= most) widths[i] = std::max(widths[i], width);
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line(indent, ' ');
    for (std::size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line += std::string(std::max(widths[i], width_of(row[i])) - width_of(row[i]) + 2, ' ');
    }
    while (line.ends_with(' ')) line.pop_back();
    text += line + '\n';
  }
  return text;
}

}  // namespace limbeck::launch
