#include "data/text/loader.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "data/text/documents.h"

namespace limbeck::data {

using core::check;
using core::fail_usage;
using core::RandomStream;

namespace {

/// Fisher-Yates; the order is a function of the stream alone.
void shuffle(std::vector<std::int64_t>& values, const RandomStream& random) {
  for (std::size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[random.below(i - 1, i)]);
}

std::vector<std::int64_t> shuffled(std::int64_t count, const RandomStream& random) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), std::int64_t{0});
  shuffle(values, random);
  return values;
}

/// Sequences of `length` tokens and a last target in a text.
std::int64_t whole_sequences(std::int64_t num_tokens, std::int64_t length) {
  return num_tokens > 0 ? (num_tokens - 1) / length : 0;
}

}  // namespace

std::int64_t TokenBatch::num_targets() const {
  return std::count_if(targets.begin(), targets.end(), [](auto target) { return target >= 0; });
}

void append_pair(const Document& chosen, const Document& rejected, TokenBatch& batch) {
  const auto append = [&](std::int32_t part, std::int32_t position, std::int32_t token, std::int32_t target) {
    batch.tokens.push_back(token);
    batch.targets.push_back(target);
    batch.positions.push_back(position);
    batch.documents.push_back(part);
  };
  const std::int64_t rest = batch.sequence_length - std::ssize(chosen.ids) - std::ssize(rejected.ids);
  check(rest >= 0 && !chosen.ids.empty() && !rejected.ids.empty(),
        "pair: {} and {} tokens, expected some of each and at most {} together", chosen.ids.size(), rejected.ids.size(),
        batch.sequence_length);
  std::int32_t part = 0;
  for (const Document* document : {&chosen, &rejected}) {
    const std::vector<std::int32_t>& ids = document->ids;
    batch.pieces.push_back({.document = part, .first = std::ssize(batch.tokens), .count = std::ssize(ids)});
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const bool has_target = i + 1 < ids.size() && document->is_target[i + 1] != 0;
      append(part, static_cast<std::int32_t>(i), ids[i], has_target ? ids[i + 1] : -1);
    }
    ++part;
  }
  const std::int32_t last = batch.tokens.back();
  for (std::int64_t i = 0; i < rest; ++i) append(2, static_cast<std::int32_t>(i), last, -1);
  ++batch.num_sequences;
}

Loader::Loader(std::shared_ptr<const TokenFile> file, const LoaderOptions& options)
    : file_(std::move(file)), options_(options) {
  const auto& prefix = file_->prefix();
  if (options.sequence_length < 1)
    fail_usage("loader: sequence_length is {}, expected at least 1", options.sequence_length);
  if (options.vocabulary < 1) fail_usage("loader: vocabulary is {}, expected at least 1", options.vocabulary);
  if (!(options.held_out >= 0 && options.held_out < 1))
    fail_usage("loader: held_out is {}, expected a share from 0 to below 1", options.held_out);

  if (options.has_pairs) {
    split_pairs();
    return;
  }
  split(file_->num_documents(), held_out_, train_);
  const std::int64_t num_tokens = in_order(train_).starts.back();
  sequences_per_epoch_ = whole_sequences(num_tokens, options.sequence_length);
  check(sequences_per_epoch_ > 0, "{}: the {} training documents have {} tokens, expected at least {} for one sequence",
        prefix, train_.size(), num_tokens, options.sequence_length + 1);
}

/// Of `count` documents or pairs, some kept apart.
void Loader::split(std::int64_t count, std::vector<std::int64_t>& held_out, std::vector<std::int64_t>& train) const {
  std::int64_t num_held_out = 0;
  if (options_.held_out > 0 && count >= 2)
    num_held_out = std::clamp<std::int64_t>(std::llround(options_.held_out * static_cast<double>(count)), 1, count - 1);
  const auto order = shuffled(count, RandomStream(options_.seed, 0, "data/split"));
  held_out.assign(order.begin(), order.begin() + num_held_out);
  train.assign(order.begin() + num_held_out, order.end());
}

void Loader::split_pairs() {
  const std::int64_t documents = file_->num_documents();
  check(file_->has_mask() && documents % 2 == 0, "{}: has {} documents {} a mask, expected pairs of them with one",
        file_->prefix(), documents, file_->has_mask() ? "with" : "without");
  std::vector<std::int64_t> held_out, train;
  split(documents / 2, held_out, train);
  const auto take = [&](const std::vector<std::int64_t>& pairs, std::vector<std::int64_t>& to) {
    for (const std::int64_t pair : pairs) {
      for (const std::int64_t document : {2 * pair, 2 * pair + 1})
        check(file_->document_length(document) > 0, "{}: document {} is empty, expected a response", file_->prefix(),
              document);
      if (pair_length(2 * pair) > options_.sequence_length)
        ++num_left_out_;
      else
        to.insert(to.end(), {2 * pair, 2 * pair + 1});
    }
  };
  take(held_out, held_out_);
  take(train, train_);
  sequences_per_epoch_ = std::ssize(train_) / 2;
  check(sequences_per_epoch_ > 0, "{}: each of the {} training pairs has more than {} tokens, expected fewer in one",
        file_->prefix(), train.size(), options_.sequence_length);
}

