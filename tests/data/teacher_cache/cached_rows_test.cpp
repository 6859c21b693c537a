// Rows of a teacher cache against the distributions that they are of, written out in float64.
#include "data/teacher_cache/cached_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "core/error.h"
#include "data/teacher_cache/row_codec.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Logits of a next token as language models have them: some likely ones, and a long tail.
std::vector<float> logits_of(std::int64_t vocabulary, unsigned seed, float spread = 2) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(static_cast<std::size_t>(vocabulary));
  for (std::size_t v = 0; v < logits.size(); ++v) logits[v] = normal(engine) - std::log(static_cast<float>(v) + 30.F);
  return logits;
}

std::vector<double> log_softmax(const std::vector<float>& logits, double temperature) {
  std::vector<double> z(logits.begin(), logits.end());
  const double most = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double& x : z) sum += std::exp((x = (x - most) / temperature));
  for (double& x : z) x -= std::log(sum);
  return z;
}

CachedRows rows_of(const std::vector<std::vector<float>>& logits, const CacheContents& contents,
                   std::int32_t target = 0, DocumentKey key = {1, 2}) {
  CachedRows rows;
  rows.resize(std::ssize(logits), contents);
  RowsMaker maker(contents);
  for (std::size_t i = 0; i < logits.size(); ++i)
    maker.make(logits[i], target, key, static_cast<std::int64_t>(i), rows, static_cast<std::int64_t>(i));
  return rows;
}

CachedRows coded(const CachedRows& rows, const CacheContents& contents) {
  const std::string bytes = encode_rows(rows, contents, 0, rows.n);
  return decode_rows(std::as_bytes(std::span(bytes)), rows.n, contents);
}

