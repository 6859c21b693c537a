#include "tests/support/written_out.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/ops/add.h"
#include "core/ops/attention.h"
#include "core/ops/aux_losses.h"
#include "core/ops/capacity.h"
#include "core/ops/embedding.h"
#include "core/ops/grouped_linear.h"
#include "core/ops/jitter.h"
#include "core/ops/linear.h"
#include "core/ops/permute.h"
#include "core/ops/rms_norm.h"
#include "core/ops/rope.h"
#include "core/ops/router.h"
#include "core/ops/swiglu.h"
#include "core/random.h"

namespace limbeck::testing {

using core::DType;
using core::Shape;
using core::Tape;
using core::Tensor;
using core::Var;

namespace {

core::MemoryPtr memory() {
  static const core::MemoryPtr one = core::Memory::cpu(1);
  return one;
}

Tensor column(const std::vector<std::int32_t>& values) {
  return Tensor::from<std::int32_t>(memory(), {static_cast<std::int64_t>(values.size())}, values);
}

nn::Batch batch_of(const data::TokenBatch& samples) {
  nn::Batch batch;
  const std::int64_t s = samples.sequence_length, n = samples.num_sequences;
  std::vector<std::int32_t> sequence;
  std::vector<std::int64_t> index, offsets = {0};
  for (std::int64_t i = 0; i < n * s; ++i) {
    sequence.push_back(static_cast<std::int32_t>(i / s));
    index.push_back(i);
  }
  for (std::int64_t i = 1; i <= n; ++i) offsets.push_back(i * s);
  batch.tokens = column(samples.tokens);
  batch.targets = column(samples.targets);
  batch.position = column(samples.positions);
  batch.document = column(samples.documents);
  batch.sequence = column(sequence);
  batch.global_index = Tensor::from<std::int64_t>(memory(), {n * s}, index);
  batch.sequence_offsets = Tensor::from<std::int64_t>(memory(), {n + 1}, offsets);
  batch.max_position = *std::max_element(samples.positions.begin(), samples.positions.end());
  return batch;
}

Var sum(Tape& tape, const Var& so_far, const Var& term) {
  return so_far.value.defined() ? core::add(tape, so_far, term) : term;
}

/// log softmax of the first `valid` of a row's logits over a temperature.
std::vector<double> log_softmax(const double* row, std::int64_t valid, double temperature) {
  const double greatest = *std::max_element(row, row + valid);
  double total = 0;
  for (std::int64_t v = 0; v < valid; ++v) total += std::exp((row[v] - greatest) / temperature);
  std::vector<double> result;
  for (std::int64_t v = 0; v < valid; ++v) result.push_back((row[v] - greatest) / temperature - std::log(total));
  return result;
}

double divergence(const std::vector<double>& log_p, const std::vector<double>& log_q) {
  double kl = 0;
  for (std::size_t v = 0; v < log_p.size(); ++v) kl += std::exp(log_p[v]) * (log_p[v] - log_q[v]);
  return kl;
}

}  // namespace

data::TokenBatch as_sequence(const std::vector<std::int32_t>& text) {
  data::TokenBatch samples;
  samples.num_sequences = 1;
  samples.sequence_length = static_cast<std::int64_t>(text.size());
  samples.tokens = text;
  samples.targets.assign(text.size(), -1);
  samples.documents.assign(text.size(), 0);
  samples.positions.resize(text.size());
  std::iota(samples.positions.begin(), samples.positions.end(), 0);
  return samples;
}

std::map<std::string, Shape> shapes_of(const nn::ModelConfig& c) {
  std::map<std::string, Shape> shapes;
  const auto mlp = [&](const std::string& prefix, std::int64_t f) {
    shapes[prefix + "gate.weight"] = shapes[prefix + "up.weight"] = {f, c.width};
    shapes[prefix + "down.weight"] = {c.width, f};
  };
  shapes["embed.weight"] = {c.vocabulary, c.width};
  shapes["norm.weight"] = {c.width};
  if (!c.tied_head) shapes["head.weight"] = {c.vocabulary, c.width};
  for (std::int64_t i = 0; i < c.num_layers; ++i) {
    const std::string layer = fmt::format("layers.{}.", i);
    shapes[layer + "attention_norm.weight"] = shapes[layer + "mlp_norm.weight"] = {c.width};
    shapes[layer + "attention.q.weight"] = {c.num_heads * c.head_width, c.width};
    shapes[layer + "attention.k.weight"] = {c.num_kv_heads * c.head_width, c.width};
    shapes[layer + "attention.v.weight"] = {c.num_kv_heads * c.head_width, c.width};
    shapes[layer + "attention.o.weight"] = {c.width, c.num_heads * c.head_width};
    const auto& dense = c.moe.dense_layers;
    if (c.moe.num_experts == 0 || std::find(dense.begin(), dense.end(), i) != dense.end()) {
      mlp(layer + "mlp.", c.mlp_width);
      continue;
    }
    const std::int64_t e = c.moe.num_experts, f = c.moe.expert_width;
    shapes[layer + "moe.router.weight"] = {e, c.width};
    if (c.moe.selection_bias) shapes[layer + "moe.router.selection_bias"] = {e};
    shapes[layer + "moe.experts.gate"] = shapes[layer + "moe.experts.up"] = {e, f, c.width};
    shapes[layer + "moe.experts.down"] = {e, c.width, f};
    if (c.moe.shared_width > 0) mlp(layer + "moe.shared.", c.moe.shared_width);
  }
  return shapes;
}

Weights init_weights(const nn::ModelConfig& config, std::uint64_t seed) {
  Weights weights;
  for (const auto& [name, shape] : shapes_of(config)) {
    const bool writes = name.find(".o.") != std::string::npos || name.find(".down") != std::string::npos;
    const double deviation = writes ? 0.02 / std::sqrt(2.0 * static_cast<double>(config.num_layers)) : 0.02;
    const core::RandomStream random(seed, 0, name);
    Tensor value = Tensor::empty(memory(), DType::F64, shape);
    for (std::int64_t i = 0; i < value.numel(); ++i)
      value.mutable_data<double>()[i] = name.ends_with("bias") ? 0
                                        : shape.rank() == 1    ? 1
                                                            : deviation * random.normal(static_cast<std::uint64_t>(i));
    weights[name] = core::leaf(value);
  }
  return weights;
}

Weights read_weights(const nn::ModelConfig& config, const core::StateReader& reader) {
  Weights weights;
  for (const auto& [name, shape] : shapes_of(config)) {
    core::StateEntry entry = core::StateEntry::whole(Tensor::empty(memory(), DType::F64, shape));
    reader.read(name, entry);
    weights[name] = core::leaf(entry.tensor);
  }
  return weights;
}

Var WrittenOut::feed_forward(Tape& tape, const Var& x, const std::string& prefix) const {
  const Var hidden = core::swiglu(tape, core::linear(tape, x, weights_.at(prefix + "gate.weight")),
                                  core::linear(tape, x, weights_.at(prefix + "up.weight")));
  return core::linear(tape, hidden, weights_.at(prefix + "down.weight"));
}

namespace {

/// [T,E]: by each expert those of a sequence whose scores fewer than its room are ahead of.
Tensor chosen_by_experts(const Tensor& scores, const nn::Batch& batch, std::int64_t experts_per_token, double factor) {
  const std::int64_t tokens = scores.shape()[0], experts = scores.shape()[1], s = tokens / batch.num_sequences();
  const double room = std::ceil(factor * static_cast<double>(s * experts_per_token) / static_cast<double>(experts));
  std::vector<std::int32_t> selection;
  for (std::int64_t t = 0; t < tokens; ++t)
    for (std::int64_t e = 0; e < experts; ++e) {
      const double* score = scores.data<double>();
      int ahead = 0;
      for (std::int64_t other = t / s * s; other < (t / s + 1) * s; ++other)
        if (const double x = score[other * experts + e], own = score[t * experts + e];
            x > own || (x == own && other < t))
          ++ahead;
      selection.push_back(ahead < room ? static_cast<std::int32_t>(e) : -1);
    }
  return Tensor::from<std::int32_t>(memory(), scores.shape(), selection);
}

/// Of the balance loss with respect to logits whose softmax the probabilities are, by the softmax's derivatives: the
/// gradient's length, squared. `group` [T] says what is counted together.
double balance_square(const core::Routing& routing, const Tensor& group, std::int64_t groups, double weight) {
  const std::int64_t experts = routing.probabilities.shape()[1], choices = routing.selection.shape()[1];
  const std::int32_t *of = group.data<std::int32_t>(), *chosen = routing.selection.data<std::int32_t>();
  std::vector<double> load(static_cast<std::size_t>(groups * experts)), size(static_cast<std::size_t>(groups));
  for (std::int64_t t = 0; t < group.numel(); ++t) {
    size[static_cast<std::size_t>(of[t])] += 1;
    for (std::int64_t k = 0; k < choices; ++k)
      load[static_cast<std::size_t>(of[t] * experts + chosen[t * choices + k])] += 1;
  }
  double square = 0;
  for (std::int64_t t = 0; t < group.numel(); ++t) {
    const double* p = routing.probabilities.value.data<double>() + t * experts;
    const double* loads = load.data() + of[t] * experts;
    const double tokens = size[static_cast<std::size_t>(of[t])];
    const double factor = weight * static_cast<double>(experts) / (tokens * static_cast<double>(choices)) / tokens;
    for (std::int64_t e = 0; e < experts; ++e) {
      double dz = 0;
      for (std::int64_t j = 0; j < experts; ++j) dz += factor * loads[j] * p[j] * ((j == e ? 1 : 0) - p[e]);
      square += dz * dz;
    }
  }
  return square;
}

/// Likewise of the z-loss with respect to the logits.
double z_square(const Tensor& logits, double weight) {
  const std::int64_t experts = logits.shape()[1];
  double square = 0;
  for (std::int64_t t = 0; t < logits.shape()[0]; ++t) {
    const double* z = logits.data<double>() + t * experts;
    double sum = 0;
    for (std::int64_t e = 0; e < experts; ++e) sum += std::exp(z[e]);
    for (std::int64_t e = 0; e < experts; ++e) square += std::pow(2 * weight * std::log(sum) * std::exp(z[e]) / sum, 2);
  }
  return square;
}

}  // namespace

Var WrittenOut::experts(Tape& tape, const Var& x, std::int64_t layer, const nn::Batch& batch,
                        const nn::RouterTraining& router, Pass& pass) const {
  const nn::MoeConfig& moe = config_.moe;
  const std::string prefix = fmt::format("layers.{}.moe", layer);
  const auto tokens = static_cast<double>(x.shape()[0]);
  const auto layers = static_cast<double>(config_.num_layers - static_cast<std::int64_t>(moe.dense_layers.size()));
  pass.router_inputs.push_back(x.value);
  Var seen = x;
  if (router.jitter > 0)
    seen = core::jitter(tape, x, batch.global_index, router.jitter, {router.seed, router.step, prefix + ".jitter"});
  const Var logits = core::linear(tape, seen, weights_.at(prefix + ".router.weight"));
  core::RoutingRule rule{.is_sigmoid = moe.scores == nn::RouterScores::Sigmoid,
                         .bias = moe.selection_bias ? weights_.at(prefix + ".router.selection_bias").value : Tensor()};
  if (router.expert_choice)
    rule.choice = [&](const Tensor& scores) {
      return chosen_by_experts(scores, batch, moe.experts_per_token, router.capacity_factor);
    };
  const core::Routing routing =
      core::route(tape, logits, moe.experts_per_token, moe.renormalise, /*weight_scale=*/1, nullptr, rule);
  const auto sequences = static_cast<double>(batch.num_sequences());
  const auto balance = [&](const Tensor& group, std::int64_t groups, double weight) {
    const Tensor counts =
        core::sequence_counts(routing.selection, group, groups, moe.num_experts, logits.value.dtype());
    pass.balance_square += balance_square(routing, group, groups, weight);
    return core::balance_loss(tape, routing.probabilities, counts, group, moe.experts_per_token, weight);
  };
  if (router.balance > 0 && router.balance_scope == nn::BalanceScope::Sequence)
    pass.balance =
        sum(tape, pass.balance, balance(batch.sequence, batch.num_sequences(), router.balance / (sequences * layers)));
  if (router.balance > 0 && router.balance_scope == nn::BalanceScope::GlobalBatch) {
    const Tensor one_group = Tensor::zeros(memory(), DType::I32, {x.shape()[0]});
    pass.balance = sum(tape, pass.balance, balance(one_group, 1, router.balance / layers));
  }
  if (router.z > 0) {
    pass.z = sum(tape, pass.z, core::z_loss(tape, logits, router.z / (tokens * layers)));
    pass.z_square += z_square(logits.value, router.z / (tokens * layers));
  }
  const Tensor selection =
      router.capacity_factor > 0 && !router.expert_choice
          ? core::limit_capacity(routing.selection, batch.sequence, moe.num_experts, router.capacity_factor)
          : routing.selection;
  const std::int64_t choices = selection.shape()[1];
  double& untaken = pass.untaken.emplace_back(0);
  for (std::int64_t t = 0; t < x.shape()[0]; ++t) {
    const std::int32_t* of = selection.data<std::int32_t>() + t * choices;
    if (std::all_of(of, of + choices, [](std::int32_t e) { return e < 0; })) ++untaken;
  }
  const core::Permutation order = core::make_permutation(selection, moe.num_experts, core::Drops::Some);
  const std::int64_t* counts = order.counts.data<std::int64_t>();
  pass.load.emplace_back(counts, counts + moe.num_experts);
  std::vector<std::int64_t> ends(static_cast<std::size_t>(moe.num_experts) + 1);
  std::partial_sum(counts, counts + moe.num_experts, ends.begin() + 1);
  const Tensor offsets = Tensor::from<std::int64_t>(memory(), {moe.num_experts + 1}, ends);
  const Var rows = core::permute(tape, x, order);
  const Var hidden =
      core::swiglu(tape, core::grouped_linear(tape, rows, weights_.at(prefix + ".experts.gate"), offsets),
                   core::grouped_linear(tape, rows, weights_.at(prefix + ".experts.up"), offsets));
  const Var out = core::grouped_linear(tape, hidden, weights_.at(prefix + ".experts.down"), offsets);
  const Var routed = core::scale(tape, core::unpermute(tape, out, routing.weights, order), moe.weight_scale);
  return moe.shared_width > 0 ? core::add(tape, routed, feed_forward(tape, x, prefix + ".shared.")) : routed;
}

WrittenOut::Pass WrittenOut::run(Tape& tape, const data::TokenBatch& samples, const nn::RouterTraining& router) const {
  const nn::ModelConfig& c = config_;
  const nn::Batch batch = batch_of(samples);
  const core::RopeTable table =
      core::make_rope_table(memory(), DType::F64, batch.max_position + 1, c.head_width, c.rope_base);
  const core::AttentionShape shape{c.num_heads, c.num_kv_heads, c.head_width, c.head_width,
                                   1 / std::sqrt(static_cast<double>(c.head_width))};
  Pass pass;
  Var x = core::embedding(tape, batch.tokens, weights_.at("embed.weight"));
  for (std::int64_t i = 0; i < c.num_layers; ++i) {
    pass.states.push_back(x);
    const std::string layer = fmt::format("layers.{}.", i);
    const auto weight = [&](const char* name) { return weights_.at(layer + name); };
    const Var normed = core::rms_norm(tape, x, weight("attention_norm.weight"), c.norm_eps);
    const auto projected = [&](const char* name) { return core::linear(tape, normed, weight(name)); };
    const auto [queries, keys] =
        core::rope(tape, projected("attention.q.weight"), projected("attention.k.weight"), batch.position, table);
    const Var attended =
        core::attention(tape, queries, keys, projected("attention.v.weight"), shape, batch.attention_layout());
    x = core::add(tape, x, core::linear(tape, attended, weight("attention.o.weight")));
    const Var fed = core::rms_norm(tape, x, weight("mlp_norm.weight"), c.norm_eps);
    x = core::add(tape, x,
                  weights_.contains(layer + "moe.router.weight") ? experts(tape, fed, i, batch, router, pass)
                                                                 : feed_forward(tape, fed, layer + "mlp."));
  }
  pass.states.push_back(x);
  pass.logits = core::linear(tape, core::rms_norm(tape, x, weights_.at("norm.weight"), c.norm_eps),
                             weights_.at(c.tied_head ? "embed.weight" : "head.weight"));
  return pass;
}

std::vector<double> WrittenOut::next_logits(const std::vector<std::int32_t>& text) const {
  Tape off(Tape::Mode::Off);
  const Tensor logits = run(off, as_sequence(text)).logits.value;
  const double* last = logits.data<double>() + logits.numel() - config_.vocabulary;
  return {last, last + config_.vocabulary};
}

double calibration_error(const Tops& tops) {
  double error = 0;
  for (int b = 0; b < 15; ++b) {
    double right = 0, confidence = 0;
    for (const auto& [p, is_right] : tops)
      if (p > b / 15.0 && p <= (b + 1) / 15.0) {
        right += is_right ? 1 : 0;
        confidence += p;
      }
    error += std::abs(right - confidence);
  }
  return error / static_cast<double>(tops.size());
}

Figures figures_of(const Tensor& student, const Tensor* teacher, const std::vector<int>& targets, std::int64_t valid) {
  const std::int64_t columns = student.shape()[1];
  Figures f;
  std::vector<double> divergences;
  Tops tops, teacher_tops;
  const auto top_of = [](const std::vector<double>& log_p, std::size_t target) {
    const auto most = std::max_element(log_p.begin(), log_p.end());
    return std::pair(std::exp(*most), static_cast<std::size_t>(most - log_p.begin()) == target);
  };
  for (std::size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    f.tokens += 1;
    const auto row = static_cast<std::int64_t>(t) * columns;
    const auto target = static_cast<std::size_t>(targets[t]);
    const std::vector<double> q = log_softmax(student.data<double>() + row, valid, 1);
    f.ce -= q[target];
    tops.push_back(top_of(q, target));
    if (!teacher) continue;
    const std::vector<double> p = log_softmax(teacher->data<double>() + row, valid, 1);
    teacher_tops.push_back(top_of(p, target));
    f.teacher_ce -= p[target];
    divergences.push_back(divergence(p, q));
    f.kl += divergences.back();
    f.agreement += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
    for (std::size_t v = 0; v < p.size(); ++v) f.sum_min += std::exp(std::min(p[v], q[v]));
  }
  for (double* value : {&f.ce, &f.teacher_ce, &f.kl, &f.agreement, &f.sum_min}) *value /= f.tokens;
  f.ece = calibration_error(tops);
  if (!teacher) return f;
  f.teacher_ece = calibration_error(teacher_tops);
  std::sort(divergences.begin(), divergences.end());
  const auto at = [&](double q) {
    return divergences[static_cast<std::size_t>(q * static_cast<double>(divergences.size() - 1))];
  };
  f.kl_median = at(0.5);
  f.kl_p90 = at(0.9);
  f.kl_p99 = at(0.99);
  return f;
}

double WrittenOutObjective::loss(const Tensor& student, const Tensor* teacher, const std::vector<int>& targets,
                                 std::int64_t valid, Tensor& gradient) const {
  const std::int64_t columns = student.shape()[1];
  gradient = core::zeros_like(student);
  const auto num_targets =
      static_cast<double>(std::count_if(targets.begin(), targets.end(), [](int t) { return t >= 0; }));
  double loss = 0;
  for (std::size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] < 0) continue;
    const auto row = static_cast<std::int64_t>(t) * columns;
    const auto target = static_cast<std::size_t>(targets[t]);
    double* out = gradient.mutable_data<double>() + row;
    const std::vector<double> q = log_softmax(student.data<double>() + row, valid, 1);
    loss -= alpha * q[target] / num_targets;
    for (std::size_t v = 0; v < q.size(); ++v) out[v] += alpha * (std::exp(q[v]) - (v == target ? 1 : 0)) / num_targets;
    if (!teacher) continue;
    const std::vector<double> q_t = log_softmax(student.data<double>() + row, valid, temperature);
    const std::vector<double> p_t = log_softmax(teacher->data<double>() + row, valid, temperature);
    const double weight = (1 - alpha) * temperature * temperature / num_targets;
    if (mix == 0) {
      loss += weight * divergence(p_t, q_t);
      for (std::size_t v = 0; v < q.size(); ++v) out[v] += weight * (std::exp(q_t[v]) - std::exp(p_t[v])) / temperature;
      continue;
    }
    std::vector<double> m;
    for (std::size_t v = 0; v < q.size(); ++v)
      m.push_back(std::log(mix * std::exp(p_t[v]) + (1 - mix) * std::exp(q_t[v])));
    const double of_q = divergence(q_t, m);
    loss += weight * (mix * divergence(p_t, m) + (1 - mix) * of_q);
    // dD/dq_v = (1 - b) log(q_v / m_v), and dq_v/dz_j = q_v (1[v = j] - q_j) / T.
    for (std::size_t v = 0; v < q.size(); ++v)
      out[v] += weight * (1 - mix) * std::exp(q_t[v]) * (q_t[v] - m[v] - of_q) / temperature;
  }
  return loss;
}

