#include "data/tokenizers/tokenizer_bpe.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <utility>

#include "core/error.h"
#include "data/tokenizers/unicode.h"
#include "data/tokenizers/vocabulary.h"

namespace limbeck::data {

using core::check;

namespace {

constexpr std::string_view space = "\xe2\x96\x81";  // U+2581 stands for a space where tokens are text

/// The byte that a token <0x00> to <0xFF> stands for.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned byte = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  return error == std::errc{} && end == token.data() + 5 ? std::optional(static_cast<char>(byte)) : std::nullopt;
}

constexpr std::size_t utf8_length(char first) {
  const auto lead = static_cast<unsigned char>(first);
  return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/// Calls `use` with the parts of `word` between the places where a "▁" follows another character.
template <class Use>
void for_each_part(std::string_view word, const Use& use) {
  std::size_t begin = 0;
  for (std::size_t at = word.find(space); at != std::string_view::npos; at = word.find(space, at + space.size())) {
    if (at == begin || word.substr(0, at).ends_with(space)) continue;
    use(word.substr(begin, at - begin));
    begin = at;
  }
  use(word.substr(begin));
}

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
  for (const auto id : description_.other_ends) check_id(id, "an end of an answer");
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
    bytes_of_token_[id] = text_of(token, where);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    const std::string name =
        description_.byte_fallback ? fmt::format("<0x{:02X}>", byte) : alphabet_of_bytes({&character, 1});
    id_of_byte_[byte] = model_id_of(name).value_or(-1);
  }
}

/// What a token decodes to.
std::string BpeTokenizer::text_of(std::string_view token, const std::string& where) const {
  if (!description_.byte_fallback) return bytes_of_alphabet(token).value_or(std::string(token));
  if (const auto byte = byte_of(token)) return {*byte};
  const std::size_t most = most_bytes_of(token.size());
  std::string text(token);
  for (const auto& [from, to] : description_.decoder.replaced) {
    std::string replaced;
    std::size_t done = 0;
    for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, done)) {
      replaced.append(text, done, at - done).append(to);
      done = at + from.size();
      check(replaced.size() <= most, "{}: its decoder makes more than {} bytes of token {}", where, most, token);
    }
    text = replaced.append(text, done);
  }
  return text;
}

void BpeTokenizer::add_added_tokens(const std::string& where) {
  std::vector<AddedTokens::Entry> plain;
  std::vector<AddedTokens::Entry> normalized;
  std::vector<AddedTokens::Entry> marked;
  for (const auto& token : description_.added) {
    const std::string& text = description_.tokens[token.id];
    if (text.empty()) continue;
    if (!token.normalized || token.special) marked.push_back({text, token});
    if (!token.normalized) {
      plain.push_back({text, token});
      continue;
    }
    normalized.push_back({normalizer_.apply(text), token});
    const std::string& found = normalized.back().text;
    bytes_of_token_[token.id] = text_of(found, where);  // as the oracle decodes it
    check(!found.empty(), "{}: the normalizer leaves nothing of added token {}, {}", where, token.id, text);
  }
  plain_added_ = AddedTokens(std::move(plain));
  normalized_added_ = AddedTokens(std::move(normalized));
  marked_added_ = AddedTokens(std::move(marked));
}

void BpeTokenizer::add_merges(const std::string& where) {
  const auto& merges = description_.merges;
  merges_.resize(std::bit_ceil(2 * merges.size() + 1));
  cuts_at_spaces_ = description_.byte_fallback && !description_.ignore_merges && model_id_of(space);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view merge = merges[rank];
    const std::size_t gap = merge.find(' ');
    check(gap != std::string_view::npos, "{}: merge {} is '{}', expected two tokens and a space between", where, rank,
          merge);
    const std::string_view left = merge.substr(0, gap);
    const std::string_view right = merge.substr(gap + 1);
    if (right.starts_with(space) && !left.ends_with(space)) cuts_at_spaces_ = false;
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
    if (counts != nullptr) counts->repaired_sequences += repaired.num_replaced;
  }
  return encode_names(text, NamesInText(parse_special), plain_added_, nullptr, counts);
}

