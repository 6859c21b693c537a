#include "launch/run/sampled_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "core/nn/generation.h"
#include "core/random.h"

namespace limbeck::launch {

bool is_sampled_step(const RunConfig& config, std::int64_t step) {
  const std::optional<SampledTextConfig>& c = config.objective.sampled_text;
  if (!c || step < c->first_step) return false;
  return core::RandomStream(config.train.seed, static_cast<std::uint64_t>(step), "sampled_text").uniform(0) <
         c->fraction;
}

namespace {

/// Of each sequence of a step the last document of its first tokens.
std::vector<std::vector<std::int32_t>> prompts_of(const Session& session, const data::TokenBatch& text) {
  const std::int64_t most = session.config.objective.sampled_text.value().prompt_tokens;
  const std::vector<std::int32_t> stop = session.tokenizer->stop_ids();
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::int64_t n = 0; n < text.num_sequences; ++n) {
    const auto at = static_cast<std::size_t>(n * text.sequence_length), last = static_cast<std::size_t>(most - 1);
    std::size_t first = last;
    while (first > 0 && text.documents[at + first - 1] == text.documents[at + last]) --first;
    const auto begin = text.tokens.begin() + static_cast<std::ptrdiff_t>(at);
    std::vector<std::int32_t>& prompt =
        prompts.emplace_back(begin + static_cast<std::ptrdiff_t>(first), begin + static_cast<std::ptrdiff_t>(most));
    if (prompt.size() > 1 && std::ranges::count(stop, prompt.back()) > 0) prompt.pop_back();  // nothing follows that
  }
  return prompts;
}

/// Collective: what each tensor group's teacher said of its share of the texts, on every rank. (The ranks of a group
/// say the same.)
void tell_shares(Rank& rank, std::vector<nn::Continuation>& texts, std::span<const std::size_t> own) {
  nlohmann::json packed = nlohmann::json::array();
  for (const std::size_t n : own) packed.push_back({n, texts[n].tokens, texts[n].stop_token});
  const auto bytes = nlohmann::json::to_msgpack(packed);
  for (const std::string& of_rank : gather_strings(rank, std::string(bytes.begin(), bytes.end())))
    for (const nlohmann::json& text : nlohmann::json::from_msgpack(of_rank)) {
      nn::Continuation& into = texts.at(text[0].get<std::size_t>());
      into.tokens = text[1].get<std::vector<std::int32_t>>();
      into.stop_token = text[2].get<std::int32_t>();
    }
}

}  // namespace

nlohmann::json to_json(const SaidAhead& said) {
  nlohmann::json json = nlohmann::json::array();
  for (const auto& [step, texts] : said) {
    nlohmann::json of_step = nlohmann::json::array();
    for (const SaidText& text : texts) of_step.push_back({text.stop_token, text.tokens});
    json.push_back({step, std::move(of_step)});
  }
  return json;
}

SaidAhead said_ahead_from_json(const data::JsonAt& json) {
  constexpr std::uint64_t most = std::uint64_t{1} << 31U;
  SaidAhead said;
  for (std::size_t i = 0; i < json.array().size(); ++i) {
    const data::JsonAt of_step = json.at(i);
    if (of_step.array().size() != 2) of_step.refuse("a step and its texts");
    std::vector<SaidText>& texts = said[of_step.at(0).index(std::uint64_t{1} << 62U)];
    const data::JsonAt list = of_step.at(1);
    for (std::size_t n = 0; n < list.array().size(); ++n) {
      const data::JsonAt text = list.at(n);
      if (text.array().size() != 2) text.refuse("a token that ended the text, or -1, and its tokens");
      SaidText& into = texts.emplace_back();
      const bool has_end = text.at(0).whole() != -1;
      if (has_end) into.stop_token = static_cast<std::int32_t>(text.at(0).index(most));
      for (std::size_t t = 0; t < text.at(1).array().size(); ++t)
        into.tokens.push_back(static_cast<std::int32_t>(text.at(1).at(t).index(most)));
    }
  }
  return said;
}

