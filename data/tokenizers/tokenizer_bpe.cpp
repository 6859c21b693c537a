#include "data/tokenizers/tokenizer_bpe.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;

namespace {

constexpr std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U) | static_cast<std::uint32_t>(right);
}

constexpr std::size_t slot_of(std::uint64_t pair, std::size_t slots) {
  return (pair * 0x9e3779b97f4a7c15ULL >> 20U) & (slots - 1);
}

/// A word and its ids in one cache line; words or ids that do not fit are merged every time.
struct CachedWord {
  std::uint8_t length = 0;
  std::uint8_t num_ids = 0;
  std::array<char, 30> word{};
  std::array<std::int32_t, 8> ids{};
};
static_assert(sizeof(CachedWord) == 64);
constexpr std::size_t cache_slots = std::size_t{1} << 15U;

struct Symbol {
  std::int32_t id;
  std::int32_t previous;
  std::int32_t next;  // -1: none
  bool is_gone;
};

struct Candidate {
  std::int32_t rank;
  std::int32_t position;
  std::int32_t id;  // of the merged token
  /// For a heap whose top is the lowest rank, leftmost.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
  }
};

}  // namespace

struct BpeTokenizer::Workspace {
  Pretokenizer::Scratch scratch;
  std::vector<CachedWord> cache = std::vector<CachedWord>(cache_slots);
  std::vector<Symbol> symbols;
  std::vector<Candidate> candidates;
  std::int64_t dropped_bytes = 0;
};

BpeTokenizer::BpeTokenizer(BpeDescription description, const std::string& where,
                           std::optional<HuggingFaceTokenizer> files)
    : description_(std::move(description)),
      files_(std::move(files)),
      normalizer_(description_.normalizer, where),
      pretokenizer_(description_.pretokenizer, where) {
  const auto size = vocabulary_size();
  const auto check_id = [&](std::optional<std::int32_t> id, const char* what) {
    check(!id || (*id >= 0 && *id < size), "{}: {} is {}, expected an id below the vocabulary size {}", where, what,
          id.value_or(0), size);
  };
  check_id(description_.eos, "the tokenizer's end-of-sequence id");
  check_id(description_.bos, "the tokenizer's begin-of-sequence id");
  check_id(description_.start_of_text, "the tokenizer's start-of-text id");
  check_id(description_.end_of_text, "the tokenizer's end-of-text id");
  check_id(description_.unk, "the tokenizer's unknown-token id");
  added_.resize(description_.tokens.size());
  for (const auto& token : description_.added) {
    check_id(token.id, "an added token's id");
    added_[token.id] = &token;
  }
  add_tokens(where);
  add_added_tokens(where);
  add_merges(where);
  end_of_text_ = description_.eos;
  for (const char* name : {"<|end_of_text|>", "<|endoftext|>"}) end_of_text_ = id_of(name).value_or(end_of_text_);
  end_of_text_ = description_.end_of_text.value_or(end_of_text_);
}

BpeTokenizer::~BpeTokenizer() = default;

void BpeTokenizer::add_tokens(const std::string& where) {
  const auto& tokens = description_.tokens;
  id_of_token_.reserve(tokens.size());
  bytes_of_token_.resize(tokens.size());
  for (std::int32_t id = 0; id < vocabulary_size(); ++id) {
    const std::string& token = tokens[id];
    if (token.empty()) continue;
    check(valid_utf8_prefix(token) == token.size(), "{}: token {} is not valid UTF-8", where, id);
    const auto [first, is_new] = id_of_token_.emplace(token, id);
    check(is_new, "{}: tokens {} and {} are both {}", where, first->second, id, token);
    bytes_of_token_[id] = bytes_of_alphabet(token).value_or(token);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    id_of_byte_[byte] = model_id_of(alphabet_of_bytes({&character, 1})).value_or(-1);
  }
}

void BpeTokenizer::add_added_tokens(const std::string& where) {
  std::vector<AddedTokens::Entry> plain;
  std::vector<AddedTokens::Entry> normalized;
  for (const auto& token : description_.added) {
    const std::string& text = description_.tokens[token.id];
    if (text.empty()) continue;
    if (!token.normalized) {
      plain.push_back({text, token});
      continue;
    }
    normalized.push_back({normalizer_.apply(text), token});
    const std::string& found = normalized.back().text;
    bytes_of_token_[token.id] = bytes_of_alphabet(found).value_or(found);  // as the oracle decodes it
    check(!found.empty(), "{}: the normalizer leaves nothing of added token {}, {}", where, token.id, text);
  }
  plain_added_ = AddedTokens(std::move(plain));
  normalized_added_ = AddedTokens(std::move(normalized));
}

void BpeTokenizer::add_merges(const std::string& where) {
  const auto& merges = description_.merges;
  merges_.resize(std::bit_ceil(2 * merges.size() + 1));
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view merge = merges[rank];
    const std::size_t space = merge.find(' ');
    check(space != std::string_view::npos, "{}: merge {} is '{}', expected two tokens and a space between", where, rank,
          merge);
    const std::string_view left = merge.substr(0, space);
    const std::string_view right = merge.substr(space + 1);
    const auto left_id = model_id_of(left);
    const auto right_id = model_id_of(right);
    const auto id = model_id_of(std::string(left) + std::string(right));
    check(left_id && right_id && id, "{}: merge {} is '{}', of which not all parts are in the vocabulary", where, rank,
          merge);
    const std::uint64_t pair = pair_of(*left_id, *right_id);
    std::size_t slot = slot_of(pair, merges_.size());
    while (merges_[slot].pair != ~0ULL && merges_[slot].pair != pair) slot = (slot + 1) & (merges_.size() - 1);
    merges_[slot] = {pair, static_cast<std::int32_t>(rank), *id};
  }
}

