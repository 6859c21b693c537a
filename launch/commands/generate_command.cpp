// `limbeck generate`: prompts and a model into text.
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/counted.h"
#include "core/nn/generation.h"
#include "data/text/text_source.h"
#include "data/tokenizers/chat_template.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/commands/commands.h"
#include "launch/commands/prompts.h"
#include "launch/console/progress.h"
#include "launch/console/streams.h"
#include "launch/plan/cost.h"
#include "launch/run/checkpointing.h"
#include "launch/run/decode_meter.h"
#include "launch/run/model_source.h"
#include "launch/run/rank.h"
#include "launch/run/text_generation.h"

namespace limbeck::launch {
namespace {

using Json = nlohmann::ordered_json;

std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";  // half a character at the end of a text
}

/// As the messages of a conversation stand in JSON lines.
Json json_of(const std::vector<data::ChatMessage>& messages) {
  Json list = Json::array();
  for (const data::ChatMessage& message : messages)
    list.push_back({{"role", data::chat_roles[static_cast<std::size_t>(message.role)]}, {"content", message.content}});
  return list;
}

struct GivenPrompt {
  Json given;  // its text, or its messages
  std::vector<std::int32_t> ids;
};

/// Collective: the prompts that the first rank reads; standard input is there alone. Throws, naming the prompt's place,
/// where it has no token. `chat` is null for plain text.
std::vector<GivenPrompt> prompts_of_first_rank(Rank& rank, const GenerateOptions& options,
                                               const data::Tokenizer& tokenizer, const data::ChatTemplate* chat) {
  std::string packed;
  on_first_rank(rank, [&] {
    Json all = Json::array();
    for (const Prompt& prompt : read_prompts(options)) {
      std::vector<std::int32_t> ids;
      if (chat != nullptr)
        data::of_file(prompt.place, [&] { ids = chat->prompt(prompt.messages); });
      else
        ids = prompt_ids(tokenizer, prompt.text);
      core::check(!ids.empty(),
                  "{}: an empty prompt, expected some text: the model's tokenizer has no start of a text, which could "
                  "stand alone",
                  prompt.place);
      all.push_back({chat != nullptr ? json_of(prompt.messages) : Json(prompt.text), std::move(ids)});
    }
    const auto bytes = Json::to_msgpack(all);
    packed.assign(bytes.begin(), bytes.end());
  });
  std::vector<GivenPrompt> prompts;
  for (const Json& prompt : Json::from_msgpack(gather_strings(rank, packed).front()))
    prompts.push_back({prompt[0], prompt[1].get<std::vector<std::int32_t>>()});
  return prompts;
}

/// Null: of nothing.
Json share(double part, std::int64_t of) { return of > 0 ? Json(part / static_cast<double>(of)) : Json(); }

/// What is said of the prompts: as they grow, or with --json an object for each when it has ended.
class Answers {
 public:
  Answers(const std::vector<GivenPrompt>& prompts, const data::Tokenizer& tokenizer, const GenerateOptions& options)
      : prompts_(prompts),
        decoders_(prompts.size(), data::StreamDecoder(tokenizer)),
        texts_(prompts.size()),
        before_(prompts.size()),
        in_json_(options.json),
        has_drafts_(options.speculative || options.draft),
        are_drafts_drawn_(options.draft && options.temperature > 0),
        out_(prompts.size(), [](const std::string& text) {
          write_result(text);
          flush_results();
        }) {
    for (std::size_t i = 0; i < before_.size(); ++i) {  // of a conversation the reply is said alone
      if (i > 0) before_[i] = "\n";
      if (prompts[i].given.is_string()) before_[i] += prompts[i].given.get<std::string>();
    }
  }

  void add(std::size_t prompt, std::int32_t token) { add(prompt, decoders_[prompt].feed(token)); }
  void end(std::size_t prompt, const nn::Continuation& continuation) {
    add(prompt, decoders_[prompt].finish());
    out_.add(prompt, in_json_ ? line_of(json_of(prompt, continuation)) : "\n");
    out_.end(prompt);
  }

