#include "core/ops/head_loss.h"

#include <algorithm>

#include "core/ops/packed_weight.h"
#include "core/ops/product.h"
#include "kernels/bias.h"
#include "kernels/distillation.h"

namespace limbeck::core {
namespace {

void check_head(std::string_view what, const Tensor& hidden, const Tensor& weight) {
  check(hidden.shape().rank() == 2 && weight.shape().rank() == 2 && hidden.shape()[1] == weight.shape()[1],
        "{}: weight has shape {}, expected [V,{}] (hidden is {})", what, weight.shape(),
        hidden.shape().rank() == 2 ? hidden.shape()[1] : -1, hidden.shape());
  check_weight_dtype(what, weight, hidden.dtype());
}

void check_bias(std::string_view what, const Tensor& bias, const Tensor& weight, DType dtype) {
  if (!bias.defined()) return;
  check(bias.shape() == Shape{weight.shape()[0]} && bias.dtype() == dtype, "{}: bias is {} {}, expected {} [{}]", what,
        bias.dtype(), bias.shape(), dtype, weight.shape()[0]);
}

/// logits = hidden weight^T + bias
void multiply(const Tensor& hidden, const Tensor& weight, const Tensor& bias, Tensor& logits) {
  product("head", hidden, Transpose::Yes, weight, 0, logits);
  if (!bias.defined()) return;
  dispatch_float("head", logits.dtype(), [&]<class T>() {
    on_device(logits, [&](const auto& device) {
      T* z = logits.mutable_data<T>();
      kernels::add_bias(device, z, bias.data<T>(), z, logits.shape()[0], logits.shape()[1]);
    });
  });
}

/// Adds the sum over the rows of dlogits.
void add_bias_gradient(const Tensor& dlogits, const SlotPtr& slot, const Tensor& like) {
  GradientTarget dbias = open_gradient(slot, like);
  dispatch_activation("head", dlogits.dtype(), [&]<class T>() {
    on_device(dlogits, [&](const auto& device) {
      kernels::column_sums(device, dlogits.data<T>(), dbias.beta != 0, dbias.tensor.mutable_data<kernels::Acc<T>>(),
                           dlogits.shape()[0], dlogits.shape()[1]);
    });
  });
}

/// Tokens of a chunk whose logits are of so many columns: on a GPU as many as fit the bytes that it gives them.
std::int64_t usual_chunk(const Tensor& hidden, std::int64_t columns, DType dtype) {
  constexpr std::int64_t least = 256;
  const std::int64_t fitting = hidden.memory()->logits_bytes() / bytes_of(dtype, std::max<std::int64_t>(columns, 1));
  return std::max(least, fitting / least * least);
}

}  // namespace

Tensor logits_of(const Tensor& hidden, const Tensor& head, const Tensor& bias) {
  check_head("head", hidden, head);
  check_bias("head", bias, head, sum_dtype(hidden.dtype()));
  Tensor logits = Tensor::empty(hidden.memory(), sum_dtype(hidden.dtype()), {hidden.shape()[0], head.shape()[0]});
  multiply(hidden, head, bias, logits);
  return logits;
}

SparseTargets TargetSource::sparse(std::int64_t, std::int64_t) { fail("a teacher with logits has no sparse targets"); }

PairedLogits TargetSource::paired(std::int64_t, std::int64_t) { fail("a teacher of the same tokens has no pairs"); }

OnlineTeacher::OnlineTeacher(Tensor hidden, Tensor head, Tensor bias)
    : hidden_(std::move(hidden)), head_(std::move(head)), bias_(std::move(bias)) {
  check_head("teacher's head", hidden_, head_);
  check_bias("teacher's head", bias_, head_, sum_dtype(hidden_.dtype()));
}

Tensor OnlineTeacher::logits(std::int64_t first, std::int64_t count) {
  const std::int64_t vocabulary = head_.shape()[0];
  if (!buffer_.defined() || buffer_.shape()[0] < count)
    buffer_ = Tensor::empty(hidden_.memory(), sum_dtype(hidden_.dtype()), {count, vocabulary});
  Tensor chunk = buffer_.rows(0, count);
  multiply(hidden_.rows(first, count), head_, bias_, chunk);
  return chunk;
}

Var head_loss(Tape& tape, const Var& hidden, const Var& weight, const Tensor& targets, const Objective& objective,
              TargetSource* teacher, nn::TensorComm& vocabulary, const HeadOptions& options, LossAccumulator& losses,
              const Var& bias) {
  check_head("head_loss", hidden.value, weight.value);
  check_bias("head_loss", bias.value, weight.value, sum_dtype(hidden.value.dtype()));
  const std::int64_t num_tokens = hidden.shape()[0];
  const std::int64_t columns = weight.shape()[0];
  check(targets.dtype() == DType::I32 && targets.shape() == Shape{num_tokens},
        "head_loss: targets are {} {}, expected int32 [{}]", targets.dtype(), targets.shape(), num_tokens);
  check(!options.row_weights.defined() ||
            (options.row_weights.dtype() == DType::F64 && options.row_weights.shape() == Shape{num_tokens}),
        "head_loss: row_weights have another dtype or shape, expected float64 [{}]", num_tokens);
  check(options.chunk >= 0, "head_loss: chunk is {}, expected at least 0", options.chunk);
  check(teacher != nullptr || !objective.needs_teacher(), "head_loss: the objective needs a teacher, none was given");

  const bool is_sparse = teacher != nullptr && teacher->is_sparse(),
             is_paired = teacher != nullptr && teacher->is_paired();
  const bool has_logits = teacher != nullptr && !is_sparse && !is_paired;
  const MemoryPtr& memory = hidden.value.memory();
  const DType dtype = sum_dtype(hidden.value.dtype());  // of logits and losses
  const bool trains = tape.mode() == Tape::Mode::Record && (hidden.slot || weight.slot || bias.slot);
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
        .teacher = has_logits ? teacher->logits(first, count) : Tensor(),
        .sparse = is_sparse ? std::optional(teacher->sparse(first, count)) : std::nullopt,
        .paired = is_paired ? std::optional(teacher->paired(first, count)) : std::nullopt,
        .targets = targets.rows(first, count),
        .vocabulary_offset = options.vocabulary_offset,
        .num_valid = options.valid_vocabulary < 0
                         ? columns
                         : std::clamp<std::int64_t>(options.valid_vocabulary - options.vocabulary_offset, 0, columns),
        .weight = options.weight,
        .scale = options.scale,
        .row_weights = options.row_weights.defined() ? options.row_weights.rows(first, count) : Tensor(),
        .vocabulary = vocabulary};
    if (chunk.sparse) chunk.sparse->check_valid(dtype);
    check(!has_logits || (chunk.teacher.shape() == Shape{count, columns} && chunk.teacher.dtype() == dtype),
          "head_loss: the teacher's logits are {} {}, expected {} [{},{}]", chunk.teacher.dtype(),
          chunk.teacher.shape(), dtype, count, columns);
    multiply(x, weight.value, bias.value, chunk.student);
    objective.run(chunk, sums);
    if (dhidden.defined()) product("head", chunk.gradient, Transpose::No, weight.value, 0, dhidden.rows(first, count));
    if (trains && weight.slot) {
      const GradientTarget dw = open_gradient(weight.slot, outline(weight.value, dtype));
      weight_gradient("head", chunk.gradient, x, dw.beta, dw.tensor);
    }
    if (trains && bias.slot) add_bias_gradient(chunk.gradient, bias.slot, outline(bias.value));
    first += count;
  } while (first < num_tokens);
  if (!tape.is_replay()) losses.add(sums);

  const Tensor value = sums.totals().rows(kernels::LossObjective, 1).to(dtype);
  Var loss = tape.output(value, {&hidden, &weight, &bias});
  if (!loss.slot) return loss;
  tape.push({"head_loss", {hidden.slot, weight.slot, bias.slot}, [=, slot = hidden.slot, out = loss.slot] {
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