/// Tokens of the pair that begins with this document.
std::int64_t Loader::pair_length(std::int64_t chosen) const {
  return file_->document_length(chosen) + file_->document_length(chosen + 1);
}

/// The document that the sample's pair begins with.
std::int64_t Loader::chosen_of_sample(std::int64_t sample) {
  prepare_epoch(sample / sequences_per_epoch_);
  return train_[static_cast<std::size_t>(2 * epoch_sequences_[sample % sequences_per_epoch_])];
}

std::int64_t Loader::longest_pair(std::int64_t first_sample, std::int64_t count) {
  std::int64_t longest = 0;
  for (std::int64_t sample = first_sample; sample < first_sample + count; ++sample)
    longest = std::max(longest, pair_length(chosen_of_sample(sample)));
  return longest;
}

Loader::Order Loader::in_order(std::span<const std::int64_t> documents) const {
  Order order{{documents.begin(), documents.end()}, {0}};
  for (const auto document : documents) order.starts.push_back(order.starts.back() + file_->document_length(document));
  return order;
}

void Loader::prepare_epoch(std::int64_t epoch) {
  if (epoch_ == epoch) return;
  const auto step = static_cast<std::uint64_t>(epoch);
  if (!options_.has_pairs) {
    auto documents = train_;
    shuffle(documents, RandomStream(options_.seed, step, "data/documents"));
    epoch_order_ = in_order(documents);
  }
  epoch_sequences_ = shuffled(sequences_per_epoch_, RandomStream(options_.seed, step, "data/sequences"));
  epoch_ = epoch;
}

TokenBatch Loader::fetch(std::int64_t first_sample, std::int64_t count) {
  check(first_sample >= 0 && count >= 0, "loader: {} samples from {} were asked for", count, first_sample);
  TokenBatch batch;
  batch.sequence_length = options_.sequence_length;
  for (std::int64_t sample = first_sample; sample < first_sample + count; ++sample) {
    if (options_.has_pairs) {
      append_pair(chosen_of_sample(sample), batch);
      continue;
    }
    prepare_epoch(sample / sequences_per_epoch_);
    append_sequence(epoch_order_, epoch_sequences_[sample % sequences_per_epoch_] * options_.sequence_length, batch);
  }
  return batch;
}

std::int64_t Loader::num_targets(std::int64_t first_sample, std::int64_t count) {
  check(first_sample >= 0 && count >= 0, "loader: {} samples from {} were counted", count, first_sample);
  if (options_.has_pairs) return num_pair_targets(first_sample, count);
  if (file_->has_mask()) return num_masked_targets(first_sample, count);
  std::int64_t ends = 0;  // documents that end within a sequence: their last token has no target
  for (std::int64_t sample = first_sample; sample < first_sample + count; ++sample) {
    prepare_epoch(sample / sequences_per_epoch_);
    const std::vector<std::int64_t>& starts = epoch_order_.starts;
    const std::int64_t first = epoch_sequences_[sample % sequences_per_epoch_] * options_.sequence_length;
    std::int64_t last_end = first;  // an empty document ends where the one before it does
    for (auto end = std::upper_bound(starts.begin(), starts.end(), first);
         end != starts.end() && *end <= first + options_.sequence_length; ++end)
      if (std::exchange(last_end, *end) != *end) ++ends;
  }
  return count * options_.sequence_length - ends;
}

/// Of a file with a mask, of which it is read.
std::int64_t Loader::num_masked_targets(std::int64_t first_sample, std::int64_t count) {
  std::int64_t targets = 0;
  for (std::int64_t sample = first_sample; sample < first_sample + count; ++sample) {
    prepare_epoch(sample / sequences_per_epoch_);
    const std::vector<std::int64_t>& starts = epoch_order_.starts;
    const std::int64_t first = epoch_sequences_[sample % sequences_per_epoch_] * options_.sequence_length;
    const std::int64_t end = first + options_.sequence_length;
    auto index = std::upper_bound(starts.begin(), starts.end(), first) - starts.begin() - 1;
    for (std::int64_t at = first; at < end; at = starts[++index]) {
      const std::int64_t stop = std::min(starts[index + 1], end + 1);  // behind the last target
      if (stop <= at + 1) continue;
      const auto is_target = file_->mask(epoch_order_.documents[index], at + 1 - starts[index], stop - at - 1);
      targets += std::count(is_target.begin(), is_target.end(), 1);
    }
  }
  return targets;
}

std::int64_t Loader::num_pair_targets(std::int64_t first_sample, std::int64_t count) {
  std::int64_t targets = 0;
  for (std::int64_t sample = first_sample; sample < first_sample + count; ++sample) {
    const std::int64_t chosen = chosen_of_sample(sample);
    for (const std::int64_t document : {chosen, chosen + 1}) {
      const auto is_target = file_->mask(document, 1, file_->document_length(document) - 1);
      targets += std::count(is_target.begin(), is_target.end(), 1);
    }
  }
  return targets;
}

