#include "launch/run/paired_bootstrap.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace limbeck::launch {

using core::Tensor;

namespace {

void add_row(std::vector<double>& sums, const std::vector<double>& rows, std::size_t row) {
  const double* values = rows.data() + row * sums.size();
  for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += values[c];
}

/// The figures' differences in each resample, [resamples,figures].
std::vector<double> resampled(Rank& rank, const PairedSample& sample, const std::vector<SampleFigure>& figures,
                              const BootstrapOptions& options) {
  const std::size_t units = sample.num_units();
  const auto width = static_cast<std::int64_t>(figures.size());
  Tensor table = Tensor::zeros(rank.host_memory(), core::DType::F64, {options.resamples, width});
  auto* out = table.mutable_host<double>();
  for (std::int64_t r = rank.mesh().data().rank(); r < options.resamples; r += rank.mesh().data().size()) {
    const core::RandomStream random(options.seed, static_cast<std::uint64_t>(r), "paired bootstrap");
    std::vector<double> model(sample.columns), against(sample.columns);
    for (std::size_t i = 0; i < units; ++i) {
      const std::size_t unit = random.below(i, units);
      add_row(model, sample.model, unit);
      add_row(against, sample.against, unit);
    }
    for (std::size_t f = 0; f < figures.size(); ++f)
      out[static_cast<std::size_t>(r * width) + f] = figures[f].of(model) - figures[f].of(against);
  }
  rank.comms().batch->sum(table);
  return core::host_values<double>(table);
}

}  // namespace

std::vector<FigureDifference> paired_bootstrap(Rank& rank, const PairedSample& sample,
                                               const std::vector<SampleFigure>& figures,
                                               const BootstrapOptions& options) {
  core::check(sample.model.size() == sample.against.size(), "paired bootstrap: {} and {} numbers, expected as many",
              sample.model.size(), sample.against.size());
  const std::size_t units = sample.num_units();
  std::vector<FigureDifference> result;
  if (units < 2) return result;
  std::vector<double> model(sample.columns), against(sample.columns);
  for (std::size_t i = 0; i < units; ++i) {
    add_row(model, sample.model, i);
    add_row(against, sample.against, i);
  }
  const std::vector<double> table = resampled(rank, sample, figures, options);
  const auto count = static_cast<std::size_t>(options.resamples);
  for (std::size_t f = 0; f < figures.size(); ++f) {
    std::vector<double> differences;
    for (std::size_t r = 0; r < count; ++r) differences.push_back(table[r * figures.size() + f]);
    std::sort(differences.begin(), differences.end());
    FigureDifference& found = result.emplace_back(
        FigureDifference{.name = figures[f].name, .model = figures[f].of(model), .against = figures[f].of(against)});
    found.difference = found.model - found.against;
    const auto last = static_cast<double>(count - 1);
    found.low = differences[static_cast<std::size_t>(std::floor(0.025 * last))];
    found.high = differences[static_cast<std::size_t>(std::ceil(0.975 * last))];
    const auto not_above = std::upper_bound(differences.begin(), differences.end(), 0.0) - differences.begin();
    const auto not_below = differences.end() - std::lower_bound(differences.begin(), differences.end(), 0.0);
    const auto least = static_cast<double>(std::min(not_above, not_below));
    found.p_value = std::min(1.0, 2 * (1 + least) / (static_cast<double>(count) + 1));
  }
  return result;
}

}  // namespace limbeck::launch
