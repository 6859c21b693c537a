#include "data/text/bpe_training.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "data/files/ordered_work.h"
#include "data/text/text_jobs.h"
#include "data/tokenizers/unicode.h"

namespace limbeck::data {

using core::check;

namespace {

constexpr std::size_t max_word = 1024;

std::vector<NormalizerStep> normalizer_of(const PretokenizerRules& rules) {
  return rules.is_nfc ? std::vector<NormalizerStep>{NormalizerStep{}} : std::vector<NormalizerStep>{};
}

/// Two ids; ordered as the pair of them.
using Pair = std::uint64_t;
constexpr Pair pair_of(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32U) | static_cast<std::uint32_t>(right);
}

/// A pair with some of the words that it stands in. `count` is what it was when the candidate was queued.
struct Candidate {
  std::int64_t count;
  Pair pair;
  std::vector<std::uint32_t> words;
  /// For a heap whose top has the greatest count, then the lowest ids.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.count != b.count ? a.count < b.count : a.pair > b.pair;
  }
};

class Trainer {
 public:
  Trainer(const WordCounts& words, const BpeTraining& options) : options_(options) {
    for (const auto& name : options.special) {
      check(!name.empty() && valid_utf8_prefix(name) == name.size(),
            "training: a special token is {}, expected UTF-8 text", name.empty() ? "empty" : "ill-formed");
      check(add_token(name), "training: special token {} is there twice", name);
    }
    // The order of the alphabet's characters.
    std::vector<std::pair<char32_t, int>> alphabet;
    for (int byte = 0; byte < 256; ++byte) alphabet.emplace_back(code_points(character_of(byte))[0], byte);
    std::sort(alphabet.begin(), alphabet.end());
    std::array<std::int32_t, 256> id_of_byte{};
    for (const auto& [character, byte] : alphabet) {
      check(add_token(to_utf8(character)), "training: special token {} is a byte's", to_utf8(character));
      id_of_byte[static_cast<std::size_t>(byte)] = static_cast<std::int32_t>(tokens_.size()) - 1;
    }
    check(options.vocabulary >= static_cast<std::int64_t>(tokens_.size()),
          "training: a vocabulary of {} tokens, expected at least {} for special tokens and bytes", options.vocabulary,
          tokens_.size());
    check(words.size() < (std::size_t{1} << 32U), "training: {} different words, expected fewer than 2^32",
          words.size());
    words_.reserve(words.size());
    for (const auto& [text, count] : words) {
      words_.push_back({symbols_.size(), static_cast<std::uint32_t>(text.size()), count});
      for (const char byte : text) symbols_.push_back(id_of_byte[static_cast<unsigned char>(byte)]);
    }
  }

  void run() {
    for (std::uint32_t w = 0; w < words_.size(); ++w)
      for (std::size_t i = words_[w].begin; i + 1 < words_[w].begin + words_[w].size; ++i)
        change(pair_of(symbols_[i], symbols_[i + 1]), words_[w].count, w);
    queue_new();
    while (static_cast<std::int64_t>(tokens_.size()) < options_.vocabulary && !queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end());
      Candidate top = std::move(queue_.back());
      queue_.pop_back();
      const std::int64_t count = counts_[top.pair];
      if (top.count != count) {
        top.count = count;
        push(std::move(top));
        continue;
      }
      if (count < std::max<std::int64_t>(options_.least_count, 1)) return;
      const auto left = static_cast<std::int32_t>(top.pair >> 32U);
      const auto right = static_cast<std::int32_t>(top.pair & 0xffffffffU);
      // The same characters may have become a token by another pair.
      const std::string text = tokens_[static_cast<std::size_t>(left)] + tokens_[static_cast<std::size_t>(right)];
      add_token(text);
      merges_.push_back(top.pair);
      for (const auto w : top.words) merge(w, left, right, id_of_.at(text));
      queue_new();
      if (options_.progress && merges_.size() % 64 == 0) options_.progress(static_cast<std::int64_t>(tokens_.size()));
    }
  }

  void give(BpeDescription& d) {
    // A pair that came twice has its later rank, as with the oracle.
    std::unordered_map<Pair, std::size_t> last;
    for (std::size_t i = 0; i < merges_.size(); ++i) last[merges_[i]] = i;
    for (std::size_t i = 0; i < merges_.size(); ++i)
      if (last[merges_[i]] == i)
        d.merges.push_back(tokens_[merges_[i] >> 32U] + " " + tokens_[merges_[i] & 0xffffffffU]);
    d.tokens = std::move(tokens_);
  }

 private:
  struct Word {
    std::size_t begin;  // in symbols_
    std::uint32_t size;
    std::int64_t count;
  };

  static std::string character_of(int byte) {
    const char character = static_cast<char>(byte);
    return alphabet_of_bytes({&character, 1});
  }

  bool add_token(const std::string& text) {
    const bool is_new = id_of_.emplace(text, static_cast<std::int32_t>(tokens_.size())).second;
    if (is_new) tokens_.push_back(text);
    return is_new;
  }

  void push(Candidate candidate) {
    queue_.push_back(std::move(candidate));
    std::push_heap(queue_.begin(), queue_.end());
  }

  void change(Pair pair, std::int64_t by, std::uint32_t word) {
    counts_[pair] += by;
    if (by < 0) return;
    auto& words = new_[pair];
    if (words.empty() || words.back() != word) words.push_back(word);
  }

  void queue_new() {
    for (auto& [pair, words] : new_)
      if (const std::int64_t count = counts_[pair]; count > 0) push({count, pair, std::move(words)});
    new_.clear();
  }

  /// Replaces the pair in one word from the left.
  void merge(std::uint32_t index, std::int32_t left, std::int32_t right, std::int32_t merged) {
    Word& word = words_[index];
    std::int32_t* const symbols = symbols_.data() + word.begin;
    std::uint32_t out = 0;
    for (std::uint32_t in = 0; in < word.size; ++in) {
      const bool is_pair = symbols[in] == left && in + 1 < word.size && symbols[in + 1] == right;
      if (!is_pair) {
        symbols[out++] = symbols[in];
        continue;
      }
      if (out > 0) {
        change(pair_of(symbols[out - 1], left), -word.count, index);
        change(pair_of(symbols[out - 1], merged), word.count, index);
      }
      if (in + 2 < word.size) {
        change(pair_of(right, symbols[in + 2]), -word.count, index);
        change(pair_of(merged, symbols[in + 2]), word.count, index);
      }
      symbols[out++] = merged;
      ++in;
    }
    word.size = out;
  }

  const BpeTraining& options_;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, std::int32_t> id_of_;
  std::vector<Word> words_;
  std::vector<std::int32_t> symbols_;
  std::unordered_map<Pair, std::int64_t> counts_;
  std::unordered_map<Pair, std::vector<std::uint32_t>> new_;  // pairs that have come up since the last merge
  std::vector<Candidate> queue_;                              // a heap
  std::vector<Pair> merges_;
};

}  // namespace

