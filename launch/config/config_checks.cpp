#include "launch/config/config_checks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "core/error.h"
#include "launch/config/figure.h"
#include "launch/config/objective_checks.h"
#include "launch/config/teacher_shares.h"

namespace limbeck::launch {

using core::DType;
using core::fail_usage;

namespace {

void check_model(ModelSection& model, const ParsedConfig& parsed) {
  nn::ModelConfig& architecture = model.architecture;
  if (architecture.moe.num_experts == 0)
    architecture.moe = {};
  else if (architecture.moe.expert_width == 0)
    architecture.moe.expert_width = architecture.mlp_width;
  if (!model.source.empty()) return;
  nn::ModelConfig complete = architecture;
  complete.vocabulary = std::max<std::int64_t>(complete.vocabulary, 1);  // 0 stands for the tokenizer's
  try {
    nn::validate(complete, "model");
  } catch (const core::UsageError& error) {
    const std::string what = error.what();  // begins with the field
    fail_usage("{}: {}", parsed.place_of(what.substr(0, what.find_first_of(" :"))), what);
  }
}

void check_upcycle(const UpcycleConfig& upcycle, const ParsedConfig& parsed) {
  const auto place = [&](const char* field) { return parsed.place_of(std::string("student_init.upcycle.") + field); };
  if (upcycle.shared_slices >= upcycle.slices)
    fail_usage("{}: student_init.upcycle.shared_slices is {}, expected less than slices = {}", place("shared_slices"),
               upcycle.shared_slices, upcycle.slices);
  if (upcycle.shared_gate && upcycle.shared_slices == 0)
    fail_usage("{}: student_init.upcycle.shared_gate is true, expected false without shared_slices",
               place("shared_gate"));
  if (const std::int64_t routed = upcycle.slices - upcycle.shared_slices; upcycle.experts % routed != 0)
    fail_usage("{}: student_init.upcycle.experts is {}, expected a multiple of slices{} = {}", place("experts"),
               upcycle.experts, upcycle.shared_slices > 0 ? " - shared_slices" : "", routed);
  if (upcycle.experts_per_token > upcycle.experts)
    fail_usage("{}: student_init.upcycle.experts_per_token is {}, expected 1 to experts = {}",
               place("experts_per_token"), upcycle.experts_per_token, upcycle.experts);
}

/// What becomes of the teacher's experts and widths, and which of it goes together.
void check_parts_of_layers(const StudentInitConfig& c, const ParsedConfig& parsed) {
  const auto place = [&](const char* field) { return parsed.place_of(std::string("student_init.") + field); };
  const auto refuse = [&](const char* field, const char* beside, const char* why) {
    fail_usage("{}: student_init.{} is given with {}, expected one of them: {}", place(field), field, beside, why);
  };
  if (c.experts && c.dense) refuse("dense", "experts", "dense.experts chooses among all of the teacher's experts");
  if (c.upcycle && c.experts) refuse("experts", "upcycle", "only a dense teacher is upcycled");
  if (c.upcycle && c.dense) refuse("dense", "upcycle", "experts that are made dense are not cut again");
  if (c.experts && c.experts->keep == 0)
    fail_usage("{}: student_init.experts.keep is not given, expected how many experts are left", place("experts"));
  if (c.experts && c.experts->experts_per_token > c.experts->keep)
    fail_usage("{}: student_init.experts.experts_per_token is {}, expected 1 to keep = {}, or 0",
               place("experts.experts_per_token"), c.experts->experts_per_token, c.experts->keep);
  if (c.dense && c.width && c.width->mlp_width > 0)
    fail_usage(
        "{}: student_init.width.mlp_width is {} with dense, whose feed-forwards are as wide as their experts: expected "
        "0",
        place("width.mlp_width"), c.width->mlp_width);
}

void check_student_init(const StudentInitConfig& c, const ParsedConfig& parsed) {
  const auto place = [&](const char* field) { return parsed.place_of(std::string("student_init.") + field); };
  if (c.choice != LayerChoice::List && !c.layers.empty())
    fail_usage("{}: student_init.layers is given, expected only with choice: LIST", place("layers"));
  if (c.choice == LayerChoice::List) {
    if (c.layers.empty())
      fail_usage("{}: student_init.layers is empty, expected the layers to keep (choice is LIST)", place("choice"));
    for (std::size_t i = 0; i < c.layers.size(); ++i)
      if (c.layers[i] < (i == 0 ? 0 : c.layers[i - 1] + 1))
        fail_usage("{}: student_init.layers has {} at position {}, expected layers from 0 in ascending order",
                   place("layers"), c.layers[i], i);
    if (c.num_layers != 0 && c.num_layers != static_cast<std::int64_t>(c.layers.size()))
      fail_usage("{}: student_init.num_layers is {}, expected {}, the length of student_init.layers, or 0",
                 place("num_layers"), c.num_layers, c.layers.size());
  }
  check_parts_of_layers(c, parsed);
  if (c.upcycle) check_upcycle(*c.upcycle, parsed);
}

void check_precision(const PrecisionConfig& c, const ParsedConfig& parsed) {
  const auto expect = [&](const char* field, DType value, bool is_valid, std::string_view expected) {
    if (is_valid) return;
    const std::string path = std::string("precision.") + field;
    fail_usage("{}: {} is {}, expected {}", parsed.place_of(path), path, value, expected);
  };
  const DType wide = core::sum_dtype(c.compute);
  const auto same = c.compute == wide ? fmt::format("{}, as precision.compute", wide)
                                      : fmt::format("{} with precision.compute {}", wide, c.compute);
  expect("master", c.master, c.master == wide, same);
  expect("gradient", c.gradient, c.gradient == wide, same);
  expect("reduction", c.reduction, c.reduction == wide, same);
  const bool may_narrow = wide == DType::F32;  // bfloat16 is widened to float32 only
  expect("frozen_storage", c.frozen_storage,
         c.frozen_storage == wide || (may_narrow && c.frozen_storage == DType::BF16),
         fmt::format("{}{}", same, may_narrow ? ", or bfloat16" : ""));
  const auto expect_off = [&](const char* field, bool value, bool may_be_on) {
    const std::string path = std::string("precision.") + field;
    if (value && !may_be_on)
      fail_usage("{}: {} is true, expected false with precision.compute {}", parsed.place_of(path), path, c.compute);
  };
  expect_off("bfloat16_weights", c.bfloat16_weights, may_narrow);
  expect_off("bfloat16_residual", c.bfloat16_residual, c.compute == DType::BF16);
  expect_off("bfloat16_teacher", c.bfloat16_teacher, may_narrow);
  expect_off("float32_teacher", c.float32_teacher, c.compute == DType::BF16);
  if (c.float32_teacher && c.bfloat16_teacher)
    fail_usage("{}: precision.float32_teacher is true, expected false with precision.bfloat16_teacher",
               parsed.place_of("precision.float32_teacher"));
  expect_off("mapped_teacher", c.mapped_teacher, may_narrow);
  if (c.sharded_teacher && c.mapped_teacher)
    fail_usage("{}: precision.sharded_teacher is true, expected false with precision.mapped_teacher",
               parsed.place_of("precision.sharded_teacher"));
  for (const auto& [other, is_given] :
       {std::pair("precision.compute FLOAT64", !may_narrow),
        {"precision.mapped_teacher, by which matrices stay as their file has them", c.mapped_teacher}})
    if (c.quantised_teacher != QuantisedWeights::None && is_given)
      fail_usage("{}: precision.quantised_teacher is given, expected none with {}",
                 parsed.place_of("precision.quantised_teacher"), other);
  expect_off("fp8_products", c.fp8_products, c.compute == DType::BF16);
}

/// What is trained beside a model that stays, or is rounded to what a file holds.
void check_adapters(const RunConfig& config, const ParsedConfig& parsed) {
  if (config.adapters && !config.student_init && (!config.model || config.model->source.empty()))
    fail_usage("{}: adapters are of a model that is there, expected model.source or student_init",
               parsed.place_of("adapters"));
  const PrecisionConfig& precision = config.precision;
  if (precision.quantised_weights == QuantisedWeights::None) return;
  for (const auto& [other, is_given] : {std::pair("precision.compute FLOAT64", precision.compute == DType::F64),
                                        {"precision.bfloat16_weights", precision.bfloat16_weights},
                                        {"adapters", config.adapters.has_value()},
                                        {"train.cuda_graph: the host rounds", config.train.cuda_graph}})
    if (is_given)
      fail_usage("{}: precision.quantised_weights is given, expected none with {}",
                 parsed.place_of("precision.quantised_weights"), other);
}

void check_optimizer(const OptimizerConfig& c, DType compute, const ParsedConfig& parsed) {
  if (c.eight_bit_state && core::sum_dtype(compute) != DType::F32)
    fail_usage("{}: optimizer.eight_bit_state is true, expected false with precision.compute {}",
               parsed.place_of("optimizer.eight_bit_state"), compute);
  for (std::size_t i = 0; i < c.groups.size(); ++i) {
    const std::string path = fmt::format("optimizer.groups[{}]", i);
    if (c.groups[i].pattern.empty())
      fail_usage("{}: {}.pattern is not given, expected one of module paths, such as layers.*.moe.router.weight",
                 parsed.place_of(path), path);
  }
}

/// Of a source of a mixture, or an evaluation set.
template <class Source>
void check_one_text(const Source& source, const std::string& path, const ParsedConfig& parsed) {
  if (source.tokens.empty() != source.text.empty()) return;
  fail_usage("{}: {}{} has {} of tokens and text, expected one of them", parsed.place_of(path), path,
             source.name.empty() ? "" : fmt::format(" (\"{}\")", source.name), source.tokens.empty() ? "none" : "both");
}

void check_data_sources(const DataConfig& c, const ParsedConfig& parsed) {
  if (!c.tokens.empty() && !c.text.empty())
    fail_usage("{}: data.tokens and data.text are both given, expected one of them (--set data.text= clears that)",
               parsed.place_of("data.tokens"));
  if (!c.sources.empty() && (!c.tokens.empty() || !c.text.empty()))
    fail_usage("{}: data.sources and data.{} are both given, expected one of them", parsed.place_of("data.sources"),
               c.tokens.empty() ? "text" : "tokens");
  for (std::size_t i = 0; i < c.sources.size(); ++i)
    check_one_text(c.sources[i], fmt::format("data.sources[{}]", i), parsed);
}

/// Names of figures and tags: fit for "NAME.ce" and for TensorBoard.
void check_set_name(const std::string& name, const std::string& field, const ParsedConfig& parsed) {
  const auto fits = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  };
  if (!std::all_of(name.begin(), name.end(), fits))
    fail_usage("{}: {} is \"{}\", expected letters, digits, _, - and .", parsed.place_of(field), field, name);
}

void check_source_names(const DataConfig& data, const ParsedConfig& parsed) {
  std::set<std::string> names;
  for (std::size_t i = 0; i < data.sources.size(); ++i) {
    const std::string field = fmt::format("data.sources[{}].name", i);
    check_set_name(data.sources[i].name, field, parsed);
    if (!names.insert(name_of_source(data, i)).second)
      fail_usage("{}: data.sources[{}] is called \"{}\", as one before it, expected another name",
                 parsed.place_of(field), i, name_of_source(data, i));
  }
}

void check_evaluation(const EvaluationConfig& evaluation, const ParsedConfig& parsed) {
  std::set<std::string> names;
  for (std::size_t i = 0; i < evaluation.set.size(); ++i) {
    const EvaluationSetConfig& set = evaluation.set[i];
    const std::string path = fmt::format("evaluation.set[{}]", i);
    if (set.name.empty())
      fail_usage("{}: {}.name is not given, expected a name for its figures", parsed.place_of(path), path);
    check_set_name(set.name, path + ".name", parsed);
    if (!names.insert(set.name).second)
      fail_usage("{}: {}.name is \"{}\", as that of a set before it, expected another name",
                 parsed.place_of(path + ".name"), path, set.name);
    check_one_text(set, path, parsed);
  }
}

void check_kept(const TrainConfig& c, const ParsedConfig& parsed) {
  const std::int64_t saved = c.checkpoint_every_steps;
  if (c.keep_every_steps > 0 && (saved == 0 || c.keep_every_steps % saved != 0))
    fail_usage("{}: train.keep_every_steps is {}, expected a multiple of train.checkpoint_every_steps = {}{}",
               parsed.place_of("train.keep_every_steps"), c.keep_every_steps, saved, saved == 0 ? ", or 0" : "");
}

/// How often a figure is measured, in steps: 0: only before and after. Nothing: there is no such set.
std::optional<std::int64_t> steps_between(const FigureName& name, const RunConfig& config) {
  const std::int64_t held_out = config.train.eval_every_steps;
  if (name.set.empty()) return held_out;
  for (std::size_t i = 0; i < config.data.sources.size(); ++i)
    if (config.data.sources.size() > 1 && name.set == "held_out/" + name_of_source(config.data, i)) return held_out;
  for (const EvaluationSetConfig& set : config.evaluation.set)
    if (set.name == name.set) return set.every_steps > 0 ? set.every_steps : held_out;
  return std::nullopt;
}

void check_keep_best(const RunConfig& config, const ParsedConfig& parsed) {
  const TrainConfig& train = config.train;
  if (train.keep_best.empty()) {
    if (train.stop_after_evaluations_without_gain > 0)
      fail_usage("{}: train.stop_after_evaluations_without_gain is {}, expected train.keep_best too: the figure",
                 parsed.place_of("train.stop_after_evaluations_without_gain"),
                 train.stop_after_evaluations_without_gain);
    return;
  }
  const FigureName name = figure_name(train.keep_best);
  const auto refuse = [&](const std::string& expected) {
    fail_usage("{}: train.keep_best is \"{}\", expected {}", parsed.place_of("train.keep_best"), train.keep_best,
               expected);
  };
  if (!is_figure(name))
    refuse(fmt::format("one of {}, of an evaluation set as NAME.FIGURE", fmt::join(figure_names, ", ")));
  const auto steps = steps_between(name, config);
  if (!steps) refuse("a set of evaluation.set before the last dot; or \"held_out/\" and the name of a source");
  if (*steps == 0) refuse("its figure to be measured while training: train.eval_every_steps above 0");
  const bool has_teacher = (config.teacher && (!config.teacher->source.empty() || !config.teacher->cache.empty()) &&
                            config.objective.bridge == Bridge::None) ||
                           config.objective.preference;
  if (needs_teacher(name) && !has_teacher) refuse("a figure without a teacher: there is none");
  if (needs_pairs(name) && !config.objective.has_pairs()) refuse("a figure of text: there are no pairs of responses");
  if (needs_pairs(name) && !name.set.empty() && !name.set.starts_with("held_out/"))
    refuse("a figure of text: evaluation sets have no pairs of responses");
  if (config.objective.reward && !needs_pairs(name))
    refuse("preference_loss, preference_accuracy or preference_margin: a reward head predicts no tokens");
}

/// What a teacher on ranks of its own, or in a layout of its own, whose hidden states alone travel, cannot give.
void check_teacher_apart(const RunConfig& config, const ParsedConfig& parsed) {
  const ParallelConfig& parallel = config.parallel;
  const bool has_ranks = parallel.teacher_ranks > 0;
  if (!has_ranks && parallel.teacher_layout.empty()) return;
  const ObjectiveConfig& c = config.objective;
  const RefusalBeside refuse{parsed, has_ranks ? "parallel.teacher_ranks" : "parallel.teacher_layout"};
  refuse(config.teacher && !config.teacher->cache.empty(), "teacher.cache", "one of the two");
  refuse(config.train.cuda_graph, "train.cuda_graph", "false: a step waits for other ranks");
  refuse(has_ranks && config.student_init && config.student_init->vocabulary_count > 0, "student_init.vocabulary_count",
         "0: those ranks read the teacher's own tokens");
  refuse(c.control != Control::None, "objective.control", "NONE: it stands in the place of a teacher that runs");
  refuse(c.attention.weight > 0, "objective.attention.weight", "0: what attention gives does not travel");
  refuse(c.feed_forward.weight > 0, "objective.feed_forward.weight", "0: what feed-forwards give does not travel");
  refuse(c.routers.weight > 0, "objective.routers.weight", "0: routing does not travel");
  refuse(c.bridge != Bridge::None, "objective.bridge", "NO_BRIDGE: hidden states of other tokens would travel");
  refuse(c.sampled_text && c.sampled_text->by == SampledBy::Teacher, "objective.sampled_text.by",
         has_ranks ? "STUDENT: the teacher's ranks do not generate" : "STUDENT: a teacher so laid does not generate");
}

void check_experts(const RunConfig& config, const ParsedConfig& parsed) {
  RefusalBeside{parsed, "parallel.deal_experts_every_steps"}(
      config.parallel.deal_experts_every_steps > 0 && config.adapters, "adapters", "none: what lies in a file stays");
  RefusalBeside{parsed, "parallel.deal_experts_every_steps"}(
      config.parallel.deal_experts_every_steps > 0 && config.optimizer.offload, "optimizer.offload",
      "false: what moves with an expert lies on its device");
  if (config.parallel.expert_replicas == 0) return;
  const RefusalBeside refuse{parsed, "parallel.expert_replicas"};
  refuse(config.adapters.has_value(), "adapters", "none: an adapter's part is not copied");
  refuse(config.precision.quantised_weights != QuantisedWeights::None, "precision.quantised_weights",
         "NOT_QUANTISED: blocks are not copied");
}

void check_guard(const RunConfig& config, const ParsedConfig& parsed) {
  if (!config.guard) return;
  const RefusalBeside refuse{parsed, "guard"};
  refuse(config.train.cuda_graph, "train.cuda_graph", "false: whether a step is taken is asked in its middle");
  refuse(config.objective.sampled_text.has_value(), "objective.sampled_text",
         "none: losses of what a model says are of another size");
}

void check_sharing(const RunConfig& config, const ParsedConfig& parsed) {
  const ParallelConfig& parallel = config.parallel;
  if (parallel.shard == Shard::Nothing) {
    if (parallel.shard_ranks > 0)
      fail_usage("{}: parallel.shard_ranks is given without parallel.shard, expected both or neither",
                 parsed.place_of("parallel.shard_ranks"));
    return;
  }
  const RefusalBeside refuse{parsed, "parallel.shard"};
  refuse(config.train.cuda_graph, "train.cuda_graph", "false: that is for one rank, which shares nothing");
}

void check_objective(const RunConfig& config, const ParsedConfig& parsed) {
  check_teacher_apart(config, parsed);
  check_sharing(config, parsed);
  check_experts(config, parsed);
  const ObjectiveConfig& c = config.objective;
  for (const auto& [field, changes] :
       {std::pair{"final_cross_entropy_weight", c.final_cross_entropy_weight.has_value()},
        {"final_temperature", c.final_temperature.has_value()},
        {"sampled_text", c.sampled_text.has_value()}})
    if (config.train.cuda_graph && changes)
      fail_usage("{}: train.cuda_graph is true, expected false with objective.{}, by which steps have other objectives",
                 parsed.place_of("train.cuda_graph"), field);
  if (config.precision.sharded_teacher && config.student_init &&
      (config.student_init->experts || config.student_init->dense ||
       config.student_init->choice == LayerChoice::GreedyKl))
    fail_usage(
        "{}: precision.sharded_teacher is true, expected false: what student_init asks for is measured "
        "on a teacher whose experts all lie on a rank",
        parsed.place_of("precision.sharded_teacher"));
  if (c.sampled_text && c.sampled_text->by == SampledBy::Teacher && config.precision.sharded_teacher)
    fail_usage("{}: objective.sampled_text.by is TEACHER, expected STUDENT with precision.sharded_teacher",
               parsed.place_of("objective.sampled_text.by"));
  for (const auto& [field, is_given] : {std::pair{"hidden_states", c.hidden_states.weight > 0},
                                        {"attention", c.attention.weight > 0},
                                        {"feed_forward", c.feed_forward.weight > 0},
                                        {"routers", c.routers.weight > 0},
                                        {"sampled_text", c.sampled_text.has_value()}})
    if (c.control != Control::None && is_given)
      fail_usage("{}: objective.control is given with objective.{}, expected NONE or none of that",
                 parsed.place_of("objective.control"), field);
  if (c.control == Control::Untrained && config.precision.mapped_teacher)
    fail_usage("{}: objective.control is UNTRAINED, expected another with precision.mapped_teacher",
               parsed.place_of("objective.control"));
  if (c.sampled_text && c.sampled_text->prompt_tokens >= config.data.sequence_length)
    fail_usage("{}: objective.sampled_text.prompt_tokens is {}, expected less than data.sequence_length = {}",
               parsed.place_of("objective.sampled_text.prompt_tokens"), c.sampled_text->prompt_tokens,
               config.data.sequence_length);
}

/// Who teaches what, and what several teachers cannot be asked for.
void check_teachers(const RunConfig& config, const ParsedConfig& parsed) {
  if (!config.teacher) return;
  const TeacherFault fault = teacher_fault(config);
  if (!fault.field.empty()) fail_usage("{}: {} {}", parsed.place_of(fault.field), fault.field, fault.says);
  const std::vector<OtherTeacherConfig>& others = config.teacher->others;
  if (others.empty()) return;
  for (std::size_t k = 0; k < others.size(); ++k)
    if (others[k].source.empty())
      fail_usage("{0}: teacher.others[{1}].source is not given, expected a model",
                 parsed.place_of(fmt::format("teacher.others[{}]", k)), k);
  const RefusalBeside refuse{parsed, "teacher.others"};
  refuse(!config.teacher->cache.empty(), "teacher.cache", "none: a cache is of one teacher");
  refuse(config.parallel.teacher_ranks > 0, "parallel.teacher_ranks", "0: those ranks hold one teacher");
  refuse(!config.parallel.teacher_layout.empty(), "parallel.teacher_layout", "none: one teacher is cut by it");
  refuse(config.objective.bridge != Bridge::None, "objective.bridge", "NO_BRIDGE: a bridge leads to one teacher");
  refuse(config.objective.preference.has_value(), "objective.preference", "none: there is one reference");
  refuse(config.objective.control != Control::None, "objective.control", "NONE");
  refuse(config.train.cuda_graph, "train.cuda_graph", "false: steps have other teachers");
  refuse(config.student_init && config.student_init->vocabulary_count > 0, "student_init.vocabulary_count", "0");
}

/// Experts that choose tokens of a sequence: what makes no sense beside it.
void check_expert_choice(RunConfig& config, const ParsedConfig& parsed) {
  if (!config.routing.expert_choice) return;
  const RefusalBeside refuse{parsed, "routing.expert_choice"};
  if (!parsed.message.moe_loss().has_balance_weight()) config.moe_loss.balance_weight = 0;
  refuse(config.moe_loss.balance_weight > 0, "moe_loss.balance_weight", "0: every expert takes as many tokens");
  refuse(config.objective.has_pairs(), config.objective.preference ? "objective.preference" : "objective.reward",
         "none: two responses would share out the experts of one sequence");
  refuse(config.objective.sampled_text.has_value(), "objective.sampled_text", "none: a text is sampled token by token");
}

}  // namespace

