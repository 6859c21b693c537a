#include "kernels/cuda/attention_mma.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/kernels/cuda/attention_layout.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

template <class To, class From>
std::vector<To> all_as(const std::vector<From>& x) {
  std::vector<To> y;
  for (const From& value : x) y.push_back(as<To>(value));
  return y;
}

/// What attention gives: the forward, and gradients that were added to what there was.
struct Results {
  std::vector<double> out, logsumexp, dq, dk, dv;
};

struct Inputs {
  std::vector<bf16> q, k, v, dout;
  std::vector<float> dq, dk, dv, sinks;  // or no sinks

  Inputs(const Layout& layout, const Heads& h, bool has_sinks = false) {
    if (has_sinks) sinks = random_values<float>(h.heads, 8, 4);
    const std::int64_t queries = layout.queries(), keys = layout.keys();
    q = random_values<bf16>(queries * h.heads * h.width, 1);
    k = random_values<bf16>(keys * h.kv_heads * h.width, 2);
    v = random_values<bf16>(keys * h.kv_heads * h.value_width, 3);
    dout = random_values<bf16>(queries * h.heads * h.value_width, 4);
    dq = random_values<float>(std::ssize(q), 5);
    dk = random_values<float>(std::ssize(k), 6);
    dv = random_values<float>(std::ssize(v), 7);
  }
};

/// By the CPU, in T.
template <class T>
Results on_cpu(const Layout& layout, const Heads& h, const Inputs& in) {
  using A = Acc<T>;
  const AttentionProblem p = layout.problem(h);
  const auto q = all_as<T>(in.q), k = all_as<T>(in.k), v = all_as<T>(in.v), dout = all_as<T>(in.dout);
  auto dq = all_as<A>(in.dq), dk = all_as<A>(in.dk), dv = all_as<A>(in.dv);
  std::vector<T> out(dout.size());
  std::vector<A> logsumexp(static_cast<std::size_t>(layout.queries() * h.heads));
  const auto sinks = all_as<A>(in.sinks);
  attention_forward(cpu(), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(),
                    sinks.empty() ? nullptr : sinks.data());
  attention_backward(cpu(), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), dout.data(), dq.data(),
                     dk.data(), dv.data());
  return {all_as<double>(out), all_as<double>(logsumexp), all_as<double>(dq), all_as<double>(dk), all_as<double>(dv)};
}

/// By the GPU, in bfloat16. All lie `misplaced` values behind a multiple of 16 bytes.
Results on_gpu(const Layout& layout, const Heads& h, const Inputs& in, std::size_t misplaced = 0) {
  LayoutThere there(layout);
  const AttentionProblem p = there.problem(layout.problem(h));
  OnGpu<bf16> q(in.q, misplaced), k(in.k, misplaced), v(in.v, misplaced), dout(in.dout, misplaced),
      out(std::ssize(in.dout), misplaced);
  OnGpu<float> dq(in.dq, misplaced), dk(in.dk, misplaced), dv(in.dv, misplaced),
      logsumexp(layout.queries() * h.heads, misplaced);
  OnGpu<float> sinks(in.sinks);
  attention_forward(gpu(), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(),
                    in.sinks.empty() ? nullptr : sinks.data());
  attention_backward(gpu(), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), dout.data(), dq.data(),
                     dk.data(), dv.data());
  return {all_as<double>(out.values()), all_as<double>(logsumexp.values()), all_as<double>(dq.values()),
          all_as<double>(dk.values()), all_as<double>(dv.values())};
}

/// Factors are rounded to bfloat16, and the result: errors of some 2^-9 of terms that are as often above as below. Of
/// `before` on, which is no error.
void expect_rounded(const char* name, const std::vector<double>& found, const std::vector<double>& expected,
                    const std::vector<float>& before = {}) {
  SCOPED_TRACE(name);
  ASSERT_EQ(found.size(), expected.size());
  double squares = 0, errors = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double gradient = expected[i] - (before.empty() ? 0 : before[i]);
    squares += gradient * gradient;
    errors += (found[i] - expected[i]) * (found[i] - expected[i]);
  }
  const double n = static_cast<double>(std::max<std::size_t>(found.size(), 1)), size = std::sqrt(squares / n) + 0.02;
  EXPECT_LE(std::sqrt(errors / n), 0.004 * size);
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double gradient = expected[i] - (before.empty() ? 0 : before[i]);
    ASSERT_NEAR(found[i], expected[i], 0.06 * size + 0.01 * std::abs(gradient)) << "element " << i;
  }
}