std::vector<std::int32_t> BpeTokenizer::encode_marked(const MarkedText& text, std::vector<EncodedPiece>* pieces,
                                                      EncodeCounts* counts) const {
  return encode_names(text.text, NamesInText(text), marked_added_, pieces, counts);
}

std::vector<std::int32_t> BpeTokenizer::encode_names(std::string_view text, const NamesInText& names,
                                                     const AddedTokens& plain, std::vector<EncodedPiece>* pieces,
                                                     EncodeCounts* counts) const {
  auto work = take_workspace();
  work->dropped_bytes = 0;
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  std::int64_t special_names = 0;
  const auto note = [&](std::string_view piece, bool is_name) {
    if (pieces == nullptr) return;
    const auto begin = static_cast<std::size_t>(piece.data() - text.data());
    pieces->push_back({.begin = begin, .end = begin + piece.size(), .first_id = ids.size(), .is_name = is_name});
  };
  const auto found = [&](std::int32_t id, std::string_view name) {
    note(name, /*is_name=*/true);
    ids.push_back(id);
  };
  const auto found_in_normalized = [&](std::int32_t id, std::string_view /*name*/) { ids.push_back(id); };
  const NamesInText names_in_normalized = names.of_pieces();
  const auto use = [&](std::string_view piece) {
    note(piece, /*is_name=*/false);
    const std::string changed = normalizer_.empty() ? std::string() : normalizer_.apply(piece);
    const std::string_view ready = normalizer_.empty() ? piece : changed;
    const bool is_first = piece.data() == text.data();
    const auto use_ready = [&](std::string_view ordinary) {
      encode_ordinary(ordinary, is_first && ordinary.data() == ready.data(), *work, ids);
    };
    special_names += normalized_added_.split(ready, names_in_normalized, use_ready, found_in_normalized);
  };
  special_names += plain.split(text, names, use, found);
  if (counts != nullptr) {
    counts->special_names += special_names;
    counts->dropped_bytes += work->dropped_bytes;
  }
  const std::lock_guard lock(mutex_);
  workspaces_.push_back(std::move(work));
  return ids;
}