void check_whole(RunConfig& config, const ParsedConfig& parsed) {
  if (config.model) check_model(*config.model, parsed);
  if (config.student_init) check_student_init(*config.student_init, parsed);
  check_parts_of_objective(config, parsed);
  check_optimizer(config.optimizer, config.precision.compute, parsed);
  check_precision(config.precision, parsed);
  check_adapters(config, parsed);
  check_guard(config, parsed);
  if (config.train.cuda_graph && config.routing.jitter > 0)
    fail_usage("{}: train.cuda_graph is true, expected false with routing.jitter, which is drawn anew in each step",
               parsed.place_of("train.cuda_graph"));
  RefusalBeside{parsed, "precision.offload_teacher"}(config.precision.offload_teacher && config.train.cuda_graph,
                                                     "train.cuda_graph", "false: what is copied is not recorded");
  check_expert_choice(config, parsed);
  check_objective(config, parsed);
  check_data_sources(config.data, parsed);
  check_source_names(config.data, parsed);
  check_teachers(config, parsed);
  check_evaluation(config.evaluation, parsed);
  check_kept(config.train, parsed);
  check_keep_best(config, parsed);
  if (config.moe_loss.balance_scope == nn::BalanceScope::GlobalBatch && config.batch.micro_batches > 1)
    fail_usage("{}: moe_loss.balance_scope is GLOBAL_BATCH with batch.micro_batches {}, expected one micro-batch",
               parsed.place_of("moe_loss.balance_scope"), config.batch.micro_batches);
}

}  // namespace limbeck::launch
