// A run's configuration as plain structs; launch/config/config.proto documents every field. The values here are the
// defaults.
//
//     RunConfig config = load_config("run.textproto", {"train.steps=100", "data.text=[/a,/b]"});
//     check_for_distill(config);                        // teacher, student and text are named
//     write(dir / "config.textproto", to_textproto(config));  // loads again to the same
//
// Only the sources beside this file see protobuf. Every error is a UsageError of one line: the place (file:line:column,
// or the --set), the field, and what was expected.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/nn/model_config.h"
#include "data/teacher_cache/cached_rows.h"
#include "data/text/text_source.h"
#include "kernels/match_rows.h"

namespace limbeck::launch {

struct ModelSection {
  std::string source;  // start from this file's architecture and weights; then `architecture` is without meaning
  /// As in the config, derived widths filled in; `vocabulary` is 0 where it is to be the tokenizer's.
  nn::ModelConfig architecture{.vocabulary = 0,
                               .width = 256,
                               .num_layers = 4,
                               .num_heads = 4,
                               .num_kv_heads = 4,
                               .head_width = 64,
                               .mlp_width = 1024,
                               .max_positions = 2048,
                               .moe = {}};
  friend bool operator==(const ModelSection&, const ModelSection&) = default;
};

/// A further teacher, beside the first.
struct OtherTeacherConfig {
  std::string source;                // required
  std::vector<std::string> teaches;  // as TeacherConfig's
  double weight = 1;
  friend bool operator==(const OtherTeacherConfig&, const OtherTeacherConfig&) = default;
};

struct TeacherConfig {
  std::string source;
  std::string cache;  // empty: the teacher runs beside the student
  data::CacheKind cache_kind = data::CacheKind::TopK;
  std::int64_t cache_tokens = 64;
  std::vector<double> cache_temperatures;
  std::int64_t cache_window = 0;  // 0: data.sequence_length
  bool cache_exact = false;
  std::vector<std::int64_t> cache_hidden_layers;
  std::vector<std::string> teaches;  // names of sources of text; empty: all
  double weight = 1;
  std::vector<OtherTeacherConfig> others;
  friend bool operator==(const TeacherConfig&, const TeacherConfig&) = default;
};

enum class LayerChoice : std::uint8_t { BlockInfluence, EvenlySpaced, List, GreedyKl };

struct UpcycleConfig {
  std::int64_t slices = 1;
  std::int64_t experts = 8;
  std::int64_t experts_per_token = 2;
  double router_std = 0.02;
  std::int64_t shared_slices = 0;
  bool shared_gate = false;
  friend bool operator==(const UpcycleConfig&, const UpcycleConfig&) = default;
};

enum class ExpertRule : std::uint8_t { RoutedNorm, Load, Merge };

struct ExpertStartConfig {
  std::int64_t keep = 0;  // required
  ExpertRule rule = ExpertRule::RoutedNorm;
  std::int64_t experts_per_token = 0;  // 0: the teacher's, at most `keep`
  friend bool operator==(const ExpertStartConfig&, const ExpertStartConfig&) = default;
};

struct DenseStartConfig {
  std::int64_t experts = 0;  // 0: the teacher's experts_per_token
  friend bool operator==(const DenseStartConfig&, const DenseStartConfig&) = default;
};

/// 0: as the teacher has it.
struct WidthStartConfig {
  std::int64_t mlp_width = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t width = 0;
  friend bool operator==(const WidthStartConfig&, const WidthStartConfig&) = default;
};

struct StudentInitConfig {
  LayerChoice choice = LayerChoice::BlockInfluence;
  std::int64_t num_layers = 0;  // 0: all of the teacher's
  std::vector<std::int64_t> layers;
  std::int64_t calibration_tokens = 4096;
  std::optional<UpcycleConfig> upcycle;
  std::int64_t greedy_tokens = 1024;
  std::optional<ExpertStartConfig> experts;
  std::optional<DenseStartConfig> dense;
  std::optional<WidthStartConfig> width;
  std::int64_t report_tokens = 1024;
  std::int64_t vocabulary_count = 0;  // 0: the whole vocabulary
  friend bool operator==(const StudentInitConfig&, const StudentInitConfig&) = default;
};

/// One of several texts.
struct DataSourceConfig {
  std::string tokens = {};  // as those of DataConfig
  std::vector<std::string> text = {};
  double weight = 1;  // of its samples among those of all sources
  data::TextFormat format = data::TextFormat::Auto;
  std::string field = "text";
  bool parse_special = false;
  std::string name = {};  // empty: its place
  friend bool operator==(const DataSourceConfig&, const DataSourceConfig&) = default;
};

struct DataConfig {
  std::string tokens;             // PREFIX of a token file, or empty
  std::vector<std::string> text;  // files and folders
  std::string tokenizer = "teacher";
  std::string cache_dir = ".cache/tokens";
  std::int64_t sequence_length = 256;
  double held_out_fraction = 0.05;
  std::uint64_t seed = 1;
  data::TextFormat format = data::TextFormat::Auto;
  std::string field = "text";             // of JSON lines
  bool parse_special = false;             // names of special tokens in the text become those tokens
  std::vector<DataSourceConfig> sources;  // instead of tokens or text
  friend bool operator==(const DataConfig&, const DataConfig&) = default;
};

struct HiddenStatesConfig {
  double weight = 0;
  kernels::RowDistance distance = kernels::RowDistance::Cosine;
  std::vector<std::int64_t> layers;  // the teacher's, of each of the student's; -1: none. Empty: as they fit
  bool projector = false;
  friend bool operator==(const HiddenStatesConfig&, const HiddenStatesConfig&) = default;
};

struct RouterMatchConfig {
  double weight = 0;
  std::vector<std::int64_t> layers;  // as HiddenStatesConfig's
  bool by_load = true;
  friend bool operator==(const RouterMatchConfig&, const RouterMatchConfig&) = default;
};

struct UpdateMatchConfig {
  double weight = 0;
  kernels::RowDistance distance = kernels::RowDistance::Cosine;
  std::vector<std::int64_t> layers;
  friend bool operator==(const UpdateMatchConfig&, const UpdateMatchConfig&) = default;
};

enum class SampledBy : std::uint8_t { Student, Teacher };

struct SampledTextConfig {
  SampledBy by = SampledBy::Student;
  double fraction = 0.5;  // of the steps, above 0
  std::int64_t first_step = 1;
  std::int64_t prompt_tokens = 64;
  double temperature = 0.9;
  kernels::Divergence divergence = kernels::Divergence::JensenShannon;
  std::optional<double> mix;  // none: the divergence's usual one
  double cross_entropy_weight = 0;
  std::int64_t steps_at_once = 1;
  std::int64_t texts_at_once = 64;
  friend bool operator==(const SampledTextConfig&, const SampledTextConfig&) = default;
};

enum class Control : std::uint8_t { None, ShuffledPositions, SmoothedLabels, Untrained };
enum class Bridge : std::uint8_t { None, Spans, Uld };
struct PreferenceConfig {
  double beta = 0.1;
  friend bool operator==(const PreferenceConfig&, const PreferenceConfig&) = default;
};

struct RewardConfig {
  double center = 0;
  friend bool operator==(const RewardConfig&, const RewardConfig&) = default;
};

struct ObjectiveConfig {
  double cross_entropy_weight = 0.5;  // alpha
  double temperature = 1.0;
  kernels::Divergence divergence = kernels::Divergence::ForwardKl;
  std::optional<double> mix;  // none: the divergence's usual one
  std::optional<double> final_cross_entropy_weight;
  std::optional<double> final_temperature;
  HiddenStatesConfig hidden_states;
  std::optional<SampledTextConfig> sampled_text;
  Control control = Control::None;
  double smoothing = 0.1;
  bool renormalised = false;
  double predict_weight = 0.3;
  std::optional<PreferenceConfig> preference;
  std::optional<RewardConfig> reward;
  RouterMatchConfig routers;
  UpdateMatchConfig attention, feed_forward;
  Bridge bridge = Bridge::None;

