#include "launch/run/text_generation.h"

#include "launch/run/decode_meter.h"

namespace limbeck::launch {

std::vector<std::int32_t> prompt_ids(const data::Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<std::int32_t> ids = tokenizer.encode(prompt, /*parse_special=*/true);
  const auto start = tokenizer.start_of_text_id();
  if (start && (ids.empty() || ids.front() != *start)) ids.insert(ids.begin(), *start);
  return ids;
}

Continued continue_prompt(const nn::Transformer& model, const Rank& rank, const GenerationConfig& config,
                          const data::Tokenizer& tokenizer, bool is_cut) {
  if (config.prompt.empty()) return {};
  const std::vector<std::int32_t> prompt = prompt_ids(tokenizer, config.prompt);
  DecodeMeter meter(rank);
  const nn::Generated generated = nn::generate_texts(model, {&prompt, 1},
                                                     {.max_tokens = config.max_tokens,
                                                      .sampling = {.temperature = config.temperature,
                                                                   .top_k = config.top_k,
                                                                   .top_p = config.top_p,
                                                                   .seed = config.seed},
                                                      .valid_vocabulary = tokenizer.vocabulary_size(),
                                                      .stop = tokenizer.stop_ids(),
                                                      .share = !is_cut || rank.has_first_data() ? 0 : 1});
  Continued continued;
  if (generated.decode.tokens > 0)
    continued.decode = meter.figures(generated, is_cut ? rank.world().size() : rank.comms().tensor->size());
  data::StreamDecoder decoder(tokenizer);
  for (const auto id : generated.texts.front().tokens) continued.text += decoder.feed(id);
  continued.text += decoder.finish();
  return continued;
}

void keep_decode(Rank& rank, const std::filesystem::path& run, const char* name,
                 const std::optional<WorkFigures>& decode) {
  on_first_rank(rank, [&] {
    if (decode) add_to_start_file(run, {{name, to_json(*decode)}});
  });
}

void check_fits(const GenerationConfig& config, const data::Tokenizer& tokenizer, const nn::ModelConfig& model,
                const char* whose) {
  if (config.prompt.empty()) return;
  const auto prompt = static_cast<std::int64_t>(tokenizer.encode(config.prompt, /*parse_special=*/true).size());
  if (prompt > model.max_positions || config.max_tokens > model.max_positions - prompt)
    core::fail_usage("generation.max_tokens is {}, expected at most {}'s {} positions less {} tokens of the prompt",
                     config.max_tokens, whose, model.max_positions, prompt);
}

}  // namespace limbeck::launch
