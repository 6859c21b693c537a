#include "core/nn/transformer.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "core/device/offload.h"
#include "core/nn/rope_scaling.h"
#include "core/nn/stream.h"
#include "core/ops/add.h"
#include "core/recompute.h"
#include "kernels/elementwise.h"

namespace limbeck::nn {
namespace {

using core::DType;
using core::Shape;

// Weights that read the residual stream are cut along their rows, those that write to it along their columns.
constexpr core::Cut by_rows{.dimension = 0};
constexpr core::Cut by_columns{.dimension = 1};

constexpr double usual_deviation = 0.02;  // of a matrix that begins

/// Of attention's scores.
double scale_of(const ModelConfig& c) {
  return c.attention_scale > 0 ? c.attention_scale : 1 / std::sqrt(static_cast<double>(c.head_width));
}

/// Each rank has some of the heads.
void check_parts(const MambaConfig& mamba, std::int64_t ranks) {
  if (ranks > mamba.most_parts())
    core::fail_usage("Mamba-2 layers are cut over {} ranks (tp), expected at most {}, their {} (model.mamba)", ranks,
                     mamba.most_parts(), mamba.num_groups == 1 ? "heads" : "groups of heads");
}

/// Counts are whole numbers, so that no rounding says which is the greater.
std::vector<double> moves_of(std::span<const double> load, double rate) {
  const double total = std::accumulate(load.begin(), load.end(), 0.0), experts = static_cast<double>(load.size());
  std::vector<double> moves;
  for (const double count : load) {
    const double more = total - count * experts;
    moves.push_back(more > 0 ? rate : more < 0 ? -rate : 0);
  }
  return moves;
}

/// to[i] += values[i], which are on their way there.
void add_values(Tensor to, const std::vector<double>& values) {
  core::dispatch_float("transformer", to.dtype(), [&]<class T>() {
    const std::vector<T> rounded(values.begin(), values.end());
    const Tensor there = Tensor::from<T>(to.memory(), to.shape(), rounded);
    core::on_device(
        to, [&](const auto& device) { kernels::add_to(device, there.data<T>(), to.mutable_data<T>(), to.numel()); });
  });
}

}  // namespace

Transformer::Transformer(ModelConfig config, ModelOptions options)
    : config_(std::move(config)),
      options_(std::move(options)),
      parameters_({options_.memory, options_.dtype, options_.frozen, options_.place, options_.as_kept}) {
  validate(config_, "model");
  core::check(!options_.as_kept || (options_.frozen && options_.dtype != DType::F64),
              "transformer: weights are kept as they are of a frozen model in float32 or bfloat16 alone");
  core::check(!options_.fp8_products || (compute_dtype() == DType::BF16 && !options_.as_kept),
              "transformer: products in FP8 are of bfloat16 activations, and of weights that are not kept as they are");
  const ModelConfig& c = config_;
  core::check(!options_.offload_layers || options_.frozen,
              "transformer: layers stay in the host's memory of a frozen model alone");
  const std::vector<core::Slice> chunks = options_.chunks.value_or(std::vector{core::Slice{0, c.num_layers}});
  core::check(!chunks.empty(), "transformer: no chunk of layers, expected one at least");

  const auto add = [&](const std::string& name, const Shape& global_shape, const core::Cut& cut, bool decays = true) {
    return &parameters_.add(name, global_shape, cut, decays);
  };
  if (options_.with_embedding) {
    embedding_ = &add_embedding();
    if (c.positions == Positions::Learned)
      position_embedding_ = add("position_embed.weight", {c.max_positions, c.width}, whole());
  }
  if (options_.offload_layers) parameters_.set_memory(core::offload_memory(options_.memory));
  for (const core::Slice& chunk : chunks) {
    const std::int64_t end = chunk.first + chunk.count, done = layers_.empty() ? 0 : layers_.back().index + 1;
    core::check(chunk.count >= 0 && chunk.first >= done && end <= c.num_layers,
                "transformer: layers {} to {} of {} behind the first {}", chunk.first, end, c.num_layers, done);
    chunks_.push_back({std::ssize(layers_), chunk.count});
    for (std::int64_t layer = chunk.first; layer < end; ++layer)
      layers_.push_back(add_layer(layer, fmt::format("layers.{}.", layer)));
  }
  parameters_.set_memory(options_.memory);
  if (options_.with_head) {
    norm_ = add_norm("norm");
    if (c.reward_head)
      reward_head_ = add("reward.weight", {1, c.width}, {});
    else
      head_ = !c.tied_head ? add("head.weight", {c.vocabulary, c.width}, by_rows)
              : embedding_ ? embedding_
                           : &add_embedding();
    if (c.head_bias) head_bias_ = add("head.bias", {c.vocabulary}, by_rows, false);
  }
  if (num_depths() == 0 || !options_.with_head) return;
  core::check(head_ != nullptr, "transformer: layers that predict need a head of the vocabulary");
  if (embedding_ == nullptr) embedding_ = c.tied_head ? head_ : &add_embedding();
  for (std::int64_t depth = 0; depth < num_depths(); ++depth) predictors_.push_back(add_predictor(depth));
}

Layer Transformer::add_layer(std::int64_t index, const std::string& prefix) {
  const ModelConfig& c = config_;
  Layer layer;
  layer.index = index;
  layer.norms = {c.norm_eps, c.norm_offset};
  layer.compute = compute_dtype();
  layer.residual_scale = c.residual_scale;
  const LayerConfig own = c.layer(index);
  const auto norm = [&](const std::string& name, bool is_there) { return is_there ? add_norm(prefix + name) : Norm{}; };
  const bool before = c.norm_placement != NormPlacement::After, after = c.norm_placement != NormPlacement::Before;
  const char* const mixer = own.is_mamba ? "mamba" : "attention";
  layer.mixer_norm = norm(fmt::format("{}_norm", mixer), before);
  if (own.is_mamba) check_parts(c.mamba, options_.comms.tensor->size());
  if (own.is_mamba)
    layer.mixer = make_mamba(parameters_, prefix + "mamba.", c, options_.sequence_parallel);
  else if (c.is_latent())
    layer.mixer = add_latent_attention(prefix + "attention.", own);
  else
    layer.mixer = add_attention(prefix + "attention.", own);
  layer.mixer_post_norm = norm(fmt::format("{}_post_norm", mixer), after);
  if (!c.feed_forward) return layer;
  layer.mlp_norm = norm("mlp_norm", before);
  if (own.is_moe) {
    Moe moe = make_moe(parameters_, prefix + "moe", c.width, c.moe, whole());
    moe.layer = index;
    moe.num_moe_layers = c.num_moe_layers() + (options_.with_predict ? c.num_moe_predict_layers() : 0);
    moe.activation = c.activation;
    moe.activation_limit = c.activation_limit;
    if (c.moe.shared_width > 0) moe.shared = add_mlp(prefix + "moe.shared.", c.moe.shared_width, false);
    if (c.moe.shared_gate) moe.shared_gate = &parameters_.add(prefix + "moe.shared_gate.weight", {1, c.width}, whole());
    layer.feed_forward = moe;
  } else {
    layer.feed_forward = add_mlp(prefix + "mlp.", c.mlp_width, c.mlp_bias);
  }
  layer.mlp_post_norm = norm("mlp_post_norm", after);
  return layer;
}

Predictor Transformer::add_predictor(std::int64_t depth) {
  const std::string prefix = fmt::format("predict.{}.", depth);
  const std::int64_t width = config_.width;
  Predictor predictor;
  predictor.embed_norm = add_norm(prefix + "embed_norm");
  predictor.hidden_norm = add_norm(prefix + "hidden_norm");
  predictor.project = &parameters_.add(prefix + "project.weight", {width, 2 * width}, whole());
  predictor.layer = add_layer(config_.num_layers + depth, prefix);
  predictor.norm = add_norm(prefix + "norm");
  return predictor;
}

/// Where it is the head too, or layers that predict read it, both ends of a pipeline have it, each a part of the
/// gradient; one of them writes it.
Parameter& Transformer::add_embedding() {
  Parameter& embedding = parameters_.add("embed.weight", {config_.vocabulary, config_.width}, by_rows);
  if ((!config_.tied_head && num_depths() == 0) || pipeline().size() == 1) return embedding;
  embedding.placement.push_back({.axis = "pp", .role = core::AxisRole::PartialGradient});
  embedding.first_replica = embedding.first_replica && pipeline().rank() == 0;
  return embedding;
}

Norm Transformer::add_norm(const std::string& name) {
  Norm norm{&parameters_.add(name + ".weight", {config_.width}, whole(), false)};
  if (config_.norm_kind == NormKind::Layer)
    norm.bias = &parameters_.add(name + ".bias", {config_.width}, whole(), false);
  return norm;
}

Mlp Transformer::add_mlp(const std::string& prefix, std::int64_t width, bool has_biases) {
  const std::int64_t c = config_.width;
  const auto add = [&](const std::string& name, const Shape& shape, const core::Cut& cut, bool is_there = true) {
    return is_there ? &parameters_.add(prefix + name, shape, cut, shape.rank() > 1) : nullptr;
  };
  Mlp mlp{config_.activation, add("gate.weight", {width, c}, by_rows, config_.mlp_gate),
          add("up.weight", {width, c}, by_rows), add("down.weight", {c, width}, by_columns)};
  mlp.activation_limit = config_.activation_limit;
  mlp.gate_bias = add("gate.bias", {width}, by_rows, has_biases && config_.mlp_gate);
  mlp.up_bias = add("up.bias", {width}, by_rows, has_biases);
  mlp.down_bias = add("down.bias", {c}, whole(), has_biases);
  return mlp;
}

Attention Transformer::add_attention(const std::string& prefix, const LayerConfig& layer) {
  const ModelConfig& c = config_;
  const std::int64_t query_width = c.num_heads * c.head_width, key_width = c.num_kv_heads * c.head_width;
  // A key/value head and the queries that read it stay together.
  const core::Cut by_groups{.dimension = 0, .unit = query_width / c.num_kv_heads};
  const core::Cut by_key_heads{.dimension = 0, .unit = c.head_width};
  const core::Cut by_group_columns{.dimension = 1, .unit = by_groups.unit};
  const auto add = [&](const char* name, const Shape& shape, const core::Cut& cut, bool decays = true) {
    return &parameters_.add(prefix + name, shape, cut, decays);
  };
  Attention attention;
  attention.q = add("q.weight", {query_width, c.width}, by_groups);
  attention.k = add("k.weight", {key_width, c.width}, by_key_heads);
  attention.v = add("v.weight", {key_width, c.width}, by_key_heads);
  if (c.attention_bias) {
    attention.q_bias = add("q.bias", {query_width}, by_groups, false);
    attention.k_bias = add("k.bias", {key_width}, by_key_heads, false);
    attention.v_bias = add("v.bias", {key_width}, by_key_heads, false);
  }
  if (c.attention_sinks)
    attention.sinks = add("sinks", {c.num_heads}, {.dimension = 0, .unit = c.num_heads / c.num_kv_heads}, false);
  attention.norms = {c.norm_eps, c.norm_offset};
  if (c.head_norm == HeadNorm::EachHead) {
    const core::Cut by_share_of_heads{.sees_share = true};
    attention.q_norm = {add("q_norm.weight", {c.head_width}, by_share_of_heads, false)};
    attention.k_norm = {add("k_norm.weight", {c.head_width}, by_share_of_heads, false)};
  } else if (c.head_norm == HeadNorm::AllHeads) {
    attention.q_norm = {add("q_norm.weight", {query_width}, by_groups, false)};
    attention.k_norm = {add("k_norm.weight", {key_width}, by_key_heads, false)};
  }
  attention.o = add("o.weight", {c.width, query_width}, by_group_columns);
  if (c.attention_output_bias) attention.o_bias = add("o.bias", {c.width}, whole(), false);
  attention.shape = {attention.q->value.shape()[0] / c.head_width,
                     attention.k->value.shape()[0] / c.head_width,
                     c.head_width,
                     c.head_width,
                     scale_of(c),
                     layer.window};
  if (c.positions == Positions::Rotary) attention.rope = add_rotary(layer);
  return attention;
}

LatentAttention Transformer::add_latent_attention(const std::string& prefix, const LayerConfig& layer) {
  const ModelConfig& c = config_;
  const LatentConfig& l = c.latent;
  const std::int64_t own_width = c.head_width - l.rope_width;  // of a key, beside what turns
  const auto add = [&](const char* name, const Shape& shape, const core::Cut& cut, bool decays = true) {
    return &parameters_.add(prefix + name, shape, cut, decays);
  };
  const auto by_heads = [](std::int64_t width) { return core::Cut{.dimension = 0, .unit = width}; };
  LatentAttention attention;
  if (l.query_rank > 0) {
    attention.q_a = add("q_a.weight", {l.query_rank, c.width}, whole());
    attention.q_a_norm = {add("q_a_norm.weight", {l.query_rank}, whole(), false)};
  }
  attention.q = add(l.query_rank > 0 ? "q_b.weight" : "q.weight",
                    {c.num_heads * c.head_width, l.query_rank > 0 ? l.query_rank : c.width}, by_heads(c.head_width));
  attention.kv_a = add("kv_a.weight", {l.rank, c.width}, whole());
  attention.kv_a_norm = {add("kv_a_norm.weight", {l.rank}, whole(), false)};
  attention.k_rope = add("k_rope.weight", {l.rope_width, c.width}, whole());
  attention.k_b = add("k_b.weight", {c.num_heads * own_width, l.rank}, by_heads(own_width));
  attention.v_b = add("v_b.weight", {c.num_heads * l.value_width, l.rank}, by_heads(l.value_width));
  attention.o =
      add("o.weight", {c.width, c.num_heads * l.value_width}, core::Cut{.dimension = 1, .unit = l.value_width});
  attention.norms = {l.norm_eps, c.norm_offset};
  const std::int64_t heads = attention.q->value.shape()[0] / c.head_width;
  attention.shape = {heads, heads, c.head_width, l.value_width, scale_of(c), layer.window};
  attention.rope = add_rotary(layer);
  attention.absorbs = l.rank + l.rope_width <= core::widest_attention(options_.memory);
  return attention;
}

std::size_t Transformer::add_rotary(const LayerConfig& layer) {
  const auto known = std::ranges::find_if(
      rotary_, [&](const Rotary& r) { return r.base == layer.rope_base && r.scaling == layer.rope_scaling; });
  const auto place = static_cast<std::size_t>(known - rotary_.begin());
  if (known == rotary_.end()) rotary_.push_back({.base = layer.rope_base, .scaling = layer.rope_scaling, .table = {}});
  return place;
}

core::DType Transformer::compute_dtype() const { return options_.compute.value_or(core::sum_dtype(options_.dtype)); }

core::VocabularyPart Transformer::vocabulary_part() const {
  const Parameter* p = head_ ? head_ : embedding_;
  core::check(p != nullptr, "transformer: neither an embedding nor a head, so no vocabulary");
  return {p->offset()[0], config_.vocabulary};
}

Parameter& Transformer::parameter(const std::string& name) {
  const core::ParameterList list = parameters();
  const auto at = std::find_if(list.begin(), list.end(), [&](const Parameter* p) { return p->name == name; });
  core::check(at != list.end(), "transformer: no parameter {}", name);
  return **at;
}

Var Transformer::head() const {
  core::check(head_ != nullptr,
              "the model has a reward head: it judges texts by a number, expected a model that predicts tokens");
  return core::as_var(*head_);
}

Var Transformer::reward_head() const {
  core::check(reward_head_ != nullptr,
              "the model has no reward head, expected one that was trained by objective.reward, or a Hugging Face "
              "directory of a model ForSequenceClassification");
  return core::as_var(*reward_head_);
}

void Transformer::init_random(std::uint64_t seed) {
  for (Parameter* p : parameters()) {
    const bool to_residual =
        p->name.ends_with(".o.weight") || p->name.ends_with("down.weight") || p->name.ends_with(".down");
    const double deviation =
        to_residual ? usual_deviation / std::sqrt(2.0 * static_cast<double>(config_.num_layers)) : usual_deviation;
    if (p->is_matrix())
      core::init_normal(*p, deviation, seed);
    else if (!begin_mamba(*p, seed))
      core::dispatch_float("init_random", p->value.dtype(), [&]<class T>() {
        const bool is_bias = p->name.ends_with("bias") || p->name.ends_with(".sinks");
        const double start = is_bias ? 0 : 1 - config_.norm_offset;
        const std::vector<T> all(static_cast<std::size_t>(p->value.numel()), static_cast<T>(start));
        p->value.copy_from(Tensor::from<T>(options_.memory->host(), p->value.shape(), all));
      });
  }
  end_filling();
}

void Transformer::load(const core::StateReader& reader, std::string_view end_of_name) {
  for (Parameter* p : parameters())
    if (p->name.ends_with(end_of_name)) load(reader, *p);
  end_filling();
}

void Transformer::end_filling() {
  if (!options_.offload_layers || host_layers_) return;
  host_layers_ = std::make_unique<HostLayers>(parameters(), options_.memory);
  set_layer_weights(host_layers_.get());
}

void Transformer::load(const core::StateReader& reader, Parameter& p) const {
  if (options_.as_kept && p.is_matrix()) {
    if (&p != reward_head_)  // which no product reads
      if (auto lent = reader.lend(p.name, p.entry(p.value), p.value.memory())) {
        p.value = *lent;
        return;
      }
    p.value = Tensor::empty(p.value.memory(), options_.dtype, p.value.shape());
  }
  // What cuts and scales the weights of a teacher (student_init.h) does so in float32.
  const bool is_widened = p.value.dtype() == DType::BF16 && !options_.frozen;
  core::StateEntry entry = p.entry(is_widened ? Tensor::empty(options_.memory, DType::F32, p.value.shape()) : p.value);
  reader.read(p.name, entry);
  if (is_widened) p.value.copy_from(entry.tensor.to(DType::BF16));
}

void Transformer::load_with_new_reward_head(const core::StateReader& reader, std::uint64_t seed) {
  core::check(config_.reward_head, "transformer: there is no reward head to begin");
  for (Parameter* p : parameters())
    if (p != reward_head_) load(reader, *p);
  if (reward_head_ != nullptr) core::init_normal(*reward_head_, usual_deviation, seed);
}

core::StateDict Transformer::state_dict() {
  core::StateDict state;
  for (const Parameter* p : parameters()) state.emplace(p->name, p->entry(p->value));
  return state;
}

std::vector<Moe*> Transformer::mixtures() {
  std::vector<Moe*> all;
  const auto add = [&](Layer& layer) {
    if (Moe* const moe = std::get_if<Moe>(&layer.feed_forward)) all.push_back(moe);
  };
  for (Layer& layer : layers_) add(layer);
  for (Predictor& predictor : predictors_) add(predictor.layer);
  return all;
}

std::size_t Transformer::row_of(const Moe& moe) const {
  std::size_t row = 0;
  for (std::int64_t before = 0; before < moe.layer; ++before) row += config_.is_moe_layer(before) ? 1 : 0;
  return row;
}

void Transformer::move_selection_biases(std::span<const std::vector<double>> loads, double rate) {
  for (const Moe* moe : mixtures()) {
    const std::size_t row = row_of(*moe);
    core::check(row < loads.size() && std::ssize(loads[row]) == config_.moe.num_experts,
                "transformer: loads of {} layers, expected {} numbers of each with experts", loads.size(),
                config_.moe.num_experts);
    if (moe->selection_bias != nullptr) add_values(moe->selection_bias->value, moves_of(loads[row], rate));
  }
}

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
  const Var x = exit_stream(
      tape, pass, core::embedding(tape, tokens, core::as_var(*embedding_), vocabulary_part(), residual_dtype()));
  return config_.embedding_scale == 1 ? x : core::scale(tape, x, config_.embedding_scale);
}

Var Transformer::embedded(Tape& tape, const Pass& pass) const {
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
  if (layer_weights_ != nullptr) layer_weights_->before(tape, layer.index);
  run(tape, pass, layer, local, stream, losses);
  if (layer_weights_ != nullptr) layer_weights_->behind(tape, layer.index);
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
  ResidualStream stream(predictor.entry(tape, embedded(tape, pass, tokens), hidden));
  AuxiliaryLosses losses;
  run(tape, pass, predictor.layer, depth, stream, losses);
  if (pass.cache && depth + 1 == num_predictors()) pass.cache->advance(pass.cached);
  return finished(tape, pass, stream, predictor.norm, losses);
}

}  // namespace limbeck::nn
