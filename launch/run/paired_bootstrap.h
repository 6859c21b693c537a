// Whether one model is better than another on the same documents or questions, or only by which of them there happen to
// be: the paired bootstrap (Efron, Tibshirani 1993, chapter 13; for models of language Koehn 2004, "Statistical
// significance tests for machine translation evaluation").
//
//     PairedSample sample{.columns = 2, .model = {...}, .against = {...}};      // rows of tokens and nats, by document
//     const auto found = paired_bootstrap(rank, sample, {{"ce", [](auto sums) { return sums[1] / sums[0]; }}});
//     found[0].difference, .low, .high, .p_value;
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "launch/run/rank.h"

namespace limbeck::launch {

/// The numbers of each unit (a document, a question) whose sums figures are made of, of both models.
struct PairedSample {
  std::size_t columns = 0;
  std::vector<double> model = {};    // [units,columns]
  std::vector<double> against = {};  // likewise, of the same units

  std::size_t num_units() const { return columns == 0 ? 0 : model.size() / columns; }
};

struct SampleFigure {
  std::string name;
  std::function<double(std::span<const double> sums)> of;  // of the columns' sums over units
};

struct FigureDifference {
  std::string name;
  double model = 0, against = 0;
  double difference = 0;     // model less against
  double low = 0, high = 0;  // between which 95 % of the resamples' differences lie
  double p_value = 1;        // two-sided
};

struct BootstrapOptions {
  std::int64_t resamples = 10000;
  std::uint64_t seed = 1;
};

/// Collective over the ranks that have other data, which share the resamples: the same on all, for any number of them,
/// bit by bit. Resample r has as many units as the sample, its i-th RandomStream(seed, r, "paired bootstrap").below(i,
/// units), the same for both models. Of B sorted differences low is that at place floor(0.025 (B - 1)), high that at
/// ceil(0.975 (B - 1)); p is 2 (1 + least) / (B + 1), at most 1, where least is how many are not above or not below 0,
/// whichever is less (Davison, Hinkley 1997, section 4.2). Nothing of fewer than two units.
std::vector<FigureDifference> paired_bootstrap(Rank& rank, const PairedSample& sample,
                                               const std::vector<SampleFigure>& figures,
                                               const BootstrapOptions& options = {});

}  // namespace limbeck::launch