void BpeTokenizer::encode_ordinary(std::string_view text, bool begins_text, Workspace& work,
                                   std::vector<std::int32_t>& ids) const {
  const auto use = [&](std::string_view word) {
    if (!cuts_at_spaces_) return encode_word(word, work, ids);
    for_each_part(word, [&](std::string_view part) { encode_word(part, work, ids); });
  };
  pretokenizer_.split(text, work.scratch, use, begins_text);
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

/// What is merged: a symbol a byte, or a character. As in the oracle, an unknown token waits until the next known
/// character, behind bytes that stand for one.
void BpeTokenizer::add_symbols(std::string_view word, Workspace& work) const {
  auto& symbols = work.symbols;
  symbols.clear();
  const auto add = [&](std::int32_t id) {
    const auto index = static_cast<std::int32_t>(symbols.size());
    symbols.push_back({id, index - 1, index + 1, false});
  };
  const auto id_of_byte = [&](char byte) { return id_of_byte_[static_cast<unsigned char>(byte)]; };
  bool has_unknown = false;
  const auto add_unknown = [&] {
    if (std::exchange(has_unknown, false)) add(*description_.unk);
  };
  for (std::size_t at = 0; at < word.size();) {
    const std::size_t length = description_.byte_fallback ? utf8_length(word[at]) : 1;
    const std::string_view unit = word.substr(at, length);
    at += length;
    const std::int32_t id = description_.byte_fallback ? model_id_of(unit).value_or(-1) : id_of_byte(unit[0]);
    if (id >= 0) {
      add_unknown();
      add(id);
    } else if (description_.byte_fallback &&
               std::all_of(unit.begin(), unit.end(), [&](char byte) { return id_of_byte(byte) >= 0; })) {
      for (const char byte : unit) add(id_of_byte(byte));
    } else {
      work.dropped_bytes += static_cast<std::int64_t>(unit.size());
      if (!description_.fuse_unk) add_unknown();
      has_unknown = description_.unk.has_value();
    }
  }
  add_unknown();
  if (!symbols.empty()) symbols.back().next = -1;
}

void BpeTokenizer::merge_word(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const {
  if (description_.ignore_merges)
    if (const auto id = model_id_of(description_.byte_fallback ? std::string(word) : alphabet_of_bytes(word)))
      return ids.push_back(*id);
  merge_symbols(word, work, ids);
}

void BpeTokenizer::merge_symbols(std::string_view word, Workspace& work, std::vector<std::int32_t>& ids) const {
  check(word.size() < std::size_t{1} << 31U, "tokenizer: a word of {} bytes, expected fewer than 2^31", word.size());
  add_symbols(word, work);
  auto& symbols = work.symbols;
  if (symbols.empty()) return;

  auto& queue = work.candidates;  // a heap; empty between calls
  const auto propose = [&](std::int32_t left) {
    const std::int32_t right = left < 0 ? -1 : symbols[left].next;
    if (right < 0) return;
    const Merge* merge = find_merge(symbols[left].id, symbols[right].id);
    if (merge == nullptr) return;
    queue.push_back({merge->rank, left, merge->id});
    std::push_heap(queue.begin(), queue.end());
  };
  if (!description_.merges.empty())
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

bool BpeTokenizer::merges_make_all_tokens() const {
  auto work = take_workspace();
  std::vector<std::int32_t> ids;
  bool makes_all = true;
  for (std::int32_t id = 0; id < vocabulary_size() && makes_all; ++id) {
    if (description_.tokens[id].empty() || added_[id] != nullptr) continue;
    ids.clear();
    merge_symbols(bytes_of_token_[id], *work, ids);
    makes_all = ids == std::vector{id};
  }
  const std::lock_guard lock(mutex_);
  workspaces_.push_back(std::move(work));
  return makes_all;
}

Cutting BpeTokenizer::cutting() const {
  const BpeDescription& d = description_;
  Cutting cutting{.rules = fmt::format("bpe {} {} {}", d.byte_fallback, d.ignore_merges, d.fuse_unk), .parts = {}};
  for (const NormalizerStep& step : d.normalizer)
    cutting.rules += fmt::format("\nnormalizer {} {} {} {}", static_cast<int>(step.kind), static_cast<int>(step.form),
                                 step.pattern, step.content);
  for (const PretokenizerStage& stage : d.pretokenizer)
    cutting.rules += fmt::format("\nwords {} {} {} {} {} {}", stage.pattern, static_cast<int>(stage.behavior),
                                 stage.invert, stage.space, stage.prefix, stage.only_first);
  for (std::size_t id = 0; id < d.tokens.size(); ++id)
    if (!d.tokens[id].empty() && added_[id] == nullptr && !fills_up(d.tokens[id], static_cast<std::int64_t>(id)))
      cutting.parts.push_back("token " + d.tokens[id]);
  std::ranges::sort(cutting.parts);
  for (const std::string& merge : d.merges) cutting.parts.push_back("merge " + merge);
  return cutting;
}

void BpeTokenizer::check_in_vocabulary(std::int32_t id) const {
  check(id >= 0 && id < vocabulary_size(), "tokenizer: id {} is outside the vocabulary of {}", id, vocabulary_size());
}

std::string_view BpeTokenizer::name_of(std::int32_t id) const {
  check_in_vocabulary(id);
  return description_.tokens[id];
}

std::string BpeTokenizer::decode_inside(std::int32_t id) const {
  check_in_vocabulary(id);
  return bytes_of_token_[id];
}

bool BpeTokenizer::is_special(std::int32_t id) const {
  check_in_vocabulary(id);
  const AddedToken* added = added_[static_cast<std::size_t>(id)];
  return added != nullptr && added->special;
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string bytes;
  for (const auto id : ids) {
    check_in_vocabulary(id);
    bytes += bytes_of_token_[id];
  }
  const auto& [replaced, stripped, most_stripped] = description_.decoder;
  std::size_t begin = 0;
  for (std::int64_t i = 0; i < most_stripped && std::string_view(bytes).substr(begin).starts_with(stripped); ++i)
    begin += stripped.size();
  return bytes.substr(begin);
}

}  // namespace limbeck::data
