// SentencePiece tokenizers (unigram and BPE, Kudo and Richardson 2018), by the SentencePiece library: `.model` files,
// and the vocabularies of GGUF files whose tokenizer.ggml.model is "llama". Ids agree with PyPI's `sentencepiece`.
//
//     auto tokenizer = sentencepiece_from_file("Llama-2-7b/tokenizer.model");
//     tokenizer->encode("Hello world");                   // ids of "▁Hello", "▁world"
//     tokenizer->decode(ids);                             // "Hello world": the space in front is dropped again
//     tokenizer->encode("</s>");                          // text; with parse_special, the control token
//     tokenizer->to_hugging_face().tokenizer_model;       // the .model file
#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/tokenizers/sentencepiece_model.h"
#include "data/tokenizers/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace limbeck::data {

class GgufFile;

/// A token that is cut out of the text before SentencePiece sees it, beside the model's control pieces. What lies
/// between such tokens is encoded as a text of its own, with a space in front if the model puts one there, as llama.cpp
/// and Hugging Face's `tokenizers` do.
struct CutToken {
  std::int32_t id = 0;       // of a piece, or behind the pieces
  std::string text;          // as it stands in the text
  bool is_special = false;   // only with parse_special, decodes to nothing; a control piece always is
  bool strips_left = false;  // takes the white space before or behind it along
  bool strips_right = false;
  friend bool operator==(const CutToken&, const CutToken&) = default;
};

/// Everything that defines a SentencePiece tokenizer, as it stands in files.
struct SentencePieceDescription {
  SentencePieceModel model = {};
  std::vector<CutToken> added = {};
  std::int32_t eos = 0;
  std::vector<std::int32_t> other_ends = {};  // of an answer
  std::optional<std::int32_t> bos = {};
  bool adds_bos = true;                // before each document and prompt, if there is one
  std::string chat_template = {};      // Jinja
  std::string generation_config = {};  // as it came in; empty: made from the ends
  friend bool operator==(const SentencePieceDescription&, const SentencePieceDescription&) = default;
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  /// Throws, naming `where` and the entry, for a model that is not valid, and for ids outside the vocabulary.
  SentencePieceTokenizer(SentencePieceDescription description, const std::string& where);
  ~SentencePieceTokenizer() override;

  std::vector<std::int32_t> encode(std::string_view text, bool parse_special, EncodeCounts* counts) const override;
  std::vector<std::int32_t> encode_marked(const MarkedText& text, std::vector<EncodedPiece>* pieces,
                                          EncodeCounts* counts) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::string decode_inside(std::int32_t id) const override;
  bool is_special(std::int32_t id) const override { return token(id).is_empty; }
  std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(tokens_.size()); }
  std::int32_t eos_id() const override { return description_.eos; }
  std::int32_t end_of_text_id() const override { return end_of_text_; }
  std::optional<std::int32_t> start_of_text_id() const override;
  std::optional<std::int32_t> bos_id() const override { return description_.bos; }
  const std::string& chat_template() const override { return description_.chat_template; }
  const std::vector<std::int32_t>& other_ends() const override { return description_.other_ends; }
  std::string_view name_of(std::int32_t id) const override { return token(id).name; }
  std::optional<std::int32_t> id_of(std::string_view token) const override;
  Cutting cutting() const override;
  std::string to_json() const override;
  HuggingFaceTokenizer to_hugging_face() const override;
  GgufKeys to_gguf(std::int64_t vocabulary) const override;

  const SentencePieceDescription& description() const { return description_; }

 private:
  struct Token {
    std::string name;
    std::string bytes;      // inside a text
    bool is_byte = false;   // never loses its first byte
    bool is_empty = false;  // stands for no text
  };

  void add_tokens(const std::string& where);
  void find_words();
  std::vector<std::int32_t> encode_names(std::string_view text, const NamesInText& names,
                                         std::vector<EncodedPiece>* pieces, EncodeCounts* counts) const;
  const CutToken* find_whole(std::string_view text, std::size_t at, const NamesInText& names,
                             bool& is_special_name) const;
  void encode_ordinary(std::string_view text, std::vector<std::int32_t>& ids) const;
  const Token& token(std::int32_t id) const;

  SentencePieceDescription description_;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::vector<Token> tokens_;
  std::unordered_map<std::string, std::int32_t> id_of_token_;
  std::vector<CutToken> wholes_;  // longest first
  std::array<bool, 256> starts_whole_{};
  std::int32_t end_of_text_ = 0;
  bool cuts_at_spaces_ = false;  // no piece and no rule of the normalizer reaches over a single space between letters
};

/// The tokenizer of a `.model` file, with what lies beside it (tokenizer_folder.h, answer_ends.h): bos_token,
/// eos_token, add_bos_token, added tokens, chat_template, ends of answers. Throws, naming the file, for a broken one,
/// and for tiktoken's file, which has the same name in Meta's folders.
std::shared_ptr<const Tokenizer> sentencepiece_from_file(const std::filesystem::path& path);

/// From the keys tokens, scores, token_type, {eos,bos,unknown}_token_id, add_bos_token, add_space_prefix and
/// remove_extra_whitespaces below tokenizer.ggml. Tokens of type user-defined are cut out of the text first, as
/// llama.cpp does.
std::shared_ptr<const Tokenizer> sentencepiece_from_gguf(const GgufFile& file);

/// The "format" of to_json's document, and the way back.
constexpr const char* sentencepiece_format = "limbeck sentencepiece 1";
std::shared_ptr<const Tokenizer> sentencepiece_from_json(const nlohmann::json& document, const std::string& where);

}  // namespace limbeck::data
