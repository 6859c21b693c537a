#include "launch/commands/eval_pairs.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>

#include "core/counted.h"
#include "data/text/documents.h"
#include "launch/commands/eval_models.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/report/distill_report.h"
#include "launch/run/evaluation_json.h"
#include "launch/run/same_everywhere.h"
#include "launch/run/threads.h"

namespace limbeck::launch {
namespace {

using core::fail_usage;

/// Each is two documents, of the same name.
struct Pair {
  const data::Document *chosen, *rejected;
  std::int64_t num_tokens() const { return std::ssize(chosen->ids) + std::ssize(rejected->ids); }
};

std::vector<Pair> pairs_within(const std::vector<data::Document>& documents, const ModelSource& source,
                               const Log& log) {
  std::vector<Pair> pairs;
  for (std::size_t i = 0; i + 1 < documents.size(); i += 2)
    if (std::max(std::ssize(documents[i].ids), std::ssize(documents[i + 1].ids)) <= source.config.max_positions)
      pairs.push_back({&documents[i], &documents[i + 1]});
  const std::int64_t left_out = std::ssize(documents) / 2 - std::ssize(pairs);
  if (left_out > 0)
    log->warn("{} with a response of more than the model's {} positions left out", core::counted(left_out, "pair"),
              source.config.max_positions);
  core::check(!pairs.empty(), "eval: no pair is left, expected one whose responses fit the model's {} positions",
              source.config.max_positions);
  return pairs;
}

/// Pairs of about one length side by side, so that few tokens fill sequences up.
HeldOut::Rewards rewards_of(Rank& rank, const nn::Transformer& model, const std::vector<Pair>& pairs,
                            Evaluation& evaluation) {
  std::map<std::uint64_t, std::vector<std::size_t>> by_length;
  for (std::size_t i = 0; i < pairs.size(); ++i)
    by_length[std::bit_width(static_cast<std::uint64_t>(pairs[i].num_tokens()))].push_back(i);
  HeldOut::Rewards rewards(pairs.size());
  for (const auto& [_, members] : by_length) {
    data::TokenBatch batch;
    for (const std::size_t i : members) batch.sequence_length = std::max(batch.sequence_length, pairs[i].num_tokens());
    for (const std::size_t i : members) data::append_pair(*pairs[i].chosen, *pairs[i].rejected, batch);
    evaluation.tokens += batch.num_targets();
    LoadCounter load(model.config());
    const HeldOut::Rewards found = HeldOut(rank, {.samples = std::move(batch)}, nullptr).rewards_of(model, load);
    for (std::size_t n = 0; n < members.size(); ++n) rewards[members[n]] = found[n];
  }
  return rewards;
}

}  // namespace

void check_pairs_options(const EvalOptions& options) {
  if (options.text.empty()) fail_usage("eval: --format pairs goes with --text");
  for (const auto& [name, is_given] :
       {std::pair("--task", !options.tasks.empty()), std::pair("--teacher", options.teacher.has_value()),
        std::pair("--against", options.against.has_value()), std::pair("--window", options.window.has_value()),
        std::pair("--stride", options.stride.has_value())})
    if (is_given) fail_usage("eval: {} is given with --format pairs, expected none: each response is read whole", name);
}

void evaluate_pairs(Rank& rank, const EvalOptions& options) {
  const Log log = make_log(rank.world().rank(), options.verbosity);
  const LoadedModel model = load_model(rank, options.model, std::nullopt, log);
  const std::string name = model.source.path.string();
  core::check(model.source.config.reward_head,
              "{}: has no reward head, expected a model that was trained by objective.reward, or a Hugging Face "
              "directory of one ForSequenceClassification",
              name);
  const auto tokenizer = tokenizer_of(options, model.source);
  if (tokenizer == nullptr) model.source.require_tokenizer();
  std::vector<data::Document> documents;
  while_others_hear(rank, [&] {
    documents = data::read_documents({options.text.begin(), options.text.end()}, *tokenizer,
                                     {.threads = threads_of_rank(options.threads),
                                      .format = data::TextFormat::Pairs,
                                      .field = options.field,
                                      .parse_special = options.parse_special});
  });
  check_same_everywhere(rank.world(), fmt::format("fingerprint of the text: {:016x}\n", data::fingerprint(documents)));
  const std::vector<Pair> pairs = pairs_within(documents, model.source, log);
  Evaluation all;
  const HeldOut::Rewards rewards = rewards_of(rank, *model.model, pairs, all);
  all.preference = preference_of(rewards, /*center=*/0);
  if (!rank.is_first()) return;
  if (!options.json) {
    write_result(core::counted(std::ssize(pairs), "pair") + "\n\n" + to_text({{"rewards", all}}));
    return flush_results();
  }
  nlohmann::ordered_json json = {{"model", name}};
  if (model.source.kind == ModelKind::Checkpoint) json["step"] = model.source.step;
  json["all"] = evaluation_to_json(all);
  json["pairs"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < pairs.size(); ++i)
    json["pairs"].push_back(
        {{"name", pairs[i].chosen->name}, {"chosen_reward", rewards[i][0]}, {"rejected_reward", rewards[i][1]}});
  write_result(json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  flush_results();
}

}  // namespace limbeck::launch
