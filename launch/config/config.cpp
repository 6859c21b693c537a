#include "launch/config/config.h"

#include <fcntl.h>
#include <google/protobuf/text_format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "data/files/file_kind.h"
#include "launch/config/config_checks.h"
#include "launch/config/config_fields.h"
#include "launch/config/config_text.h"

namespace limbeck::launch {

using core::DType;
using core::fail_usage;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

namespace {

/// Also of a pipe, as in train <(make_config); one that nothing comes of for ten seconds is refused.
std::string read_config(const std::filesystem::path& path) {
  constexpr int most_wait_ms = 10'000;
  constexpr std::size_t most_bytes = std::size_t{1} << 24U;
  const auto refuse = [&](const std::string& why) {
    fail_usage("{}: {}, expected a config in text format (see examples/)", path.string(), why);
  };
  struct Descriptor {
    int number;
    ~Descriptor() {
      if (number >= 0) ::close(number);
    }
  };
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.number < 0) refuse("cannot be read");
  std::string text;
  std::array<char, 65536> part{};
  for (ssize_t got = 1; got != 0; text.append(part.data(), static_cast<std::size_t>(got))) {
    pollfd waited{file.number, POLLIN, 0};
    if (::poll(&waited, 1, most_wait_ms) == 0) refuse("nothing comes of it for ten seconds");
    got = ::read(file.number, part.data(), part.size());
    if (got < 0) refuse("cannot be read");
    if (text.size() > most_bytes) refuse("has more than 16 MiB");
  }
  if (text.starts_with(data::byte_order_mark)) text.erase(0, data::byte_order_mark.size());
  const data::FileKind kind = data::kind_of(text.substr(0, data::kind_bytes));
  if (!kind.name.empty() && kind.name != "empty") refuse("is " + std::string(kind.name));
  return text;
}

// The plain enumerations have the numbers of the schema's.
template <class E>
int number_of(E value) {
  return static_cast<int>(value);
}
static_assert(static_cast<int>(data::CacheKind::Full) == config::Teacher::FULL);
static_assert(static_cast<int>(data::CacheKind::Sampled) == config::Teacher::SAMPLED);
static_assert(static_cast<int>(LayerChoice::BlockInfluence) == config::StudentInit::BLOCK_INFLUENCE);
static_assert(static_cast<int>(LayerChoice::EvenlySpaced) == config::StudentInit::EVENLY_SPACED);
static_assert(static_cast<int>(LayerChoice::List) == config::StudentInit::LIST);
static_assert(static_cast<int>(LayerChoice::GreedyKl) == config::StudentInit::GREEDY_KL);
static_assert(static_cast<int>(ExpertRule::RoutedNorm) == config::ExpertStart::ROUTED_NORM);
static_assert(static_cast<int>(ExpertRule::Load) == config::ExpertStart::LOAD);
static_assert(static_cast<int>(ExpertRule::Merge) == config::ExpertStart::MERGE);
static_assert(static_cast<int>(OptimizerKind::AdamW) == config::Optimizer::ADAMW);
static_assert(static_cast<int>(OptimizerKind::Muon) == config::Optimizer::MUON);
static_assert(static_cast<int>(ScheduleKind::Cosine) == config::Schedule::COSINE);
static_assert(static_cast<int>(ScheduleKind::Constant) == config::Schedule::CONSTANT);
static_assert(static_cast<int>(ScheduleKind::Linear) == config::Schedule::LINEAR);
static_assert(static_cast<int>(ScheduleKind::WarmupStableDecay) == config::Schedule::WARMUP_STABLE_DECAY);
static_assert(static_cast<int>(ScheduleDecay::Linear) == config::Schedule::LINEAR_DECAY);
static_assert(static_cast<int>(ScheduleDecay::Cosine) == config::Schedule::COSINE_DECAY);
static_assert(static_cast<int>(ScheduleDecay::OneMinusSqrt) == config::Schedule::ONE_MINUS_SQRT);
static_assert(static_cast<int>(DeviceKind::Cpu) == config::Train::CPU);
static_assert(static_cast<int>(DeviceKind::Cuda) == config::Train::CUDA);
static_assert(static_cast<int>(nn::HeadNorm::EachHead) == config::Model::EACH_HEAD);
static_assert(static_cast<int>(nn::HeadNorm::AllHeads) == config::Model::ALL_HEADS);
static_assert(static_cast<int>(nn::NormPlacement::After) == config::Model::AFTER);
static_assert(static_cast<int>(nn::NormPlacement::Around) == config::Model::AROUND);
static_assert(static_cast<int>(nn::Activation::GeluTanh) == config::Model::GELU_TANH);
static_assert(static_cast<int>(nn::Activation::ClampedSwish) == config::Model::CLAMPED_SWISH);
static_assert(static_cast<int>(nn::NormKind::Layer) == config::Model::LAYER);
static_assert(static_cast<int>(nn::Positions::Learned) == config::Model::LEARNED);
static_assert(static_cast<int>(nn::RopeScaling::Kind::Linear) == config::RopeScaling::LINEAR);
static_assert(static_cast<int>(nn::RopeScaling::Kind::Llama3) == config::RopeScaling::LLAMA3);
static_assert(static_cast<int>(nn::RopeScaling::Kind::Yarn) == config::RopeScaling::YARN);
static_assert(static_cast<int>(nn::RopeScaling::Kind::LongRope) == config::RopeScaling::LONGROPE);
static_assert(static_cast<int>(nn::RouterKind::SparseMixer) == config::Moe::SPARSE_MIXER);
static_assert(static_cast<int>(nn::RouterScores::Sigmoid) == config::Moe::SIGMOID);
static_assert(static_cast<int>(nn::GroupScore::BestTwo) == config::Moe::BEST_TWO);
static_assert(static_cast<int>(kernels::Divergence::ForwardKl) == config::Objective::FORWARD_KL);
static_assert(static_cast<int>(kernels::Divergence::ReverseKl) == config::Objective::REVERSE_KL);
static_assert(static_cast<int>(kernels::Divergence::JensenShannon) == config::Objective::JENSEN_SHANNON);
static_assert(static_cast<int>(kernels::Divergence::SkewKl) == config::Objective::SKEW_KL);
static_assert(static_cast<int>(kernels::Divergence::ReverseSkewKl) == config::Objective::REVERSE_SKEW_KL);
static_assert(static_cast<int>(kernels::Divergence::TotalVariation) == config::Objective::TOTAL_VARIATION);
static_assert(static_cast<int>(SampledBy::Student) == config::Objective::SampledText::STUDENT);
static_assert(static_cast<int>(SampledBy::Teacher) == config::Objective::SampledText::TEACHER);
static_assert(static_cast<int>(Control::None) == config::Objective::NONE);
static_assert(static_cast<int>(Control::Untrained) == config::Objective::UNTRAINED);
static_assert(static_cast<int>(Bridge::None) == config::Objective::NO_BRIDGE);
static_assert(static_cast<int>(Bridge::Spans) == config::Objective::SPANS);
static_assert(static_cast<int>(Bridge::Uld) == config::Objective::ULD);
static_assert(static_cast<int>(kernels::RowDistance::Cosine) == config::Objective::HiddenStates::COSINE);
static_assert(static_cast<int>(kernels::RowDistance::SquaredError) == config::Objective::HiddenStates::SQUARED_ERROR);
static_assert(static_cast<int>(nn::BalanceScope::Sequence) == config::MoeLoss::SEQUENCE);
static_assert(static_cast<int>(nn::BalanceScope::GlobalBatch) == config::MoeLoss::GLOBAL_BATCH);
static_assert(static_cast<int>(data::TextFormat::Auto) == config::Data::AUTO);
static_assert(static_cast<int>(data::TextFormat::Plain) == config::Data::PLAIN);
static_assert(static_cast<int>(data::TextFormat::JsonLines) == config::Data::JSON_LINES);
static_assert(static_cast<int>(data::TextFormat::Chat) == config::Data::CHAT);
static_assert(static_cast<int>(data::TextFormat::Pairs) == config::Data::PAIRS);
static_assert(static_cast<int>(GuardAction::Skip) == config::Guard::SKIP);
static_assert(static_cast<int>(GuardAction::RollBack) == config::Guard::ROLL_BACK);
static_assert(static_cast<int>(QuantisedWeights::Q8_0) == config::Precision::Q8_0);
static_assert(static_cast<int>(QuantisedWeights::Q6_K) == config::Precision::Q6_K);
static_assert(static_cast<int>(QuantisedWeights::Q5_K_M) == config::Precision::Q5_K_M);
static_assert(static_cast<int>(QuantisedWeights::Q4_K_M) == config::Precision::Q4_K_M);
static_assert(static_cast<int>(QuantisedWeights::Q4_0) == config::Precision::Q4_0);
static_assert(static_cast<int>(PipelineKind::OneFOneB) == config::Parallel::ONE_F_ONE_B);
static_assert(static_cast<int>(PipelineKind::Interleaved) == config::Parallel::INTERLEAVED);
static_assert(static_cast<int>(PipelineKind::ZeroBubble) == config::Parallel::ZERO_BUBBLE);
static_assert(static_cast<int>(ExpertExchange::Auto) == config::Parallel::AUTO);
static_assert(static_cast<int>(ExpertExchange::TwoLevel) == config::Parallel::TWO_LEVEL);
static_assert(static_cast<int>(Shard::Nothing) == config::Parallel::NOTHING);
static_assert(static_cast<int>(Shard::Parameters) == config::Parallel::PARAMETERS);
static_assert(static_cast<int>(DType::F32) == config::FLOAT32);
static_assert(static_cast<int>(DType::F64) == config::FLOAT64);
static_assert(static_cast<int>(DType::BF16) == config::BFLOAT16);

/// Fills structs from a message: fields that are absent keep their default, others are checked against their range.
class Reader {
 public:
  Reader(const Message& message, std::string prefix, const ParsedConfig& parsed)
      : message_(message), prefix_(std::move(prefix)), parsed_(parsed) {}

