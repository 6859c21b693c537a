// A model's passes: what they hold, what runs forward, and what a stage of a pipeline sends on.
#include <algorithm>
#include <iterator>
#include <numeric>

#include "core/nn/rope_scaling.h"
#include "core/nn/stream.h"
#include "core/nn/transformer.h"
#include "core/ops/add.h"
#include "core/recompute.h"

namespace limbeck::nn {

using core::DType;
using core::Shape;

std::vector<core::RopeTable> Transformer::rope_tables(std::int64_t num_positions) const {
  std::vector<core::RopeTable> tables;
  for (Rotary& rotary : rotary_) {
    const std::int64_t there = rotary.num_positions;
    if (num_positions > there) {
      rotary.num_positions = std::max(num_positions, std::min(2 * there, config_.max_positions));
      const auto made = [&](bool is_long) {
        const RopeAngles angles = rope_angles(config_.turning_width(), rotary.base, rotary.scaling, is_long);
        return core::make_rope_table(options_.memory, core::sum_dtype(compute_dtype()), rotary.num_positions,
                                     angles.frequencies, angles.factor);
      };
      rotary.table = has_long(rotary) ? core::joined(made(false), made(true)) : made(false);
    }
    tables.push_back(rotary.table);
  }
  return tables;
}

bool Transformer::has_long(const Rotary& rotary) {
  return rotary.scaling.kind == RopeScaling::Kind::LongRope && rotary.num_positions > rotary.scaling.original_positions;
}

std::vector<Tensor> Transformer::rope_rows(const Batch& batch) const {
  std::vector<Tensor> rows;
  for (const Rotary& rotary : rotary_)
    rows.push_back(has_long(rotary) ? core::rope_rows(batch.position, batch.context, rotary.scaling.original_positions,
                                                      rotary.num_positions)
                                    : batch.position);
  return rows;
}

Pass Transformer::pass(const Batch& batch) const {
  core::check(config_.positions != Positions::Learned || batch.max_position < config_.max_positions,
              "transformer: position {} is beyond the model's {} learned positions (position_embed.weight)",
              batch.max_position, config_.max_positions);
  const std::int64_t ranks = batch.ring ? batch.ring->size() : 1;
  core::check(ranks == 1 || ranks == options_.comms.context->size(),
              "transformer: a batch cut over {} ranks, expected {}", ranks, options_.comms.context->size());
  std::vector<core::RopeTable> tables = rope_tables(std::max(batch.max_position + 1, batch.longest_context));
  return {.batch = batch,
          .comms = options_.comms,
          .ropes = std::move(tables),
          .attention = batch.attention_layout(),
          .products = options_.fp8_products ? core::Products::Fp8 : core::Products::AsActivations,
          .sequence_parallel = options_.sequence_parallel,
          .rope_rows = rope_rows(batch),
          .context = batch.ring ? options_.comms.context.get() : nullptr};
}

// Keys are numbered page by page of the batch's slots: a segment for what a slot holds with the new tokens, and one for
// the room behind it in its last page, which has no queries, so that nobody looks at it.
Pass Transformer::pass(const Batch& batch, KvCache& cache, std::span<const std::int64_t> slots) const {
  core::check(batch.num_sequences() == std::ssize(slots), "transformer: the batch has {} sequences, {} slots are named",
              batch.num_sequences(), slots.size());
  Pass result = pass(batch);
  result.cache = &cache;
  result.sequence_parallel = false;  // of few tokens, and nothing is kept for a backward
  const std::vector<std::int64_t>& offsets = batch.offsets_on_host;
  std::vector<std::int64_t> query_offsets = {0}, key_offsets = {0}, key_pages;
  std::vector<std::int32_t> key_position;
  for (std::size_t n = 0; n < slots.size(); ++n) {
    const std::int64_t slot = slots[n], queries = offsets[n + 1] - offsets[n];
    core::check(n == 0 || slot > slots[n - 1], "transformer: slot {} follows {}, expected ascending ones", slot,
                n == 0 ? 0 : slots[n - 1]);
    core::check(slot >= 0 && slot < cache.num_slots(), "transformer: the cache has {} slots, a sequence is in slot {}",
                cache.num_slots(), slot);
    result.cached.push_back({slot, offsets[n], queries});
    const std::int64_t length = cache.length(slot) + queries;
    cache.make_room(slot, length);
    key_pages.insert(key_pages.end(), cache.pages(slot).begin(), cache.pages(slot).end());
    const std::int64_t first = std::ssize(key_position);
    key_position.resize(key_pages.size() * KvCache::page_tokens);
    std::iota(key_position.begin() + first, key_position.end(), 0);
    query_offsets.insert(query_offsets.end(), {offsets[n + 1], offsets[n + 1]});
    key_offsets.insert(key_offsets.end(), {first + length, std::ssize(key_position)});
  }
  const auto column = [&](const std::vector<std::int64_t>& values) {
    return Tensor::from<std::int64_t>(options_.memory, {std::ssize(values)}, values);
  };
  result.slots = column({slots.begin(), slots.end()});
  result.attention.query_offsets = column(query_offsets);
  result.attention.key_offsets = column(key_offsets);
  result.attention.key_pages = column(key_pages);
  result.attention.key_position = Tensor::from<std::int32_t>(options_.memory, {std::ssize(key_position)}, key_position);
  result.attention.key_document = Tensor::zeros(options_.memory, DType::I32, {std::ssize(key_position)});
  return result;
}

KvCache Transformer::make_cache(std::int64_t num_slots) const {
  std::vector<CacheLayer> kept;
  for (const Layer& layer : layers_) kept.push_back(layer.cached());
  return {options_.memory, compute_dtype(), kept, num_slots};
}

KvCache Transformer::make_predict_cache(std::int64_t num_slots) const {
  std::vector<CacheLayer> kept;
  for (const Predictor& predictor : predictors_) kept.push_back(predictor.layer.cached());
  return {options_.memory, compute_dtype(), kept, num_slots};
}

Var Transformer::embedded(Tape& tape, const Pass& pass, const Tensor& tokens) const {
  const WholeEnd whole(weights_.ends, End::Embedding);
  const Var x = exit_stream(
      tape, pass, core::embedding(tape, tokens, core::as_var(*embedding_), vocabulary_part(), residual_dtype()));
  return config_.embedding_scale == 1 ? x : core::scale(tape, x, config_.embedding_scale);
}

Var Transformer::embedded(Tape& tape, const Pass& pass) const {
  const WholeEnd whole(weights_.ends, End::Embedding);
  const Var x = embedded(tape, pass, pass.batch.tokens);
  if (position_embedding_ == nullptr) return x;
  const Tensor positions = rows_of_stream(pass, pass.batch.position);
  return core::add(tape, x, core::embedding(tape, positions, core::as_var(*position_embedding_), {}, residual_dtype()));
}

void Transformer::run(Tape& tape, const Pass& pass, const Layer& layer, std::int64_t local, ResidualStream& stream,
                      AuxiliaryLosses& losses) const {
  if (!pass.recompute) return layer.forward(tape, pass, stream, local, losses);
  // One tensor is kept of a layer, so the stream is whole where it begins and ends.
  const auto run_layer = [&layer, &pass, local](Tape& inner, std::span<const Var> in) {
    ResidualStream own_stream(in[0]);
    AuxiliaryLosses own;
    layer.forward(inner, pass, own_stream, local, own);
    std::vector<Var> given = {own_stream.sum(inner), own.balance, own.z, own.routing};
    given.insert(given.end(), own.updates.begin(), own.updates.end());
    return given;
  };
  const std::vector<Var> out = core::recompute(tape, {stream.sum(tape)}, run_layer);
  stream = ResidualStream(out[0]);
  add_term(tape, losses.balance, out[1]);
  add_term(tape, losses.z, out[2]);
  add_term(tape, losses.routing, out[3]);
  for (std::size_t block = 0; block < num_blocks; ++block) add_term(tape, losses.updates[block], out[4 + block]);
}

void Transformer::run_in_stack(Tape& tape, const Pass& pass, std::int64_t local, ResidualStream& stream,
                               AuxiliaryLosses& losses) const {
  const Layer& layer = layers_.at(static_cast<std::size_t>(local));
  if (weights_.layers != nullptr) weights_.layers->before(tape, layer.index);
  run(tape, pass, layer, local, stream, losses);
  if (weights_.layers != nullptr) weights_.layers->behind(tape, layer.index);
}

Transformer::Output Transformer::finished(Tape& tape, const Pass& pass, ResidualStream& stream, const Norm& norm,
                                          const AuxiliaryLosses& losses) const {
  const Norms norms{config_.norm_eps, config_.norm_offset};
  Var normed = norms.normed(tape, stream, norm, compute_dtype());
  // The head is linear: its logits are scaled by what it reads.
  if (config_.logits_scale != 1 && !config_.reward_head) normed = core::scale(tape, normed, config_.logits_scale);
  // A head of the vocabulary is cut over the ranks, one of rewards is whole on each.
  return {config_.reward_head ? whole_sequences(tape, pass, normed) : enter_stream(tape, pass, normed), losses, normed};
}

Transformer::Output Transformer::forward_chunk(Tape& tape, const Pass& pass, std::int64_t chunk,
                                               const Var* input) const {
  core::check((input != nullptr) != embeds(chunk), "transformer: {}",
              embeds(chunk) ? "hidden states were given to a model with an embedding"
                            : "a model without an embedding needs hidden states");
  ResidualStream stream(input ? *input : embedded(tape, pass));
  AuxiliaryLosses losses;
  const core::Slice own = chunks_.at(static_cast<std::size_t>(chunk));
  for (std::int64_t n = own.first; n < own.first + own.count; ++n) {
    const std::int64_t layer = layers_[static_cast<std::size_t>(n)].index;
    const Tensor before = pass.tap ? stream.sum(tape).value : Tensor();
    run_in_stack(tape, pass, n, stream, losses);
    if (pass.tap) pass.tap(layer, before, stream.sum(tape).value);
    if (pass.gives) pass.gives(layer, stream.sum(tape));
  }
  if (!norm_ || chunk + 1 < num_chunks()) return {stream.sum(tape), losses, stream.sum(tape)};
  return finished(tape, pass, stream, norm_, losses);
}

Tensor Transformer::empty_stream(const Pass& pass) const {
  const std::int64_t tokens = pass.batch.num_tokens();
  const TensorComm& ranks = *options_.comms.tensor;
  return Tensor::empty(
      options_.memory, residual_dtype(),
      {pass.sequence_parallel ? core::slice_of(tokens, ranks.rank(), ranks.size()).count : tokens, config_.width});
}

/// The stream from the stage before, for a chunk of this one.
Var Transformer::received(const Pass& pass, std::int64_t chunk) const {
  PipelineComm& stages = pipeline();
  Var stream{empty_stream(pass), nullptr};
  core::check(stages.rank() > 0 || chunk > 0, "transformer: the first stage has no embedding");
  stages.receive(PipelineComm::Kind::Stream, stream.value, (stages.rank() + stages.size() - 1) % stages.size());
  return stream;
}

/// What a chunk gives, to the stage behind, unless it is the last of all. Nothing goes the other way meanwhile, so that
/// GPUs may wait until it is taken.
void Transformer::send_on(const Var& stream, std::int64_t chunk) const {
  PipelineComm& stages = pipeline();
  if (stages.rank() + 1 < stages.size() || chunk + 1 < num_chunks())
    const core::CommHandle sent =
        stages.send(PipelineComm::Kind::Stream, stream.value, (stages.rank() + 1) % stages.size());
}

Transformer::Output Transformer::forward(Tape& tape, const Pass& pass, const Var* input) const {
  Output out;
  if (pipeline().size() == 1) {
    core::check(num_chunks() == 1, "transformer: {} chunks of layers on one stage, expected one", num_chunks());
    out = forward_chunk(tape, pass, 0, input);
  } else {
    core::check(!tape.records(), "transformer: a pipeline's passes with gradients run chunk by chunk");
    for (std::int64_t chunk = 0; chunk < num_chunks(); ++chunk) {
      const Var stream = embeds(chunk) ? Var() : received(pass, chunk);
      out = forward_chunk(tape, pass, chunk, embeds(chunk) ? nullptr : &stream);
      send_on(out.stream, chunk);
    }
    if (!norm_) out = {};
  }
  if (pass.cache) pass.cache->advance(pass.cached);
  return out;
}

Var Transformer::layer(Tape& tape, const Pass& pass, std::int64_t local, const Var& stream) const {
  ResidualStream own(stream);
  AuxiliaryLosses losses;
  run_in_stack(tape, pass, local, own, losses);
  return own.sum(tape);
}

Transformer::Output Transformer::finished(Tape& tape, const Pass& pass, const Var& stream) const {
  ResidualStream own(stream);
  return finished(tape, pass, own, norm_, {});
}

Transformer::Output Transformer::predict(Tape& tape, const Pass& pass, std::int64_t depth, const Var& hidden,
                                         const Tensor& tokens) const {
  core::check(depth >= 0 && depth < num_predictors(), "transformer: depth {} of {} layers that predict", depth,
              num_predictors());
  const Predictor& predictor = predictors_[static_cast<std::size_t>(depth)];
  const Var embedded_tokens = embedded(tape, pass, tokens);
  if (weights_.predictors != nullptr) weights_.predictors->before(tape, depth);
  ResidualStream stream(predictor.entry(tape, embedded_tokens, hidden));
  AuxiliaryLosses losses;
  run(tape, pass, predictor.layer, depth, stream, losses);
  if (pass.cache && depth + 1 == num_predictors()) pass.cache->advance(pass.cached);
  Output out = finished(tape, pass, stream, predictor.norm, losses);
  if (weights_.predictors != nullptr) weights_.predictors->behind(tape, depth);
  return out;
}

}  // namespace limbeck::nn
