#include "core/error.h"
#include "data/tokenizers/answer_ends.h"
#include "data/tokenizers/tokenizer_bpe.h"
#include "data/tokenizers/tokenizer_gguf.h"
#include "data/tokenizers/tokenizer_sentencepiece.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;

namespace {

// Values of tokenizer.ggml.token_type.
constexpr std::int64_t control_token = 3;
constexpr std::int64_t user_token = 4;

std::int32_t id_at(const GgufFile& file, const std::string& key) {
  const std::int64_t id = file.integer(key);
  check(id >= 0 && id < (std::int64_t{1} << 31), "{}: {} is {}, expected a token's id", file.path(), key, id);
  return static_cast<std::int32_t>(id);
}

}  // namespace

std::shared_ptr<const Tokenizer> tokenizer_from_gguf(const GgufFile& file) {
  const std::string& model = file.text("tokenizer.ggml.model");
  if (model == "llama") return sentencepiece_from_gguf(file);
  check(model == "gpt2", "{}: tokenizer.ggml.model is {}, expected gpt2 (byte-level BPE) or llama (SentencePiece)",
        file.path(), model);
  BpeDescription description;
  const auto& rules = pretokenizer_rules(file.text("tokenizer.ggml.pre"), file.path() + ": tokenizer.ggml.pre");
  description.pretokenizer = rules.stages;
  description.ignore_merges = rules.ignore_merges;
  if (rules.is_nfc) description.normalizer = {{.kind = NormalizerStep::Kind::Form, .form = UnicodeForm::Nfc}};
  description.tokens = gguf_tokens(file);
  description.merges = file.strings("tokenizer.ggml.merges");
  const std::size_t size = description.tokens.size();
  check(size > 0 && size < (std::size_t{1} << 31U), "{}: tokenizer.ggml.tokens has {} entries", file.path(), size);
  if (file.has("tokenizer.ggml.token_type")) {
    const auto& types = file.integers("tokenizer.ggml.token_type");
    const std::size_t all = file.strings("tokenizer.ggml.tokens").size();
    check(types.size() == all, "{}: tokenizer.ggml.token_type has {} entries, expected {} as tokenizer.ggml.tokens",
          file.path(), types.size(), all);
    for (std::size_t id = 0; id < size; ++id)
      if (types[id] == control_token || types[id] == user_token)
        description.added.push_back({.id = static_cast<std::int32_t>(id), .special = types[id] == control_token});
  }
  description.eos = id_at(file, "tokenizer.ggml.eos_token_id");
  description.other_ends = without(answer_ends(file, static_cast<std::int64_t>(size)), description.eos);
  if (file.has("tokenizer.ggml.bos_token_id")) description.bos = id_at(file, "tokenizer.ggml.bos_token_id");
  const std::string add_bos = "tokenizer.ggml.add_bos_token";
  if (file.has(add_bos) ? file.boolean(add_bos) : rules.starts_texts) description.start_of_text = description.bos;
  if (file.has("tokenizer.chat_template")) description.chat_template = file.text("tokenizer.chat_template");
  check(valid_utf8_prefix(description.chat_template) == description.chat_template.size(),
        "{}: tokenizer.chat_template is not valid UTF-8", file.path());
  return std::make_shared<BpeTokenizer>(std::move(description), file.path());
}

std::vector<std::string> gguf_tokens(const GgufFile& file) {
  std::vector<std::string> tokens = file.strings("tokenizer.ggml.tokens");
  while (!tokens.empty() && tokens.back() == fmt::format("[PAD{}]", tokens.size() - 1)) tokens.pop_back();
  return tokens;
}

}  // namespace limbeck::data