  void operator()(const char* name, bool& value) {
    if (has(name)) value = reflection().GetBool(message_, field(name));
  }
  void operator()(const char* name, std::string& value) {
    if (has(name)) value = reflection().GetString(message_, field(name));
  }
  void operator()(const char* name, std::uint64_t& value) {
    if (has(name)) value = reflection().GetUInt64(message_, field(name));
  }
  void operator()(const char* name, std::int64_t& value, const Range& range) {
    if (has(name)) value = reflection().GetInt64(message_, field(name));
    check_range(name, value, range);
  }
  void operator()(const char* name, double& value, const Range& range) {
    if (has(name)) value = reflection().GetDouble(message_, field(name));
    check_range(name, value, range);
  }
  /// A count that follows from others where it is absent or 0.
  void derived(const char* name, std::int64_t& value, std::int64_t otherwise) {
    value = has(name) ? reflection().GetInt64(message_, field(name)) : 0;
    check_range(name, value, at_least(0));
    if (value == 0) value = otherwise;
  }
  void operator()(const char* name, std::vector<std::string>& values) {
    values.clear();
    for (int i = 0; i < reflection().FieldSize(message_, field(name)); ++i)
      values.push_back(reflection().GetRepeatedString(message_, field(name), i));
  }
  void operator()(const char* name, std::vector<std::int64_t>& values) {
    values.clear();
    for (int i = 0; i < reflection().FieldSize(message_, field(name)); ++i)
      values.push_back(reflection().GetRepeatedInt64(message_, field(name), i));
  }
  void operator()(const char* name, std::vector<double>& values) {
    values.clear();
    for (int i = 0; i < reflection().FieldSize(message_, field(name)); ++i)
      values.push_back(reflection().GetRepeatedDouble(message_, field(name), i));
  }
  template <class E>
  requires std::is_enum_v<E>
  void operator()(const char* name, E& value) {
    if (!has(name)) return;
    const int number = reflection().GetEnumValue(message_, field(name));  // proto3 lets unknown numbers in
    if (field(name)->enum_type()->FindValueByNumber(number) == nullptr)
      fail_usage("{}: {}{} is {}, expected one of its names", place(name), prefix_, name, number);
    value = static_cast<E>(number);
  }
  template <class Section>
  requires std::is_class_v<Section>
  void operator()(const char* name, Section& section) {
    Reader nested(reflection().GetMessage(message_, field(name)), prefix_ + name + ".", parsed_);
    fields(nested, section);
  }
  template <class Section>
  void operator()(const char* name, std::optional<Section>& section) {
    section.reset();
    if (has(name)) (*this)(name, section.emplace());
  }
  template <class Number>
  requires std::is_arithmetic_v<Number>
  void operator()(const char* name, std::optional<Number>& value, const Range& range) {
    value.reset();
    if (has(name)) (*this)(name, value.emplace(), range);
  }
  /// A list of sections; the places of section i are those of "name[i]".
  template <class Section>
  requires std::is_class_v<Section>
  void operator()(const char* name, std::vector<Section>& sections) {
    sections.clear();
    for (int i = 0; i < reflection().FieldSize(message_, field(name)); ++i) {
      Reader nested(reflection().GetRepeatedMessage(message_, field(name), i),
                    fmt::format("{}{}[{}].", prefix_, name, i), parsed_);
      fields(nested, sections.emplace_back());
    }
  }