  /// Whether the text is of pairs of responses.
  bool has_pairs() const { return preference || reward; }
  friend bool operator==(const ObjectiveConfig&, const ObjectiveConfig&) = default;
};

struct MoeLossConfig {
  double balance_weight = 0.01;
  double z_weight = 0.001;
  nn::BalanceScope balance_scope = nn::BalanceScope::Sequence;
  friend bool operator==(const MoeLossConfig&, const MoeLossConfig&) = default;
};

struct RoutingConfig {
  double capacity_factor = 0;
  double jitter = 0;
  double bias_rate = 0.001;
  bool expert_choice = false;

  /// Whether tokens may be without some of their experts, or any.
  bool leaves_out() const { return expert_choice || capacity_factor > 0; }
  friend bool operator==(const RoutingConfig&, const RoutingConfig&) = default;
};

enum class OptimizerKind : std::uint8_t { AdamW, Muon };

struct OptimizerGroupConfig {
  std::string pattern;
  double rate_factor = 1;
  std::optional<double> weight_decay;
  bool frozen = false;
  bool adamw = false;
  friend bool operator==(const OptimizerGroupConfig&, const OptimizerGroupConfig&) = default;
};

struct OptimizerConfig {
  OptimizerKind kind = OptimizerKind::AdamW;
  double rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip_norm = 1.0;  // 0: never
  std::vector<OptimizerGroupConfig> groups;
  double momentum = 0.95;
  double adamw_rate_factor = 1;
  bool eight_bit_state = false;
  bool offload = false;
  friend bool operator==(const OptimizerConfig&, const OptimizerConfig&) = default;
};

enum class ScheduleKind : std::uint8_t { Cosine, Constant, Linear, WarmupStableDecay };
enum class ScheduleDecay : std::uint8_t { Linear, Cosine, OneMinusSqrt };

struct ScheduleConfig {
  ScheduleKind kind = ScheduleKind::Cosine;
  std::int64_t warmup_steps = 10;
  double final_rate_fraction = 0.1;
  double decay_fraction = 0.2;  // of the steps
  ScheduleDecay decay = ScheduleDecay::OneMinusSqrt;
  friend bool operator==(const ScheduleConfig&, const ScheduleConfig&) = default;
};

struct BatchConfig {
  std::int64_t sequences_per_step = 8;  // of all ranks
  std::int64_t micro_batches = 1;
  friend bool operator==(const BatchConfig&, const BatchConfig&) = default;
};

enum class DeviceKind : std::uint8_t { Auto, Cpu, Cuda };

struct TrainConfig {
  std::int64_t steps = 1000;           // of no meaning while one of the next two is there
  std::optional<std::int64_t> tokens;  // resolve_steps makes steps of them
  std::optional<double> epochs;
  std::uint64_t seed = 1;
  bool recompute = false;
  std::int64_t checkpoint_every_steps = 100;  // 0: only at the end
  std::int64_t keep_checkpoints = 2;
  std::int64_t keep_every_steps = 0;  // 0: none for that
  bool save_in_background = true;
  std::int64_t eval_every_steps = 0;  // 0: only before and after
  std::int64_t eval_tokens = 8192;
  std::int64_t log_every_steps = 10;
  std::int64_t threads = 0;  // of a rank; 0: see launch/run/threads.h
  DeviceKind device = DeviceKind::Auto;
  bool cuda_graph = false;
  std::string keep_best;                                 // a figure (figure.h); empty: none
  std::int64_t stop_after_evaluations_without_gain = 0;  // 0: never
  friend bool operator==(const TrainConfig&, const TrainConfig&) = default;
};

struct AdaptersConfig {
  std::int64_t rank = 8;
  double alpha = 16;
  std::vector<std::string> targets;  // empty: attention's
  friend bool operator==(const AdaptersConfig&, const AdaptersConfig&) = default;
};

enum class GuardAction : std::uint8_t { Skip, RollBack };

struct GuardConfig {
  GuardAction action = GuardAction::Skip;
  double deviations = 8;
  std::int64_t window = 64;
  std::int64_t most = 8;
  friend bool operator==(const GuardConfig&, const GuardConfig&) = default;
};

enum class QuantisedWeights : std::uint8_t { None, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0 };

struct PrecisionConfig {
  core::DType compute = core::DType::F32;
  core::DType master = core::DType::F32;
  core::DType gradient = core::DType::F32;
  core::DType reduction = core::DType::F32;
  core::DType frozen_storage = core::DType::F32;
  bool bfloat16_weights = false;
  bool bfloat16_residual = false;
  bool bfloat16_teacher = false;
  bool float32_teacher = false;
  bool mapped_teacher = false;
  bool sharded_teacher = false;
  bool offload_teacher = false;
  bool fp8_products = false;
  QuantisedWeights quantised_weights = QuantisedWeights::None;
  QuantisedWeights quantised_teacher = QuantisedWeights::None;
  friend bool operator==(const PrecisionConfig&, const PrecisionConfig&) = default;
};

enum class PipelineKind : std::uint8_t { OneFOneB, Interleaved, ZeroBubble };

enum class ExpertExchange : std::uint8_t { Auto, Flat, TwoLevel };

enum class Shard : std::uint8_t { Nothing, Optimizer, Gradients, Parameters };

struct ParallelConfig {
  std::string layout;  // parsed by parallel/; "": data parallel over all ranks
  bool sequence_parallel = false;
  double bucket_mib = 16;
  double deadline_s = 600;
  std::int64_t teacher_ranks = 0;  // 0: the teacher runs on the student's
  std::string teacher_layout;      // "": data parallel over them; without them over the student's ranks: theirs
  ExpertExchange expert_exchange = ExpertExchange::Auto;
  Shard shard = Shard::Nothing;
  std::int64_t shard_ranks = 0;  // 0: all that train the same parameters
  std::int64_t expert_replicas = 0;
  std::int64_t deal_experts_every_steps = 0;  // 0: never
  std::int64_t expert_chunks = 1;
  std::int64_t tensor_chunks = 1;
  // With pp in the layout:
  PipelineKind schedule = PipelineKind::OneFOneB;
  std::int64_t chunks = 1;
  std::vector<std::int64_t> stages;  // layers of each chunk, in the model's order; empty: by cost
  friend bool operator==(const ParallelConfig&, const ParallelConfig&) = default;
};

struct GenerationConfig {
  std::string prompt;
  std::int64_t max_tokens = 64;
  double temperature = 0.8;
  std::int64_t top_k = 40;  // 0: all
  double top_p = 0.95;
  std::uint64_t seed = 1;
  friend bool operator==(const GenerationConfig&, const GenerationConfig&) = default;
};

struct OutputConfig {
  std::string dir;         // load_config fills in runs/<name of the config file>, or names joined by +
  std::string started_in;  // the working directory of the run that wrote the config
  friend bool operator==(const OutputConfig&, const OutputConfig&) = default;
};

struct EvaluationSetConfig {
  std::string name;
  std::vector<std::string> text;  // as those of DataSourceConfig
  std::string tokens;
  data::TextFormat format = data::TextFormat::Auto;
  std::string field = "text";
  bool parse_special = false;
  std::int64_t every_steps = 0;  // 0: train.eval_every_steps
  friend bool operator==(const EvaluationSetConfig&, const EvaluationSetConfig&) = default;
};

struct EvaluationConfig {
  std::vector<EvaluationSetConfig> set;
  friend bool operator==(const EvaluationConfig&, const EvaluationConfig&) = default;
};

struct RunConfig {
  std::optional<ModelSection> model;
  std::optional<TeacherConfig> teacher;
  std::optional<StudentInitConfig> student_init;
  DataConfig data;
  ObjectiveConfig objective;
  MoeLossConfig moe_loss;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  BatchConfig batch;
  TrainConfig train;
  PrecisionConfig precision;
  ParallelConfig parallel;
  GenerationConfig generation;
  OutputConfig output;
  RoutingConfig routing;
  EvaluationConfig evaluation;
  std::optional<AdaptersConfig> adapters;
  std::optional<GuardConfig> guard;
  friend bool operator==(const RunConfig&, const RunConfig&) = default;
};

/// A file, and what is set over it before the next one.
struct ConfigPart {
  std::filesystem::path path;
  std::vector<std::string> sets = {};
  std::optional<std::string> text = std::nullopt;  // in place of the file, which stands in messages alone
};

/// Reads textproto files, lays each over those before (its scalars replace, sections are merged, lists appended), then
/// applies `sets` ("section.field=value", in order, docs/runs.md; strings need no quotes), fills in derived values and
/// checks every range.
RunConfig load_config(const std::vector<ConfigPart>& parts, const std::vector<std::string>& sets = {});
RunConfig load_config(const std::filesystem::path& path, const std::vector<std::string>& sets = {});

/// As load_config, from text; `name` stands for the file in messages.
RunConfig parse_config(const std::string& text, const std::string& name, const std::vector<std::string>& sets = {});

/// data.sources, or the one source that data.tokens or data.text names; none where neither is given.
std::vector<DataSourceConfig> sources_of(const DataConfig& data);

/// What a source of a mixture is called: its name, or its place among the sources.
std::string name_of_source(const DataConfig& data, std::size_t place);

/// Every field of the sections that are there, in text format.
std::string to_textproto(const RunConfig& config);

/// Makes train.steps of train.tokens or train.epochs, whichever is there, and takes that away. An epoch is
/// `sequences_per_epoch` sequences. Throws a UsageError where the steps are too many to be counted.
void resolve_steps(RunConfig& config, std::int64_t sequences_per_epoch);

/// A line for every field: its path, its default and what it may be, for --help-fields.
std::string fields_as_text();

/// What preferences are learnt against where no teacher is named: model.source, as it is.
void name_reference(RunConfig& config);

/// Throw a UsageError where a section that the command needs is missing or contradicts another.
void check_for_train(const RunConfig& config);
void check_for_distill(const RunConfig& config);

}  // namespace limbeck::launch