 private:
  Json json_of(std::size_t prompt, const nn::Continuation& continuation) const {
    const Json& given = prompts_[prompt].given;
    Json json = {{given.is_string() ? "prompt" : "messages", given},
                 {"text", texts_[prompt]},
                 {"prompt_tokens", prompts_[prompt].ids.size()},
                 {"tokens", continuation.tokens.size()},
                 {"finish_reason", continuation.is_stopped ? "stop" : "length"},
                 {"seconds", continuation.seconds}};
    if (has_drafts_) {
      json["passes"] = continuation.num_passes;
      json["drafted"] = continuation.num_drafted;
      json["tried"] = continuation.num_tried;
      json["accepted"] = continuation.num_accepted;
      json["acceptance"] = share(static_cast<double>(continuation.num_accepted), continuation.num_tried);
      if (are_drafts_drawn_) json["sum_min"] = share(continuation.sum_min, continuation.num_tried);
      json["tokens_per_pass"] =
          share(static_cast<double>(std::ssize(continuation.tokens) - 1), continuation.num_passes);
    }
    return json;
  }
  /// The prompt is said with the first token: nothing is where there is an error.
  void add(std::size_t prompt, const std::string& more) {
    texts_[prompt] += more;
    if (!in_json_) out_.add(prompt, std::exchange(before_[prompt], "") + more);
  }

