#include "core/nn/student/greedy_layers.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>

#include "core/ops/cosine.h"

namespace limbeck::nn {
namespace {

constexpr double tie = 1e-6, rounding = 1e-9;  // of a sum, and beside it
constexpr double infinity = std::numeric_limits<double>::infinity();

/// Of a batch, the streams before each layer of the list, and behind the last.
using Streams = std::vector<Tensor>;

/// Over the tokens of all ranks: of a model's KL, and of how far that is above another's, token by token.
struct Sums {
  double kl = 0, tokens = 0;
  double above = 0, above_squared = 0;

  double mean() const { return kl / tokens; }
  bool is_finite() const { return std::isfinite(kl); }
  /// Whether what is above 0 in the mean is so by more than so many standard errors.
  bool is_above(double errors) const {
    if (tokens < 2 || above <= 0) return false;
    const double variance = std::max(0.0, above_squared - above * above / tokens) / (tokens - 1);
    return above / tokens > errors * std::sqrt(variance / tokens);
  }
};

class Search {
 public:
  Search(const Transformer& model, const GreedyText& text, const KlOfHidden& kl, BatchComm& ranks,
         const GreedyEffort& effort)
      : model_(model), stages_(text.stages), kl_(kl), ranks_(ranks), effort_(effort) {
    for (const Batch& batch : text.batches) {
      passes_.push_back(model.pass(batch));
      passes_.back().sequence_parallel = false;
    }
    for (std::int64_t layer = 0; layer < model.config().num_layers; ++layer) kept_.push_back(layer);
    for (const Pass& pass : passes_) {
      Streams streams(1, model.embedded(off_, pass).value);
      for (const std::int64_t layer : kept_) streams.push_back(behind(pass, layer, streams.back()));
      streams_.push_back(std::move(streams));
    }
    estimates_ = influences();
  }

  void drop_one(GreedyLayers& found) {
    std::vector<std::size_t> order(kept_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::ranges::stable_sort(order, {}, [&](std::size_t i) { return estimate(i); });
    const bool may_skip = !effort_.tries_all && !found.dropped.empty();  // by then estimates are KL
    std::optional<std::size_t> dropped;
    Try best;
    for (const std::size_t i : order) {
      const double margin = tie * std::abs(best.sums.kl) + rounding;
      if (dropped && may_skip && estimate(i) > (best.sums.kl + margin) / best.sums.tokens) break;
      Try tried = without(i, dropped ? &best : nullptr, best.sums.kl + margin);
      ++found.runs;
      if (!tried.is_whole) continue;
      ++found.whole_runs;
      const bool is_tie = dropped && std::abs(tried.sums.kl - best.sums.kl) <= margin;
      if (dropped && (is_tie ? i < *dropped : tried.sums.kl > best.sums.kl)) continue;
      dropped = i;
      best = std::move(tried);
    }
    core::check(dropped.has_value(), "greedy layers: the logits are not finite without any of layers {}",
                fmt::join(kept_, " "));
    for (std::size_t b = 0; b < streams_.size(); ++b) {
      streams_[b].resize(*dropped + 1);
      std::ranges::move(best.streams[b], std::back_inserter(streams_[b]));
    }
    found.dropped.push_back({kept_[*dropped], best.sums.mean()});
    kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(*dropped));
  }

  const std::vector<std::int64_t>& kept() const { return kept_; }

 private:
  /// A model without one more layer.
  struct Try {
    Sums sums = {};
    bool is_whole = false;                     // it was seen on all tokens
    std::vector<std::vector<double>> kl = {};  // of this rank's tokens, by batch
    std::vector<Streams> streams = {};         // behind that layer, by batch
  };

  double& estimate(std::size_t i) { return estimates_.at(static_cast<std::size_t>(kept_[i])); }

  Tensor behind(const Pass& pass, std::int64_t layer, const Tensor& stream) {
    return model_.layer(off_, pass, layer, core::constant(stream)).value;
  }