void expect_right(const Layout& layout, const Heads& h, std::size_t misplaced = 0, bool has_sinks = false) {
  SCOPED_TRACE(::testing::Message() << layout.queries() << " queries, " << layout.keys() << " keys, window "
                                    << layout.window << ", " << h.heads << " heads of " << h.width << " and "
                                    << h.value_width << (has_sinks ? ", sinks" : ""));
  const Inputs in(layout, h, has_sinks);
  const Results found = on_gpu(layout, h, in, misplaced);
  for (const Results& right : {on_cpu<bf16>(layout, h, in), on_cpu<double>(layout, h, in)}) {
    for (std::size_t i = 0; i < right.logsumexp.size(); ++i) {
      if (found.logsumexp[i] == right.logsumexp[i]) continue;  // both -infinity
      ASSERT_NEAR(found.logsumexp[i], right.logsumexp[i], 2e-5) << "logsumexp " << i;
    }
    expect_rounded("out", found.out, right.out);
    expect_rounded("dq", found.dq, right.dq, in.dq);
    expect_rounded("dk", found.dk, right.dk, in.dk);
    expect_rounded("dv", found.dv, right.dv, in.dv);
  }
}

Layout of_segments(const std::vector<std::vector<std::int64_t>>& segments) {
  Layout layout;
  for (const auto& documents : segments) layout.add_segment(0, documents);
  return layout;
}

TEST(CudaAttentionMma, TakesChunksOfSixteenBytes) {
  const std::vector<float> place(8);
  const auto* at = reinterpret_cast<const char*>(place.data());
  at += (16 - reinterpret_cast<std::uintptr_t>(at) % 16) % 16;
  AttentionProblem p{.num_heads = 1, .num_kv_heads = 1, .width = 64, .value_width = 256};
  EXPECT_TRUE(tensor_cores_take(p, {at, at}));
  EXPECT_FALSE(tensor_cores_take(p, {at, at + 2}));
  for (const auto& [width, value_width] : {std::pair{60, 64}, {64, 20}, {264, 64}, {64, 264}}) {
    p.width = width;
    p.value_width = value_width;
    EXPECT_FALSE(tensor_cores_take(p, {at})) << width << " " << value_width;
  }
  p.width = p.value_width = 8;
  for (const double scale : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    p.scale = scale;
    EXPECT_FALSE(tensor_cores_take(p, {at})) << scale;
  }
}

// Tiles of 128 rows, 64 keys, 32 columns, and what is one beside them.
TEST(CudaAttentionMma, LengthsBesideTheTiles) {
  for (const std::int64_t length : {1, 31, 64, 65, 129}) expect_right(of_segments({{length}}), {1, 1, 64, 64});
}

TEST(CudaAttentionMma, OneLongDocument) { expect_right(of_segments({{300}}), {2, 1, 64, 64}); }

TEST(CudaAttentionMma, DocumentsInASegment) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < 40; ++i) lengths.push_back(1 + i * 7 % 11);
  expect_right(of_segments({lengths, {100, 30}}), {2, 1, 64, 64});
}

// A tile between two that are of use is of none: documents whose numbers come again.
TEST(CudaAttentionMma, TilesOfNoUseInBetween) {
  Layout layout = of_segments({{130, 128, 70}});
  for (auto* of : {&layout.query_document, &layout.key_document})
    for (auto& document : *of) document %= 2;
  std::iota(layout.query_position.begin(), layout.query_position.end(), 0);
  std::iota(layout.key_position.begin(), layout.key_position.end(), 0);
  expect_right(layout, {1, 1, 64, 64});
}

void fill_nan(std::vector<bf16>& x, std::size_t first, std::size_t end) {
  std::fill(x.begin() + first, x.begin() + end, as<bf16>(std::numeric_limits<float>::quiet_NaN()));
}
bool any_nan(const std::vector<double>& x, std::size_t first, std::size_t end) {
  return std::any_of(x.begin() + first, x.begin() + end, [](double value) { return std::isnan(value); });
}

// What a tile of no use holds does not matter, not even behind a factor of 0: nothing is computed of it.
TEST(CudaAttentionMma, TilesOfNoUseAreLeftOut) {
  const Layout layout = of_segments({{128, 128, 128, 128}});
  const Heads h{1, 1, 64, 64};
  const auto documents_of_nan = [](const std::vector<double>& x) {
    std::vector<std::size_t> documents;
    for (std::size_t i = 0; i < 4; ++i)
      if (any_nan(x, i * 128 * 64, (i + 1) * 128 * 64)) documents.push_back(i);
    return documents;
  };
  const std::vector<std::size_t> second = {1};
  Inputs in(layout, h);
  for (auto* x : {&in.k, &in.v}) fill_nan(*x, 128 * 64, 256 * 64);
  Results found = on_gpu(layout, h, in);
  EXPECT_EQ(documents_of_nan(found.out), second);
  EXPECT_EQ(documents_of_nan(found.dq), second);
  in = Inputs(layout, h);
  for (auto* x : {&in.q, &in.dout}) fill_nan(*x, 128 * 64, 256 * 64);
  found = on_gpu(layout, h, in);
  EXPECT_EQ(documents_of_nan(found.dk), second);
  EXPECT_EQ(documents_of_nan(found.dv), second);
}