  const std::vector<GivenPrompt>& prompts_;
  std::vector<data::StreamDecoder> decoders_;
  std::vector<std::string> texts_;
  std::vector<std::string> before_;  // the prompt, until it is said
  bool in_json_, has_drafts_, are_drafts_drawn_;
  InOrder out_;
};

std::string pace_text(const char* what, const nn::Pace& pace) {
  return fmt::format("{} {} at {:.1f} tokens/s ({:.2f} s)", what, core::counted(pace.tokens, "token"),
                     static_cast<double>(pace.tokens) / std::max(pace.seconds, 1e-9), pace.seconds);
}

/// Of all texts: how many drafts stayed, and what a pass over a text gave it.
std::string drafts_text(const nn::Generated& generated) {
  std::int64_t drafted = 0, tried = 0, accepted = 0, passes = 0;
  double sum_min = 0;
  for (const nn::Continuation& text : generated.texts) {
    sum_min += text.sum_min;
    drafted += text.num_drafted;
    tried += text.num_tried;
    accepted += text.num_accepted;
    passes += text.num_passes;
  }
  const auto each = [](auto a, std::int64_t b) {
    return static_cast<double>(a) / static_cast<double>(std::max<std::int64_t>(b, 1));
  };
  return fmt::format("{} of {} accepted, {:.1f} % of the {} tried{}; {:.2f} tokens a pass", accepted,
                     core::counted(drafted, "draft"), 100 * each(accepted, tried), tried,
                     sum_min > 0 ? fmt::format(" (sum min(p,q) there {:.1f} %)", 100 * each(sum_min, tried)) : "",
                     each(generated.decode.tokens, passes));
}

/// Collective: the model of --draft, whose tokens have to be those of the other.
ModelSource open_draft(Rank& rank, const GenerateOptions& options, const ModelSource& model, const Log& log) {
  ModelSource draft = open_model_together(rank, *options.draft, log);
  say_notices(draft, log);
  const data::Tokenizer& ours = model.require_tokenizer();
  const data::Tokenizer& theirs = draft.require_tokenizer();
  auto difference = data::vocabulary_difference(ours, theirs);
  if (!difference) difference = data::vocabulary_difference(theirs, ours);
  if (difference)
    core::fail_usage("--draft: {} has other tokens than {}: {}", options.draft->string(), options.model.string(),
                     *difference);
  return draft;
}

/// Collective.
std::unique_ptr<nn::Transformer> load_model(Rank& rank, const ModelSource& source, bool with_predict) {
  nn::ModelOptions parts = rank.frozen_as_kept();
  parts.with_predict = with_predict;
  auto model = std::make_unique<nn::Transformer>(source.config, parts);
  model->load(*source.reader);
  return model;
}

/// Collective.
void generate(Rank& rank, const GenerateOptions& options) {
  const Log log = make_log(rank.world().rank(), options.verbosity);
  std::optional<Cluster> cluster;
  if (options.cluster) cluster = load_cluster(*options.cluster);
  const ModelSource source = open_model_together(rank, options.model, log);
  say_notices(source, log);
  const data::Tokenizer& tokenizer = source.require_tokenizer();
  if (options.speculative && source.config.num_predict_layers == 0)
    core::fail_usage(
        "--speculative: {} gives no layers that predict further tokens, expected a model that does (no GGUF file)",
        options.model.string());
  std::optional<ModelSource> draft_source;
  if (options.draft) draft_source = open_draft(rank, options, source, log);
  std::optional<data::ChatTemplate> chat;
  if (options.chat) data::of_file(options.model.string(), [&] { chat.emplace(tokenizer); });
  const std::vector<GivenPrompt> prompts = prompts_of_first_rank(rank, options, tokenizer, chat ? &*chat : nullptr);
  std::vector<std::vector<std::int32_t>> ids;
  for (const GivenPrompt& prompt : prompts) ids.push_back(prompt.ids);
  const auto model = load_model(rank, source, options.speculative);
  const auto draft = draft_source ? load_model(rank, *draft_source, false) : nullptr;
  Answers answers(prompts, tokenizer, options);
  nn::GenerateOptions how{.max_tokens = options.max_tokens.value_or(64),
                          .fewer_where_full = !options.max_tokens,
                          .sampling = {.temperature = options.temperature,
                                       .top_k = options.top_k,
                                       .top_p = options.top_p,
                                       .seed = options.seed},
                          .valid_vocabulary = std::min(tokenizer.vocabulary_size(), source.config.vocabulary),
                          .stop = tokenizer.stop_ids(),
                          .at_once = options.batch,
                          .speculative = options.speculative,
                          .draft = draft.get(),
                          .draft_tokens = options.draft_tokens};
  if (chat)
    if (const auto end = chat->end_of_reply(); end && std::ranges::find(how.stop, *end) == how.stop.end())
      how.stop.push_back(*end);
  std::optional<Progress> progress;  // text that grows is its own
  if (options.json && prompts.size() > 1) progress.emplace(log, "prompt", 0, std::ssize(prompts), 1);
  if (rank.is_first()) {
    how.on_token = [&](std::size_t prompt, std::int32_t token) { answers.add(prompt, token); };
    how.on_end = [&, ended = 0](std::size_t prompt, const nn::Continuation& continuation) mutable {
      if (progress) progress->finish();
      answers.end(prompt, continuation);
      if (progress) progress->update(++ended, {});
    };
  }
  for (std::size_t i = 0; i < ids.size(); ++i)
    if (!options.max_tokens && std::ssize(ids[i]) == source.config.max_positions)
      log->warn("prompt {} fills the model's {}: nothing is added", i + 1,
                core::counted(source.config.max_positions, "position"));
  DecodeMeter meter(rank);
  const nn::Generated generated = nn::generate_texts(*model, ids, how);
  progress.reset();
  if (generated.prefill.tokens == 0) return;
  std::string pace = pace_text("prefill", generated.prefill);
  if (generated.decode.tokens > 0) pace += ", " + pace_text("decode", generated.decode);
  log->info("{}", pace);
  if (generated.decode.tokens > 0) {
    const WorkFigures figures = meter.figures(generated, rank.world().size());
    const std::string cost = a_token_text(cost_of(figures, cluster), static_cast<double>(figures.tokens));
    if (!cost.empty()) log->info("decode: {}", cost);
  }
  if (options.speculative || options.draft) log->info("{}", drafts_text(generated));
}

}  // namespace

int run_generate(const GenerateOptions& options) {
  RunConfig config;
  config.train.threads = options.threads;
  const Json identity = {{"model", options.model.string()},
                         {"prompt", options.prompt},
                         {"prompts", options.prompts.value_or("").string()},
                         {"field", options.field.value_or("")},
                         {"chat", options.chat},
                         {"system", options.system.value_or("")},
                         {"batch", options.batch},
                         {"max_tokens", options.max_tokens.value_or(-1)},
                         {"temperature", options.temperature},
                         {"top_k", options.top_k},
                         {"top_p", options.top_p},
                         {"seed", options.seed},
                         {"speculative", options.speculative},
                         {"draft", options.draft.value_or("").string()},
                         {"draft_tokens", options.draft_tokens},
                         {"cluster", options.cluster.value_or("").string()}};
  std::string command = "command: generate\n";
  for (const auto& [name, value] : identity.items()) command += name + ": " + line_of(value);
  in_world(
      config, command, [&](Rank& rank) { generate(rank, options); }, "tp");
  return 0;
}

}  // namespace limbeck::launch