 private:
  const google::protobuf::Reflection& reflection() const { return *message_.GetReflection(); }
  const FieldDescriptor* field(const char* name) const { return message_.GetDescriptor()->FindFieldByName(name); }
  bool has(const char* name) const { return reflection().HasField(message_, field(name)); }
  std::string place(const char* name) const { return parsed_.place_of(prefix_ + name); }
  template <class T>
  void check_range(const char* name, T value, const Range& range) const {
    if (!range.contains(static_cast<double>(value)))
      fail_usage("{}: {}{} is {}, expected {}", place(name), prefix_, name, value, range.expected);
  }

  const Message& message_;
  std::string prefix_;
  const ParsedConfig& parsed_;
};

/// The reverse of Reader: every field of every section that is there.
class Writer {
 public:
  explicit Writer(Message& message) : message_(message) {}

  void operator()(const char* name, bool value) { reflection().SetBool(&message_, field(name), value); }
  void operator()(const char* name, std::string& value) { reflection().SetString(&message_, field(name), value); }
  void operator()(const char* name, std::uint64_t value) { reflection().SetUInt64(&message_, field(name), value); }
  void operator()(const char* name, std::int64_t value, const Range&) {
    reflection().SetInt64(&message_, field(name), value);
  }
  void operator()(const char* name, double value, const Range&) {
    reflection().SetDouble(&message_, field(name), value);
  }
  void derived(const char* name, std::int64_t value, std::int64_t) {
    reflection().SetInt64(&message_, field(name), value);
  }
  void operator()(const char* name, std::vector<std::string>& values) {
    for (const auto& value : values) reflection().AddString(&message_, field(name), value);
  }
  void operator()(const char* name, std::vector<std::int64_t>& values) {
    for (const auto value : values) reflection().AddInt64(&message_, field(name), value);
  }
  void operator()(const char* name, std::vector<double>& values) {
    for (const double value : values) reflection().AddDouble(&message_, field(name), value);
  }
  template <class E>
  requires std::is_enum_v<E>
  void operator()(const char* name, E value) { reflection().SetEnumValue(&message_, field(name), number_of(value)); }
  template <class Section>
  requires std::is_class_v<Section>
  void operator()(const char* name, Section& section) {
    Writer nested(*reflection().MutableMessage(&message_, field(name)));
    fields(nested, section);
  }
  template <class Section>
  void operator()(const char* name, std::optional<Section>& section) {
    if (section) (*this)(name, *section);
  }
  template <class Number>
  requires std::is_arithmetic_v<Number>
  void operator()(const char* name, std::optional<Number> value, const Range& range) {
    if (value) (*this)(name, *value, range);
  }
  template <class Section>
  requires std::is_class_v<Section>
  void operator()(const char* name, std::vector<Section>& sections) {
    for (Section& section : sections) {
      Writer nested(*reflection().AddMessage(&message_, field(name)));
      fields(nested, section);
    }
  }

