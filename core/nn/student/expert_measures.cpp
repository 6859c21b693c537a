#include "core/nn/student/expert_measures.h"

#include <cmath>

#include "core/ops/linear.h"
#include "core/ops/permute.h"

namespace limbeck::nn {
namespace {

std::vector<double> doubles(const Tensor& t) {
  std::vector<double> result;
  const Tensor exact = t.to(core::sum_dtype(t.dtype()));
  core::dispatch_float("expert_use", exact.dtype(), [&]<class T>() {
    const std::vector<T> values = core::host_values<T>(exact);
    result.assign(values.begin(), values.end());
  });
  return result;
}

/// Of one layer.
class Sums {
 public:
  Sums(Transformer& model, std::int64_t num_experts) : model_(model), experts_(num_experts) {
    use_.load.resize(static_cast<std::size_t>(num_experts));
    use_.weight = use_.norm = use_.load;
    use_.logits.resize(static_cast<std::size_t>(num_experts * num_experts));
  }

  void add(const RoutedRows& routed) {
    const core::Permutation& order = routed.permutation;
    const std::vector<double> weights = doubles(routed.weights), rows = doubles(routed.rows);
    const std::vector<std::int32_t> source = core::host_values<std::int32_t>(order.source);
    const std::vector<std::int64_t> counts = core::host_values<std::int64_t>(order.counts);
    const auto width = static_cast<std::size_t>(routed.rows.shape()[1]);
    std::size_t row = 0;
    for (std::size_t e = 0; e < counts.size(); ++e) {
      use_.load[e] += static_cast<double>(counts[e]);
      for (std::int64_t n = 0; n < counts[e]; ++n, ++row) {
        double square = 0;
        for (std::size_t i = 0; i < width; ++i) square += rows[row * width + i] * rows[row * width + i];
        const double weight = weights[static_cast<std::size_t>(source[row])];
        use_.weight[e] += weight;
        use_.norm[e] += weight * std::sqrt(square);
      }
    }
  }

  /// What the router reads of all tokens [T,C], the same on every rank of a tensor group.
  void see(const std::string& name, const Tensor& x) {
    Tape off(Tape::Mode::Off);
    const Tensor exact = x.to(core::sum_dtype(x.dtype()));
    const auto products = [&](const char* weight) {
      const Tensor rows = model_.parameter(name + weight).value.to(exact.dtype());
      return doubles(core::linear(off, core::constant(exact), core::constant(rows)).value);
    };
    const std::vector<double> logits = products("router.weight");
    const auto e = static_cast<std::size_t>(experts_);
    for (std::size_t first = 0; first < logits.size(); first += e)
      for (std::size_t a = 0; a < e; ++a)
        for (std::size_t b = 0; b < e; ++b) use_.logits[a * e + b] += logits[first + a] * logits[first + b];
    if (!model_.config().moe.shared_gate) return;
    for (const double z : products("shared_gate.weight")) use_.shared_gate += 1 / (1 + std::exp(-z));
  }

  /// Over all ranks. The rows of a tensor group are divided among its ranks.
  ExpertUse summed(std::int64_t tokens, BatchComm& ranks) {
    const std::vector<double> rows = total({&use_.load, &use_.weight, &use_.norm}, [&](Tensor& all) {
      model_.comms().tensor->sum(all);
      ranks.sum(all);
    });
    const std::vector<double> others = {use_.shared_gate, static_cast<double>(tokens)};
    const std::vector<double> seen = total({&use_.logits, &others}, [&](Tensor& all) { ranks.sum(all); });
    const auto part = [](const std::vector<double>& from, std::int64_t first, std::int64_t count) {
      return std::vector<double>(from.begin() + first, from.begin() + first + count);
    };
    const std::int64_t e = experts_;
    return {.tokens = seen.back(),
            .load = part(rows, 0, e),
            .weight = part(rows, e, e),
            .norm = part(rows, 2 * e, e),
            .logits = part(seen, 0, e * e),
            .shared_gate = seen[static_cast<std::size_t>(e * e)]};
  }

 private:
  template <class Sum>
  std::vector<double> total(std::initializer_list<const std::vector<double>*> parts, const Sum& sum) const {
    std::vector<double> mine;
    for (const std::vector<double>* values : parts) mine.insert(mine.end(), values->begin(), values->end());
    Tensor all = Tensor::from<double>(model_.memory(), {std::ssize(mine)}, mine);
    sum(all);
    return core::host_values<double>(all);
  }

  Transformer& model_;
  std::int64_t experts_;
  ExpertUse use_;
};

}  // namespace

double ExpertUse::routed_norm(std::int64_t expert) const {
  const auto e = static_cast<std::size_t>(expert);
  return load[e] > 0 ? norm[e] / load[e] : 0;
}

double ExpertUse::similarity(std::int64_t a, std::int64_t b) const {
  const auto at = [&](std::int64_t i, std::int64_t j) {
    return logits[static_cast<std::size_t>(i * num_experts() + j)];
  };
  const double squares = at(a, a) * at(b, b);
  return squares > 0 ? at(a, b) / std::sqrt(squares) : 0;
}

std::vector<ExpertUse> expert_use(Transformer& model, const Batch& batch, BatchComm& ranks,
                                  std::span<const std::int64_t> layers) {
  const ModelConfig& config = model.config();
  Tape off(Tape::Mode::Off);
  Pass pass = model.pass(batch);
  pass.sequence_parallel = false;  // every rank of a tensor group then sees all of its tokens
  Var stream = model.embedded(off, pass);
  std::vector<ExpertUse> use;
  for (const std::int64_t layer : layers) {
    Sums sums(model, config.is_moe_layer(layer) ? config.moe.num_experts : 0);
    pass.experts = [&](std::int64_t, const RoutedRows& rows) { sums.add(rows); };
    pass.routed = [&](std::int64_t, const Tensor& x) { sums.see(fmt::format("layers.{}.moe.", layer), x); };
    stream = model.layer(off, pass, layer, stream);
    use.push_back(config.is_moe_layer(layer) ? sums.summed(batch.num_tokens(), ranks) : ExpertUse());
    core::check(use.back().tokens > 0 || !config.is_moe_layer(layer),
                "use of experts: the calibration sample has no tokens");
  }
  return use;
}

}  // namespace limbeck::nn
