// Attention whose values lie in the keys: beside the CPU's, and beside a sum over all pairs in float64.
#include "kernels/cuda/attention_latent.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "tests/kernels/cuda/attention_layout.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

/// Texts whose keys lie in pages of a pool, in any order, as a cache has them: a segment for each, and one without
/// queries for the room in its last page.
struct Texts {
  Layout layout;
  std::vector<std::int64_t> pages;

  void add(std::int64_t keys, std::int64_t queries) {
    Layout& l = layout;
    for (std::int64_t i = 0; i < keys; ++i) l.key_position.push_back(static_cast<std::int32_t>(i));
    for (std::int64_t i = keys - queries; i < keys; ++i) l.query_position.push_back(static_cast<std::int32_t>(i));
    l.query_offsets.push_back(l.queries());
    l.key_offsets.push_back(l.keys());
    if (const std::int64_t room = (attention_page - keys % attention_page) % attention_page; room > 0) {
      l.key_position.resize(l.key_position.size() + static_cast<std::size_t>(room), 0);
      l.query_offsets.push_back(l.queries());
      l.key_offsets.push_back(l.keys());
    }
    l.query_document.resize(l.query_position.size(), 0);
    l.key_document.resize(l.key_position.size(), 0);
    pages.resize(l.key_position.size() / attention_page);
  }
  /// Of a pool that has as many more.
  void shuffle() {
    std::vector<std::int64_t> pool(2 * pages.size());
    std::iota(pool.begin(), pool.end(), 0);
    std::shuffle(pool.begin(), pool.end(), std::mt19937(7));
    std::copy_n(pool.begin(), pages.size(), pages.begin());
  }
  std::int64_t rows() const { return 2 * layout.keys(); }
};

Texts texts_of(const std::vector<std::pair<std::int64_t, std::int64_t>>& keys_and_queries, std::int64_t window = 0) {
  Texts texts;
  for (const auto& [keys, queries] : keys_and_queries) texts.add(keys, queries);
  texts.layout.window = window;
  texts.shuffle();
  return texts;
}

AttentionProblem problem_of(const Texts& texts, const Heads& h) {
  AttentionProblem p = texts.layout.problem(h);
  p.values_in_keys = true;
  p.key_pages = texts.pages.data();
  return p;
}

/// Results in float64, whatever they were computed in.
struct Found {
  std::vector<double> out, logsumexp;
};

template <class T>
struct Inputs {
  std::vector<T> q, k;
  std::vector<Acc<T>> sinks;  // or none
  Inputs(const Texts& texts, const Heads& h, bool has_sinks = false)
      : q(random_values<T>(texts.layout.queries() * h.heads * h.width, 1)),
        k(random_values<T>(texts.rows() * h.kv_heads * h.width, 2)) {
    if (has_sinks) sinks = random_values<Acc<T>>(h.heads, 3, 4);
  }
  const Acc<T>* sinks_or_none() const { return sinks.empty() ? nullptr : sinks.data(); }
};

/// From the definition alone: each pair of a query and a key of its segment.
template <class T>
Found naive(const AttentionProblem& p, const Inputs<T>& in) {
  Found found;
  const std::int64_t group = p.num_kv_heads > 0 ? p.num_heads / p.num_kv_heads : 1;
  for (std::int64_t n = 0; n < p.num_segments; ++n)
    for (std::int64_t i = p.query_offsets[n]; i < p.query_offsets[n + 1]; ++i)
      for (std::int64_t h = 0; h < p.num_heads; ++h) {
        const auto key_row = [&](std::int64_t j) {
          const std::int64_t row = p.key_pages[j / 64] * 64 + j % 64;
          return in.k.data() + (row * p.num_kv_heads + h / group) * p.width;
        };
        std::vector<double> values(static_cast<std::size_t>(p.value_width), 0.0);
        std::vector<std::pair<std::int64_t, double>> scores;
        double greatest = in.sinks.empty() ? -HUGE_VAL : static_cast<double>(in.sinks[h]);
        for (std::int64_t j = p.key_offsets[n]; j < p.key_offsets[n + 1]; ++j) {
          const std::int64_t behind = std::int64_t{p.query_position[i]} - p.key_position[j];
          if (p.query_document[i] != p.key_document[j] || behind < 0 || (p.window > 0 && behind >= p.window)) continue;
          double score = 0;
          for (std::int64_t c = 0; c < p.width; ++c)
            score += as<double>(in.q[(i * p.num_heads + h) * p.width + c]) * as<double>(key_row(j)[c]);
          scores.emplace_back(j, p.scale * score);
          greatest = std::max(greatest, p.scale * score);
        }
        double sum = in.sinks.empty() ? 0 : std::exp(static_cast<double>(in.sinks[h]) - greatest);
        for (const auto& [j, score] : scores) {
          const double weight = std::exp(score - greatest);
          sum += weight;
          for (std::int64_t c = 0; c < p.value_width; ++c) values[c] += weight * as<double>(key_row(j)[c]);
        }
        for (const double x : values) found.out.push_back(sum > 0 ? x / sum : 0);
        found.logsumexp.push_back(sum > 0 ? greatest + std::log(sum) : -HUGE_VAL);
      }
  return found;
}