  /// The i-th of its layers, until the KL exceeds `most`, or that of the best so far for certain.
  Try without(std::size_t i, const Try* best, double most) {
    Try tried;
    for (const std::size_t end : stages_) {
      Sums mine;
      while (tried.kl.size() < end) {
        const std::size_t b = tried.kl.size();
        see(i, b, tried);
        mine.tokens += static_cast<double>(tried.kl[b].size());
        for (std::size_t t = 0; t < tried.kl[b].size(); ++t) {
          const double above = best != nullptr ? tried.kl[b][t] - best->kl[b][t] : 0;
          mine.kl += tried.kl[b][t];
          mine.above += above;
          mine.above_squared += above * above;
        }
      }
      const std::vector<double> all = summed({mine.kl, mine.tokens, mine.above, mine.above_squared});
      Sums& sums = tried.sums;
      sums = {sums.kl + all[0], sums.tokens + all[1], sums.above + all[2], sums.above_squared + all[3]};
      estimate(i) = infinity;
      if (!sums.is_finite()) return tried;
      if (sums.tokens == 0) continue;
      // What the best is at on all tokens, and how far above it this is on those seen so far.
      estimate(i) = best != nullptr ? best->sums.mean() + sums.above / sums.tokens : sums.mean();
      if (best == nullptr || end == stages_.back()) continue;
      if (sums.kl > most || sums.is_above(effort_.errors)) return tried;
    }
    core::check(tried.sums.tokens > 0, "greedy layers: the calibration sample has no tokens that are predicted");
    tried.is_whole = true;
    return tried;
  }

  /// One batch more, without the i-th layer.
  void see(std::size_t i, std::size_t b, Try& tried) {
    const Pass& pass = passes_[b];
    Tensor stream = streams_[b][i];
    tried.streams.emplace_back();
    for (std::size_t k = i + 1; k < kept_.size(); ++k) {
      stream = behind(pass, kept_[k], stream);
      tried.streams.back().push_back(stream);
    }
    tried.kl.push_back(kl_(b, model_.finished(off_, pass, core::constant(stream)).hidden.value));
  }

  std::vector<double> influences() {
    std::vector<double> sums(kept_.size(), 0.0);
    for (const Streams& streams : streams_)
      for (std::size_t i = 0; i < kept_.size(); ++i) sums[i] += core::cosine_distance(streams[i], streams[i + 1]);
    return summed(sums);
  }

  std::vector<double> summed(const std::vector<double>& values) {
    Tensor all = Tensor::from<double>(model_.memory(), {std::ssize(values)}, values);
    ranks_.sum(all);
    return core::host_values<double>(all);
  }

  const Transformer& model_;
  const std::vector<std::size_t>& stages_;
  const KlOfHidden& kl_;
  BatchComm& ranks_;
  GreedyEffort effort_;
  Tape off_{Tape::Mode::Off};
  std::vector<Pass> passes_;
  std::vector<std::int64_t> kept_;
  std::vector<Streams> streams_;   // by batch
  std::vector<double> estimates_;  // by layer of the model
};

}  // namespace

GreedyLayers greedy_layers(const Transformer& model, const GreedyText& text, std::int64_t keep, const KlOfHidden& kl,
                           BatchComm& ranks, const GreedyEffort& effort) {
  const std::int64_t layers = model.config().num_layers;
  if (keep < 1 || keep > layers) core::fail_usage("student: {} layers of a teacher that has {}", keep, layers);
  core::check(!text.stages.empty() && text.stages.back() == text.batches.size() && std::ranges::is_sorted(text.stages),
              "greedy layers: stages end before batches {}, expected the last before {}", fmt::join(text.stages, " "),
              text.batches.size());
  GreedyLayers found;
  if (keep == layers) {
    found.kept.resize(static_cast<std::size_t>(layers));
    std::iota(found.kept.begin(), found.kept.end(), std::int64_t{0});
    return found;
  }
  Search search(model, text, kl, ranks, effort);
  while (std::ssize(search.kept()) > keep) search.drop_one(found);
  found.kept = search.kept();
  return found;
}

}  // namespace limbeck::nn
