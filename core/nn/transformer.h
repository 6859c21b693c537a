// A decoder-only transformer: a range of layers with an optional embedding and an optional head, each layer dense or a
// mixture of experts. A rank may hold several (teachers, student), each with its own communicators and frozen or not.
//
//     Transformer model(config, {.memory = memory});
//     model.load(reader);                                   // or model.init_random(seed)
//     auto out = model.forward(tape, model.pass(batch));    // out.hidden [T,C], after the last norm
//     Var loss = core::head_loss(tape, out.hidden, model.head(), batch.targets, ...);
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/nn/host_layers.h"
#include "core/nn/kv_cache.h"
#include "core/nn/layer.h"
#include "core/nn/layer_weights.h"
#include "core/nn/model_config.h"
#include "core/nn/pass.h"
#include "core/nn/predictor.h"
#include "core/ops/embedding.h"
#include "core/parameter_set.h"
#include "core/pipeline_comm.h"
#include "core/slice.h"
#include "core/state_dict.h"

namespace limbeck::nn {

struct ModelOptions {
  MemoryPtr memory;
  core::DType dtype = core::DType::F32;  // of the values; BF16: of matrices alone
  /// Of activations; none: F32 for BF16 values, which products then widen, else as the values. BF16:
  /// docs/architecture.md has what stays F32 beside it.
  std::optional<core::DType> compute = {};
  std::optional<core::DType> residual = {};  // of the stream between the layers; none: as compute
  /// Products of attention's q, k, v and o and of dense and shared feed-forwards, and their inputs' gradients, are of
  /// FP8 (core/ops/fp8_product.h). With BF16 activations, and not as_kept.
  bool fp8_products = false;
  bool frozen = false;
  /// Values have no memory before load or init_random comes to them, for whoever takes each over behind that
  /// (FilledWeights).
  bool filled_later = false;
  /// Frozen matrices stay as their source keeps them, in blocks of a mapped file for one, where it lends them; the
  /// others are of `dtype`. Not with float64.
  bool as_kept = false;
  /// The layers' weights lie in the host's memory and are on the device while they run (HostLayers). Of a frozen model;
  /// without effect where the memory is the host's.
  bool offload_layers = false;
  Communicators comms = single_communicators();
  std::shared_ptr<PipelineComm> pipeline = single_pipeline();
  core::PlacementRule place = {};  // none: this rank holds everything
  bool sequence_parallel =
      false;  // passes divide the tokens among the ranks of a tensor group (Pass); not with a cache
  /// Ranges of layers, ascending: chunks, which other ranks' stand between where there is a pipeline. None: all, as
  /// one.
  std::optional<std::vector<core::Slice>> chunks = {};
  bool with_embedding = true;
  bool with_head = true;  // the last norm and the head; a tied one is a copy of the embedding where that is elsewhere
  /// The layers that predict further tokens, if the model has some: where the head is, with an embedding of their own
  /// where that of the model is elsewhere.
  bool with_predict = false;
};

class Transformer {
 public:
  Transformer(ModelConfig config, ModelOptions options);
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  const ModelConfig& config() const { return config_; }
  const MemoryPtr& memory() const { return options_.memory; }
  const Communicators& comms() const { return options_.comms; }
  PipelineComm& pipeline() const { return *options_.pipeline; }
  /// In the order of use.
  core::ParameterList parameters() { return parameters_.list(); }
  Parameter& parameter(const std::string& name);
  /// The head's weight [V_local,C], to be read while whole_head() is there; the embedding's where they are tied. Throws
  /// where the model has a reward head.
  Var head() const;
  /// The weight of the reward head, [1,C], whole on every rank. Throws where the model has none.
  Var reward_head() const;
  /// What is added to the logits, [V_local]; without a value where the model has none.
  Var head_bias() const { return head_bias_ != nullptr ? core::as_var(*head_bias_) : Var(); }
  /// The part of the vocabulary that this rank's head and embedding hold.
  core::VocabularyPart vocabulary_part() const;
  /// Whether this rank has what comes behind the last layer; of a pipeline, its last stage.
  bool has_head() const { return static_cast<bool>(norm_); }

