#include "data/text/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "data/text/documents.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using testing::error_of;

constexpr std::int64_t vocabulary = 5000;

/// Document d is d*100+1, d*100+2, .. of a length of its own (one is empty), ended by 0.
class LoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    TokenFileWriter writer((folder_.path() / "t").string(), vocabulary);
    for (int d = 0; d < num_documents; ++d) {
      std::vector<std::int32_t> ids;
      for (int i = 1; i <= d * 7 % 23; ++i) ids.push_back(d * 100 + i);
      if (d != 5)
        ids.push_back(0);
      else
        ids.clear();
      writer.add(ids);
    }
    writer.finish();
    file_ = std::make_shared<TokenFile>((folder_.path() / "t").string());
  }
  Loader loader(std::int64_t length, double held_out = 0.05, std::uint64_t seed = 1) const {
    return {file_, {.sequence_length = length, .vocabulary = vocabulary, .seed = seed, .held_out = held_out}};
  }
  static constexpr int num_documents = 40;
  testing::TemporaryFolder folder_;
  std::shared_ptr<const TokenFile> file_;
};

void expect_consistent(const TokenBatch& batch) {
  const auto n = static_cast<std::size_t>(batch.num_sequences * batch.sequence_length);
  ASSERT_EQ(batch.tokens.size(), n);
  ASSERT_EQ(batch.targets.size(), n);
  ASSERT_EQ(batch.positions.size(), n);
  ASSERT_EQ(batch.documents.size(), n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto s = static_cast<std::int64_t>(i) % batch.sequence_length;
    const bool is_last = s + 1 == batch.sequence_length;
    // An end of text has no target; everything else has the next token, which may be the end of text.
    ASSERT_EQ(batch.targets[i] == -1, batch.tokens[i] == 0);
    if (!is_last && batch.targets[i] >= 0) {
      ASSERT_EQ(batch.tokens[i + 1], batch.targets[i]);
    }
    if (batch.targets[i] > 0) {
      ASSERT_EQ(batch.targets[i], batch.tokens[i] + 1);
    }
    if (s == 0) {
      ASSERT_EQ(batch.positions[i], 0);
      ASSERT_EQ(batch.documents[i], 0);
    } else {
      const bool is_new = batch.tokens[i - 1] == 0;
      ASSERT_EQ(batch.positions[i], is_new ? 0 : batch.positions[i - 1] + 1);
      ASSERT_EQ(batch.documents[i], batch.documents[i - 1] + (is_new ? 1 : 0));
    }
  }
}

TEST_F(LoaderTest, TargetsAreCountedWithoutReading) {
  for (const std::int64_t length : {1, 2, 8, 31}) {
    Loader l = loader(length);
    for (const std::int64_t first : {std::int64_t{0}, std::int64_t{3}, l.sequences_per_epoch() - 2})
      for (const std::int64_t count : {0, 1, 5})
        EXPECT_EQ(l.num_targets(first, count), l.fetch(first, count).num_targets())
            << count << " of length " << length << " from " << first;
  }
}

TEST_F(LoaderTest, EveryEpochHoldsEveryTrainingTokenOnce) {
  Loader l = loader(8);
  std::map<std::int32_t, int> expected;
  std::int64_t total = 0;
  for (const auto d : l.train_documents())
    for (const auto id : file_->read(d)) {
      ++expected[id];
      ++total;
    }
  EXPECT_EQ(l.sequences_per_epoch(), (total - 1) / 8);
  EXPECT_EQ(l.tokens_per_epoch(), (total - 1) / 8 * 8);
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
    const TokenBatch batch = l.fetch(epoch * l.sequences_per_epoch(), l.sequences_per_epoch());
    expect_consistent(batch);
    std::map<std::int32_t, int> seen;
    for (const auto id : batch.tokens) ++seen[id];
    std::int64_t missing = 0;  // what whole sequences leave at the end
    for (const auto& [id, count] : expected) {
      ASSERT_LE(seen[id], count) << "token " << id << " of epoch " << epoch;
      missing += count - seen[id];
    }
    EXPECT_EQ(missing, total - l.tokens_per_epoch()) << "epoch " << epoch;
    EXPECT_EQ(batch.num_targets(), l.tokens_per_epoch() - seen[0]);
  }

  const auto counts = l.unigram_counts();
  EXPECT_EQ(static_cast<std::int64_t>(counts.size()), vocabulary);
  for (const auto& [id, count] : expected) EXPECT_EQ(counts[id], count);
}

