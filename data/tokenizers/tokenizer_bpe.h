// BPE (Sennrich et al. 2016) on bytes, GPT-2's variant, or on characters with bytes for those that have no token, Llama
// 2's: added tokens are found, the text between them is normalised and cut into words, words are merged in order of
// rank. Agrees with Hugging Face's `tokenizers`: what has no token is dropped before merging, equal ranks merge from
// the left.
//
//     BpeTokenizer tokenizer(std::move(description), "model.gguf");
//     tokenizer.encode("The state is", false, nullptr);
#pragma once

#include <array>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/tokenizers/added_tokens.h"
#include "data/tokenizers/normalizer.h"
#include "data/tokenizers/pretokenizer.h"
#include "data/tokenizers/tokenizer.h"

namespace limbeck::data {

/// How the texts of tokens become a text, with byte_fallback.
struct BpeDecoder {
  std::vector<std::pair<std::string, std::string>> replaced = {};  // in each token, in order: "▁" by a space
  std::string stripped = {};       // a character that is taken off the front of the whole text,
  std::int64_t most_stripped = 0;  // up to so many times
  friend bool operator==(const BpeDecoder&, const BpeDecoder&) = default;
};

/// Everything that defines a BPE tokenizer.
struct BpeDescription {
  std::vector<std::string> tokens;  // by id; in GPT-2's byte alphabet, added ones as they are; empty: no such id
  std::vector<std::string> merges;  // "left right", most frequent first
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  std::vector<PretokenizerStage> pretokenizer;
  bool byte_fallback = false;  // tokens are text; characters without one become the tokens <0x00> to <0xFF>
  BpeDecoder decoder;
  bool ignore_merges = false;       // a word that is a token is that token, whatever the merges say
  std::optional<std::int32_t> unk;  // stands for a byte or character without a token, which else is dropped
  bool fuse_unk = false;            // one for several in a row
  std::int32_t eos = 0;
  std::vector<std::int32_t> other_ends;  // of an answer
  std::optional<std::int32_t> bos;
  std::optional<std::int32_t> start_of_text;  // is put before each text
  std::optional<std::int32_t> end_of_text;    // after each; else <|endoftext|> or <|end_of_text|>, else eos
  std::string chat_template;                  // Jinja
  friend bool operator==(const BpeDescription&, const BpeDescription&) = default;
};

class BpeTokenizer : public Tokenizer {
 public:
  /// Throws, naming `where` and the entry, where a token is twice there, a merge makes no token, or an id is outside.
  /// `files`: what to_hugging_face gives; without them it is made from the description.
  BpeTokenizer(BpeDescription description, const std::string& where, std::optional<HuggingFaceTokenizer> files = {});
  ~BpeTokenizer() override;

  std::vector<std::int32_t> encode(std::string_view text, bool parse_special, EncodeCounts* counts) const override;
  std::vector<std::int32_t> encode_marked(const MarkedText& text, std::vector<EncodedPiece>* pieces,
                                          EncodeCounts* counts) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::string decode_inside(std::int32_t id) const override;
  bool is_special(std::int32_t id) const override;
  std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(description_.tokens.size()); }
  std::int32_t eos_id() const override { return description_.eos; }
  std::int32_t end_of_text_id() const override { return end_of_text_; }
  const std::vector<std::int32_t>& other_ends() const override { return description_.other_ends; }
  std::string_view name_of(std::int32_t id) const override;
  std::optional<std::int32_t> id_of(std::string_view token) const override;
  std::optional<std::int32_t> start_of_text_id() const override { return description_.start_of_text; }
  std::optional<std::int32_t> bos_id() const override {
    return description_.bos ? description_.bos : description_.start_of_text;
  }
  const std::string& chat_template() const override { return description_.chat_template; }
  Cutting cutting() const override;
  std::string to_json() const override;
  HuggingFaceTokenizer to_hugging_face() const override;
  GgufKeys to_gguf(std::int64_t vocabulary) const override;

  const BpeDescription& description() const { return description_; }

 private:
  struct Merge {
    std::uint64_t pair = ~0ULL;  // left id << 32 | right id
    std::int32_t rank = 0;
    std::int32_t id = 0;
  };
  struct Workspace;  // a thread's scratch memory and word cache

  /// Of valid UTF-8.
  std::vector<std::int32_t> encode_names(std::string_view text, const NamesInText& names, const AddedTokens& plain,
                                         std::vector<EncodedPiece>* pieces, EncodeCounts* counts) const;
  void add_tokens(const std::string& where);
  void add_added_tokens(const std::string& where);
  void add_merges(const std::string& where);
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  /// Whether each token that stands for several bytes is what the merges make of them.
  bool merges_make_all_tokens() const;
  /// The id of a token of the model itself, where an added token of that name need not be one.
  std::optional<std::int32_t> model_id_of(std::string_view token) const;
  std::string text_of(std::string_view token, const std::string& where) const;
  void check_in_vocabulary(std::int32_t id) const;
  void encode_ordinary(std::string_view text, bool begins_text, Workspace& work, std::vector<std::int32_t>& ids) const;
  void encode_word(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const;
  void add_symbols(std::string_view word, Workspace& work) const;
  void merge_word(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const;
  void merge_symbols(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const;
  std::unique_ptr<Workspace> take_workspace() const;

  BpeDescription description_;
  std::optional<HuggingFaceTokenizer> files_;
  std::int32_t end_of_text_ = 0;
  Normalizer normalizer_;
  Pretokenizer pretokenizer_;
  std::unordered_map<std::string_view, std::int32_t> id_of_token_;  // views into description_.tokens
  std::vector<const AddedToken*> added_;                            // by id; null: not added
  std::vector<std::string> bytes_of_token_;
  std::array<std::int32_t, 256> id_of_byte_{};  // -1: none
  bool cuts_at_spaces_ = false;                 // no merge reaches over the start of a "▁" (with byte_fallback)
  std::vector<Merge> merges_;                   // open addressing, a power of two
  AddedTokens plain_added_;                     // found in the text as it is
  AddedTokens normalized_added_;                // found in what is left of it, normalised
  AddedTokens marked_added_;                    // instead of plain_added_ in a marked text: with special tokens of both

  mutable std::mutex mutex_;  // of workspaces_
  mutable std::vector<std::unique_ptr<Workspace>> workspaces_;
};

}  // namespace limbeck::data