template <class T>
std::vector<double> widened(const std::vector<T>& x) {
  std::vector<double> wide;
  for (const T& value : x) wide.push_back(as<double>(value));
  return wide;
}

template <class T>
Found on_cpu(const AttentionProblem& p, const Inputs<T>& in) {
  std::vector<T> out(static_cast<std::size_t>(p.num_queries * p.num_heads * p.value_width));
  std::vector<Acc<T>> logsumexp(static_cast<std::size_t>(p.num_queries * p.num_heads));
  attention_forward(cpu(), p, in.q.data(), in.k.data(), in.k.data(), out.data(), logsumexp.data(), in.sinks_or_none());
  return {widened(out), widened(logsumexp)};
}

/// All lie `misplaced` values behind a multiple of 256 bytes.
template <class T>
Found on_gpu(const Texts& texts, AttentionProblem p, const Inputs<T>& in, std::size_t misplaced = 0) {
  LayoutThere there(texts.layout);
  OnGpu<std::int64_t> pages(texts.pages);
  p = there.problem(p);
  p.key_pages = pages.data();
  OnGpu<T> q(in.q, misplaced), k(in.k, misplaced), out(p.num_queries * p.num_heads * p.value_width, misplaced);
  OnGpu<Acc<T>> logsumexp(p.num_queries * p.num_heads), sinks(in.sinks);
  attention_forward(gpu(), p, q.data(), k.data(), k.data(), out.data(), logsumexp.data(),
                    in.sinks.empty() ? nullptr : sinks.data());
  return {widened(out.values()), widened(logsumexp.values())};
}

/// bfloat16 rounds the weights and the result: by 2^-9, as often up as down.
template <class T>
constexpr double tolerance = std::is_same_v<T, bf16>    ? 0.012
                             : std::is_same_v<T, float> ? 4e-6
                                                        : 1e-13;
template <class T>
constexpr double logarithms = std::is_same_v<T, double> ? 1e-12 : 2e-5;

void expect_near(const char* name, const std::vector<double>& found, const std::vector<double>& right, double most) {
  SCOPED_TRACE(name);
  ASSERT_EQ(found.size(), right.size());
  for (std::size_t i = 0; i < right.size(); ++i) {
    if (found[i] == right[i]) continue;  // both -infinity
    ASSERT_NEAR(found[i], right[i], most * (1 + std::abs(right[i]))) << "element " << i;
  }
}

template <class T>
void expect_right(const Texts& texts, const Heads& h, std::size_t misplaced = 0, bool has_sinks = false) {
  SCOPED_TRACE(::testing::Message() << texts.layout.queries() << " queries, " << texts.layout.keys() << " keys, window "
                                    << texts.layout.window << ", " << h.heads << " heads of " << h.width << " and "
                                    << h.value_width << (has_sinks ? ", sinks" : ""));
  const AttentionProblem p = problem_of(texts, h);
  const Inputs<T> in(texts, h, has_sinks);
  const Found found = on_gpu(texts, p, in, misplaced), right = naive(p, in), twin = on_cpu(p, in);
  expect_near("out, naive", found.out, right.out, tolerance<T>);
  expect_near("logsumexp, naive", found.logsumexp, right.logsumexp, logarithms<T>);
  expect_near("out, CPU", found.out, twin.out, 2 * tolerance<T>);
  expect_near("logsumexp, CPU", found.logsumexp, twin.logsumexp, logarithms<T>);
  expect_near("the CPU's out, naive", twin.out, right.out, tolerance<T>);
}