TEST_F(LoaderTest, ASampleIsAFunctionOfSeedAndIndex) {
  Loader one = loader(8);
  Loader other = loader(8);
  const std::int64_t n = one.sequences_per_epoch();
  const TokenBatch all = one.fetch(0, 3 * n);
  for (const std::int64_t i : {2 * n + 1, std::int64_t{0}, n, n - 1, 3 * n - 1}) {
    const TokenBatch sample = other.fetch(i, 1);
    EXPECT_TRUE(std::equal(sample.tokens.begin(), sample.tokens.end(), all.tokens.begin() + i * 8)) << i;
    EXPECT_TRUE(std::equal(sample.documents.begin(), sample.documents.end(), all.documents.begin() + i * 8)) << i;
  }
  Loader reseeded = loader(8, 0.05, 2);
  EXPECT_NE(reseeded.fetch(0, 10).tokens, one.fetch(0, 10).tokens);
  EXPECT_NE(one.fetch(n, 10).tokens, one.fetch(0, 10).tokens);  // the next epoch has another order
  EXPECT_EQ(one.fetch(4, 0).tokens.size(), 0U);
}

TEST_F(LoaderTest, HeldOutDocumentsAreApartAndFixed) {
  const Loader l = loader(4, 0.25);
  EXPECT_EQ(l.held_out_documents().size(), 10U);
  std::set<std::int64_t> both(l.train_documents().begin(), l.train_documents().end());
  both.insert(l.held_out_documents().begin(), l.held_out_documents().end());
  EXPECT_EQ(both.size(), 40U);
  const TokenBatch batch = l.held_out_batch(l.num_held_out_sequences());
  expect_consistent(batch);
  // In order: the documents one after another.
  std::vector<std::int32_t> text;
  for (const auto d : l.held_out_documents())
    for (const auto id : file_->read(d)) text.push_back(id);
  ASSERT_LT(batch.tokens.size(), text.size());
  EXPECT_TRUE(std::equal(batch.tokens.begin(), batch.tokens.end(), text.begin()));
  const TokenBatch two = loader(4, 0.25).held_out_batch(2);
  EXPECT_TRUE(std::equal(two.tokens.begin(), two.tokens.end(), batch.tokens.begin()));
  EXPECT_NE(error_of([&] { (void)l.held_out_batch(1000); }).find("1000 held-out sequences of 4 tokens"),
            std::string::npos);
  EXPECT_EQ(loader(4, 0).held_out_documents().size(), 0U);
  EXPECT_EQ(loader(4, 0.001).held_out_documents().size(), 1U);
  EXPECT_EQ(loader(4, 0.05).held_out_documents().size(), 2U);
}

TEST_F(LoaderTest, BadInputIsRefusedByName) {
  EXPECT_NE(error_of([&] { loader(4000); }).find("expected at least 4001 for one sequence"), std::string::npos);
  EXPECT_NE(error_of([&] { loader(0); }).find("sequence_length is 0"), std::string::npos);
  EXPECT_NE(error_of([&] { loader(4, 1.0); }).find("held_out is 1"), std::string::npos);
  EXPECT_THROW(loader(4).fetch(-1, 1), core::Error);
  Loader small(file_, {.sequence_length = 4, .vocabulary = 100, .seed = 1});
  EXPECT_NE(error_of([&] { small.fetch(0, 50); }).find("outside the vocabulary of 100"), std::string::npos);
  EXPECT_NE(error_of([&] { (void)small.unigram_counts(); }).find("outside the vocabulary of 100"), std::string::npos);
}

TEST(LoaderOneDocument, HasNoHeldOutText) {
  testing::TemporaryFolder folder;
  TokenFileWriter writer((folder.path() / "t").string(), 10);
  writer.add(std::vector<std::int32_t>{1, 2, 3, 0});
  writer.finish();
  Loader l(std::make_shared<TokenFile>((folder.path() / "t").string()), {.sequence_length = 3, .vocabulary = 10});
  EXPECT_EQ(l.sequences_per_epoch(), 1);
  EXPECT_TRUE(l.held_out_documents().empty());
  EXPECT_EQ(l.fetch(7, 1).tokens, (std::vector<std::int32_t>{1, 2, 3}));
  EXPECT_EQ(l.fetch(7, 1).targets, (std::vector<std::int32_t>{2, 3, 0}));
  EXPECT_THROW((void)l.held_out_batch(1), core::Error);
}

// A tokenizer whose padding is its end of text: what is padded is told by the mask, never by the id.
TEST(LoaderPairs, EndOfTextIsATargetThoughItIsWhatFillsUp) {
  constexpr std::int32_t end = 9;
  TokenBatch batch;
  batch.sequence_length = 8;
  append_pair({.name = "a", .ids = {5, 6, end}, .is_target = {0, 1, 1}},
              {.name = "b", .ids = {5, 7, end}, .is_target = {0, 1, 1}}, batch);
  EXPECT_EQ(batch.tokens, (std::vector<std::int32_t>{5, 6, end, 5, 7, end, end, end}));
  EXPECT_EQ(batch.targets, (std::vector<std::int32_t>{6, end, -1, 7, end, -1, -1, -1}));
  EXPECT_EQ(batch.num_targets(), 4);
}

}  // namespace
}  // namespace limbeck::data
