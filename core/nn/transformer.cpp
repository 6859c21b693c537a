#include "core/nn/transformer.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include "core/device/offload.h"
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
      parameters_({options_.memory, options_.dtype, options_.frozen, options_.place, options_.as_kept,
                   options_.filled_later}) {
  validate(config_, "model");
  core::check(!options_.as_kept || (options_.frozen && options_.dtype != DType::F64),
              "transformer: weights are kept as they are of a frozen model in float32 or bfloat16 alone");
  core::check(!options_.fp8_products || (compute_dtype() == DType::BF16 && !options_.as_kept),
              "transformer: products in FP8 are of bfloat16 activations, and of weights that are not kept as they are");
  const ModelConfig& c = config_;
  core::check(!options_.filled_later || !options_.frozen,
              "transformer: values are filled later of a model that is trained alone");
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

/// Of each parameter, or of those whose names end so: one after the other has memory for its values.
void Transformer::fill(const std::function<void(Parameter&)>& f, std::string_view end_of_name) {
  for (Parameter* p : parameters()) {
    if (!p->name.ends_with(end_of_name)) continue;
    if (!options_.frozen) p->value.storage()->refill();
    f(*p);
    for (FilledWeights* const who : std::initializer_list<FilledWeights*>{weights_.layers, weights_.predictors,
                                                                          weights_.ends})
      if (who != nullptr) who->filled(*p);
  }
  end_filling();
}

void Transformer::init_random(std::uint64_t seed) {
  fill([&](Parameter& p) {
    if (options_.memory->is_imagined()) return;  // nothing lies there
    const bool to_residual =
        p.name.ends_with(".o.weight") || p.name.ends_with("down.weight") || p.name.ends_with(".down");
    const double deviation =
        to_residual ? usual_deviation / std::sqrt(2.0 * static_cast<double>(config_.num_layers)) : usual_deviation;
    if (p.is_matrix())
      core::init_normal(p, deviation, seed);
    else if (!begin_mamba(p, seed))
      core::dispatch_float("init_random", p.value.dtype(), [&]<class T>() {
        const bool is_bias = p.name.ends_with("bias") || p.name.ends_with(".sinks");
        const double start = is_bias ? 0 : 1 - config_.norm_offset;
        const std::vector<T> all(static_cast<std::size_t>(p.value.numel()), static_cast<T>(start));
        p.value.copy_from(Tensor::from<T>(options_.memory->host(), p.value.shape(), all));
      });
  });
}

void Transformer::load(const core::StateReader& reader, std::string_view end_of_name) {
  fill([&](Parameter& p) { load(reader, p); }, end_of_name);
}

void Transformer::end_filling() {
  if (!options_.offload_layers || host_layers_) return;
  host_layers_ = std::make_unique<HostLayers>(parameters(), options_.memory);
  set_weights({.layers = host_layers_.get()});
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
  fill([&](Parameter& p) {
    if (&p == reward_head_)
      core::init_normal(p, usual_deviation, seed);
    else
      load(reader, p);
  });
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

}  // namespace limbeck::nn