 private:
  const google::protobuf::Reflection& reflection() const { return *message_.GetReflection(); }
  const FieldDescriptor* field(const char* name) const { return message_.GetDescriptor()->FindFieldByName(name); }

  Message& message_;
};

std::string print(RunConfig config) {
  config::Config message;
  Writer writer(message);
  fields(writer, config);
  std::string text;
  google::protobuf::TextFormat::PrintToString(message, &text);
  return text;
}

RunConfig complete(ParsedConfig parsed, const std::vector<std::string>& sets, const std::string& run) {
  apply_sets(parsed, sets);
  RunConfig config;
  Reader reader(parsed.message, "", parsed);
  fields(reader, config);
  check_whole(config, parsed);
  if (config.output.dir.empty()) config.output.dir = "runs/" + run;
  return config;
}

void check_data(const RunConfig& config, std::string_view command) {
  if (sources_of(config.data).empty())
    fail_usage("{}: none of data.text, data.tokens and data.sources is given, expected one of them", command);
}

}  // namespace

std::vector<DataSourceConfig> sources_of(const DataConfig& data) {
  if (!data.sources.empty()) return data.sources;
  if (data.tokens.empty() && data.text.empty()) return {};
  return {{.tokens = data.tokens,
           .text = data.text,
           .format = data.format,
           .field = data.field,
           .parse_special = data.parse_special}};
}

