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

constexpr std::int64_t tokens_between_sums = 128;
constexpr double tie = 1e-6, rounding = 1e-9;  // of a sum, and beside it

/// Of a batch, the streams before each layer of the list, and behind the last.
using Streams = std::vector<Tensor>;

class Search {
 public:
  Search(const Transformer& model, std::span<const Batch> batches, std::int64_t longest, const KlOfHidden& kl,
         BatchComm& ranks)
      : model_(model), kl_(kl), ranks_(ranks), longest_(longest) {
    for (const Batch& batch : batches) {
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
    std::optional<std::size_t> dropped;
    Try best;
    for (const std::size_t i : order) {
      const double margin = tie * std::abs(best.sum.kl) + rounding;
      Try tried = without(i, dropped ? best.sum.kl + margin : std::numeric_limits<double>::infinity());
      ++found.runs;
      if (!tried.is_whole) continue;
      ++found.whole_runs;
      const bool is_tie = dropped && std::abs(tried.sum.kl - best.sum.kl) <= margin;
      if (dropped && (is_tie ? i < *dropped : tried.sum.kl > best.sum.kl)) continue;
      dropped = i;
      best = std::move(tried);
    }
    core::check(dropped.has_value(), "greedy layers: the logits are not finite without any of layers {}",
                fmt::join(kept_, " "));
    for (std::size_t b = 0; b < streams_.size(); ++b) {
      streams_[b].resize(*dropped + 1);
      std::ranges::move(best.streams[b], std::back_inserter(streams_[b]));
    }
    found.dropped.push_back({kept_[*dropped], best.sum.kl / best.sum.tokens});
    kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(*dropped));
  }

  const std::vector<std::int64_t>& kept() const { return kept_; }

 private:
  /// A model without one more layer.
  struct Try {
    KlSum sum = {};
    bool is_whole = false;              // it was seen on all tokens
    std::vector<Streams> streams = {};  // behind that layer
  };

  double& estimate(std::size_t i) { return estimates_.at(static_cast<std::size_t>(kept_[i])); }

  Tensor behind(const Pass& pass, std::int64_t layer, const Tensor& stream) {
    return model_.layer(off_, pass, layer, core::constant(stream)).value;
  }

  /// The i-th of its layers, until the KL exceeds `most`.
  Try without(std::size_t i, double most) {
    Try tried{.streams = std::vector<Streams>(passes_.size())};
    double& estimated = estimate(i);
    estimated = std::numeric_limits<double>::infinity();
    for (std::size_t b = 0; b < passes_.size(); ++b) {
      const Pass& pass = passes_[b];
      Tensor stream = streams_[b][i];
      for (std::size_t k = i + 1; k < kept_.size(); ++k) {
        stream = behind(pass, kept_[k], stream);
        tried.streams[b].push_back(stream);
      }
      const Tensor hidden = model_.finished(off_, pass, core::constant(stream)).hidden.value;
      for (std::int64_t first = 0; first < longest_; first += tokens_between_sums) {
        const std::int64_t count = std::clamp<std::int64_t>(hidden.shape()[0] - first, 0, tokens_between_sums);
        KlSum mine;
        if (count > 0) mine = kl_(b, hidden.rows(first, count), first, count);
        const std::vector<double> sums = summed({mine.kl, mine.tokens});
        tried.sum.kl += sums[0];
        tried.sum.tokens += sums[1];
        if (!std::isfinite(tried.sum.kl)) return tried;
        if (tried.sum.tokens > 0) estimated = tried.sum.kl / tried.sum.tokens;
        if (tried.sum.kl > most) return tried;
      }
    }
    core::check(tried.sum.tokens > 0, "greedy layers: the calibration sample has no tokens that are predicted");
    tried.is_whole = true;
    return tried;
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
  const KlOfHidden& kl_;
  BatchComm& ranks_;
  std::int64_t longest_;
  Tape off_{Tape::Mode::Off};
  std::vector<Pass> passes_;
  std::vector<std::int64_t> kept_;
  std::vector<Streams> streams_;   // by batch
  std::vector<double> estimates_;  // by layer of the model
};

}  // namespace

GreedyLayers greedy_layers(const Transformer& model, std::span<const Batch> batches, std::int64_t longest,
                           std::int64_t keep, const KlOfHidden& kl, BatchComm& ranks) {
  const std::int64_t layers = model.config().num_layers;
  if (keep < 1 || keep > layers) core::fail_usage("student: {} layers of a teacher that has {}", keep, layers);
  GreedyLayers found;
  if (keep == layers) {
    found.kept.resize(static_cast<std::size_t>(layers));
    std::iota(found.kept.begin(), found.kept.end(), std::int64_t{0});
    return found;
  }
  Search search(model, batches, longest, kl, ranks);
  while (std::ssize(search.kept()) > keep) search.drop_one(found);
  found.kept = search.kept();
  return found;
}

}  // namespace limbeck::nn
