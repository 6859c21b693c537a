// Whether a text ends in the right number, as lm-eval's gsm8k judges it: the answer is looked for in two ways, and then
// compared without commas, dollar signs, what stands before "#### " and a full stop at the end.
//
//     exactly_matches(strict_answer("... so #### 42"), "6 * 7 = 42\n#### 42");      // true
//     exactly_matches(flexible_answer("That makes 42."), "#### 42");                // true
#pragma once

#include <string>
#include <string_view>

namespace limbeck::data {

/// What stands for an answer where none is found.
inline constexpr const char* no_answer = "[invalid]";

/// "strict-match": the first match of `#### (\-?[0-9\.\,]+)`.
std::string strict_answer(std::string_view text);
/// "flexible-extract": the last match of `(-?[$0-9.,]{2,})|(-?[0-9]+)`.
std::string flexible_answer(std::string_view text);
/// exact_match with gsm8k's regexes_to_ignore and without regard to case.
bool exactly_matches(std::string_view answer, std::string_view reference);

/// What of a generated text counts: up to the first "Question:", then the first "</s>", then the first "<|im_end|>".
std::string_view before_next_question(std::string_view generated);

}  // namespace limbeck::data
