// Segments of documents for tests of attention on a GPU, and the same there.
//
//     Layout layout;
//     layout.add_segment(/*cached=*/40, /*documents=*/{3});
//     LayoutThere there(layout);
//     attention_forward(gpu(), there.problem(layout.problem(heads)), ...);
#pragma once

#include <cmath>

#include "kernels/attention.h"
#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::testing {

struct Heads {
  std::int64_t heads, kv_heads, width, value_width;
};

/// Segments of a few documents each; keys are the queries' own, or a cache's in front of them.
struct Layout {
  std::vector<std::int64_t> query_offsets = {0}, key_offsets = {0};
  std::vector<std::int32_t> query_position, key_position, query_document, key_document;
  std::int64_t window = 0;

  void add_segment(std::int64_t cached, const std::vector<std::int64_t>& documents) {
    std::int32_t document = 0;
    for (std::int64_t i = 0; i < cached; ++i) {
      key_position.push_back(static_cast<std::int32_t>(i));
      key_document.push_back(0);
    }
    for (const std::int64_t length : documents) {
      const std::int64_t first = document == 0 ? cached : 0;
      for (std::int64_t i = 0; i < length; ++i) {
        for (auto* position : {&query_position, &key_position})
          position->push_back(static_cast<std::int32_t>(first + i));
        for (auto* of : {&query_document, &key_document}) of->push_back(document);
      }
      ++document;
    }
    query_offsets.push_back(std::ssize(query_position));
    key_offsets.push_back(std::ssize(key_position));
  }
  std::int64_t queries() const { return std::ssize(query_position); }
  std::int64_t keys() const { return std::ssize(key_position); }

  kernels::AttentionProblem problem(const Heads& h) const {
    return {.num_heads = h.heads,
            .num_kv_heads = h.kv_heads,
            .width = h.width,
            .value_width = h.value_width,
            .scale = 1 / std::sqrt(static_cast<double>(h.width)),
            .window = window,
            .num_segments = std::ssize(query_offsets) - 1,
            .num_queries = queries(),
            .num_keys = keys(),
            .query_offsets = query_offsets.data(),
            .key_offsets = key_offsets.data(),
            .query_position = query_position.data(),
            .key_position = key_position.data(),
            .query_document = query_document.data(),
            .key_document = key_document.data()};
  }
};

class LayoutThere {
 public:
  explicit LayoutThere(const Layout& l)
      : query_offsets_(l.query_offsets),
        key_offsets_(l.key_offsets),
        query_position_(l.query_position),
        key_position_(l.key_position),
        query_document_(l.query_document),
        key_document_(l.key_document) {}
  kernels::AttentionProblem problem(kernels::AttentionProblem p) {
    p.query_offsets = query_offsets_.data();
    p.key_offsets = key_offsets_.data();
    p.query_position = query_position_.data();
    p.key_position = key_position_.data();
    p.query_document = query_document_.data();
    p.key_document = key_document_.data();
    return p;
  }

 private:
  OnGpu<std::int64_t> query_offsets_, key_offsets_;
  OnGpu<std::int32_t> query_position_, key_position_, query_document_, key_document_;
};

}  // namespace limbeck::testing