std::string name_of_source(const DataConfig& data, std::size_t place) {
  const std::string& name = data.sources.at(place).name;
  return name.empty() ? fmt::format("{}", place) : name;
}

RunConfig parse_config(const std::string& text, const std::string& name, const std::vector<std::string>& sets) {
  return load_config({ConfigPart{.path = name, .text = text}}, sets);
}

RunConfig load_config(const std::vector<ConfigPart>& parts, const std::vector<std::string>& sets) {
  std::optional<ParsedConfig> whole;
  std::string stems;
  for (const auto& [path, sets_of_part, text] : parts) {
    ParsedConfig part = parse_text(text ? *text : read_config(path), path.string());
    apply_sets(part, sets_of_part);
    if (whole) stems += '+';
    stems += path.stem().string();
    if (whole) {
      merge(*whole, part);
      whole->name += ", " + part.name;
    } else {
      whole = std::move(part);
    }
  }
  return complete(whole.value(), sets, stems);
}

RunConfig load_config(const std::filesystem::path& path, const std::vector<std::string>& sets) {
  return load_config(std::vector<ConfigPart>{{path}}, sets);
}

void resolve_steps(RunConfig& config, std::int64_t sequences_per_epoch) {
  TrainConfig& train = config.train;
  if (train.tokens) {
    const auto pieces = [](std::int64_t n, std::int64_t of) { return (n - 1) / of + 1; };
    train.steps = pieces(pieces(*train.tokens, config.data.sequence_length), config.batch.sequences_per_step);
  } else if (train.epochs) {
    constexpr double most_steps = 1e15;
    constexpr double rounding = 1e-12;  // 0.3 of ten sequences are three, though 0.3 is a little more in binary
    const double sequences = *train.epochs * static_cast<double>(sequences_per_epoch) * (1 - rounding);
    const double steps = std::ceil(sequences / static_cast<double>(config.batch.sequences_per_step));
    if (steps > most_steps)
      fail_usage("train.epochs is {}: {} steps of {} sequences, expected at most {}", *train.epochs, steps,
                 config.batch.sequences_per_step, most_steps);
    train.steps = static_cast<std::int64_t>(steps);
  }
  train.tokens.reset();
  train.epochs.reset();
}

