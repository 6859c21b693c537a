#include "launch/run/checkpointing.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/checkpoints/checkpoint.h"
#include "data/files/json_at.h"
#include "launch/config/teacher_shares.h"
#include "launch/run/run_directory.h"

namespace limbeck::launch {

namespace {
const char* name_of_optimizer(OptimizerKind kind) { return kind == OptimizerKind::Muon ? "MUON" : "ADAMW"; }
}  // namespace

nlohmann::json to_json(const TrainerState& state) {
  nlohmann::json json = {{"step", state.step},     {"next_sample", state.next_sample},
                         {"tokens", state.tokens}, {"run_config", state.run_config},
                         {"text", state.text},     {"teacher", state.teacher}};
  if (!state.layers.empty()) json["layers"] = state.layers;
  if (state.best) json["best"] = to_json(*state.best);
  if (state.adapters) json["adapters"] = to_json(*state.adapters);
  if (!state.replicated.empty()) json["replicated"] = state.replicated;
  if (!state.expert_order.empty()) json["expert_order"] = state.expert_order;
  if (!state.expert_counts.empty()) json["expert_counts"] = state.expert_counts;
  if (!state.quantised_as.empty()) json["quantised_as"] = state.quantised_as;
  if (state.expert_choice) json["expert_choice"] = true;
  if (state.choice_kl) json["choice_kl"] = *state.choice_kl;
  if (state.guard) json["guard"] = to_json(*state.guard);
  if (!state.said.empty()) json["said"] = to_json(state.said);
  return json;
}

TrainerState trainer_state_from_json(const nlohmann::json& json, const std::string& where) {
  const data::JsonAt state(json, where + ": its run's state");
  const auto text_or_nothing = [&](const char* name) { return state.get(name).is_null() ? "" : state.at(name).text(); };
  const auto count = [&](const char* name) {
    constexpr std::int64_t most = std::int64_t{1} << 62U;
    const std::int64_t value = state.at(name).whole();
    if (value < 0 || value > most) state.at(name).refuse("a whole number, 0 or more");
    return value;
  };
  const auto indices = [](const data::JsonAt& list, std::int64_t end) {
    std::vector<std::int64_t> values;
    for (std::size_t i = 0; i < list.array().size(); ++i) values.push_back(list.at(i).index(end));
    return values;
  };
  std::vector<std::int64_t> layers;
  if (const data::JsonAt list = state.get("layers"); !list.is_null())
    layers = indices(list, nn::ModelLimits::num_layers);
  const auto experts_by_layer = [&](const char* name) {
    std::vector<std::vector<std::int64_t>> experts;
    if (const data::JsonAt list = state.get(name); !list.is_null())
      for (std::size_t i = 0; i < list.array().size(); ++i)
        experts.push_back(indices(list.at(i), nn::ModelLimits::num_experts));
    return experts;
  };
  std::vector<std::vector<double>> expert_counts;
  if (const data::JsonAt list = state.get("expert_counts"); !list.is_null())
    for (std::size_t i = 0; i < list.array().size(); ++i) {
      const data::JsonAt of_layer = list.at(i);
      std::vector<double>& counts = expert_counts.emplace_back();
      for (std::size_t e = 0; e < of_layer.array().size(); ++e) counts.push_back(of_layer.at(e).number());
    }
  return {
      .step = count("step"),
      .next_sample = count("next_sample"),
      .tokens = count("tokens"),
      .run_config = state.at("run_config").text(),
      .text = text_or_nothing("text"),
      .teacher = text_or_nothing("teacher"),
      .layers = std::move(layers),
      .best = state.get("best").is_null()
                  ? std::nullopt
                  : std::optional(best_from_json(state.at("best").json(), state.at("best").where())),
      .adapters =
          state.get("adapters").is_null() ? std::nullopt : std::optional(adapter_state_from_json(state.at("adapters"))),
      .replicated = experts_by_layer("replicated"),
      .expert_order = experts_by_layer("expert_order"),
      .expert_counts = std::move(expert_counts),
      .quantised_as = text_or_nothing("quantised_as"),
      .expert_choice = state.flag("expert_choice", false),
      .choice_kl = state.get("choice_kl").is_null() ? std::nullopt : std::optional(state.at("choice_kl").number()),
      .guard = state.get("guard").is_null() ? std::nullopt : std::optional(guard_state_from_json(state.at("guard"))),
      .said = state.get("said").is_null() ? SaidAhead() : said_ahead_from_json(state.at("said"))};
}

void check_same_adapters(const std::optional<AdapterState>& was, const std::optional<AdapterState>& now,
                         const std::string& where) {
  core::check(was.has_value() == now.has_value(), "{}: its run {} adapters, the config names {}: expected the same",
              where, was ? "had" : "had no", now ? "some" : "none");
  if (!was) return;
  core::check(was->rank == now->rank && was->alpha == now->alpha,
              "{}: its run had adapters of rank {} and alpha {}, the config says {} and {}: expected the same", where,
              was->rank, was->alpha, now->rank, now->alpha);
  core::check(
      was->base.empty() == now->base.empty() && was->fingerprint == now->fingerprint,
      "{}: its adapters are of {}, of fingerprint {}; the config's model.source has {}: expected the same model", where,
      was->base, was->fingerprint, now->fingerprint);
}

void check_same_model(const nn::ModelConfig& saved, const nn::ModelConfig& wanted, const std::string& where) {
  if (saved == wanted) return;
  const nlohmann::ordered_json was = launch::to_json(saved).flatten(), now = launch::to_json(wanted).flatten();
  for (const auto& [field, value] : now.items()) {
    std::string name = "model" + field;  // "model/moe/num_experts"
    std::replace(name.begin(), name.end(), '/', '.');
    core::check(was.contains(field) && was[field] == value,
                "{}: its model has {} = {}, the config says {}, expected the same{}", where, name,
                was.contains(field) ? was[field].dump() : "nothing", value.dump(),
                name == "model.num_predict_layers" ? ": with objective.predict_weight 0 a model has none" : "");
  }
  core::fail("{}: its model is another one than the config describes", where);
}

std::vector<std::string> check_continues(const TrainerState& state, const std::string& where, const RunConfig& now,
                                         const std::string& text, const std::string& teacher) {
  const RunConfig was = parse_config(state.run_config, where);
  const auto same = [&](const char* field, auto before, auto after) {
    core::check(before == after,
                "{}: its run had {} = {}, the config says {}, expected the same: the samples would be others", where,
                field, before, after);
  };
  core::check(was.teacher.has_value() == now.teacher.has_value(),
              "{}: its run {}, the config names {}: expected the same", where,
              was.teacher ? "had a teacher" : "had no teacher", now.teacher ? "one" : "none");
  core::check(state.next_sample / was.batch.sequences_per_step >= state.step &&
                  state.next_sample % was.batch.sequences_per_step == 0,
              "{}: its run stood at sample {} after {} steps, expected {} a step, and of those passed over", where,
              state.next_sample, state.step, was.batch.sequences_per_step);
  same("batch.sequences_per_step", was.batch.sequences_per_step, now.batch.sequences_per_step);
  same("data.sequence_length", was.data.sequence_length, now.data.sequence_length);
  same("data.seed", was.data.seed, now.data.seed);
  same("data.held_out_fraction", was.data.held_out_fraction, now.data.held_out_fraction);
  core::check(was.optimizer.kind == now.optimizer.kind,
              "{}: its run had optimizer.kind = {}, the config says {}, expected the same: it has no state for another",
              where, name_of_optimizer(was.optimizer.kind), name_of_optimizer(now.optimizer.kind));
  const auto weights = [](const RunConfig& config) {
    std::vector<double> values;
    for (const DataSourceConfig& source : sources_of(config.data)) values.push_back(source.weight);
    return fmt::format("[{}]", fmt::join(values, ", "));
  };
  same("weights of data.sources", weights(was), weights(now));
  const auto shares = [](const RunConfig& config) {
    std::string all;
    if (!config.teacher) return all;
    for (const std::vector<double>& of_source : teacher_shares(config)) all += fmt::format("{}", of_source);
    return all;
  };
  same("shares of the teachers in each source", shares(was), shares(now));
  core::check(state.text.empty() || state.text == text,
              "{}: its run read a text of fingerprint {}, that of {} has {}: expected the same text, cut by the same "
              "tokenizer",
              where, state.text,
              !now.data.sources.empty() ? "data.sources"
              : now.data.tokens.empty() ? "data.text"
                                        : "data.tokens",
              text);
  core::check(state.teacher.empty() || state.teacher == teacher,
              "{}: its run learned from {}, of fingerprint {}; {} has {}: expected the same teacher", where,
              was.teacher ? was.teacher->source : "a teacher", state.teacher,
              now.teacher ? now.teacher->source : "no teacher", teacher.empty() ? "none" : teacher);
  std::vector<std::string> changed;
  const auto note = [&](const char* section, bool is_same) {
    if (!is_same) changed.emplace_back(section);
  };
  note("objective", was.objective == now.objective);
  note("moe_loss", was.moe_loss == now.moe_loss);
  note("routing", was.routing == now.routing);
  note("optimizer", was.optimizer == now.optimizer);
  note("schedule", was.schedule == now.schedule);
  note("train.steps", was.train.steps == now.train.steps);
  note("precision", was.precision == now.precision);
  return changed;
}

namespace {

/// Collective: what is wrong with a checkpoint, in a line, or nothing; the ranks divide the hashing.
std::string damage_of(Rank& rank, const std::filesystem::path& folder) {
  std::optional<std::string> damage;
  while_others_hear(rank, [&] { damage = data::find_damage(folder, rank.world().rank(), rank.world().size()); });
  for (const std::string& line : gather_strings(rank, damage.value_or("")))
    if (!line.empty()) return line;
  return "";
}

}  // namespace

FoundCheckpoint agree_on_checkpoint(Rank& rank, const std::filesystem::path& checkpoints, const Log& log) {
  FoundCheckpoint result;
  std::string list;
  if (rank.is_first())
    for (const auto& folder : data::list_checkpoints(checkpoints)) list += folder.string() + '\0';
  list = gather_strings(rank, list).front();
  std::size_t begin = 0;
  while (begin < list.size()) {
    const std::size_t end = list.find('\0', begin);
    const std::filesystem::path folder = list.substr(begin, end - begin);
    begin = end + 1;
    const std::string damage = damage_of(rank, folder);
    if (damage.empty()) {
      result.folder = folder;
      return result;
    }
    log->error("{}", one_line(damage));
    result.damaged.push_back(folder);
  }
  if (!list.empty()) core::fail("{}: none of the checkpoints there is whole", checkpoints.string());
  return result;
}

ModelSource open_model_together(Rank& rank, const std::filesystem::path& path, const Log& log) {
  if (is_checkpoint(path)) {
    const std::string damage = damage_of(rank, path);
    core::check(damage.empty(), "{}", damage);
    return open_model(path, data::Checkpoint::Verify::Sizes);
  }
  if (!RunDirectory::is_run(path)) return open_model(path);
  const auto newest = agree_on_checkpoint(rank, RunDirectory(path).checkpoints(), log).folder;
  if (!newest) core::fail("{}: has no checkpoint yet", path.string());
  return open_model(*newest, data::Checkpoint::Verify::Sizes);
}

}  // namespace limbeck::launch