const BpeTokenizer::Merge* BpeTokenizer::find_merge(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  for (std::size_t slot = slot_of(pair, merges_.size());; slot = (slot + 1) & (merges_.size() - 1)) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == ~0ULL) return nullptr;
  }
}

std::optional<std::int32_t> BpeTokenizer::id_of(std::string_view token) const {
  const auto found = id_of_token_.find(token);
  return found == id_of_token_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::int32_t> BpeTokenizer::model_id_of(std::string_view token) const {
  const auto id = id_of(token);
  return id && added_[*id] != nullptr && !added_[*id]->in_model ? std::nullopt : id;
}

std::unique_ptr<BpeTokenizer::Workspace> BpeTokenizer::take_workspace() const {
  {
    const std::lock_guard lock(mutex_);
    if (!workspaces_.empty()) {
      auto work = std::move(workspaces_.back());
      workspaces_.pop_back();
      return work;
    }
  }
  auto work = std::make_unique<Workspace>();
  work->scratch = pretokenizer_.scratch();
  return work;
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text, bool parse_special, EncodeCounts* counts) const {
  Repaired repaired;
  if (valid_utf8_prefix(text) != text.size()) {
    repaired = repair_utf8(text);
    text = repaired.utf8;
  }
  auto work = take_workspace();
  work->dropped_bytes = 0;
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  const auto found = [&](std::int32_t id) { ids.push_back(id); };
  const auto use_normalized = [&](std::string_view piece) { encode_ordinary(piece, *work, ids); };
  const auto use = [&](std::string_view piece) {
    if (normalizer_.empty())
      normalized_added_.split(piece, parse_special, use_normalized, found);
    else
      normalized_added_.split(normalizer_.apply(piece), parse_special, use_normalized, found);
  };
  plain_added_.split(text, parse_special, use, found);
  if (counts != nullptr) {
    counts->dropped_bytes += work->dropped_bytes;
    counts->repaired_sequences += repaired.num_replaced;
  }
  const std::lock_guard lock(mutex_);
  workspaces_.push_back(std::move(work));
  return ids;
}

void BpeTokenizer::encode_ordinary(std::string_view text, Workspace& work, std::vector<std::int32_t>& ids) const {
  pretokenizer_.split(text, work.scratch, [&](std::string_view word) { encode_word(word, work, ids); });
}

void BpeTokenizer::encode_word(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const {
  if (word.size() > sizeof(CachedWord::word)) return merge_word(word, work, ids);
  CachedWord& cached = work.cache[XXH3_64bits(word.data(), word.size()) & (cache_slots - 1)];
  if (std::string_view(cached.word.data(), cached.length) == word) {
    ids.insert(ids.end(), cached.ids.begin(), cached.ids.begin() + cached.num_ids);
    return;
  }
  const std::size_t first = ids.size();
  const std::int64_t dropped_before = work.dropped_bytes;
  merge_word(word, work, ids);
  // A word with dropped bytes is not kept: each time it comes, they are counted.
  if (ids.size() - first > cached.ids.size() || work.dropped_bytes != dropped_before) return;
  cached.length = static_cast<std::uint8_t>(word.size());
  cached.num_ids = static_cast<std::uint8_t>(ids.size() - first);
  std::copy(word.begin(), word.end(), cached.word.begin());
  std::copy(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end(), cached.ids.begin());
}

void BpeTokenizer::merge_word(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const {
  if (description_.ignore_merges)
    if (const auto id = model_id_of(alphabet_of_bytes(word))) return ids.push_back(*id);
  check(word.size() < std::size_t{1} << 31U, "tokenizer: a word of {} bytes, expected fewer than 2^31", word.size());
  auto& symbols = work.symbols;
  symbols.clear();
  const bool has_merges = !description_.merges.empty();
  bool was_unknown = false;
  for (const char byte : word) {
    std::int32_t id = id_of_byte_[static_cast<unsigned char>(byte)];
    const bool is_unknown = id < 0;
    if (is_unknown) {
      ++work.dropped_bytes;
      if (!description_.unk || (description_.fuse_unk && was_unknown)) continue;
      id = *description_.unk;
    }
    was_unknown = is_unknown;
    if (!has_merges) {
      ids.push_back(id);
      continue;
    }
    const auto index = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1, false});
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  auto& queue = work.candidates;  // a heap; empty between calls
  const auto propose = [&](std::int32_t left) {
    const std::int32_t right = left < 0 ? -1 : symbols[left].next;
    if (right < 0) return;
    const Merge* merge = find_merge(symbols[left].id, symbols[right].id);
    if (merge == nullptr) return;
    queue.push_back({merge->rank, left, merge->id});
    std::push_heap(queue.begin(), queue.end());
  };
  for (std::int32_t i = 0; i < static_cast<std::int32_t>(symbols.size()); ++i) propose(i);
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end());
    const Candidate best = queue.back();
    queue.pop_back();
    Symbol& left = symbols[best.position];
    if (left.is_gone || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // The pair may have changed since it was proposed. As the oracle does, what counts is that it still makes the same
    // token.
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;
    left.id = best.id;
    right.is_gone = true;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    propose(left.previous);
    propose(best.position);
  }
  for (const auto& symbol : symbols)
    if (!symbol.is_gone) ids.push_back(symbol.id);
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string bytes;
  for (const auto id : ids) {
    check(id >= 0 && id < vocabulary_size(), "tokenizer: id {} is outside the vocabulary of {}", id, vocabulary_size());
    bytes += bytes_of_token_[id];
  }
  return bytes;
}

}  // namespace limbeck::data
