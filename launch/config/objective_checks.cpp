#include "launch/config/objective_checks.h"

#include <string>
#include <utility>

namespace limbeck::launch {

using core::fail_usage;

namespace {

/// What a run wrote down before some fields could be left out, or a mix of 0 be given: there 0 stood for none.
void read_older_record(RunConfig& config, const ParsedConfig& parsed) {
  if (config.output.started_in.empty() || parsed.places.contains("precision.float32_teacher")) return;
  ObjectiveConfig& c = config.objective;
  if (c.mix == 0) c.mix.reset();
  if (c.sampled_text && c.sampled_text->mix == 0) c.sampled_text->mix.reset();
}

void check_sampled_text(RunConfig& config, const ParsedConfig& parsed) {
  std::optional<SampledTextConfig>& sampled = config.objective.sampled_text;
  if (!sampled || sampled->fraction > 0) return;
  if (config.output.started_in.empty())
    fail_usage("{}: objective.sampled_text.fraction is 0, expected above 0 to 1, or no such section",
               parsed.place_of("objective.sampled_text.fraction"));
  sampled.reset();
}

bool mixes(kernels::Divergence divergence) {
  using enum kernels::Divergence;
  return divergence == JensenShannon || divergence == SkewKl || divergence == ReverseSkewKl;
}

/// What is given and changes nothing. A mix of 0 is what a divergence has that mixes nothing.
void check_unused(const ObjectiveConfig& c, const ParsedConfig& parsed) {
  const auto refuse = [&](const std::string& field, const char* expected) {
    fail_usage("{0}: {1} is given, expected {2}", parsed.place_of(field), field, expected);
  };
  constexpr const char* mixture = "none, or a divergence that mixes: JENSEN_SHANNON, SKEW_KL or REVERSE_SKEW_KL";
  if (c.mix.value_or(0) > 0 && !mixes(c.divergence)) refuse("objective.mix", mixture);
  if (c.sampled_text && c.sampled_text->mix.value_or(0) > 0 && !mixes(c.sampled_text->divergence))
    refuse("objective.sampled_text.mix", mixture);
  if (c.smoothing != ObjectiveConfig{}.smoothing && c.control != Control::SmoothedLabels)
    refuse("objective.smoothing", "none, or control: SMOOTHED_LABELS too");
  for (const auto& [section, is_unused] :
       {std::pair("hidden_states", c.hidden_states.weight == 0 && c.hidden_states != HiddenStatesConfig{}),
        {"routers", c.routers.weight == 0 && c.routers != RouterMatchConfig{}},
        {"attention", c.attention.weight == 0 && c.attention != UpdateMatchConfig{}},
        {"feed_forward", c.feed_forward.weight == 0 && c.feed_forward != UpdateMatchConfig{}}})
    if (is_unused) refuse(std::string("objective.") + section, "none of it, or its weight too, above 0");
}

/// What a teacher that does not run beside the student cannot give.
void check_cached_objective(const RunConfig& config, const ParsedConfig& parsed) {
  const ObjectiveConfig& c = config.objective;
  const bool is_cached = config.teacher && !config.teacher->cache.empty();
  const auto refuse = [&](const char* field, const char* expected) {
    fail_usage("{}: objective.{} is given {} teacher.cache, expected {}",
               parsed.place_of(std::string("objective.") + field), field, is_cached ? "with" : "without", expected);
  };
  if (!is_cached) {
    if (c.renormalised) refuse("renormalised", "false");
    return;
  }
  if (config.precision.quantised_teacher != QuantisedWeights::None && config.teacher->source.empty())
    fail_usage("{}: precision.quantised_teacher is given, expected none with a teacher.cache and no teacher.source",
               parsed.place_of("precision.quantised_teacher"));
  if (c.routers.weight > 0) refuse("routers", "none: routing is not kept");
  if (c.attention.weight > 0) refuse("attention", "none: what attention gives is not kept");
  if (c.feed_forward.weight > 0) refuse("feed_forward", "none: what feed-forwards give is not kept");
  if (c.sampled_text) refuse("sampled_text", "none: what a model says is not in the cache");
  if (c.control != Control::None) refuse("control", "NONE: it stands in the place of a teacher that runs");
}

/// Pairs are there exactly for preferences and rewards, which nothing else stands beside.
void check_pairs(const RunConfig& config, const ParsedConfig& parsed) {
  const ObjectiveConfig& c = config.objective;
  const char* asked = c.preference ? "objective.preference" : "objective.reward";
  const auto check_format = [&](data::TextFormat format, const std::string& path, bool is_read) {
    const bool has_pairs = format == data::TextFormat::Pairs;
    if (has_pairs && !c.has_pairs())
      fail_usage("{}: {} is PAIRS, expected objective.preference or objective.reward too, which learn from them",
                 parsed.place_of(path), path);
    if (c.has_pairs() && is_read && !has_pairs)
      fail_usage("{}: {} is another, expected PAIRS with {}", parsed.place_of(path), path, asked);
  };
  check_format(config.data.format, "data.format", !config.data.text.empty());
  for (std::size_t i = 0; i < config.data.sources.size(); ++i)
    check_format(config.data.sources[i].format, fmt::format("data.sources[{}].format", i),
                 !config.data.sources[i].text.empty());
  for (std::size_t i = 0; i < config.evaluation.set.size(); ++i)
    if (config.evaluation.set[i].format == data::TextFormat::Pairs)
      fail_usage("{0}: {1} is PAIRS, expected another: held-out pairs are measured, no set of them",
                 parsed.place_of(fmt::format("evaluation.set[{}].format", i)),
                 fmt::format("evaluation.set[{}].format", i));
  if (!c.has_pairs()) return;
  const RefusalBeside refuse{parsed, asked};
  refuse(c.preference && c.reward, "objective.reward", "one of both");
  refuse(config.train.cuda_graph, "train.cuda_graph", "false: steps have sequences of other lengths");
  refuse(config.teacher && !config.teacher->cache.empty(), "teacher.cache",
         "none: the reference runs beside the model");
  refuse(c.hidden_states.weight > 0, "objective.hidden_states.weight", "0");
  refuse(c.sampled_text.has_value(), "objective.sampled_text", "none");
  if (!c.reward) return;
  refuse(config.adapters.has_value(), "adapters", "none: the head is trained with the model");
  refuse(!config.evaluation.set.empty(), "evaluation.set[0]", "none: held-out pairs are measured");
}

/// What needs tokens that both models have, or a teacher that reads those of the text.
void check_bridge(const RunConfig& config, const ParsedConfig& parsed) {
  const ObjectiveConfig& c = config.objective;
  if (c.bridge == Bridge::None) return;
  const RefusalBeside refuse{parsed, "objective.bridge"};
  refuse(config.student_init.has_value(), "student_init", "a section model: the teacher's rows are of other tokens");
  refuse(config.teacher && !config.teacher->cache.empty(), "teacher.cache",
         "none: the teacher runs beside the student");
  refuse(config.train.cuda_graph, "train.cuda_graph", "false: the teacher reads other tokens in each step");
  refuse(c.divergence != kernels::Divergence::ForwardKl, "objective.divergence", "FORWARD_KL");
  refuse(c.temperature != 1, "objective.temperature", "1");
  refuse(c.final_temperature.has_value(), "objective.final_temperature", "none");
  refuse(c.hidden_states.weight > 0, "objective.hidden_states.weight", "0: tokens are not alike");
  refuse(c.attention.weight > 0, "objective.attention.weight", "0: tokens are not alike");
  refuse(c.feed_forward.weight > 0, "objective.feed_forward.weight", "0: tokens are not alike");
  refuse(c.routers.weight > 0, "objective.routers.weight", "0: tokens are not alike");
  refuse(c.sampled_text.has_value(), "objective.sampled_text", "none");
  refuse(c.control != Control::None, "objective.control", "NONE");
  refuse(c.preference.has_value(), "objective.preference", "none");
}

}  // namespace

void check_parts_of_objective(RunConfig& config, const ParsedConfig& parsed) {
  read_older_record(config, parsed);
  check_sampled_text(config, parsed);
  if (config.output.started_in.empty()) check_unused(config.objective, parsed);
  check_cached_objective(config, parsed);
  check_pairs(config, parsed);
  check_bridge(config, parsed);
}

}  // namespace limbeck::launch
