#include "core/nn/batch.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <numeric>
#include <vector>

namespace limbeck::nn {

core::AttentionLayout Batch::attention_layout() const {
  core::AttentionLayout layout;
  layout.query_offsets = layout.key_offsets = sequence_offsets;
  layout.query_position = layout.key_position = position;
  layout.query_document = layout.key_document = document;
  layout.run_offsets = run_offsets;
  layout.longest_run = longest_run;
  return layout;
}

void Batch::copy_values(const Batch& other) {
  const auto columns = [](auto& batch) {
    return std::array{&batch.tokens,   &batch.targets, &batch.position,     &batch.document,
                      &batch.sequence, &batch.context, &batch.global_index, &batch.sequence_offsets};
  };
  const auto to = columns(*this);
  const auto from = columns(other);
  for (std::size_t i = 0; i < to.size(); ++i) to[i]->copy_from(*from[i]);
  for (std::size_t k = 0; k < ahead.size(); ++k) {
    ahead[k].tokens.copy_from(other.ahead[k].tokens);
    ahead[k].targets.copy_from(other.ahead[k].targets);
  }
}

void Batch::forget_values() {
  run_offsets = {};
  longest_run = 0;
  max_position = 0;
  for (std::size_t n = 1; n < offsets_on_host.size(); ++n)
    max_position = std::max(max_position, offsets_on_host[n] - offsets_on_host[n - 1] - 1);
  longest_context = max_position + 1;
}

namespace {

/// Where documents begin, in all sequences; nothing where one is not its tokens in their order.
std::vector<std::int64_t> find_runs(const BatchColumns& c) {
  std::vector<std::int64_t> runs;
  for (std::size_t i = 0; i < c.tokens.size(); ++i) {
    if (i == 0 || c.sequence[i] != c.sequence[i - 1] || c.document[i] > c.document[i - 1])
      runs.push_back(static_cast<std::int64_t>(i));
    else if (c.document[i] < c.document[i - 1] || c.position[i] != c.position[i - 1] + 1)
      return {};
  }
  runs.push_back(std::ssize(c.tokens));
  return runs;
}

/// Of each token: one more than the highest position of its document, whose tokens lie one behind the other.
std::vector<std::int32_t> find_contexts(const BatchColumns& c) {
  std::vector<std::int32_t> contexts(c.tokens.size());
  for (std::size_t begin = 0, end = 0; begin < contexts.size(); begin = end) {
    std::int32_t most = 0;
    for (end = begin;
         end < contexts.size() && c.sequence[end] == c.sequence[begin] && c.document[end] == c.document[begin]; ++end)
      most = std::max(most, c.position[end] + 1);
    std::fill(contexts.begin() + static_cast<std::ptrdiff_t>(begin),
              contexts.begin() + static_cast<std::ptrdiff_t>(end), most);
  }
  return contexts;
}

/// A column's values of the tokens that are so many further on in the same document.
std::vector<std::int32_t> moved(const BatchColumns& c, std::span<const std::int32_t> column, std::size_t by,
                                std::int32_t otherwise) {
  std::vector<std::int32_t> values(column.size(), otherwise);
  for (std::size_t i = 0, j = by; j < column.size(); ++i, ++j)
    if (c.sequence[i] == c.sequence[j] && c.document[i] == c.document[j]) values[i] = column[j];
  return values;
}

}  // namespace

Batch make_batch(const MemoryPtr& memory, const BatchColumns& c) {
  const auto n = static_cast<std::int64_t>(c.tokens.size());
  const auto column = [&]<class T>(const char* name, std::span<const T> values) {
    core::check(static_cast<std::int64_t>(values.size()) == n, "batch: {} {} for {} tokens", values.size(), name, n);
    return Tensor::from<T>(memory, {n}, values);
  };
  core::check(!c.sequence_offsets.empty() && c.sequence_offsets.front() == 0 && c.sequence_offsets.back() == n,
              "batch: sequence offsets do not span {} tokens", n);
  const auto num_sequences = static_cast<std::int64_t>(c.sequence_offsets.size()) - 1;
  for (const std::int32_t sequence : c.sequence)
    core::check(sequence >= 0 && sequence < num_sequences, "batch: a token of sequence {}, expected one of {}",
                sequence, num_sequences);
  Batch batch;
  batch.tokens = column("tokens", c.tokens);
  batch.targets = column("targets", c.targets);
  batch.position = column("positions", c.position);
  batch.document = column("documents", c.document);
  batch.sequence = column("sequences", c.sequence);
  const std::vector<std::int32_t> found = c.context.empty() ? find_contexts(c) : std::vector<std::int32_t>();
  const std::span<const std::int32_t> contexts = c.context.empty() ? found : c.context;
  batch.context = column("contexts", contexts);
  for (const std::int64_t context : contexts) batch.longest_context = std::max(batch.longest_context, context);
  batch.global_index = column("global indices", c.global_index);
  batch.sequence_offsets =
      Tensor::from<std::int64_t>(memory, {static_cast<std::int64_t>(c.sequence_offsets.size())}, c.sequence_offsets);
  batch.offsets_on_host.assign(c.sequence_offsets.begin(), c.sequence_offsets.end());
  const std::vector<std::int64_t> runs = find_runs(c);
  if (!runs.empty()) batch.run_offsets = Tensor::from<std::int64_t>(memory, {std::ssize(runs)}, runs);
  for (std::size_t r = 1; r < runs.size(); ++r) batch.longest_run = std::max(batch.longest_run, runs[r] - runs[r - 1]);
  for (const auto p : c.position) batch.max_position = std::max<std::int64_t>(batch.max_position, p);
  for (std::int64_t k = 0; k < c.num_ahead; ++k) {
    const auto by = static_cast<std::size_t>(k + 1);
    const std::vector<std::int32_t> tokens = moved(c, c.tokens, by, 0), targets = moved(c, c.targets, by, -1);
    batch.ahead.push_back(
        {Tensor::from<std::int32_t>(memory, {n}, tokens), Tensor::from<std::int32_t>(memory, {n}, targets)});
  }
  batch.global_sequences = static_cast<double>(c.sequence_offsets.size() - 1);
  batch.global_tokens = static_cast<double>(n);
  return batch;
}

Batch sequences_of(const MemoryPtr& memory, std::span<const TextPart> parts) {
  std::vector<std::int32_t> tokens, position, sequence, contexts;
  std::vector<std::int64_t> offsets = {0};
  for (std::size_t n = 0; n < parts.size(); ++n) {
    const auto& [of_part, first, context] = parts[n];
    tokens.insert(tokens.end(), of_part.begin(), of_part.end());
    sequence.resize(tokens.size(), static_cast<std::int32_t>(n));
    contexts.resize(tokens.size(), static_cast<std::int32_t>(context > 0 ? context : first + std::ssize(of_part)));
    position.resize(tokens.size());
    std::iota(position.end() - std::ssize(of_part), position.end(), static_cast<std::int32_t>(first));
    offsets.push_back(std::ssize(tokens));
  }
  std::vector<std::int64_t> index(tokens.size());
  std::iota(index.begin(), index.end(), parts.empty() ? 0 : parts.front().first);
  const std::vector<std::int32_t> zeros(tokens.size(), 0);
  const std::vector<std::int32_t> no_targets(tokens.size(), -1);
  return make_batch(memory, {.tokens = tokens,
                             .targets = no_targets,
                             .position = position,
                             .document = zeros,
                             .sequence = sequence,
                             .global_index = index,
                             .sequence_offsets = offsets,
                             .context = contexts});
}

Batch one_sequence(const MemoryPtr& memory, std::span<const std::int32_t> tokens, std::int64_t first) {
  const TextPart part{tokens, first};
  return sequences_of(memory, {&part, 1});
}

}  // namespace limbeck::nn
