#include "core/ops/head_loss.h"

#include <algorithm>

#include "core/ops/packed_weight.h"
#include "core/ops/product.h"
#include "kernels/distillation.h"

namespace limbeck::core {
namespace {

void check_head(std::string_view what, const Tensor& hidden, const Tensor& weight) {
  check(hidden.shape().rank() == 2 && weight.shape().rank() == 2 && hidden.shape()[1] == weight.shape()[1],
        "{}: weight has shape {}, expected [V,{}] (hidden is {})", what, weight.shape(),
        hidden.shape().rank() == 2 ? hidden.shape()[1] : -1, hidden.shape());
  check_weight_dtype(what, weight, hidden.dtype());
}

/// Tokens of a chunk whose logits are of so many columns: on a GPU as many as fit the bytes that it gives them.
std::int64_t usual_chunk(const Tensor& hidden, std::int64_t columns, DType dtype) {
  constexpr std::int64_t least = 256;
  return on_device(hidden, [&](const auto& device) {
    const std::int64_t fitting =
        std::decay_t<decltype(device)>::logits_bytes / bytes_of(dtype, std::max<std::int64_t>(columns, 1));
    return std::max(least, fitting / least * least);
  });
}

}  // namespace

Tensor logits_of(const Tensor& hidden, const Tensor& head) {
  check_head("head", hidden, head);
  Tensor logits = Tensor::empty(hidden.memory(), sum_dtype(hidden.dtype()), {hidden.shape()[0], head.shape()[0]});
  product("head", hidden, Transpose::Yes, head, 0, logits);
  return logits;
}

OnlineTeacher::OnlineTeacher(Tensor hidden, Tensor head) : hidden_(std::move(hidden)), head_(std::move(head)) {
  check_head("teacher's head", hidden_, head_);
}

Tensor OnlineTeacher::logits(std::int64_t first, std::int64_t count) {
  const std::int64_t vocabulary = head_.shape()[0];
  if (!buffer_.defined() || buffer_.shape()[0] < count)
    buffer_ = Tensor::empty(hidden_.memory(), sum_dtype(hidden_.dtype()), {count, vocabulary});
  Tensor chunk = buffer_.rows(0, count);
  product("head", hidden_.rows(first, count), Transpose::Yes, head_, 0, chunk);
  return chunk;
}

Var head_loss(Tape& tape, const Var& hidden, const Var& weight, const Tensor& targets, const Objective& objective,
              TargetSource* teacher, nn::TensorComm& vocabulary, const HeadOptions& options, LossAccumulator& losses) {
  check_head("head_loss", hidden.value, weight.value);
  const std::int64_t num_tokens = hidden.shape()[0];
  const std::int64_t columns = weight.shape()[0];
  check(targets.dtype() == DType::I32 && targets.shape() == Shape{num_tokens},
        "head_loss: targets are {} {}, expected int32 [{}]", targets.dtype(), targets.shape(), num_tokens);
  check(options.chunk >= 0, "head_loss: chunk is {}, expected at least 0", options.chunk);
  check(teacher != nullptr || !objective.needs_teacher(), "head_loss: the objective needs a teacher, none was given");

  const MemoryPtr& memory = hidden.value.memory();
  const DType dtype = sum_dtype(hidden.value.dtype());  // of logits and losses
  const bool trains = tape.mode() == Tape::Mode::Record && (hidden.slot || weight.slot);
  const std::int64_t chunk_size =
      std::min(options.chunk > 0 ? options.chunk : usual_chunk(hidden.value, columns, dtype),
               std::max<std::int64_t>(num_tokens, 1));
  Tensor logits = Tensor::empty(memory, dtype, {chunk_size, columns});
  Tensor dlogits;
  if (trains)
    dlogits = hidden.value.dtype() == dtype ? logits : Tensor::empty(memory, hidden.value.dtype(), logits.shape());
  Tensor dhidden = trains && hidden.slot ? empty_like(hidden.value) : Tensor();
  LossAccumulator sums(memory, losses.keeps_each());
  if (num_tokens > chunk_size && logits.dtype() != hidden.value.dtype())
    for (const Transpose transpose : {Transpose::Yes, Transpose::No}) expect_uses(weight.value, transpose);
  std::int64_t first = 0;
  do {  // once at least: without tokens the gradients are 0, not missing
    const std::int64_t count = std::min(chunk_size, num_tokens - first);
    const Tensor x = hidden.value.rows(first, count);
    LogitsChunk chunk{
        .student = logits.rows(0, count),
        .gradient = trains ? dlogits.rows(0, count) : Tensor(),
        .teacher = teacher ? teacher->logits(first, count) : Tensor(),
        .targets = targets.rows(first, count),
        .vocabulary_offset = options.vocabulary_offset,
        .num_valid = options.valid_vocabulary < 0
                         ? columns
                         : std::clamp<std::int64_t>(options.valid_vocabulary - options.vocabulary_offset, 0, columns),
        .weight = options.weight,
        .scale = options.scale,
        .vocabulary = vocabulary};
    check(!teacher || (chunk.teacher.shape() == Shape{count, columns} && chunk.teacher.dtype() == dtype),
          "head_loss: the teacher's logits are {} {}, expected {} [{},{}]", chunk.teacher.dtype(),
          chunk.teacher.shape(), dtype, count, columns);
    product("head", x, Transpose::Yes, weight.value, 0, chunk.student);
    objective.run(chunk, sums);
    if (dhidden.defined()) product("head", chunk.gradient, Transpose::No, weight.value, 0, dhidden.rows(first, count));
    if (trains && weight.slot) {
      const GradientTarget dw = open_gradient(weight.slot, outline(weight.value, dtype));
      weight_gradient("head", chunk.gradient, x, dw.beta, dw.tensor);
    }
    first += count;
  } while (first < num_tokens);
  if (dhidden.defined()) vocabulary.sum(dhidden);
  if (!tape.is_replay()) losses.add(sums);

  const Tensor value = sums.totals().rows(kernels::LossObjective, 1).to(dtype);
  Var loss = tape.output(value, {&hidden, &weight});
  if (!loss.slot) return loss;
  tape.push({"head_loss", {hidden.slot, weight.slot}, [=, slot = hidden.slot, out = loss.slot] {
               if (value.memory()->is_host()) {
                 const double upstream = host_value(gradient(out, value));
                 check(upstream == 1, "head_loss: the loss's gradient is {}, expected 1 (scale by options.weight)",
                       upstream);
               }
               if (slot) accumulate(slot, dhidden);
             }});
  return loss;
}

}  // namespace limbeck::core
