#include "tests/gpu/bench/formula.h"

#include <sstream>

#include "core/error.h"

namespace limbeck::bench {
namespace {

double factor_of(const std::string& word, const Letters& of) {
  for (const auto& [letter, value] : of)
    if (letter == word) return static_cast<double>(value);
  std::size_t read = 0;
  core::check(word.find_first_not_of("0123456789.") == std::string::npos,
              "formula: '{}' is neither a number nor one "
              "of the shape's letters",
              word);
  const double value = std::stod(word, &read);
  core::check(read == word.size(), "formula: '{}', expected a number", word);
  return value;
}

}  // namespace

double value_of(const std::string& formula, const Letters& of) {
  std::istringstream words(formula);
  double sum = 0, term = 0;
  bool begins = true;
  for (std::string word; words >> word;) {
    if (word == "+") {
      sum += std::exchange(term, 0);
      begins = true;
    } else {
      const double factor = factor_of(word, of);
      term = begins ? factor : term * factor;
      begins = false;
    }
  }
  return sum + term;
}

}  // namespace limbeck::bench
