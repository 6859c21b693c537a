#include "launch/plan/expert_shares.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"

namespace limbeck::launch {
namespace {

std::vector<double> ascending(std::vector<double> shares) {
  std::ranges::sort(shares);
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

/// The logarithm of the elementary symmetric polynomial of a degree, of the odds of experts by their logarithms.
double log_ways_to_choose(const std::vector<double>& log_odds, std::int64_t degree) {
  constexpr double none = -std::numeric_limits<double>::infinity();
  const auto log_of_sum = [](double a, double b) {
    const double most = std::max(a, b);
    return most == none ? none : most + std::log1p(std::exp(std::min(a, b) - most));
  };
  std::vector<double> logs(static_cast<std::size_t>(degree) + 1, none);
  logs[0] = 0;
  for (const double x : log_odds)
    for (std::size_t k = logs.size(); --k > 0;) logs[k] = log_of_sum(logs[k], x + logs[k - 1]);
  return logs.back();
}

/// Of each expert; `where` they are read, for messages.
std::vector<double> counts_of(const nlohmann::json& assignments, std::int64_t num_experts, const std::string& where) {
  const auto is_count = [](const nlohmann::json& n) { return n.is_number() && n.get<double>() >= 0; };
  if (!assignments.is_array() || !std::ranges::all_of(assignments, is_count))
    core::fail("{}: expert_load has assignments {}, expected a list of numbers of 0 or more", where,
               assignments.dump());
  if (std::ssize(assignments) != num_experts)
    core::fail("{}: is of a run with {} experts, expected the model's {}", where, assignments.size(), num_experts);
  return assignments.get<std::vector<double>>();
}

}  // namespace

double share_of_tokens(const std::vector<double>& shares, const std::vector<bool>& experts, std::int64_t choices) {
  constexpr double surely = 0.999, never = 1e-9;  // chosen by all but every token, and by all but none
  const double even = 1 / static_cast<double>(experts.size());
  std::vector<double> all, others;
  for (std::size_t e = 0; e < experts.size(); ++e) {
    const double chosen = std::clamp(static_cast<double>(choices) * (shares.empty() ? even : shares[e]), never, surely);
    all.push_back(std::log(chosen / (1 - chosen)));
    if (!experts[e]) others.push_back(all.back());
  }
  return 1 - std::exp(log_ways_to_choose(others, choices) - log_ways_to_choose(all, choices));
}

std::vector<double> zipf_shares(std::int64_t num_experts, double exponent) {
  std::vector<double> shares;
  for (std::int64_t k = 1; k <= num_experts; ++k) shares.push_back(std::pow(static_cast<double>(k), -exponent));
  return ascending(std::move(shares));
}

std::vector<double> measured_shares(const std::filesystem::path& run, std::int64_t num_experts) {
  const std::filesystem::path file = std::filesystem::is_directory(run) ? run / "metrics.jsonl" : run;
  std::ifstream in(file);
  if (!in)
    core::fail("--skew: {} cannot be read, expected a number, a run directory or its metrics.jsonl", run.string());
  std::vector<double> last;
  std::int64_t number = 1;
  for (std::string line; std::getline(in, line); ++number) {
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("expert_load")) continue;
    std::vector<double> sums(static_cast<std::size_t>(num_experts), 0.0);
    for (const nlohmann::json& layer : json["expert_load"]) {
      if (!layer.contains("assignments")) continue;
      const std::vector<double> counts =
          counts_of(layer["assignments"], num_experts, fmt::format("--skew: {}:{}", file.string(), number));
      if (std::ranges::all_of(counts, [](double count) { return count == 0; })) continue;
      const std::vector<double> shares = ascending(counts);
      for (std::size_t e = 0; e < shares.size(); ++e) sums[e] += shares[e];
    }
    if (std::ranges::any_of(sums, [](double sum) { return sum > 0; })) last = std::move(sums);
  }
  if (last.empty()) core::fail("--skew: {} has no line with assignments of experts", file.string());
  return ascending(std::move(last));
}

ExpertShares shares_of(const std::string& skew, std::int64_t of_student, std::int64_t of_teacher) {
  double exponent = 0;
  const char* const end = skew.data() + skew.size();
  const auto [stop, error] = std::from_chars(skew.data(), end, exponent);
  const bool is_run = error != std::errc() || stop != end;
  if (of_student == 0 && (is_run || of_teacher == 0))
    core::fail_usage("--skew is {}, but the model has no experts", skew);
  if (is_run) return {{of_student, measured_shares(skew, of_student)}};
  if (!(exponent >= 0) || exponent > 10)
    core::fail_usage("--skew is {}, expected an exponent of Zipf's law from 0 to 10, or a run", skew);
  ExpertShares shares;
  for (const std::int64_t num_experts : {of_student, of_teacher})
    if (num_experts > 0) shares[num_experts] = zipf_shares(num_experts, exponent);
  return shares;
}

}  // namespace limbeck::launch