template <class T>
class CudaLatentAttention : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaLatentAttention, Types);

// Those of real models (DeepSeek, MiniCPM3), what is no vector of 16 bytes, and the widest.
TYPED_TEST(CudaLatentAttention, Widths) {
  const Texts texts = texts_of({{70, 1}, {3, 2}});
  for (const auto& [width, value_width] :
       {std::pair{576, 512}, {288, 256}, {40, 32}, {14, 8}, {9, 5}, {300, 131}, {576, 576}, {320, 8}, {264, 264}})
    expect_right<TypeParam>(texts, {3, 1, width, value_width});
}

// Beside tiles of 16 and 32 keys and pages of 64.
TYPED_TEST(CudaLatentAttention, Lengths) {
  for (const std::int64_t keys : {1, 15, 16, 17, 32, 33, 64, 65, 130})
    expect_right<TypeParam>(texts_of({{keys, 1}}), {3, 1, 264, 256});
  expect_right<TypeParam>(texts_of({{130, 1}}), {3, 1, 40, 32});
}

// Beside blocks of 16, 32 and 64 rows: some begin between the heads of a query.
TYPED_TEST(CudaLatentAttention, Heads) {
  for (const std::int64_t heads : {1, 3, 16, 17, 33})
    expect_right<TypeParam>(texts_of({{67, 1}}), {heads, 1, 288, 256});
  expect_right<TypeParam>(texts_of({{67, 5}}), {13, 1, 288, 256});
  expect_right<TypeParam>(texts_of({{67, 2}}), {6, 2, 288, 256});
  expect_right<TypeParam>(texts_of({{35, 1}, {40, 1}}), {16, 1, 576, 512});
  expect_right<TypeParam>(texts_of({{35, 1}}), {128, 1, 576, 512});
}

TYPED_TEST(CudaLatentAttention, TextsWithAFewQueriesEach) {
  const Texts texts = texts_of({{64, 1}, {130, 5}, {1, 1}, {65, 2}, {90, 4}, {3, 3}});
  for (const Heads& h : {Heads{3, 1, 288, 256}, {16, 1, 40, 32}}) expect_right<TypeParam>(texts, h);
  expect_right<TypeParam>(texts_of({{70, 70}, {20, 9}}), {2, 1, 264, 256});  // a whole prompt
}

TYPED_TEST(CudaLatentAttention, Windows) {
  for (const std::int64_t window : {1, 2, 31, 33, 64, 100, 1000})
    expect_right<TypeParam>(texts_of({{130, 3}, {40, 1}, {65, 40}}, window), {3, 1, 264, 256});
}

TYPED_TEST(CudaLatentAttention, SinksAndQueriesThatSeeNothing) {
  Texts texts = texts_of({{66, 2}, {5, 3}});
  texts.layout.query_document[1] = texts.layout.query_document[3] = 4;
  for (const bool has_sinks : {false, true}) {
    expect_right<TypeParam>(texts, {3, 1, 264, 256}, 0, has_sinks);
    expect_right<TypeParam>(texts, {3, 1, 14, 8}, 0, has_sinks);
  }
}

// Of one query, for which there are more multiprocessors than blocks of rows.
TYPED_TEST(CudaLatentAttention, ManyKeysInParts) {
  for (const std::int64_t window : {0, 700}) {
    expect_right<TypeParam>(texts_of({{1100, 1}}, window), {3, 1, 264, 200});
    expect_right<TypeParam>(texts_of({{1100, 1}}, window), {17, 1, 20, 13}, 0, true);
  }
  expect_right<TypeParam>(texts_of({{600, 2}}), {16, 1, 264, 256});
  Texts texts = texts_of({{1100, 1}});
  texts.layout.query_document[0] = 3;  // sees nothing
  for (const bool has_sinks : {false, true}) expect_right<TypeParam>(texts, {3, 1, 264, 200}, 0, has_sinks);
}

TYPED_TEST(CudaLatentAttention, WhatIsMisplaced) { expect_right<TypeParam>(texts_of({{70, 2}}), {3, 1, 288, 256}, 1); }

