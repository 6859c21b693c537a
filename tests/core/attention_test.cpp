#include "core/ops/attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <type_traits>

#include "tests/support/gradient_check.h"

namespace limbeck::core {
namespace {

using testing::check_gradients;
using testing::random_tensor;
using testing::relative_difference;

struct Tokens {
  std::vector<std::int64_t> offsets;
  std::vector<std::int32_t> position;
  std::vector<std::int32_t> document;
  std::int64_t count() const { return offsets.back(); }
};

/// Each segment is a list of document lengths.
Tokens packed(const std::vector<std::vector<std::int32_t>>& segments) {
  Tokens t{{0}, {}, {}};
  std::int32_t document = 0;
  for (const auto& lengths : segments) {
    for (const auto length : lengths) {
      for (std::int32_t i = 0; i < length; ++i) {
        t.position.push_back(i);
        t.document.push_back(document);
      }
      ++document;
    }
    t.offsets.push_back(static_cast<std::int64_t>(t.position.size()));
  }
  return t;
}

AttentionLayout make_layout(const MemoryPtr& memory, const Tokens& queries, const Tokens& keys) {
  const auto tensor = [&]<class T>(const std::vector<T>& v) {
    return Tensor::from<T>(memory, {static_cast<std::int64_t>(v.size())}, v);
  };
  return {tensor(queries.offsets), tensor(keys.offsets),     tensor(queries.position),
          tensor(keys.position),   tensor(queries.document), tensor(keys.document)};
}

/// The definition, one score after the other, in float64.
Tensor naive(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& s, const Tokens& queries,
             const Tokens& keys, const std::vector<double>& sinks = {}) {
  Tensor out = Tensor::zeros(q.memory(), DType::F64, {q.shape()[0], s.num_heads * s.value_width});
  for (std::size_t n = 0; n + 1 < queries.offsets.size(); ++n)
    for (std::int64_t i = queries.offsets[n]; i < queries.offsets[n + 1]; ++i)
      for (std::int64_t h = 0; h < s.num_heads; ++h) {
        const std::int64_t g = h / (s.num_heads / s.num_kv_heads);
        double sum = sinks.empty() ? 0 : std::exp(sinks[h]);
        std::vector<double> y(static_cast<std::size_t>(s.value_width), 0.0);
        for (std::int64_t j = keys.offsets[n]; j < keys.offsets[n + 1]; ++j) {
          if (keys.document[j] != queries.document[i] || keys.position[j] > queries.position[i]) continue;
          if (s.window > 0 && keys.position[j] <= queries.position[i] - s.window) continue;
          double score = 0;
          for (std::int64_t d = 0; d < s.width; ++d)
            score += q.data<double>()[(i * s.num_heads + h) * s.width + d] *
                     k.data<double>()[(j * s.num_kv_heads + g) * s.width + d];
          const double weight = std::exp(s.scale * score);
          sum += weight;
          for (std::int64_t d = 0; d < s.value_width; ++d)
            y[d] += weight * v.data<double>()[(j * s.num_kv_heads + g) * s.value_width + d];
        }
        for (std::int64_t d = 0; d < s.value_width && sum > 0; ++d)
          out.mutable_data<double>()[(i * s.num_heads + h) * s.value_width + d] = y[d] / sum;
      }
  return out;
}

struct Inputs {
  Tensor q, k, v;
};
Inputs make_inputs(const MemoryPtr& memory, const AttentionShape& s, std::int64_t queries, std::int64_t keys) {
  return {random_tensor(memory, {queries, s.num_heads * s.width}, 1),
          random_tensor(memory, {keys, s.num_kv_heads * s.width}, 2),
          random_tensor(memory, {keys, s.num_kv_heads * s.value_width}, 3)};
}

Tensor run(const Inputs& in, const AttentionShape& s, const AttentionLayout& layout) {
  Tape tape(Tape::Mode::Off);
  return attention(tape, constant(in.q), constant(in.k), constant(in.v), s, layout).value;
}

constexpr AttentionShape small{.num_heads = 4, .num_kv_heads = 2, .width = 3, .value_width = 5, .scale = 0.7};
AttentionShape with_window(AttentionShape shape, std::int64_t window) {
  shape.window = window;
  return shape;
}

TEST(Attention, EqualsTheDefinition) {
  for (const int threads : {1, 2}) {
    const auto memory = Memory::cpu(threads);
    for (const auto& segments : std::vector<std::vector<std::vector<std::int32_t>>>{
             {{1}}, {{7}, {1, 3}, {}}, {{300}}, {{65, 130, 1}, {64}, {129}}}) {
      const Tokens t = packed(segments);
      const Inputs in = make_inputs(memory, small, t.count(), t.count());
      for (const std::int64_t window : {0, 1, 2, 50, 64, 111, 500}) {
        const AttentionShape s = with_window(small, window);
        EXPECT_LE(relative_difference(run(in, s, make_layout(memory, t, t)), naive(in.q, in.k, in.v, s, t, t)), 1e-13);
      }
    }
  }
}

TEST(Attention, TakesMoreKeysThanQueries) {
  const auto memory = Memory::cpu(1);
  const Tokens keys = packed({{200}, {5}, {3, 140}});
  // One query, the next two of a short cache, and queries in descending order of position.
  const Tokens queries{{0, 1, 3, 6}, {199, 3, 4, 139, 77, 2}, {0, 1, 1, 3, 3, 2}};
  const Inputs in = make_inputs(memory, small, queries.count(), keys.count());
  for (const std::int64_t window : {0, 1, 3, 70, 150}) {
    const AttentionShape s = with_window(small, window);
    EXPECT_LE(
        relative_difference(run(in, s, make_layout(memory, queries, keys)), naive(in.q, in.k, in.v, s, queries, keys)),
        1e-13);
  }
}

/// The first `width` channels of each of `heads` heads.
Tensor first_channels(const Tensor& x, std::int64_t heads, std::int64_t width) {
  Tensor y = Tensor::zeros(x.memory(), DType::F64, {x.shape()[0], heads * width});
  const std::int64_t whole = x.shape()[1] / heads;
  for (std::int64_t i = 0; i < y.numel(); ++i)
    y.mutable_data<double>()[i] = x.data<double>()[i / width * whole + i % width];
  return y;
}

// Of few queries, whose keys are read where they lie, and of many.
TEST(Attention, ValuesMayBeTheFirstChannelsOfKeys) {
  const auto memory = Memory::cpu(2);
  const Tokens keys = packed({{140}, {5}, {3, 90}});
  const Tokens queries{{0, 1, 3, 9}, {139, 3, 4, 89, 77, 2, 1, 30, 60}, {0, 1, 1, 3, 3, 2, 2, 3, 3}};
  for (const std::int64_t kv_heads : {1, 2})
    for (const std::int64_t value_width : {1, 5, 7}) {
      AttentionShape s{.num_heads = 4, .num_kv_heads = kv_heads, .width = 7, .value_width = value_width, .scale = 0.4};
      Inputs in = make_inputs(memory, s, queries.count(), keys.count());
      const Tensor right = naive(in.q, in.k, first_channels(in.k, kv_heads, value_width), s, queries, keys);
      in.v = in.k;
      s.values_in_keys = true;
      EXPECT_LE(relative_difference(run(in, s, make_layout(memory, queries, keys)), right), 1e-13);
    }
}

TEST(Attention, GivesZeroToAQueryThatSeesNothing) {
  const auto memory = Memory::cpu(1);
  const Tokens keys = packed({{4}});
  const Tokens queries{{0, 3}, {-1, 2, 3}, {0, 0, 9}};
  const Inputs in = make_inputs(memory, small, 3, 4);
  const Tensor out = run(in, small, make_layout(memory, queries, keys));
  EXPECT_EQ(host_values<double>(out.rows(0, 1)), std::vector<double>(20, 0.0));
  EXPECT_EQ(host_values<double>(out.rows(2, 1)), std::vector<double>(20, 0.0));
  EXPECT_LE(relative_difference(out, naive(in.q, in.k, in.v, small, queries, keys)), 1e-13);
  const AttentionLayout layout = make_layout(memory, queries, keys);
  check_gradients([&](Tape& tape, std::span<const Var> x) { return attention(tape, x[0], x[1], x[2], small, layout); },
                  {in.q, in.k, in.v});
}

TEST(Attention, ASinkIsAKeyWithoutAValue) {
  const auto memory = Memory::cpu(2);
  // Few queries and many, of which one sees nothing else.
  const Tokens keys = packed({{200}, {3, 140}});
  Tokens queries{{0, 1, 144}, {199}, {0}};
  queries.position.insert(queries.position.end(), keys.position.begin() + 200, keys.position.end());
  queries.document.insert(queries.document.end(), keys.document.begin() + 200, keys.document.end());
  queries.document[100] = 9;
  const Inputs in = make_inputs(memory, small, queries.count(), keys.count());
  const std::vector<double> sinks = {0.5, -1, 3, 700};
  for (const std::int64_t window : {0, 30}) {
    const AttentionShape s = with_window(small, window);
    Tape tape(Tape::Mode::Off);
    const Tensor out = attention(tape, constant(in.q), constant(in.k), constant(in.v), s,
                                 make_layout(memory, queries, keys), constant(Tensor::from<double>(memory, {4}, sinks)))
                           .value;
    EXPECT_LE(relative_difference(out, naive(in.q, in.k, in.v, s, queries, keys, sinks)), 1e-13);
  }
}

TEST(Attention, GradientsOfSinksEqualDifferences) {
  const auto memory = Memory::cpu(1);
  for (const auto& segments : std::vector<std::vector<std::vector<std::int32_t>>>{{{}}, {{1}}, {{5}, {2, 3}}}) {
    const Tokens t = packed(segments);
    Tokens queries = t;
    if (t.count() > 1) queries.document[1] = 9;
    const AttentionLayout layout = make_layout(memory, queries, t);
    const Inputs in = make_inputs(memory, small, t.count(), t.count());
    const auto apply = [&](Tape& tape, std::span<const Var> x) {
      return attention(tape, x[0], x[1], x[2], with_window(small, 3), layout, x[3]);
    };
    const std::vector<Tensor> inputs = {in.q, in.k, in.v, random_tensor(memory, {4}, 5)};
    check_gradients(apply, inputs);
    check_gradients(apply, inputs, {.differentiate = {false, false, false, true}});
  }
}

// As those of a layer whose parameters are whole only while it runs.
TEST(Attention, ADelayedGradientOfSinksReadsThemNoMore) {
  const auto memory = Memory::cpu(1);
  const Tokens t = packed({{5}, {2, 3}});
  const AttentionLayout layout = make_layout(memory, t, t);
  const Inputs in = make_inputs(memory, small, t.count(), t.count());
  const auto gradient_of = [&](bool is_freed) {
    Tape tape;
    tape.set_weight_parts(Tape::WeightParts::Queued);
    const Var sinks = leaf(random_tensor(memory, {4}, 5));
    const Var y = attention(tape, leaf(in.q), leaf(in.k), leaf(in.v), small, layout, sinks);
    accumulate(y.slot, random_tensor(memory, y.shape(), 6));
    tape.run();
    if (is_freed) sinks.value.storage()->release();
    tape.run_weight_parts();
    return host_values<double>(sinks.slot->grad);
  };
  EXPECT_EQ(gradient_of(true), gradient_of(false));
}

TEST(Attention, WhatIsNotANumberStaysSo) {
  const auto memory = Memory::cpu(1);
  const Tokens tokens = packed({{3}});
  const auto first_output = [&]<class T>(std::type_identity<T>, bool in_query) {
    const auto filled = [&](std::int64_t width) {
      return Tensor::from<T>(memory, {3, width}, std::vector<T>(static_cast<std::size_t>(3 * width), T(0.5)));
    };
    Inputs in{filled(small.num_heads * small.width), filled(small.num_kv_heads * small.width),
              filled(small.num_kv_heads * small.value_width)};
    (in_query ? in.q : in.k).template mutable_data<T>()[0] = std::numeric_limits<T>::quiet_NaN();
    return run(in, small, make_layout(memory, tokens, tokens)).template data<T>()[0];
  };
  // The first token sees itself alone: all of its scores are not a number.
  for (const bool in_query : {true, false}) {
    EXPECT_TRUE(std::isnan(first_output(std::type_identity<double>{}, in_query)));
    EXPECT_TRUE(std::isnan(first_output(std::type_identity<float>{}, in_query)));
  }
}

TEST(Attention, GradientsEqualDifferences) {
  for (const int threads : {1, 2}) {
    const auto memory = Memory::cpu(threads);
    for (const auto& segments : std::vector<std::vector<std::vector<std::int32_t>>>{{{}}, {{1}}, {{5}, {2, 3}}}) {
      const Tokens t = packed(segments);
      const AttentionLayout layout = make_layout(memory, t, t);
      const Inputs in = make_inputs(memory, small, t.count(), t.count());
      for (const std::int64_t window : {0, 2})
        check_gradients(
            [&](Tape& tape, std::span<const Var> x) {
              return attention(tape, x[0], x[1], x[2], with_window(small, window), layout);
            },
            {in.q, in.k, in.v});
    }
  }
}

TEST(Attention, GradientsEqualDifferencesAcrossTiles) {
  const auto memory = Memory::cpu(1);
  constexpr AttentionShape one_head{.num_heads = 1, .num_kv_heads = 1, .width = 1, .value_width = 1, .scale = 1};
  const Tokens t = packed({{131, 9}});
  const AttentionLayout layout = make_layout(memory, t, t);
  const Inputs in = make_inputs(memory, one_head, t.count(), t.count());
  for (const std::int64_t window : {0, 45})
    check_gradients(
        [&](Tape& tape, std::span<const Var> x) {
          return attention(tape, x[0], x[1], x[2], with_window(one_head, window), layout);
        },
        {in.q, in.k, in.v});
}

/// Output and gradients of a run with random outputs' gradients.
std::vector<Tensor> with_gradients(const MemoryPtr& memory, const Tokens& t, const AttentionShape& s, DType dtype) {
  const Inputs in = make_inputs(memory, s, t.count(), t.count());
  Tape tape;
  const Var q = leaf(in.q.to(dtype)), k = leaf(in.k.to(dtype)), v = leaf(in.v.to(dtype));
  const Var y = attention(tape, q, k, v, s, make_layout(memory, t, t));
  accumulate(y.slot, random_tensor(memory, y.shape(), 4, 1, dtype));
  tape.run();
  return {y.value, q.slot->grad, k.slot->grad, v.slot->grad};
}

void expect_same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(host_values<float>(a[i]), host_values<float>(b[i])) << i;
}

// All that a key/value head gets is added in one order, also where its queries are many threads' work.
TEST(Attention, AnyNumberOfThreadsGivesTheSameBits) {
  constexpr AttentionShape one_kv_head{.num_heads = 8, .num_kv_heads = 1, .width = 16, .value_width = 8, .scale = 0.25};
  constexpr AttentionShape three_kv_heads{
      .num_heads = 9, .num_kv_heads = 3, .width = 8, .value_width = 8, .scale = 0.5};
  for (const AttentionShape& s : {one_kv_head, three_kv_heads, with_window(three_kv_heads, 90)})
    for (const auto& segments : std::vector<std::vector<std::vector<std::int32_t>>>{
             {{500}}, {{130}, {65, 130, 1, 200}, {}, {3}}, {{40, 40, 40, 40, 40, 40}}}) {
      const Tokens t = packed(segments);
      const auto expected = with_gradients(Memory::cpu(1), t, s, DType::F32);
      for (const int threads : {2, 4, 16})
        for (int again = 0; again < 3; ++again)
          expect_same_bits(with_gradients(Memory::cpu(threads), t, s, DType::F32), expected);
    }
}

TEST(Attention, Float32AgreesWithFloat64AndRepeatsBitByBit) {
  const auto memory = Memory::cpu(1);
  constexpr AttentionShape real{.num_heads = 6, .num_kv_heads = 2, .width = 64, .value_width = 64, .scale = 0.125};
  const Tokens t = packed({{256}, {100, 77}});
  const auto expected = with_gradients(memory, t, real, DType::F64);
  const auto actual = with_gradients(memory, t, real, DType::F32);
  const auto again = with_gradients(memory, t, real, DType::F32);
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_LE(relative_difference(actual[i], expected[i]), 2e-6) << i;
  expect_same_bits(again, actual);
}

TEST(Attention, PackedDocumentsEqualEachAlone) {
  const auto memory = Memory::cpu(1);
  const Tokens t = packed({{70, 1, 150}});
  const Inputs in = make_inputs(memory, small, t.count(), t.count());
  const Tensor together = run(in, small, make_layout(memory, t, t));
  std::int64_t first = 0;
  for (const std::int32_t length : {70, 1, 150}) {
    const Tokens alone = packed({{length}});
    const Inputs part{in.q.rows(first, length), in.k.rows(first, length), in.v.rows(first, length)};
    EXPECT_LE(relative_difference(together.rows(first, length), run(part, small, make_layout(memory, alone, alone))),
              1e-14);
    first += length;
  }
}

TEST(Attention, MemoryIsLinearInTheLength) {
  const auto peak = [](std::int32_t length) {
    const auto memory = Memory::cpu(1);
    const Tokens t = packed({{length}});
    with_gradients(memory, t, small, DType::F32);
    return static_cast<double>(memory->statistics().peak_bytes);
  };
  EXPECT_LE(peak(4096) / peak(2048), 2.05);
}

TEST(Attention, NamesWhatDoesNotFit) {
  const auto memory = Memory::cpu(1);
  const Tokens t = packed({{4}});
  const Inputs in = make_inputs(memory, small, 4, 4);
  AttentionLayout layout = make_layout(memory, t, t);
  layout.key_position = layout.key_position.rows(0, 3);
  const auto message = [&](const AttentionShape& s) {
    try {
      run(in, s, layout);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_EQ(message(small), "attention: key_position is int32 [3], expected int32 [4]");
  AttentionShape bad = small;
  bad.num_kv_heads = 3;
  EXPECT_EQ(message(bad), "attention: 3 key/value heads do not divide 4 heads");
  bad = small;
  bad.width = 2;
  EXPECT_EQ(message(bad), "attention: q is float64 [4,12], expected float64 [4,8]");
  bad = small;
  bad.values_in_keys = true;
  EXPECT_EQ(message(bad), "attention: v is float64 [4,10], expected float64 [4,6]");
  const auto with_keys_as_values = [&](const Tensor& v, std::int64_t value_width, bool takes_gradient) {
    AttentionShape shape = small;
    shape.values_in_keys = true;
    shape.value_width = value_width;
    Tape recorded;
    attention(recorded, takes_gradient ? leaf(in.q) : constant(in.q), constant(in.k), constant(v), shape,
              make_layout(memory, t, t));
  };
  EXPECT_THAT([&] { with_keys_as_values(in.k.clone(), 2, false); },
              ::testing::ThrowsMessage<Error>(
                  "attention: values of 2 channels apart from the keys of 3, expected some of theirs"));
  EXPECT_THAT([&] { with_keys_as_values(in.k, 4, false); },
              ::testing::ThrowsMessage<Error>(
                  "attention: values of 4 channels apart from the keys of 3, expected some of theirs"));
  EXPECT_THAT([&] { with_keys_as_values(in.k, 2, true); },
              ::testing::ThrowsMessage<Error>("attention: keys that hold the values take no gradient"));
  Tape tape;
  EXPECT_THAT(
      [&] {
        attention(tape, constant(in.q), constant(in.k), constant(in.v), small, make_layout(memory, t, t),
                  constant(Tensor::zeros(memory, DType::F32, {3})));
      },
      ::testing::ThrowsMessage<Error>("attention: sinks is float32 [3], expected float64 [4]"));
  EXPECT_EQ(message(with_window(small, -1)), "attention: a window of -1 positions, expected 0 for none or more");
}

}  // namespace
}  // namespace limbeck::core