  /// Matrices normal with deviation 0.02 (those that write to the residual stream over sqrt(2 L)), norms one, biases
  /// zero; a function of seed, name and global index alone.
  void init_random(std::uint64_t seed);
  /// Fills every parameter, or those whose names end so; throws where the source lacks one or has another shape.
  void load(const core::StateReader& reader, std::string_view end_of_name = "");
  /// Every parameter of a source without a reward head, which begins as with init_random.
  void load_with_new_reward_head(const core::StateReader& reader, std::uint64_t seed);
  core::StateDict state_dict();
  /// Those of this rank's layers that have experts, the layers that predict last.
  std::vector<Moe*> mixtures();
  /// How many layers of the whole model with experts stand before this one, which is its row in loads.
  std::size_t row_of(const Moe& moe) const;
  /// Moves the biases that experts are chosen by against their load, by `rate`: up those of experts that took fewer
  /// assignments than the mean, down those that took more (Wang et al. 2024, "Auxiliary-loss-free load balancing").
  /// `loads` [MoE layer of the whole model, those that predict last][E] are counts, the same on every rank.
  void move_selection_biases(std::span<const std::vector<double>> loads, double rate);

  /// With offload_layers, behind whoever fills the parameters by another way than load and init_random, which do it:
  /// passes may run.
  void end_filling();
  /// That lie in the host's memory, bytes.
  std::int64_t offloaded_bytes() const { return host_layers_ ? host_layers_->bytes() : 0; }

  /// Who has the weights whole only while they are used, and is told of what is filled. They must outlive the passes.
  void set_weights(const ModelWeights& weights) { weights_ = weights; }
  /// Has the head's weight whole while the result is there; nothing where the head is elsewhere.
  WholeEnd whole_head() const {
    return {has_head() ? weights_.ends : nullptr, config_.tied_head ? End::Embedding : End::Head};
  }

  /// A pass over `batch` with attention within its sequences.
  Pass pass(const Batch& batch) const;
  /// A pass of new tokens behind those in `cache`, which gets room for them: sequence n of the batch goes on in
  /// slots[n] (ascending), its positions count on.
  Pass pass(const Batch& batch, KvCache& cache, std::span<const std::int64_t> slots) const;
  /// For `num_slots` texts at once.
  KvCache make_cache(std::int64_t num_slots) const;
  /// Of the layers that predict, whose texts have lengths of their own.
  KvCache make_predict_cache(std::int64_t num_slots) const;

  struct Output {
    Var hidden;  // [T,C]
    AuxiliaryLosses losses;
    Var stream;  // hidden, with sequence parallelism this rank's share of it
  };
  /// `input` [T,C]: the hidden states from the layers before, for a model without an embedding. With sequence
  /// parallelism it is this rank's share of the tokens, and so is what a model without a head gives.
  /// Through the stages of a pipeline, collectively, it runs without gradients alone, and gives hidden states where the
  /// head is.
  Output forward(Tape& tape, const Pass& pass, const Var* input = nullptr) const;
  /// One chunk's part of it, of the stream before: what is behind its layers, and behind those of the last one where
  /// the head is here the hidden states. The first takes none where the embedding is here.
  Output forward_chunk(Tape& tape, const Pass& pass, std::int64_t chunk, const Var* input) const;
  std::int64_t num_chunks() const { return static_cast<std::int64_t>(chunks_.size()); }
  /// Of the stream between the layers.
  core::DType residual_dtype() const { return options_.residual.value_or(compute_dtype()); }
  /// Room for it, [T,C] or this rank's share of it.
  Tensor empty_stream(const Pass& pass) const;
  /// What forward is made of, for whoever runs some of the layers (core/nn/student/): the stream before the first one,
  Var embedded(Tape& tape, const Pass& pass) const;
  /// behind the one that counts `local` here, of the stream before it,
  Var layer(Tape& tape, const Pass& pass, std::int64_t local, const Var& stream) const;
  /// and what forward gives of the stream behind the last.
  Output finished(Tape& tape, const Pass& pass, const Var& stream) const;
  /// How many layers that predict it has: on any of a pipeline's stages,
  std::int64_t num_depths() const { return options_.with_predict ? config_.num_predict_layers : 0; }
  /// and here.
  std::int64_t num_predictors() const { return static_cast<std::int64_t>(predictors_.size()); }
  /// What the layer of a depth gives of `hidden`, the stream of the depth before (of depth 0, forward's), and of
  /// `tokens` [T] int32, those that are depth + 1 further on. With a cache, which is the predictors' own, depths run in
  /// their order, and the last one ends the pass.
  Output predict(Tape& tape, const Pass& pass, std::int64_t depth, const Var& hidden, const Tensor& tokens) const;