std::string to_textproto(const RunConfig& config) { return print(config); }

void name_reference(RunConfig& config) {
  if (!config.objective.preference || !config.model) return;
  if (!config.teacher) config.teacher.emplace();
  if (config.teacher->source.empty()) config.teacher->source = config.model->source;
}

void check_for_train(const RunConfig& config) {
  if (!config.model) fail_usage("train: there is no section model, expected the architecture or model.source");
  const ObjectiveConfig& objective = config.objective;
  for (const auto& [name, is_there] : {std::pair("teacher", config.teacher.has_value() && !objective.preference),
                                       std::pair("student_init", config.student_init.has_value())})
    if (is_there) fail_usage("train: there is a section {}, expected none: only distill has a teacher", name);
  if (config.parallel.teacher_ranks > 0)
    fail_usage("train: parallel.teacher_ranks is {}, expected 0: only distill has a teacher",
               config.parallel.teacher_ranks);
  if (!config.parallel.teacher_layout.empty())
    fail_usage("train: parallel.teacher_layout is {}, expected none: only distill has a teacher",
               config.parallel.teacher_layout);
  if (objective.preference && config.model->source.empty() && (!config.teacher || config.teacher->source.empty()))
    fail_usage("train: objective.preference is given, but no reference: expected model.source, or teacher.source");
  for (const auto& [name, value] : {std::pair("hidden_states.weight", objective.hidden_states.weight),
                                    std::pair("routers.weight", objective.routers.weight),
                                    std::pair("attention.weight", objective.attention.weight),
                                    std::pair("feed_forward.weight", objective.feed_forward.weight)})
    if (value > 0) fail_usage("train: objective.{} is {}, expected 0 without a teacher", name, value);
  const bool is_of_run = !config.output.started_in.empty();  // whose teacher may have been taken away
  for (const auto& [name, is_given] :
       {std::pair("divergence", objective.divergence != kernels::Divergence::ForwardKl),
        std::pair("control", objective.control != Control::None), std::pair("bridge", objective.bridge != Bridge::None),
        std::pair("sampled_text", !is_of_run && objective.sampled_text.has_value()),
        std::pair("cross_entropy_weight",
                  !is_of_run && objective.cross_entropy_weight != ObjectiveConfig{}.cross_entropy_weight),
        std::pair("temperature", !is_of_run && objective.temperature != ObjectiveConfig{}.temperature),
        std::pair("final_cross_entropy_weight", objective.final_cross_entropy_weight.has_value()),
        std::pair("final_temperature", objective.final_temperature.has_value())})
    if (is_given) fail_usage("train: objective.{} is given, expected none without a teacher", name);
  const std::string& tokenizer = config.data.tokenizer;
  if (config.model->source.empty() && (tokenizer == "model" || tokenizer == "teacher"))
    fail_usage(
        "train: data.tokenizer is \"{}\" but model.source is empty, expected \"bytes\" or a file with a tokenizer",
        tokenizer);
  check_data(config, "train");
}

void check_for_distill(const RunConfig& config) {
  if (config.objective.preference)
    fail_usage("distill: objective.preference is given, expected none: train learns from preferences");
  if (config.objective.reward)
    fail_usage("distill: objective.reward is given, expected none: train learns from preferences");
  const bool is_cached = config.teacher && !config.teacher->cache.empty();
  if (!config.teacher || (config.teacher->source.empty() && !(is_cached && config.model)))
    fail_usage("distill: teacher.source is not given, expected a GGUF file, a Hugging Face directory or a checkpoint{}",
               is_cached ? ": student_init cuts the student from it" : "");
  if (config.student_init.has_value() == config.model.has_value())
    fail_usage("distill: {}, expected one of the sections model and student_init",
               config.model ? "both student_init and model are given" : "there is no student");
  check_data(config, "distill");
}

}  // namespace limbeck::launch
