#include "launch/run/layer_kl.h"

#include <memory>
#include <utility>

#include "core/ops/head_loss.h"
#include "optim/objectives.h"

namespace limbeck::launch {
namespace {

using core::Tensor;

/// Logits that are there.
class KeptLogits final : public core::TargetSource {
 public:
  explicit KeptLogits(Tensor logits) : logits_(std::move(logits)) {}
  Tensor logits(std::int64_t first, std::int64_t count) override { return logits_.rows(first, count); }

 private:
  Tensor logits_;
};

}  // namespace

LayerKl::LayerKl(Rank& rank, const nn::Transformer& teacher, std::span<const nn::Batch> batches,
                 std::int64_t valid_vocabulary, std::int64_t most)
    : rank_(rank), teacher_(teacher), batches_(batches), valid_vocabulary_(valid_vocabulary) {
  const Tensor head = teacher.head().value, bias = teacher.head_bias().value;
  std::int64_t tokens = 0;
  for (const nn::Batch& batch : batches) {
    core::Tape off(core::Tape::Mode::Off);
    hidden_.push_back(teacher.forward(off, teacher.pass(batch)).hidden.value);
    tokens += batch.num_tokens();
  }
  if (tokens * head.shape()[0] * static_cast<std::int64_t>(sizeof(float)) > most) return;
  for (const Tensor& hidden : hidden_) logits_.push_back(core::logits_of(hidden, head, bias));
}

nn::KlSum LayerKl::operator()(std::size_t batch, const Tensor& hidden, std::int64_t first, std::int64_t count) const {
  const nn::Var head = teacher_.head(), bias = teacher_.head_bias();
  std::unique_ptr<core::TargetSource> source;
  if (logits_.empty())
    source = std::make_unique<core::OnlineTeacher>(hidden_.at(batch).rows(first, count), head.value, bias.value);
  else
    source = std::make_unique<KeptLogits>(logits_.at(batch).rows(first, count));
  core::Tape off(core::Tape::Mode::Off);
  core::LossAccumulator losses(rank_.memory());
  const optim::LanguageModelling objective;  // the statistics do not depend on it
  core::head_loss(off, core::constant(hidden), head, batches_[batch].targets.rows(first, count), objective,
                  source.get(), *rank_.comms().tensor,
                  {.vocabulary_offset = teacher_.vocabulary_part().first, .valid_vocabulary = valid_vocabulary_},
                  losses, bias);
  const core::LossStatistics sums = losses.read();
  return {sums.kl, sums.tokens};
}

}  // namespace limbeck::launch
