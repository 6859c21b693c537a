#include "launch/run/sampled_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "core/nn/generation.h"
#include "core/random.h"

namespace limbeck::launch {

bool is_sampled_step(const RunConfig& config, std::int64_t step) {
  const SampledTextConfig& c = config.objective.sampled_text;
  if (step < c.first_step) return false;
  return core::RandomStream(config.train.seed, static_cast<std::uint64_t>(step), "sampled_text").uniform(0) <
         c.fraction;
}

SampledText sample_text(Session& session, const StepText& samples, std::int64_t step) {
  const SampledTextConfig& c = session.config.objective.sampled_text;
  const data::TokenBatch text = samples.fetch(0, samples.num_sequences);
  const std::int64_t length = text.sequence_length;
  const auto place = [&](std::int64_t sequence, std::int64_t i) {
    return static_cast<std::size_t>(sequence * length + i);
  };
  const std::vector<std::int32_t> stop = session.tokenizer->stop_ids();
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::int64_t n = 0; n < text.num_sequences; ++n) {
    std::int64_t first = c.prompt_tokens - 1;
    while (first > 0 && text.documents[place(n, first - 1)] == text.documents[place(n, c.prompt_tokens - 1)]) --first;
    const auto begin = text.tokens.begin() + static_cast<std::ptrdiff_t>(place(n, 0));
    std::vector<std::int32_t>& prompt = prompts.emplace_back(begin + first, begin + c.prompt_tokens);
    if (prompt.size() > 1 && std::ranges::count(stop, prompt.back()) > 0) prompt.pop_back();  // nothing follows that
  }
  const bool by_student = c.by == SampledBy::Student;
  const nn::Transformer& model = by_student ? *session.student : *session.teacher;
  const core::RandomStream seeds(session.config.train.seed, static_cast<std::uint64_t>(step), "sampled_text");
  nn::Generated said;
  const auto go_on = [&] {
    said = nn::generate_texts(
        model, prompts,
        {.max_tokens = length - c.prompt_tokens,
         .sampling = {.temperature = c.temperature, .seed = seeds.bits(1)},
         .valid_vocabulary = session.tokenizer->vocabulary_size(),
         .stop = stop,
         .at_once = std::max<std::int64_t>(1, text.num_sequences / session.config.batch.micro_batches),
         .is_first_rank = !by_student || session.rank.has_first_data()});
  };
  if (by_student) {
    go_on();
  } else {  // each tensor group has its own, whose rounding may differ: all take the last rank's
    while_others_hear(session.rank, [&] {
      if (model.has_head()) go_on();  // of a pipeline the last stage's
    });
    nlohmann::json packed = nlohmann::json::array();
    for (const nn::Continuation& of_text : said.texts) packed.push_back({of_text.tokens, of_text.stop_token});
    const auto bytes = nlohmann::json::to_msgpack(packed);
    const nlohmann::json of_first =
        nlohmann::json::from_msgpack(gather_strings(session.rank, std::string(bytes.begin(), bytes.end())).back());
    said.texts.resize(prompts.size());
    for (std::size_t n = 0; n < said.texts.size(); ++n) {
      said.texts[n].tokens = of_first[n][0].get<std::vector<std::int32_t>>();
      said.texts[n].stop_token = of_first[n][1].get<std::int32_t>();
    }
  }
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
    const nn::Continuation& more = said.texts[static_cast<std::size_t>(n)];
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
