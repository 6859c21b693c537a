#include "launch/run/evaluation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "core/slice.h"
#include "launch/run/batch.h"
#include "optim/objectives.h"

namespace limbeck::launch {
namespace {

using core::Tensor;

constexpr std::int64_t tokens_per_part = 1024;

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto at = static_cast<std::size_t>(q * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

}  // namespace

HeldOut::HeldOut(Rank& rank, data::TokenBatch samples, const nn::Transformer* teacher, std::int64_t valid_vocabulary)
    : rank_(rank), samples_(std::move(samples)), valid_vocabulary_(valid_vocabulary) {
  const std::int64_t ranks = rank.mesh().dp().size();
  const core::Slice mine = core::slice_of(samples_.num_sequences, rank.mesh().dp().rank(), ranks);
  const std::int64_t per_part = std::max<std::int64_t>(1, tokens_per_part / samples_.sequence_length);
  const std::int64_t most = (samples_.num_sequences + ranks - 1) / ranks;
  for (std::int64_t done = 0; done < most; done += per_part) {
    const std::int64_t skipped = std::min(done, mine.count);
    Part part{make_batch(rank.memory(), samples_, mine.first + skipped, std::min(per_part, mine.count - skipped)), {}};
    if (teacher) {
      core::Tape off(core::Tape::Mode::Off);
      part.teacher_hidden = teacher->forward(off, teacher->pass(part.batch)).hidden.value;
    }
    parts_.push_back(std::move(part));
  }
  if (teacher) teacher_head_ = teacher->head().value;
}

Evaluation HeldOut::measure(const Forward& hidden_of, const Tensor& head, std::int64_t vocabulary_offset) {
  core::LossStatistics sums;
  sums.keep_token_kl = true;
  // One value a token of the whole sample; every rank fills in its own.
  Tensor kl_of_token = Tensor::zeros(rank_.memory(), core::DType::F64, {num_tokens()});
  double* all_kl = kl_of_token.mutable_data<double>();
  const optim::LanguageModelling objective;  // the statistics do not depend on it
  for (const Part& part : parts_) {
    core::Tape off(core::Tape::Mode::Off);
    std::optional<core::OnlineTeacher> teacher;
    if (part.teacher_hidden.defined()) teacher.emplace(part.teacher_hidden, teacher_head_);
    sums.token_kl.clear();
    core::head_loss(off, core::constant(hidden_of(part)), core::constant(head), part.batch.targets, objective,
                    teacher ? &*teacher : nullptr, *rank_.comms().tensor,
                    {.vocabulary_offset = vocabulary_offset, .valid_vocabulary = valid_vocabulary_}, sums);
    if (!teacher) continue;
    const std::vector<std::int64_t> index = core::host_values<std::int64_t>(part.batch.global_index);
    auto kl = sums.token_kl.begin();
    for (const std::int64_t token : index)
      if (samples_.targets[static_cast<std::size_t>(token)] >= 0) all_kl[token] = *kl++;
  }
  std::vector<double> values = {sums.tokens, sums.ce, sums.teacher_ce, sums.kl, sums.agreement, sums.sum_min};
  Tensor total = Tensor::from<double>(rank_.memory(), {static_cast<std::int64_t>(values.size())}, values);
  rank_.comms().batch->sum(total);
  rank_.comms().batch->sum(kl_of_token);
  values = core::host_values<double>(total);
  const std::vector<double> all = core::host_values<double>(kl_of_token);
  std::vector<double> valid;
  for (std::size_t t = 0; t < all.size(); ++t)
    if (samples_.targets[t] >= 0) valid.push_back(all[t]);

  const double n = std::max(1.0, values[0]);
  Evaluation result;
  result.tokens = std::llround(values[0]);
  result.cross_entropy = values[1] / n;
  core::check(std::isfinite(result.cross_entropy),
              "the model has no finite loss on the held-out text: its weights are not usable");
  if (!teacher_head_.defined()) return result;
  result.teacher_cross_entropy = values[2] / n;
  result.kl = values[3] / n;
  result.kl_median = quantile(valid, 0.5);
  result.kl_p99 = quantile(valid, 0.99);
  result.agreement = values[4] / n;
  result.sum_min = values[5] / n;
  return result;
}

Evaluation HeldOut::evaluate(const nn::Transformer& model) {
  return measure(
      [&](const Part& part) {
        core::Tape off(core::Tape::Mode::Off);
        return model.forward(off, model.pass(part.batch)).hidden.value;
      },
      model.head().value, model.vocabulary_part().first);
}

Evaluation HeldOut::evaluate_unigram(const std::vector<std::int64_t>& counts) {
  // A model of width 1: its hidden state is 1 and its head the logarithms of the shares.
  const double total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0})) +
                       static_cast<double>(counts.size());
  const core::DType dtype =
      teacher_head_.defined() && teacher_head_.dtype() == core::DType::F64 ? core::DType::F64 : core::DType::F32;
  const nn::TensorComm& vocabulary = *rank_.comms().tensor;
  const core::Slice mine =
      core::slice_of(static_cast<std::int64_t>(counts.size()), vocabulary.rank(), vocabulary.size());
  Tensor head = Tensor::empty(rank_.memory(), dtype, {mine.count, 1});
  core::dispatch_float("unigram", dtype, [&]<class T>() {
    T* p = head.mutable_data<T>();
    for (std::int64_t v = 0; v < mine.count; ++v)
      p[v] =
          static_cast<T>(std::log((static_cast<double>(counts[static_cast<std::size_t>(mine.first + v)]) + 1) / total));
  });
  return measure(
      [&](const Part& part) {
        Tensor ones = Tensor::empty(rank_.memory(), dtype, {part.batch.num_tokens(), 1});
        core::dispatch_float("unigram", dtype,
                             [&]<class T>() { std::fill_n(ones.mutable_data<T>(), ones.numel(), T{1}); });
        return ones;
      },
      head, mine.first);
}

nlohmann::ordered_json to_json(const Evaluation& e) {
  nlohmann::ordered_json line = {{"eval_ce", e.cross_entropy}, {"eval_tokens", e.tokens}};
  if (e.teacher_cross_entropy > 0) {
    line["eval_teacher_ce"] = e.teacher_cross_entropy;
    line["eval_kl"] = e.kl;
    line["eval_kl_median"] = e.kl_median;
    line["eval_kl_p99"] = e.kl_p99;
    line["eval_top1_agreement"] = e.agreement;
    line["eval_sum_min"] = e.sum_min;
  }
  return line;
}

}  // namespace limbeck::launch
