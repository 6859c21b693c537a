// How unevenly the experts of a layer are chosen, for a plan.
//
//     world.expert_shares = zipf_shares(/*experts=*/64, /*exponent=*/0.8);
//     world.expert_shares = measured_shares("runs/mine", 64);
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace limbeck::launch {

/// Of all assignments, the share of each expert, ascending: so that the last part of them has most to do. By Zipf's
/// law the k-th of the most chosen has one proportional to 1 / k^exponent.
std::vector<double> zipf_shares(std::int64_t num_experts, double exponent);

/// The same as a run found it: the mean over its layers of what each layer's k-th of the most chosen got, in the last
/// line of metrics.jsonl that has assignments; layers without any are left out. `run` is the run directory or that
/// file. Throws an Error, naming it, where it has none, and with the line where they are no counts, or of another
/// number of experts.
std::vector<double> measured_shares(const std::filesystem::path& run, std::int64_t num_experts);

/// Of models, by their number of experts; those of another number choose all alike.
using ExpertShares = std::map<std::int64_t, std::vector<double>>;

/// What --skew says of models of so many experts, the student's first: a number is an exponent, for all of them; else a
/// run, of a student's. Throws a UsageError for a number below 0, and where the model that it is of has no experts.
ExpertShares shares_of(const std::string& skew, std::int64_t of_student, std::int64_t of_teacher = 0);

/// The part of the tokens, each of which chooses so many different experts, that choose one of `experts` [E] or more.
/// `shares` are those of all assignments, empty: even. A token's choices are those of independent draws of which as
/// many came out (conditional Poisson sampling, Chen et al. 1994, Biometrika 81, eq. 1): of even shares the
/// hypergeometric distribution.
double share_of_tokens(const std::vector<double>& shares, const std::vector<bool>& experts, std::int64_t choices);

}  // namespace limbeck::launch