WordCounter::WordCounter(const PretokenizerRules& rules)
    : normalizer_(normalizer_of(rules), "training"), pretokenizer_(rules.stages, "training") {}

void WordCounter::add(std::string_view text, WordCounts& counts) const {
  std::string copy;
  if (valid_utf8_prefix(text) != text.size()) text = copy = repair_utf8(text).utf8;
  if (!normalizer_.empty()) text = copy = normalizer_.apply(text);
  auto scratch = pretokenizer_.scratch();
  std::string word;
  pretokenizer_.split(text, scratch, [&](std::string_view whole) {
    for (std::size_t at = 0; at < whole.size(); at += max_word) {
      word = whole.substr(at, max_word);
      ++counts[word];
    }
  });
}

WordCounts count_words(const std::vector<std::string>& files, const PretokenizerRules& rules,
                       const CountOptions& options) {
  check(options.threads >= 1, "training: {} threads, expected at least 1", options.threads);
  struct Counted {
    WordCounts words;
    bool is_last;  // of its file
  };
  const WordCounter counter(rules);
  const JsonField field(options.field);
  TextJobs jobs(files, options.format);
  WordCounts total;
  std::int64_t files_done = 0;

  OrderedWork<TextJob, Counted> work;
  work.most_cost = 4 * static_cast<std::int64_t>(options.threads);
  work.read = [&] { return jobs.next(); };
  work.work = [&](const TextJob& job) {
    Counted counted{.words = {}, .is_last = job.is_last()};
    for_each_document(job, field, [&](const std::string& text, std::int64_t) { counter.add(text, counted.words); });
    return counted;
  };
  work.write = [&](Counted&& counted) {
    for (const auto& [word, count] : counted.words) total[word] += count;
    files_done += counted.is_last ? 1 : 0;
    if (options.progress) options.progress(files_done);
  };
  work.run(options.threads);
  return total;
}

void check_training(const BpeTraining& options) {
  check(!options.special.empty(), "training: no special token, expected one that ends a document");
  Trainer(WordCounts{}, options);
}

BpeDescription train_bpe(const WordCounts& words, const PretokenizerRules& rules, const BpeTraining& options) {
  check(!options.special.empty(), "training: no special token, expected one that ends a document");
  Trainer trainer(words, options);
  trainer.run();
  BpeDescription d;
  trainer.give(d);
  d.normalizer = normalizer_of(rules);
  d.pretokenizer = rules.stages;
  d.ignore_merges = rules.ignore_merges;
  for (std::size_t id = 0; id < options.special.size(); ++id)
    d.added.push_back({.id = static_cast<std::int32_t>(id), .special = true});
  return d;
}

}  // namespace limbeck::data
