// Text in columns.
//
//     text += aligned({{"embed.weight", "float32"}, {"norm.weight", "float32"}}, 2);
#pragma once

#include <string>
#include <vector>

namespace limbeck::launch {

/// Columns that a text takes on a terminal, each character one.
std::size_t width_of(const std::string& text);

/// Rows of columns, each as wide as its longest cell and two blanks; a cell of more than 80 characters widens no
/// column. Each row begins with `indent` blanks.
std::string aligned(const std::vector<std::vector<std::string>>& rows, std::size_t indent);

}  // namespace limbeck::launch