TYPED_TEST(CudaLatentAttention, NothingAtAll) {
  expect_right<TypeParam>(Texts(), {3, 1, 288, 256});
  expect_right<TypeParam>(texts_of({{70, 0}}), {3, 1, 288, 256});
  expect_right<TypeParam>(texts_of({{70, 1}}), {0, 0, 288, 256});
}

// Scores of hundreds: powers beside a reference that rises from tile to tile and from part to part.
TYPED_TEST(CudaLatentAttention, LargeScores) {
  const Texts texts = texts_of({{800, 1}});
  for (const Heads& h : {Heads{3, 1, 264, 256}, {3, 1, 24, 16}}) {
    AttentionProblem p = problem_of(texts, h);
    p.scale = 3;
    const Inputs<TypeParam> in(texts, h);
    expect_near("out", on_gpu(texts, p, in).out, naive(p, in).out, 40 * tolerance<TypeParam>);
  }
}

TYPED_TEST(CudaLatentAttention, RunsRepeatBitForBit) {
  for (const Heads& h : {Heads{16, 1, 288, 256}, {3, 1, 14, 8}})
    for (const Texts& texts : {texts_of({{800, 1}}), texts_of({{130, 5}, {20, 1}})}) {
      const AttentionProblem p = problem_of(texts, h);
      const Inputs<TypeParam> in(texts, h);
      const Found once = on_gpu(texts, p, in), again = on_gpu(texts, p, in);
      expect_same(again.out, once.out);
      expect_same(again.logsumexp, once.logsumexp);
    }
}

// What is no key of the text's does not matter, not even behind a factor of 0: the room in a page, what other pages
// have, and keys before a window.
TYPED_TEST(CudaLatentAttention, WhatNobodySeesIsLeftOut) {
  const Heads h{3, 1, 264, 256};
  const Texts texts = texts_of({{100, 1}, {70, 2}}, 36);
  const AttentionProblem p = problem_of(texts, h);
  Inputs<TypeParam> in(texts, h);
  const Found before = on_gpu(texts, p, in);
  std::vector<bool> is_seen(static_cast<std::size_t>(texts.rows()), false);
  for (std::int64_t n = 0; n < p.num_segments; ++n)
    if (p.query_offsets[n] < p.query_offsets[n + 1])
      for (std::int64_t j = p.key_offsets[n]; j < p.key_offsets[n + 1]; ++j)
        if (p.key_position[j] >= 32) is_seen[static_cast<std::size_t>(p.row_of_key(j))] = true;
  for (std::int64_t row = 0; row < texts.rows(); ++row)
    if (!is_seen[static_cast<std::size_t>(row)])
      std::fill_n(in.k.begin() + row * h.width, h.width, as<TypeParam>(std::nanf("")));
  const Found after = on_gpu(texts, p, in);
  expect_same(after.out, before.out);
}

TEST(CudaLatentAttentionMma, TakesChunksOfSixteenBytes) {
  const std::vector<float> place(8);
  const auto* at = reinterpret_cast<const char*>(place.data());
  at += (16 - reinterpret_cast<std::uintptr_t>(at) % 16) % 16;
  AttentionProblem p{.num_heads = 16, .num_kv_heads = 1, .width = 576, .value_width = 512, .values_in_keys = true};
  EXPECT_TRUE(latent_tensor_cores_take(p, {at, at}));
  EXPECT_FALSE(latent_tensor_cores_take(p, {at, at + 2}));
  p.values_in_keys = false;
  EXPECT_FALSE(latent_tensor_cores_take(p, {at}));
  p.values_in_keys = true;
  for (const auto& [width, value_width] : {std::pair{580, 512}, {584, 512}, {576, 520}, {576, 4}}) {
    p.width = width;
    p.value_width = value_width;
    EXPECT_FALSE(latent_tensor_cores_take(p, {at})) << width << " " << value_width;
  }
}

TEST(CudaLatentAttentionWidest, IsSaidAndHeldTo) {
  EXPECT_EQ(attention_widest(gpu()), 576);
  AttentionProblem p = Layout().problem({1, 1, 577, 8});
  p.num_segments = 1;
  p.values_in_keys = true;
  try {
    attention_forward<Cuda, float>(gpu(), p, nullptr, nullptr, nullptr, nullptr, nullptr);
    FAIL() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "attention: heads that hold their values are at most 576 wide on a GPU, not 577");
  }
}

}  // namespace
}  // namespace limbeck::kernels