std::int64_t Loader::num_held_out_sequences() const {
  if (options_.has_pairs) return std::ssize(held_out_) / 2;
  return whole_sequences(in_order(held_out_).starts.back(), options_.sequence_length);
}

TokenBatch Loader::held_out_batch(std::int64_t num_sequences) const {
  const std::int64_t available = num_held_out_sequences();
  check(num_sequences >= 0 && num_sequences <= available,
        "{}: {} held-out sequences of {} tokens were asked for, the {} held-out documents have {}", file_->prefix(),
        num_sequences, options_.sequence_length, held_out_.size(), available);
  TokenBatch batch;
  batch.sequence_length = options_.sequence_length;
  if (options_.has_pairs) {
    for (std::int64_t i = 0; i < num_sequences; ++i) append_pair(held_out_[static_cast<std::size_t>(2 * i)], batch);
    return batch;
  }
  const Order order = in_order(held_out_);
  for (std::int64_t i = 0; i < num_sequences; ++i) append_sequence(order, i * options_.sequence_length, batch);
  return batch;
}

/// Appends tokens [first_token, first_token + S) of the text; there is at least one more, the last target.
void Loader::append_sequence(const Order& order, std::int64_t first_token, TokenBatch& batch) const {
  const std::int64_t length = options_.sequence_length;
  std::vector<std::int32_t> ids;
  std::int32_t part = 0;  // of a document, within the sequence
  std::int64_t at = first_token;
  const std::int64_t end = first_token + length;
  auto index = std::upper_bound(order.starts.begin(), order.starts.end(), first_token) - order.starts.begin() - 1;
  for (; at < end; ++index) {
    const std::int64_t stop = std::min(order.starts[index + 1], end);
    const std::int64_t count = stop - at;
    if (count == 0) continue;  // an empty document
    const std::int64_t document = order.documents[index];
    const bool has_next = stop < order.starts[index + 1];  // the document goes on behind the sequence
    ids.resize(static_cast<std::size_t>(count + (has_next ? 1 : 0)));
    file_->read(document, at - order.starts[index], static_cast<std::int64_t>(ids.size()), ids.data());
    for (const auto id : ids) check_token(id, document);
    if (!has_next) ids.push_back(-1);
    batch.tokens.insert(batch.tokens.end(), ids.begin(), ids.end() - 1);
    if (file_->has_mask()) {
      const auto is_target = file_->mask(document, at - order.starts[index], count + (has_next ? 1 : 0));
      for (std::size_t i = 0; i < is_target.size(); ++i)
        if (is_target[i] == 0) ids[i] = -1;
    }
    batch.targets.insert(batch.targets.end(), ids.begin() + 1, ids.end());
    for (std::int64_t i = 0; i < count; ++i) batch.positions.push_back(static_cast<std::int32_t>(i));
    batch.documents.insert(batch.documents.end(), static_cast<std::size_t>(count), part++);
    batch.pieces.push_back({.document = document,
                            .position = at - order.starts[index],
                            .first = std::ssize(batch.tokens) - count,
                            .count = count});
    at = stop;
  }
  ++batch.num_sequences;
}

void Loader::append_pair(std::int64_t chosen, TokenBatch& batch) const {
  std::array<Document, 2> both;
  for (std::size_t part = 0; part < both.size(); ++part) {
    const std::int64_t document = chosen + static_cast<std::int64_t>(part);
    both[part].ids = file_->read(document);
    both[part].is_target = file_->read_mask(document);
    for (const std::int32_t id : both[part].ids) check_token(id, document);
  }
  const std::size_t known = batch.pieces.size();
  data::append_pair(both[0], both[1], batch);
  for (std::size_t part = 0; part < both.size(); ++part)
    batch.pieces[known + part].document = chosen + static_cast<std::int64_t>(part);
}

void Loader::check_token(std::int32_t id, std::int64_t document) const {
  check(id >= 0 && id < options_.vocabulary, "{}: document {} holds token {}, which is outside the vocabulary of {}",
        file_->prefix(), document, id, options_.vocabulary);
}

void Loader::count_ids(std::int64_t document, std::vector<std::int64_t>& counts) const {
  const std::vector<std::int32_t> ids = file_->read(document);
  const std::span<const std::uint8_t> is_target =
      file_->has_mask() ? file_->mask(document, 0, std::ssize(ids)) : std::span<const std::uint8_t>();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    check_token(ids[i], document);
    if (is_target.empty() || is_target[i] != 0) ++counts[ids[i]];
  }
}

std::vector<std::int64_t> Loader::unigram_counts() const {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(options_.vocabulary));
  for (const auto document : train_) count_ids(document, counts);
  return counts;
}

}  // namespace limbeck::data