// Nor of what follows the last query of a tile.
TEST(CudaAttentionMma, LaterKeysAreLeftOut) {
  const Layout layout = of_segments({{256}});
  const Heads h{1, 1, 64, 64};
  Inputs in(layout, h);
  for (auto* x : {&in.k, &in.v}) fill_nan(*x, 128 * 64, 256 * 64);
  const Results found = on_gpu(layout, h, in);
  EXPECT_FALSE(any_nan(found.out, 0, 128 * 64));
  EXPECT_FALSE(any_nan(found.dq, 0, 128 * 64));
}

Layout with_window(Layout layout, std::int64_t window) {
  layout.window = window;
  return layout;
}

// Beside tiles of 128 rows, 64 keys and 32 columns, and of all.
TEST(CudaAttentionMma, Windows) {
  const Layout layout = of_segments({{300}, {70, 140, 3}});
  for (const std::int64_t window : {1, 2, 31, 64, 77, 129, 1000})
    expect_right(with_window(layout, window), {2, 1, 64, 64});
  expect_right(with_window(layout, 100), {2, 1, 96, 128});  // keys and values apart
  Layout behind_a_cache;
  behind_a_cache.add_segment(250, {20});
  behind_a_cache.add_segment(64, {1});
  expect_right(with_window(behind_a_cache, 100), {8, 1, 64, 64});
}

// Of tiles, of parts of the keys, and of the plain kernels; some queries see nothing else.
TEST(CudaAttentionMma, Sinks) {
  Layout layout = of_segments({{150, 9}, {33}});
  for (std::int64_t i = 0; i < 190; i += 7) layout.query_document[i] = 9;
  expect_right(layout, {4, 2, 64, 64}, 0, true);
  expect_right(with_window(layout, 40), {3, 1, 96, 128}, 0, true);
  expect_right(layout, {4, 2, 20, 12}, 0, true);
  Layout behind_a_cache;
  behind_a_cache.add_segment(1600, {2});
  behind_a_cache.query_document[0] = 3;
  expect_right(behind_a_cache, {4, 2, 16, 24}, 0, true);
}

// Queries from 128 on see no key of the first 64, nor do those see of the last 64.
TEST(CudaAttentionMma, WhatIsBeforeAWindowIsLeftOut) {
  const Layout layout = with_window(of_segments({{256}}), 65);
  const Heads h{1, 1, 64, 64};
  Inputs in(layout, h);
  for (auto* x : {&in.k, &in.v}) fill_nan(*x, 0, 64 * 64);
  Results found = on_gpu(layout, h, in);
  for (const auto& x : {found.out, found.dq}) {
    EXPECT_TRUE(any_nan(x, 127 * 64, 128 * 64));
    EXPECT_FALSE(any_nan(x, 128 * 64, 256 * 64));
  }
  in = Inputs(layout, h);
  for (auto* x : {&in.q, &in.dout}) fill_nan(*x, 192 * 64, 256 * 64);
  found = on_gpu(layout, h, in);
  for (const auto& x : {found.dk, found.dv}) {
    EXPECT_FALSE(any_nan(x, 0, 128 * 64));
    EXPECT_TRUE(any_nan(x, 128 * 64, 129 * 64));
  }
}

TEST(CudaAttentionMma, SegmentsOfManyLengths) {
  std::vector<std::vector<std::int64_t>> segments;
  for (std::int64_t i = 0; i < 70; ++i) segments.push_back({i * 5 % 13});  // of none, too
  segments.push_back({90});
  expect_right(of_segments(segments), {1, 1, 16, 8});
}

TEST(CudaAttentionMma, NothingAtAll) {
  expect_right(Layout(), {2, 1, 64, 64});
  expect_right(of_segments({{}, {}}), {2, 1, 64, 64});
  expect_right(of_segments({{3}}), {0, 0, 64, 64});
}

TEST(CudaAttentionMma, QueriesThatSeeNothing) {
  Layout layout = of_segments({{70}});
  for (std::int64_t i = 0; i < 70; i += 3) layout.query_document[i] = 5;
  expect_right(layout, {2, 2, 64, 64});
  layout.key_position.assign(70, 1000);
  expect_right(layout, {2, 2, 64, 64});
}

