// Byte-level BPE (Sennrich et al. 2016; GPT-2's variant on bytes): words from the pretokenizer, then the merges in
// order of rank. Agrees with Hugging Face's `tokenizers`: a byte without a token is dropped before merging, equal ranks
// merge from the left.
#pragma once

#include <array>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/pretokenizer.h"
#include "data/tokenizer.h"

namespace limbeck::data {

/// Everything that defines a BPE tokenizer, as it stands in files.
struct BpeDescription {
  std::string pre;                    // names the pretokenizer's rules
  std::vector<std::string> tokens;    // in GPT-2's byte alphabet; special ones as they are
  std::vector<std::string> merges;    // "left right", most frequent first
  std::vector<std::int32_t> special;  // ids of control tokens: text only with parse_special
  std::vector<std::int32_t> user;     // ids of tokens that are always taken whole
  std::int32_t eos = 0;
  std::optional<std::int32_t> bos;
  std::string chat_template;  // Jinja, for the export only
  friend bool operator==(const BpeDescription&, const BpeDescription&) = default;
};

class BpeTokenizer : public Tokenizer {
 public:
  /// Throws, naming `where` and the entry, where a token is twice there, a merge makes no token, or an id is outside.
  BpeTokenizer(BpeDescription description, const std::string& where);
  ~BpeTokenizer() override;

  std::vector<std::int32_t> encode(std::string_view text, bool parse_special, EncodeCounts* counts) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;
  std::int64_t vocabulary_size() const override { return static_cast<std::int64_t>(description_.tokens.size()); }
  std::int32_t eos_id() const override { return description_.eos; }
  std::int32_t end_of_text_id() const override { return end_of_text_; }
  std::optional<std::int32_t> id_of(std::string_view token) const override;
  std::string to_json() const override;
  HuggingFaceTokenizer to_hugging_face() const override;

  const BpeDescription& description() const { return description_; }

 private:
  struct Merge {
    std::uint64_t pair = ~0ULL;  // left id << 32 | right id
    std::int32_t rank = 0;
    std::int32_t id = 0;
  };
  struct Workspace;  // a thread's scratch memory and word cache
  struct Whole {     // a token that is found in the text itself
    std::string text;
    std::int32_t id;
    bool is_special;
  };

  void add_merges(const std::string& where);
  const Merge* find_merge(std::int32_t left, std::int32_t right) const;
  const Whole* find_whole(std::string_view text, bool parse_special) const;
  void encode_ordinary(std::string_view text, Workspace& work, std::vector<std::int32_t>& ids) const;
  void encode_word(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const;
  void merge_word(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const;
  std::unique_ptr<Workspace> take_workspace() const;

  BpeDescription description_;
  std::int32_t end_of_text_ = 0;
  const PretokenizerRules& rules_;
  Pretokenizer pretokenizer_;
  std::unordered_map<std::string_view, std::int32_t> id_of_token_;  // views into description_.tokens
  std::vector<std::string> bytes_of_token_;
  std::array<std::int32_t, 256> id_of_byte_{};  // -1: none
  std::vector<Merge> merges_;                   // open addressing, a power of two
  std::vector<Whole> wholes_;                   // longest first
  std::array<bool, 256> starts_whole_{};

  mutable std::mutex mutex_;  // of workspaces_
  mutable std::vector<std::unique_ptr<Workspace>> workspaces_;
};

}  // namespace limbeck::data
