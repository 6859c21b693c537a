#include "data/tokenizers/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "data/tokenizers/tokenizer_bpe.h"
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
  description.tokens = file.strings("tokenizer.ggml.tokens");
  description.merges = file.strings("tokenizer.ggml.merges");
  const std::size_t size = description.tokens.size();
  check(size > 0 && size < (std::size_t{1} << 31U), "{}: tokenizer.ggml.tokens has {} entries", file.path(), size);
  if (file.has("tokenizer.ggml.token_type")) {
    const auto& types = file.integers("tokenizer.ggml.token_type");
    check(types.size() == size, "{}: tokenizer.ggml.token_type has {} entries, expected {} as tokenizer.ggml.tokens",
          file.path(), types.size(), size);
    for (std::size_t id = 0; id < size; ++id)
      if (types[id] == control_token || types[id] == user_token)
        description.added.push_back({.id = static_cast<std::int32_t>(id), .special = types[id] == control_token});
  }
  description.eos = id_at(file, "tokenizer.ggml.eos_token_id");
  if (file.has("tokenizer.ggml.bos_token_id")) description.bos = id_at(file, "tokenizer.ggml.bos_token_id");
  const std::string add_bos = "tokenizer.ggml.add_bos_token";
  if (file.has(add_bos) ? file.boolean(add_bos) : rules.starts_texts) description.start_of_text = description.bos;
  if (file.has("tokenizer.chat_template")) description.chat_template = file.text("tokenizer.chat_template");
  check(valid_utf8_prefix(description.chat_template) == description.chat_template.size(),
        "{}: tokenizer.chat_template is not valid UTF-8", file.path());
  return std::make_shared<BpeTokenizer>(std::move(description), file.path());
}

std::shared_ptr<const Tokenizer> byte_tokenizer() {
  BpeDescription description;
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    description.tokens.push_back(alphabet_of_bytes({&character, 1}));
  }
  description.tokens.emplace_back("<|endoftext|>");
  description.added = {{.id = 256, .special = true}};
  description.eos = 256;
  return std::make_shared<BpeTokenizer>(std::move(description), "byte tokenizer");
}

std::string StreamDecoder::feed(std::int32_t id) {
  pending_ += tokenizer_.decode_inside(id);
  const std::size_t whole = pending_.size() - unfinished_utf8(pending_);
  std::string text = repair_utf8(std::string_view(pending_).substr(0, whole)).utf8;
  pending_.erase(0, whole);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text = repair_utf8(pending_).utf8;
  pending_.clear();
  return text;
}

}  // namespace limbeck::data
