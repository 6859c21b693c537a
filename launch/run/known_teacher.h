// What is known of a teacher's distributions, and what figures against it are called then: "kl" is of whole ones alone.
//
//     const TeacherFigureNames& names = names_of(Known::Kept);
//     json[names.kl] = evaluation.kl;                             // "kl_lower_bound"
#pragma once

#include <array>
#include <cstdint>

namespace limbeck::launch {

enum class Known : std::uint8_t {
  Whole,  // of all tokens
  Kept,   // the likeliest tokens, and all others as one outcome: KL is at most that of whole ones, sum min(p, q) at
          // least
  Drawn,  // draws: KL is an unbiased estimate
};
inline constexpr std::array<Known, 3> all_known = {Known::Whole, Known::Kept, Known::Drawn};

struct TeacherFigureNames {
  const char* kl;
  const char *kl_median, *kl_p90, *kl_p99;  // null: it is none of the figures
  const char* sum_min;                      // likewise
  const char *kl_mark, *sum_min_mark;       // before a value in tables
};

constexpr TeacherFigureNames names_of(Known known) {
  if (known == Known::Kept)
    return {.kl = "kl_lower_bound",
            .kl_median = "kl_lower_bound_median",
            .kl_p90 = "kl_lower_bound_p90",
            .kl_p99 = "kl_lower_bound_p99",
            .sum_min = "sum_min_upper_bound",
            .kl_mark = ">=",
            .sum_min_mark = "<="};
  if (known == Known::Drawn)
    return {.kl = "kl_estimate",
            .kl_median = nullptr,
            .kl_p90 = nullptr,
            .kl_p99 = nullptr,
            .sum_min = nullptr,
            .kl_mark = "~",
            .sum_min_mark = ""};
  return {.kl = "kl",
          .kl_median = "kl_median",
          .kl_p90 = "kl_p90",
          .kl_p99 = "kl_p99",
          .sum_min = "sum_min",
          .kl_mark = "",
          .sum_min_mark = ""};
}

}  // namespace limbeck::launch