double WrittenOutMatch::loss(const WrittenOut::Pass& first, const WrittenOut::Pass& second,
                             const std::vector<int>& targets) const {
  const auto num_targets =
      static_cast<double>(std::count_if(targets.begin(), targets.end(), [](int t) { return t >= 0; }));
  double sum = 0;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const Var& x = first.states.at(layer + 1);
    const Tensor& y = second.states.at(layers[layer] + 1).value;
    const std::int64_t width = x.shape()[1];
    const double factor = weight / (static_cast<double>(layers.size()) * num_targets * static_cast<double>(width));
    Tensor gradient = core::zeros_like(x.value);
    for (std::int64_t i = 0; i < x.value.numel(); ++i) {
      if (targets[static_cast<std::size_t>(i / width)] < 0) continue;
      const double apart = x.value.data<double>()[i] - y.data<double>()[i];
      sum += factor * apart * apart;
      gradient.mutable_data<double>()[i] = 2 * factor * apart;
    }
    core::accumulate(x.slot, gradient);
  }
  return sum;
}

void WrittenOutAdamW::step(Weights& weights, const std::map<std::string, std::vector<double>>& gradients,
                           const std::function<double(const std::string&)>& rate,
                           const std::function<double(const std::string&)>& decay) {
  ++steps;
  const double first = 1 - std::pow(beta1, steps), second = 1 - std::pow(beta2, steps);
  for (const auto& [name, g] : gradients) {
    std::vector<double>&m = mean[name], &v = square[name];
    m.resize(g.size());
    v.resize(g.size());
    double* w = weights.at(name).value.mutable_data<double>();
    for (std::size_t i = 0; i < g.size(); ++i) {
      m[i] = beta1 * m[i] + (1 - beta1) * g[i];
      v[i] = beta2 * v[i] + (1 - beta2) * g[i] * g[i];
      w[i] -= rate(name) * decay(name) * w[i];
      w[i] -= rate(name) * (m[i] / first) / (std::sqrt(v[i] / second) + eps);
    }
  }
}

}  // namespace limbeck::testing