TEST(CachedRows, TheLikeliestTokensOfARowAreKept) {
  for (const std::int64_t vocabulary : {1, 2, 7, 300, 5000})
    for (const std::int64_t kept : {1, 2, 6, 64, 400}) {
      const CacheContents contents{.kept = kept, .temperatures = {1, 2.5}, .vocabulary = vocabulary};
      std::vector<float> logits = logits_of(vocabulary, 3);
      for (std::size_t v = 5; v < logits.size(); v += 7) logits[v] = logits[v - 5];  // ties: the lower token first
      const CachedRows rows = rows_of({logits}, contents, static_cast<std::int32_t>(vocabulary - 1));
      std::vector<std::int32_t> order(logits.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
      EXPECT_EQ(rows.likeliest[0], order[0]);
      order.resize(static_cast<std::size_t>(std::min(kept, vocabulary)));
      std::sort(order.begin(), order.end());
      EXPECT_EQ(rows.ids, order);
      EXPECT_NEAR(rows.target_loss[0], -log_softmax(logits, 1).back(), 2e-6);
      for (std::size_t t = 0; t < 2; ++t) {
        const std::vector<double> p = log_softmax(logits, contents.temperatures[t]);
        double left = 0;
        for (std::size_t v = 0; v < p.size(); ++v)
          if (!std::binary_search(order.begin(), order.end(), static_cast<std::int32_t>(v))) left += std::exp(p[v]);
        if (kept >= vocabulary)
          EXPECT_EQ(rows.rest_at(t, 0), -infinity);
        else
          EXPECT_NEAR(rows.rest_at(t, 0), std::log(left), 3e-6);
        std::vector<float> at(order.size());
        log_probabilities_at(rows, 0, contents, t, at);
        for (std::size_t j = 0; j < at.size(); ++j) EXPECT_NEAR(at[j], p[static_cast<std::size_t>(order[j])], 5e-6);
      }
    }
}

TEST(CachedRows, DrawsAreOfTheDistribution) {
  const CacheContents contents{.kind = CacheKind::Sampled, .kept = 50, .vocabulary = 20};
  const std::vector<float> logits = logits_of(20, 4);
  const std::vector<std::vector<float>> many(4000, logits);
  const CachedRows rows = rows_of(many, contents, 3);
  const std::vector<double> p = log_softmax(logits, 1);
  std::vector<double> share(20);
  double entropy = 0;
  for (std::size_t v = 0; v < 20; ++v) entropy -= std::exp(p[v]) * p[v];
  for (std::int64_t i = 0; i < rows.n; ++i) {
    double of_row = 0;
    for (std::int64_t j = 0; j < rows.width && rows.ids[i * rows.width + j] >= 0; ++j) {
      share[static_cast<std::size_t>(rows.ids[i * rows.width + j])] += rows.log_p[i * rows.width + j] / 4000.0;
      of_row += rows.log_p[i * rows.width + j];
    }
    ASSERT_NEAR(of_row, 1, 1e-6);
    ASSERT_NEAR(rows.rest[i], entropy, 1e-6);
  }
  for (std::size_t v = 0; v < 20; ++v)  // 200,000 draws: five standard deviations
    EXPECT_NEAR(share[v], std::exp(p[v]), 5 * std::sqrt(std::exp(p[v]) / 200000)) << v;
  // The same document and place gives the same draws, another gives others.
  EXPECT_EQ(rows_of(many, contents, 3).ids, rows.ids);
  EXPECT_NE(rows_of(many, contents, 3, {1, 3}).ids, rows.ids);
}

TEST(RowCodec, WhatIsNotQuantisedComesBackAsItWas) {
  for (const CacheKind kind : {CacheKind::TopK, CacheKind::Sampled, CacheKind::Full})
    for (const std::int64_t vocabulary : {1, 2, 3, 700})
      for (const std::int64_t kept : {1, 5, 64}) {
        CacheContents contents{.kind = kind, .kept = kept, .quantised = false, .vocabulary = vocabulary};
        if (kind != CacheKind::Sampled) contents.temperatures = {0.5, 1, 4};
        const CachedRows rows = rows_of({logits_of(vocabulary, 1), logits_of(vocabulary, 2), logits_of(vocabulary, 3)},
                                        contents, static_cast<std::int32_t>(vocabulary / 2));
        const CachedRows again = coded(rows, contents);
        EXPECT_EQ(again.ids, rows.ids);
        EXPECT_EQ(again.log_p, rows.log_p);
        EXPECT_EQ(again.likeliest, rows.likeliest);
        EXPECT_EQ(again.target_loss, rows.target_loss);
        EXPECT_EQ(again.rest, rows.rest);
      }
}

/// The rows with hidden states of their own.
CachedRows with_hidden(CachedRows rows) {
  for (std::size_t i = 0; i < rows.hidden.size(); ++i)
    rows.hidden[i] = static_cast<float>(std::sin(static_cast<double>(i)) * std::pow(10, i % 7) / 1000);
  return rows;
}

TEST(RowCodec, HiddenStatesComeBackAsBfloat16OrAsTheyWere) {
  for (const CacheKind kind : {CacheKind::TopK, CacheKind::Sampled})
    for (const bool quantised : {true, false}) {
      const CacheContents contents{.kind = kind,
                                   .kept = 5,
                                   .quantised = quantised,
                                   .vocabulary = 60,
                                   .hidden_layers = {0, 3, 7},
                                   .hidden_width = 40};
      const CachedRows rows =
          with_hidden(rows_of({logits_of(60, 1), logits_of(60, 2), logits_of(60, 3), logits_of(60, 4)}, contents));
      ASSERT_EQ(rows.hidden.size(), 4U * 3 * 40);
      const std::string bytes = encode_rows(rows, contents, 1, 2);
      const CachedRows again = decode_rows(std::as_bytes(std::span(bytes)), 2, contents);
      ASSERT_EQ(again.hidden.size(), 2U * 3 * 40);
      for (std::size_t i = 0; i < again.hidden.size(); ++i) {
        const float value = rows.hidden[120 + i];
        if (quantised)
          ASSERT_NEAR(again.hidden[i], value, std::abs(value) / 256);  // half a step of 8 bits
        else
          ASSERT_EQ(again.hidden[i], value);
      }
      EXPECT_TRUE(std::equal(again.likeliest.begin(), again.likeliest.end(), rows.likeliest.begin() + 1));
    }
}

TEST(RowCodec, HiddenStatesThatAreNoNumbersAreRefused) {
  const CacheContents contents{.kept = 5, .vocabulary = 60, .hidden_layers = {2}, .hidden_width = 3};
  for (const float bad : {NAN, infinity, 3.4e38F}) {  // the last is none as bfloat16
    CachedRows rows = rows_of({logits_of(60, 1)}, contents);
    rows.hidden[1] = bad;
    EXPECT_THAT(error_of([&] { encode_rows(rows, contents, 0, 1); }), HasSubstr("a hidden state is"));
  }
}

/// KL of the kept tokens and the rest, of p against q (both log-probabilities of the vocabulary).
double ghost_kl(const CachedRows& rows, std::int64_t row, const CacheContents& contents, const std::vector<double>& q) {
  std::vector<float> p(static_cast<std::size_t>(rows.width));
  log_probabilities_at(rows, row, contents, 0, p);
  double sum = 0, q_kept = 0;
  for (std::size_t j = 0; j < p.size(); ++j) {
    const double of_q = q[static_cast<std::size_t>(rows.ids[row * rows.width + j])];
    sum += std::exp(static_cast<double>(p[j])) * (p[j] - of_q);
    q_kept += std::exp(of_q);
  }
  const double rest = rows.rest_at(0, row);
  return sum + std::exp(rest) * (rest - std::log1p(-q_kept));
}

TEST(RowCodec, QuantisedRowsTakeFewBytesAndChangeLittle) {
  const CacheContents contents{.kept = 64, .vocabulary = 49152};
  CacheContents exact = contents;
  exact.quantised = false;
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<double>> student;
  for (unsigned i = 0; i < 128; ++i) {
    logits.push_back(logits_of(contents.vocabulary, 10 + i, 1.5F + 0.02F * static_cast<float>(i)));
    std::vector<float> near = logits.back();
    const std::vector<float> noise = logits_of(contents.vocabulary, 900 + i, 1);
    for (std::size_t v = 0; v < near.size(); ++v) near[v] = 0.7F * near[v] + noise[v];
    student.push_back(log_softmax(near, 1));
  }
  const CachedRows rows = rows_of(logits, contents);
  const std::string bytes = encode_rows(rows, contents, 0, rows.n);
  EXPECT_LE(static_cast<double>(bytes.size()) / static_cast<double>(rows.n), 160);
  const CachedRows again = coded(rows, contents);
  EXPECT_EQ(again.ids, rows.ids);
  EXPECT_EQ(again.likeliest, rows.likeliest);
  double sum = 0, error = 0, difference = 0;
  for (std::int64_t i = 0; i < rows.n; ++i) {
    const double expected = ghost_kl(rows, i, exact, student[static_cast<std::size_t>(i)]);
    const double got = ghost_kl(again, i, contents, student[static_cast<std::size_t>(i)]);
    sum += expected;
    error += got - expected;
    difference += std::abs(got - expected);
    EXPECT_NEAR(again.target_loss[i], rows.target_loss[i], 0.0005);
    EXPECT_NEAR(again.rest[i], rows.rest[i], 0.0005);
  }
  EXPECT_GT(sum / 128, 0.1);
  EXPECT_LT(std::abs(error), 0.002 * sum);
  EXPECT_LT(difference, 0.01 * sum);
}

TEST(RowCodec, BytesThatAreNoRowsAreRefused) {
  for (const CacheKind kind : {CacheKind::TopK, CacheKind::Sampled, CacheKind::Full})
    for (const bool quantised : {true, false}) {
      CacheContents contents{.kind = kind, .kept = 5, .quantised = quantised, .vocabulary = 60};
      if (kind != CacheKind::Full) contents.hidden_layers = {1, 4}, contents.hidden_width = 3;
      const CachedRows rows = with_hidden(rows_of({logits_of(60, 1), logits_of(60, 2)}, contents));
      const std::string bytes = encode_rows(rows, contents, 0, 2);
      // Whatever a byte becomes, what is read are rows or nothing: sanitizers see the rest.
      for (std::size_t at = 0; at < bytes.size(); ++at)
        for (const int flip : {1, 0x80, 0xff}) {
          std::string damaged = bytes;
          damaged[at] = static_cast<char>(damaged[at] ^ flip);
          error_of([&] {
            const CachedRows read = decode_rows(std::as_bytes(std::span(damaged)), 2, contents);
            for (const std::int32_t id : read.ids) ASSERT_TRUE(id >= -1 && id < 60);
            for (const float p : read.log_p) ASSERT_TRUE(std::isfinite(p));
            for (const float h : read.hidden) ASSERT_TRUE(std::isfinite(h));
          });
        }
      const auto error = [&](const std::string& other, std::int64_t count) {
        return error_of([&] { decode_rows(std::as_bytes(std::span(other)), count, contents); });
      };
      EXPECT_NE(error(bytes.substr(0, bytes.size() - 1), 2), "");
      EXPECT_NE(error("", 2), "");
      EXPECT_NE(error(bytes, 1), "");
      EXPECT_NE(error(bytes, 3), "");
    }
}

TEST(CachedRows, ContentsThatCannotBeAreRefused) {
  const auto error = [](const CacheContents& contents) { return error_of([&] { contents.check_valid(); }); };
  EXPECT_EQ(error({.vocabulary = 5}), "");
  EXPECT_THAT(error({.vocabulary = 0}), HasSubstr("expected a vocabulary of 1"));
  EXPECT_THAT(error({.kept = 0, .vocabulary = 5}), HasSubstr("is to keep 0 tokens"));
  EXPECT_THAT(error({.temperatures = {2}, .vocabulary = 5}), HasSubstr("are without 1"));
  EXPECT_THAT(error({.temperatures = {2, 1}, .vocabulary = 5}), HasSubstr("have 1 at place 1"));
  EXPECT_THAT(error({.temperatures = {0, 1}, .vocabulary = 5}), HasSubstr("all above 0"));
  EXPECT_THAT(error({.kind = CacheKind::Sampled, .temperatures = {1, 2}, .vocabulary = 5}), HasSubstr("1 alone"));
  EXPECT_EQ(error({.vocabulary = 5, .hidden_layers = {0, 4}, .hidden_width = 8}), "");
  EXPECT_THAT(error({.vocabulary = 5, .hidden_layers = {4, 4}, .hidden_width = 8}), HasSubstr("layer 4 at place 1"));
  EXPECT_THAT(error({.vocabulary = 5, .hidden_layers = {-1}, .hidden_width = 8}), HasSubstr("layer -1 at place 0"));
  EXPECT_THAT(error({.vocabulary = 5, .hidden_layers = {0}}), HasSubstr("of 1 layers, 0 wide"));
  EXPECT_THAT(error({.kind = CacheKind::Full, .vocabulary = 5, .hidden_layers = {0}, .hidden_width = 8}),
              HasSubstr("expected TOP_K or SAMPLED"));
  const CacheContents contents{.vocabulary = 3};
  CachedRows rows;
  rows.resize(1, contents);
  RowsMaker maker(contents);
  const auto made = [&](std::vector<float> logits, std::int32_t target) {
    return error_of([&] { maker.make(logits, target, {}, 7, rows, 0); });
  };
  EXPECT_EQ(made({1, 2, 3}, 2), "");
  EXPECT_EQ(made({1, 2, -infinity, 9}, 1), "");  // a token that is excluded; padding counts for nothing
  EXPECT_THAT(made({1, NAN, 3}, 2), HasSubstr("position 7 of a document are not finite"));
  EXPECT_THAT(made({1, infinity, 3}, 2), HasSubstr("are not finite"));
  EXPECT_THAT(made({1, 2, 3}, 3), HasSubstr("target 3"));
}

}  // namespace
}  // namespace limbeck::data
