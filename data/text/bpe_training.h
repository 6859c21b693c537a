// Trains a byte-level BPE on text: words are counted, then the most frequent pair of neighbours becomes a token, again
// and again (Sennrich et al. 2016). The same text and options give the same tokens, whatever the number of threads;
// they are those of Hugging Face's BpeTrainer.
//
//     const auto& rules = pretokenizer_rules("llama3", "--pretokenizer");
//     WordCounts words = count_words(list_text_files({"notes"}), rules, {.threads = 2});
//     BpeDescription trained = train_bpe(words, rules, {.vocabulary = 8192});
//     write_tokenizer_json(trained, trained.eos).tokenizer_json;
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "data/text/text_source.h"
#include "data/tokenizers/pretokenizer.h"
#include "data/tokenizers/tokenizer_bpe.h"

namespace limbeck::data {

using WordCounts = std::unordered_map<std::string, std::int64_t>;

class WordCounter {
 public:
  explicit WordCounter(const PretokenizerRules& rules);
  /// Adds the words of a text, any bytes. A word of more than 1024 bytes, which is none, counts in parts of that. May
  /// be called from several threads at once, each with its own counts.
  void add(std::string_view text, WordCounts& counts) const;

 private:
  Normalizer normalizer_;
  Pretokenizer pretokenizer_;
};

struct CountOptions {
  int threads = 1;
  TextFormat format = TextFormat::Auto;
  std::string field = "text";                                  // of JSON lines
  std::function<void(std::int64_t files_done)> progress = {};  // called by one thread at a time
};

/// The words of all documents of some files.
WordCounts count_words(const std::vector<std::string>& files, const PretokenizerRules& rules,
                       const CountOptions& options);

struct BpeTraining {
  std::int64_t vocabulary = 0;                           // tokens in all: special ones, 256 bytes, merges
  std::vector<std::string> special = {"<|endoftext|>"};  // have the first ids; the first ends documents and answers
  std::int64_t least_count = 2;                          // of a pair that is merged
  std::function<void(std::int64_t tokens_made)> progress = {};
};

/// Of equally frequent pairs the one of lower ids is merged first. There are fewer tokens than asked for where no pair
/// is left that is frequent enough. Pretokenizer and normalizer of the result are those of `rules`. Throws where the
/// vocabulary does not hold the bytes and special tokens, or a special token is empty, no UTF-8 or there twice.
BpeDescription train_bpe(const WordCounts& words, const PretokenizerRules& rules, const BpeTraining& options);

/// Throws as train_bpe does for its options: before the words are counted.
void check_training(const BpeTraining& options);

}  // namespace limbeck::data