 private:
  core::DType compute_dtype() const;
  bool embeds(std::int64_t chunk) const { return options_.with_embedding && chunk == 0; }
  Attention add_attention(const std::string& prefix, const LayerConfig& layer);
  LatentAttention add_latent_attention(const std::string& prefix, const LayerConfig& layer);
  Mlp add_mlp(const std::string& prefix, std::int64_t width, bool has_biases);
  Norm add_norm(const std::string& name);
  Parameter& add_embedding();
  Layer add_layer(std::int64_t index, const std::string& prefix);
  Predictor add_predictor(std::int64_t depth);
  std::size_t add_rotary(const LayerConfig& layer);
  core::Cut whole() const { return {.sees_share = options_.sequence_parallel}; }
  std::vector<core::RopeTable> rope_tables(std::int64_t num_positions) const;
  std::vector<Tensor> rope_rows(const Batch& batch) const;
  /// Without their positions.
  Var embedded(Tape& tape, const Pass& pass, const Tensor& tokens) const;
  void run(Tape& tape, const Pass& pass, const Layer& layer, std::int64_t local, ResidualStream& stream,
           AuxiliaryLosses& losses) const;
  void run_in_stack(Tape& tape, const Pass& pass, std::int64_t local, ResidualStream& stream,
                    AuxiliaryLosses& losses) const;
  Output finished(Tape& tape, const Pass& pass, ResidualStream& stream, const Norm& norm,
                  const AuxiliaryLosses& losses) const;

  void fill(const std::function<void(Parameter&)>& f, std::string_view end_of_name = "");
  void load(const core::StateReader& reader, Parameter& parameter) const;
  Var received(const Pass& pass, std::int64_t chunk) const;
  void send_on(const Var& stream, std::int64_t chunk) const;

  /// What turns queries and keys of some of the layers.
  struct Rotary {
    double base;
    RopeScaling scaling;
    core::RopeTable table;           // of as many positions as a pass has asked for yet;
    std::int64_t num_positions = 0;  // which are these, twice where long contexts have frequencies of their own
  };
  static bool has_long(const Rotary& rotary);

  ModelConfig config_;
  ModelOptions options_;
  core::ParameterSet parameters_;
  std::vector<Layer> layers_;
  std::vector<core::Slice> chunks_;  // of layers_
  std::vector<Predictor> predictors_;
  Parameter* embedding_ = nullptr;           // also for the layers that predict alone
  Parameter* position_embedding_ = nullptr;  // of learned positions
  Norm norm_;
  Parameter* head_ = nullptr;
  Parameter* head_bias_ = nullptr;
  Parameter* reward_head_ = nullptr;    // in place of head_
  mutable std::vector<Rotary> rotary_;  // by Attention::rope
  ModelWeights weights_;
  std::unique_ptr<HostLayers> host_layers_;  // with offload_layers, once they are filled
};

}  // namespace limbeck::nn
