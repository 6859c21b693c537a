// Training sequences from a token file: documents shuffled, concatenated, cut into sequences of S tokens, the sequences
// shuffled, anew in every epoch. Sample number i is a pure function of (seed, i), whatever ranks ask for it: the place
// in the text that a checkpoint holds is the index of the next sample.
//
//     Loader loader(std::make_shared<TokenFile>("data/train"), {.sequence_length = 256, .vocabulary = 49152, .seed =
//     1}); TokenBatch batch = loader.fetch(/*first_sample=*/next_sample, /*count=*/4); TokenBatch held_out =
//     loader.held_out_batch(32);
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/text/token_file.h"

namespace limbeck::data {

/// Sequences, one after another: each vector is [num_sequences, sequence_length].
struct TokenBatch {
  /// A run of tokens of one document.
  struct Piece {
    std::size_t source = 0;     // of a mixture
    std::int64_t document = 0;  // in its token file
    std::int64_t position = 0;  // of the first token in the document
    std::int64_t first = 0;     // in this batch
    std::int64_t count = 0;
  };
  std::int64_t num_sequences = 0;
  std::int64_t sequence_length = 0;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> targets;    // the next token; -1 after the last token of a document (its end of text is a
                                        // target), and where the token file's mask says that the next token is none
  std::vector<std::int32_t> positions;  // from 0 at the sequence's start and at the start of each document in it
  std::vector<std::int32_t> documents;  // 0, 1, 2.. within the sequence

  std::vector<Piece> pieces = {};  // where the tokens are from, in order; empty of what is from no token file

  std::int64_t num_targets() const;  // those that are not -1
};

struct Document;

/// Appends a sequence of two responses, each behind its prompt: both whole, filled up with the last token, as a third
/// document without a target. Throws where they have more than sequence_length tokens, or one has none.
void append_pair(const Document& chosen, const Document& rejected, TokenBatch& batch);

struct LoaderOptions {
  std::int64_t sequence_length = 0;  // S
  std::int64_t vocabulary = 0;       // ids are checked against it
  std::uint64_t seed = 0;
  double held_out =
      0.05;  // share of the documents kept apart; at least one document unless it is 0 or there is only one
  /// Documents 2i and 2i + 1 are a pair: a sample is the two of one pair, alone in its sequence, and what is said of
  /// documents here is said of pairs. Those that have more than S tokens together are left out.
  bool has_pairs = false;
};

class Loader {
 public:
  /// Throws, naming the token file, where the training documents do not fill one sequence (S + 1 tokens), and where the
  /// file is not of pairs that fit.
  Loader(std::shared_ptr<const TokenFile> file, const LoaderOptions& options);

  const TokenFile& file() const { return *file_; }
  std::int64_t sequence_length() const { return options_.sequence_length; }
  bool has_pairs() const { return options_.has_pairs; }
  std::int64_t num_left_out() const { return num_left_out_; }  // pairs that are too long
  std::int64_t sequences_per_epoch() const { return sequences_per_epoch_; }
  std::int64_t tokens_per_epoch() const { return sequences_per_epoch_ * options_.sequence_length; }
  /// Indices of documents in the file, in a seeded order that never changes.
  std::span<const std::int64_t> train_documents() const { return train_; }
  std::span<const std::int64_t> held_out_documents() const { return held_out_; }

  /// Of the text, whatever its name: with the options it tells which samples there are.
  std::uint64_t fingerprint() const { return file_->fingerprint(); }

  /// Samples [first_sample, first_sample + count), counted over all epochs. What is left at the end of an epoch's text
  /// after whole sequences is not used. Remembers the order of one epoch: one thread at a time.
  TokenBatch fetch(std::int64_t first_sample, std::int64_t count);
  /// Targets of those samples that are not -1; no token is read, but a mask is.
  std::int64_t num_targets(std::int64_t first_sample, std::int64_t count);

  /// Of pairs: the tokens of the longest one among those samples.
  std::int64_t longest_pair(std::int64_t first_sample, std::int64_t count);

  /// Whole sequences in the held-out documents.
  std::int64_t num_held_out_sequences() const;
  /// The first `num_sequences` sequences of the held-out documents, always the same; throws where there are fewer.
  TokenBatch held_out_batch(std::int64_t num_sequences) const;

  /// How often each token of the vocabulary occurs in the training documents, as a target where there is a mask: [V].
  std::vector<std::int64_t> unigram_counts() const;

 private:
  /// Documents one after another, as one text.
  struct Order {
    std::vector<std::int64_t> documents;
    std::vector<std::int64_t> starts;  // in tokens, and the end
  };
  Order in_order(std::span<const std::int64_t> documents) const;
  void append_sequence(const Order& order, std::int64_t first_token, TokenBatch& batch) const;
  std::int64_t num_masked_targets(std::int64_t first_sample, std::int64_t count);
  std::int64_t num_pair_targets(std::int64_t first_sample, std::int64_t count);
  void split(std::int64_t count, std::vector<std::int64_t>& held_out, std::vector<std::int64_t>& train) const;
  void split_pairs();
  std::int64_t pair_length(std::int64_t chosen) const;
  std::int64_t chosen_of_sample(std::int64_t sample);
  void append_pair(std::int64_t chosen, TokenBatch& batch) const;
  void count_ids(std::int64_t document, std::vector<std::int64_t>& counts) const;
  void check_token(std::int32_t id, std::int64_t document) const;
  void prepare_epoch(std::int64_t epoch);

  std::shared_ptr<const TokenFile> file_;
  LoaderOptions options_;
  std::vector<std::int64_t> train_;
  std::vector<std::int64_t> held_out_;
  std::int64_t sequences_per_epoch_ = 0;
  std::int64_t num_left_out_ = 0;

  std::int64_t epoch_ = -1;  // that the following belong to
  Order epoch_order_;
  std::vector<std::int64_t> epoch_sequences_;
};

}  // namespace limbeck::data