TEST(CudaAttentionMma, FewQueriesBehindACache) {
  Layout layout;
  layout.add_segment(150, {1});
  layout.add_segment(3, {20, 7});
  layout.add_segment(64, {1});
  expect_right(layout, {8, 1, 64, 64});
}

TEST(CudaAttentionMma, Widths) {
  const Layout layout = of_segments({{70, 5}});
  for (const Heads h : {Heads{1, 1, 40, 40},
                        {1, 1, 80, 80},
                        {1, 1, 96, 64},
                        {2, 1, 128, 128},
                        {1, 1, 192, 128},
                        {1, 1, 136, 192},
                        {1, 1, 256, 256},
                        {1, 1, 8, 248}})
    expect_right(layout, h);
}

// By the plain kernels.
TEST(CudaAttentionMma, WhatIsNoChunk) {
  const Layout layout = of_segments({{40, 5}});
  expect_right(layout, {1, 1, 20, 12});
  expect_right(layout, {1, 1, 16, 16}, 1);
}

TEST(CudaAttentionMma, HeadsThatShareKeys) {
  const Layout layout = of_segments({{60}, {20, 9}});  // some tiles begin between the heads of a query
  for (const Heads h : {Heads{8, 1, 64, 64}, {9, 3, 32, 32}, {4, 4, 16, 16}}) expect_right(layout, h);
}

// So few queries and so many keys that parts of the keys are summed apart.
TEST(CudaAttentionMma, PartsOfTheKeys) {
  Layout layout;
  layout.add_segment(1600, {2});
  expect_right(layout, {4, 2, 16, 24});
  for (const std::int64_t window : {1, 100, 1500}) expect_right(with_window(layout, window), {4, 2, 16, 24});
  layout.query_document[0] = 3;  // sees nothing
  expect_right(layout, {4, 2, 16, 24});
}

TEST(CudaAttentionMma, FindsKeysThroughPages) {
  Layout layout;
  layout.add_segment(99, {1});
  layout.add_segment(0, {});  // of the room in the last page
  layout.key_position.resize(128, 1000);
  layout.key_document.resize(128, 0);
  layout.key_offsets.back() = 128;
  layout.add_segment(127, {1});
  const Heads h{4, 2, 32, 16};
  const std::vector<std::int64_t> pages = {3, 1, 0, 4};
  const auto q = random_values<bf16>(2 * h.heads * h.width, 1);
  const auto k = random_values<bf16>(5 * attention_page * h.kv_heads * h.width, 2);
  const auto v = random_values<bf16>(5 * attention_page * h.kv_heads * h.value_width, 3);
  for (const std::int64_t window : {0, 50}) {
    layout.window = window;
    AttentionProblem p = layout.problem(h);
    p.key_pages = pages.data();
    std::vector<bf16> out(static_cast<std::size_t>(2 * h.heads * h.value_width));
    std::vector<float> logsumexp(static_cast<std::size_t>(2 * h.heads));
    attention_forward(cpu(), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data());
    LayoutThere there(layout);
    OnGpu<std::int64_t> pages_there(pages);
    p = there.problem(p);
    p.key_pages = pages_there.data();
    OnGpu<bf16> q_there(q), k_there(k), v_there(v), out_there(std::ssize(out));
    OnGpu<float> logsumexp_there(std::ssize(logsumexp));
    attention_forward(gpu(), p, q_there.data(), k_there.data(), v_there.data(), out_there.data(),
                      logsumexp_there.data());
    expect_rounded("out", all_as<double>(out_there.values()), all_as<double>(out));
    expect_close(logsumexp_there.values(), logsumexp, 20);
  }
}

TEST(CudaAttentionMma, RunsRepeatBitForBit) {
  const Layout layout = of_segments({{150, 20}, {33}});
  const Heads h{4, 2, 64, 64};
  const Inputs in(layout, h);
  const Results once = on_gpu(layout, h, in), again = on_gpu(layout, h, in);
  expect_same(again.out, once.out);
  expect_same(again.logsumexp, once.logsumexp);
  expect_same(again.dq, once.dq);
  expect_same(again.dk, once.dk);
  expect_same(again.dv, once.dv);
}

TEST(CudaAttentionMma, AnUnsaidNumberOfQueriesIsAnError) {
  AttentionProblem p = Layout().problem({1, 1, 8, 8});
  p.num_queries = -1;
  try {
    attention_forward<Cuda, bf16>(gpu(), p, nullptr, nullptr, nullptr, nullptr, nullptr);
    FAIL() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "attention: -1 queries and 0 keys, expected their numbers");
  }
}

}  // namespace
}  // namespace limbeck::kernels
