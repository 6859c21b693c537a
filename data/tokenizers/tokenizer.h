// Text to token ids and back. A tokenizer comes from a GGUF file's own keys (tokenizer_gguf.h), from Hugging Face's
// tokenizer.json (tokenizer_json.h), from a SentencePiece file (tokenizer_sentencepiece.h), is Limbeck's byte
// tokenizer, or was carried by a checkpoint as one JSON document; it leaves as Hugging Face's files or GGUF keys.
//
//     std::shared_ptr<const Tokenizer> tokenizer = byte_tokenizer();
//     std::vector<std::int32_t> ids = tokenizer->encode("The state is");
//     std::string text = tokenizer->decode(ids);
//     auto same = tokenizer_from_json(tokenizer->to_json(), "checkpoint");
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/models/gguf_keys.h"
#include "data/tokenizers/marked_text.h"

namespace limbeck::data {

/// What encoding lost or changed.
struct EncodeCounts {
  std::int64_t dropped_bytes = 0;       // bytes for which the vocabulary has no token
  std::int64_t repaired_sequences = 0;  // ill-formed UTF-8 that became U+FFFD, as Python's errors="replace"
  std::int64_t special_names = 0;       // names of special tokens in the text: tokens if parsed, else ordinary text
};

/// The files by which Hugging Face's libraries open a tokenizer; those that it does not need are empty.
struct HuggingFaceTokenizer {
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string tokenizer_model = {};         // SentencePiece's
  std::string generation_config_json = {};  // which tokens end an answer (answer_ends.h)
};

/// What decides how ordinary text, without added tokens, is cut: where two tokenizers have the same, they cut it into
/// tokens of the same names, whatever their ids.
struct Cutting {
  std::string rules;               // what happens to a text before pieces are looked for
  std::vector<std::string> parts;  // merges in their order and tokens, or pieces with their scores
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Ids of `text`, which may be any bytes. The names of special tokens in the text are those tokens only with
  /// parse_special, else ordinary text. Nothing is put in front or behind. May be called from several threads at once.
  virtual std::vector<std::int32_t> encode(std::string_view text, bool parse_special = false,
                                           EncodeCounts* counts = nullptr) const = 0;
  /// The same of a text of which parts are somebody's words. `pieces`, if not null, gets what the ids are of.
  virtual std::vector<std::int32_t> encode_marked(const MarkedText& text, std::vector<EncodedPiece>* pieces,
                                                  EncodeCounts* counts = nullptr) const = 0;
  /// The bytes that the ids stand for, which need not be whole UTF-8 characters; throws for an id outside the
  /// vocabulary.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
  /// The bytes of one id that does not stand at the start of a text; decode() may give it others there (SentencePiece
  /// drops the space in front of a text).
  virtual std::string decode_inside(std::int32_t id) const { return decode({&id, 1}); }

  /// Whether the id is a control token, which stands for no text.
  virtual bool is_special(std::int32_t id) const = 0;

  /// One more than the greatest id.
  virtual std::int64_t vocabulary_size() const = 0;
  virtual std::int32_t eos_id() const = 0;  // ends a model's answer
  /// The others that do, by the model's own files.
  virtual const std::vector<std::int32_t>& other_ends() const = 0;
  virtual std::int32_t end_of_text_id() const = 0;  // is put after each document
  /// Is put before each document and prompt; nothing where the model was not trained so.
  virtual std::optional<std::int32_t> start_of_text_id() const { return std::nullopt; }
  /// The token that begins sequences, whether it is put before texts or not.
  virtual std::optional<std::int32_t> bos_id() const = 0;
  /// How a conversation becomes a text, in Jinja as the model's files have it; empty where they say nothing.
  virtual const std::string& chat_template() const = 0;
  /// Where generation stops: eos_id, other_ends and end_of_text_id, each once.
  std::vector<std::int32_t> stop_ids() const;
  /// The name of a token as the vocabulary has it; empty: no token has the id. Throws for an id outside of it.
  virtual std::string_view name_of(std::int32_t id) const = 0;
  /// The id of a token by its name in the vocabulary, e.g. "<|im_end|>".
  virtual std::optional<std::int32_t> id_of(std::string_view token) const = 0;
  virtual Cutting cutting() const = 0;
  /// One JSON document from which tokenizer_from_json makes the same tokenizer.
  virtual std::string to_json() const = 0;
  virtual HuggingFaceTokenizer to_hugging_face() const = 0;
  /// The tokenizer.* keys of a GGUF file whose model has `vocabulary` tokens, those beyond the tokenizer's unused.
  /// Throws for what llama.cpp cannot do.
  virtual GgufKeys to_gguf(std::int64_t vocabulary) const = 0;
};

/// 256 bytes and an end of text, <|endoftext|> = 256.
std::shared_ptr<const Tokenizer> byte_tokenizer();
/// What to_json wrote. `where` names the origin in messages.
std::shared_ptr<const Tokenizer> tokenizer_from_json(std::string_view json, const std::string& where);

/// Decodes a stream that goes on from a text, as an answer does from its prompt: gives characters as soon as they are
/// whole.
///
///     StreamDecoder stream(*tokenizer);
///     for (const auto id : ids) std::cout << stream.feed(id);
///     std::cout << stream.finish();
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  /// The characters that this token completes, valid UTF-8 (bytes that cannot become a character are U+FFFD).
  std::string feed(std::int32_t id);
  /// What is left, repaired.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  std::string pending_;
};

}  // namespace limbeck::data