/// Says the texts of this step, and of as many sampled steps behind it as are said at once.
void SampledTexts::say(std::int64_t step, const std::function<StepText(std::int64_t further)>& text_of) {
  const SampledTextConfig& c = session_.config.objective.sampled_text.value();
  std::vector<std::vector<std::int32_t>> prompts;
  std::vector<std::pair<std::int64_t, std::int64_t>> steps;  // and their sequences
  for (std::int64_t of = step; of <= session_.config.train.steps && std::ssize(steps) < c.steps_at_once; ++of) {
    if (of > step && !is_sampled_step(session_.config, of)) continue;
    const StepText samples = text_of(of - step);
    for (auto& prompt : prompts_of(session_, samples.fetch(0, samples.num_sequences)))
      prompts.push_back(std::move(prompt));
    steps.emplace_back(of, samples.num_sequences);
  }
  const parallel::WorldComm& data = session_.rank.mesh().data();
  const core::RandomStream seeds(session_.config.train.seed, static_cast<std::uint64_t>(step), "sampled_text");
  nn::GenerateOptions options{.max_tokens = session_.config.data.sequence_length - c.prompt_tokens,
                              .sampling = {.temperature = c.temperature, .seed = seeds.bits(1)},
                              .valid_vocabulary = session_.tokenizer->vocabulary_size(),
                              .stop = session_.tokenizer->stop_ids(),
                              .at_once = c.texts_at_once};
  std::vector<nn::Continuation> said(prompts.size());
  if (c.by == SampledBy::Student) {
    options.at_once *= data.size();
    options.share = data.rank();
    options.shares = data.size();
    said = nn::generate_texts(*session_.student, prompts, options).texts;
  } else {  // each tensor group has a teacher of its own
    std::vector<std::size_t> own;
    while_others_hear(session_.rank, [&] {
      if (!session_.teacher->has_head()) return;  // of a pipeline the last stage's says it
      std::vector<std::vector<std::int32_t>> mine;
      for (auto n = static_cast<std::size_t>(data.rank()); n < prompts.size();
           n += static_cast<std::size_t>(data.size())) {
        own.push_back(n);
        mine.push_back(prompts[n]);
      }
      std::vector<nn::Continuation> texts = nn::generate_texts(*session_.teacher, mine, options).texts;
      for (std::size_t i = 0; i < own.size(); ++i) said[own[i]] = std::move(texts[i]);
    });
    tell_shares(session_.rank, said, own);
  }
  auto next = said.begin();
  for (const auto& [of, sequences] : steps)
    for (std::int64_t n = 0; n < sequences; ++n, ++next)
      ahead_[of].push_back({std::move(next->tokens), next->stop_token});
}

SampledText SampledTexts::of(std::int64_t step, const std::function<StepText(std::int64_t further)>& text_of) {
  const StepText samples = text_of(0);
  const data::TokenBatch text = samples.fetch(0, samples.num_sequences);
  const std::int64_t length = text.sequence_length,
                     most = length - session_.config.objective.sampled_text.value().prompt_tokens;
  if (!ahead_.contains(step)) say(step, text_of);
  const std::vector<SaidText> said = std::move(ahead_.extract(step).mapped());
  ahead_.erase(ahead_.begin(), ahead_.lower_bound(step));  // of steps that another seed has made others
  core::check(std::ssize(said) == text.num_sequences, "what was said for step {} is of {} sequences, expected {}", step,
              said.size(), text.num_sequences);
  for (const SaidText& of_sequence : said)
    core::check(
        std::ssize(of_sequence.tokens) <= most && of_sequence.stop_token < session_.tokenizer->vocabulary_size() &&
            std::ranges::all_of(of_sequence.tokens,
                                [&](std::int32_t token) { return token < session_.tokenizer->vocabulary_size(); }),
        "what was said for step {} has more than {} tokens, or others than the tokenizer's", step, most);
  const std::vector<std::vector<std::int32_t>> prompts = prompts_of(session_, text);
  const auto place = [&](std::int64_t sequence, std::int64_t i) {
    return static_cast<std::size_t>(sequence * length + i);
  };
  SampledText result{.samples = {.num_sequences = text.num_sequences,
                                 .sequence_length = length,
                                 .tokens = {},
                                 .targets = std::vector<std::int32_t>(text.tokens.size(), -1),
                                 .positions = {},
                                 .documents = {},
                                 .pieces = text.pieces}};  // of the prompts, whose teachers teach what goes on
  data::TokenBatch& batch = result.samples;
  for (std::int64_t n = 0; n < text.num_sequences; ++n) {
    const std::vector<std::int32_t>& prompt = prompts[static_cast<std::size_t>(n)];
    const SaidText& more = said[static_cast<std::size_t>(n)];
    std::vector<std::int32_t> whole = prompt;
    whole.insert(whole.end(), more.tokens.begin(), more.tokens.end());
    if (more.stop_token >= 0) whole.push_back(more.stop_token);  // a target, and no token that is read
    for (std::size_t i = prompt.size(); i < whole.size(); ++i)
      batch.targets[place(n, static_cast<std::int64_t>(i) - 1)] = whole[i];
    result.num_sampled += std::ssize(whole) - std::ssize(prompt);
    const std::int64_t read = std::ssize(prompt) + std::ssize(more.tokens);
    for (std::int64_t i = 0; i < length; ++i) {
      const bool is_filling = i >= read;
      batch.tokens.push_back(is_filling ? text.tokens[place(n, i)] : whole[static_cast<std::size_t>(i)]);
      batch.positions.push_back(static_cast<std::int32_t>(is_filling ? i - read : i));
      batch.documents.push_back(is_filling ? 1 : 0);
    }
  }
  return result;
}

}  // namespace limbeck::launch
