// The fused head and its objectives: T tokens of width C, a vocabulary of V.
#include <algorithm>
#include <vector>

#include "core/ops/head_loss.h"
#include "optim/cached_distillation.h"
#include "optim/objectives.h"
#include "tests/gpu/bench/cases.h"

namespace limbeck::bench {
namespace {

using core::DType;
using core::Tensor;

struct Head {
  std::int64_t tokens, width, vocabulary;
};

Tensor targets_of(const Buffers& b, const Head& h) {
  return b.counted_of<std::int32_t>(h.tokens, [&](std::int64_t i) { return i * 7919 % h.vocabulary; });
}

/// Output layer and cross-entropy, and the gradients of both factors.
Work head_loss(const Buffers& b, const Head& h) {
  const core::Var hidden = core::leaf(b.numbers_of(DType::BF16, {h.tokens, h.width}));
  const core::Var weight = core::leaf(b.numbers_of(DType::BF16, {h.vocabulary, h.width}, 0.02));
  const Tensor targets = targets_of(b, h);
  const auto comms = nn::single_communicators();
  return [=] {
    for (const core::Var& x : {hidden, weight}) *x.slot = core::Slot();
    core::Tape tape;
    core::LossAccumulator losses(hidden.value.memory());
    const core::HeadOptions options{.weight = 1 / static_cast<double>(h.tokens)};
    const core::Var loss = core::head_loss(tape, hidden, weight, targets, optim::LanguageModelling(), nullptr,
                                           *comms.tensor, options, losses);
    tape.backward(loss);
  };
}

/// What distillation makes of a chunk of logits of teacher and student: losses, and the gradient in bfloat16.
Work distillation(const Buffers& b, const Head& h) {
  const Tensor student = b.numbers_of(DType::F32, {h.tokens, h.vocabulary});
  const Tensor teacher = b.numbers_of(DType::F32, {h.tokens, h.vocabulary});
  const Tensor gradient = Tensor::zeros(b.memory(), DType::BF16, {h.tokens, h.vocabulary});
  const Tensor targets = targets_of(b, h);
  const auto comms = nn::single_communicators();
  return [=] {
    core::LossAccumulator losses(student.memory());
    core::LogitsChunk chunk{.student = student,
                            .gradient = gradient,
                            .teacher = teacher,
                            .targets = targets,
                            .num_valid = h.vocabulary,
                            .weight = 1,
                            .vocabulary = *comms.tensor};
    optim::Distillation({.ce_weight = 0.1, .temperature = 1}).run(chunk, losses);
  };
}

/// The same where a teacher's cache has 64 tokens a row.
Work cached_distillation(const Buffers& b, const Head& h) {
  const std::int64_t width = std::min<std::int64_t>(64, h.vocabulary / 2);
  const Tensor student = b.numbers_of(DType::F32, {h.tokens, h.vocabulary});
  const Tensor gradient = Tensor::zeros(b.memory(), DType::BF16, {h.tokens, h.vocabulary});
  const Tensor targets = targets_of(b, h);
  const auto filled = [&](const core::Shape& shape, float value) {
    return Tensor::from<float>(b.memory(), shape, std::vector<float>(static_cast<std::size_t>(shape.numel()), value));
  };
  const Tensor ids =
      b.counted_of<std::int32_t>(h.tokens * width, [&](std::int64_t i) { return i % width * (h.vocabulary / width); });
  const core::SparseTargets sparse{.ids = ids.reshape({h.tokens, width}),
                                   .log_p = filled({h.tokens, width}, -5),
                                   .rest = filled({h.tokens}, -1),
                                   .likeliest = targets,
                                   .target_loss = filled({h.tokens}, 2)};
  const auto comms = nn::single_communicators();
  return [=] {
    core::LossAccumulator losses(student.memory());
    core::LogitsChunk chunk{.student = student,
                            .gradient = gradient,
                            .teacher = {},
                            .sparse = sparse,
                            .targets = targets,
                            .num_valid = h.vocabulary,
                            .weight = 1,
                            .vocabulary = *comms.tensor};
    optim::CachedDistillation({.ce_weight = 0.1, .temperature = 1}).run(chunk, losses);
  };
}

}  // namespace

std::vector<Case> head_cases(Sizes sizes) {
  const bool tiny = sizes == Sizes::Tiny;
  const Head whole = tiny ? Head{40, 64, 300} : Head{8192, 4096, 131072},
             chunk = tiny ? Head{16, 0, 300} : Head{512, 0, 131072};
  return {{.kind = "head",
           .name = "head loss and its gradients",
           .of = {{"T", whole.tokens}, {"C", whole.width}, {"V", whole.vocabulary}},
           .bytes = "4 T C + 6 V C",
           .flops = "6 T V C",
           .prepare = [whole](Buffers b) { return head_loss(b, whole); }},
          // Both are read twice, for a row is larger than what a multiprocessor keeps.
          {.kind = "memory",
           .name = "distillation of a chunk of logits",
           .of = {{"T", chunk.tokens}, {"V", chunk.vocabulary}},
           .bytes = "18 T V",
           .flops = "",
           .prepare = [chunk](Buffers b) { return distillation(b, chunk); }},
          {.kind = "memory",
           .name = "distillation of a chunk from a teacher's cache",
           .of = {{"T", chunk.tokens}, {"V", chunk.vocabulary}},
           .bytes = "10 T V",
           .flops = "",
           .prepare = [chunk](Buffers b) { return cached_distillation(b, chunk); }}};
}

}  // namespace limbeck::bench
