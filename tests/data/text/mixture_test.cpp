#include "data/text/mixture.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;

std::vector<std::size_t> first(const MixtureSchedule& schedule, std::int64_t count) {
  std::vector<std::size_t> sources;
  for (std::int64_t i = 0; i < count; ++i) sources.push_back(schedule.source_of(i));
  return sources;
}

TEST(MixtureScheduleTest, GivesEachItsShare) {
  EXPECT_THAT(first(MixtureSchedule(std::vector{3.0}), 3), ElementsAre(0, 0, 0));
  EXPECT_EQ(MixtureSchedule(std::vector{0.7, 0.3}).period(), 10);
  EXPECT_EQ(MixtureSchedule(std::vector{6.0, 2.0, 2.0}).period(), 5);
  EXPECT_EQ(MixtureSchedule(std::vector{2e6, 1e6}).period(), 3);
  EXPECT_EQ(MixtureSchedule(std::vector{0.333333, 0.666667}).period(), 1000000);
  const auto two = first(MixtureSchedule(std::vector{1.0, 1.0}), 6);
  for (int i = 0; i < 6; i += 2) EXPECT_NE(two[i], two[i + 1]);
}

TEST(MixtureScheduleTest, EveryPrefixIsInProportionToLessThanOneSample) {
  const core::RandomStream random(3, 0, "weights");
  for (std::uint64_t trial = 0; trial < 60; ++trial) {
    std::vector<double> weights;
    double sum = 0;
    const std::uint64_t k = 1 + random.below(100 * trial, 12);
    for (std::uint64_t d = 0; d < k; ++d) {
      weights.push_back(static_cast<double>(1 + random.below(100 * trial + d + 1, trial % 2 == 0 ? 9 : 400)) / 100);
      sum += weights.back();
    }
    const MixtureSchedule schedule(weights);
    std::vector<std::int64_t> counts(k);
    for (std::int64_t i = 0; i < 2 * schedule.period() + 3; ++i) {
      for (std::size_t d = 0; d < k; ++d) {
        ASSERT_EQ(schedule.count(d, i), counts[d]);
        ASSERT_LT(std::abs(static_cast<double>(counts[d]) - static_cast<double>(i) * weights[d] / sum), 1) << i;
      }
      ++counts[schedule.source_of(i)];
    }
  }
}

TEST(MixtureScheduleTest, WeightsThatAreNotWholeAreNear) {
  const std::vector weights = {std::sqrt(2.0), std::sqrt(3.0), 1e-9};
  const double sum = weights[0] + weights[1] + weights[2];
  const MixtureSchedule schedule(weights);
  EXPECT_LE(schedule.period(), 1000002);
  for (std::size_t d = 0; d < 3; ++d) EXPECT_NEAR(schedule.share(d), weights[d] / sum, 2e-6);
  EXPECT_EQ(schedule.count(2, schedule.period()), 1);
  const std::int64_t far = std::int64_t{1} << 60;  // at once
  EXPECT_EQ(schedule.count(0, far) + schedule.count(1, far) + schedule.count(2, far), far);
}

TEST(MixtureScheduleTest, RefusesBadWeights) {
  EXPECT_THAT(error_of([] { MixtureSchedule{std::vector<double>{}}; }), HasSubstr("there are 0 sources"));
  EXPECT_THAT(error_of([] { MixtureSchedule{std::vector<double>(257, 1.0)}; }),
              HasSubstr("257 sources, expected 1 to"));
  for (const double bad : {0.0, -1.0, std::nan(""), HUGE_VAL})
    EXPECT_THAT(error_of([&] { MixtureSchedule{std::vector{1.0, bad}}; }), HasSubstr("the weight of source 1 is"));
}

/// Token files of documents whose tokens say where they come from: source s has documents of ids s * 1000 + 1 .. and an
/// end of text, 0.
class MixtureTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int s = 0; s < 3; ++s) {
      const std::string prefix = folder_ / std::to_string(s);
      TokenFileWriter writer(prefix, 5000);
      for (int d = 0; d < 20 * (s + 1); ++d) {
        std::vector<std::int32_t> ids;
        for (int i = 0; i < 5 + d * 7 % 23; ++i) ids.push_back(s * 1000 + 1 + (d * 31 + i * i) % 20);
        ids.push_back(0);
        writer.add(ids);
      }
      writer.finish();
      files_.push_back(std::make_shared<TokenFile>(prefix));
    }
  }
  Mixture mixture(std::vector<double> weights, double held_out = 0.2, std::uint64_t seed = 1) const {
    std::vector<MixtureSource> sources;
    for (std::size_t s = 0; s < weights.size(); ++s) sources.push_back({files_[s], weights[s]});
    return {sources, {.sequence_length = length, .vocabulary = 5000, .seed = seed, .held_out = held_out}};
  }
  static std::vector<std::int32_t> sequence(const std::vector<std::int32_t>& values, std::int64_t i) {
    return {values.begin() + i * length, values.begin() + (i + 1) * length};
  }
  /// The source of a sequence, by its tokens.
  static int source_of(const TokenBatch& batch, std::int64_t i) {
    std::set<int> sources;
    for (const auto id : sequence(batch.tokens, i))
      if (id != 0) sources.insert(id / 1000);
    EXPECT_EQ(sources.size(), 1U);
    return *sources.begin();
  }
  static constexpr std::int64_t length = 12;
  testing::TemporaryFolder folder_;
  std::vector<std::shared_ptr<const TokenFile>> files_;
};

TEST_F(MixtureTest, OneSourceIsItsLoader) {
  Mixture one = mixture({0.3});
  Loader loader(files_[0], {.sequence_length = length, .vocabulary = 5000, .seed = 1, .held_out = 0.2});
  const TokenBatch a = one.fetch(3, 50);
  const TokenBatch b = loader.fetch(3, 50);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.documents, b.documents);
  EXPECT_EQ(one.num_held_out_sequences(), loader.num_held_out_sequences());
  EXPECT_EQ(one.held_out_batch(2).tokens, loader.held_out_batch(2).tokens);
  EXPECT_EQ(one.unigram_counts(), loader.unigram_counts());
  EXPECT_EQ(one.tokens_per_epoch(), loader.tokens_per_epoch());
  EXPECT_EQ(one.fingerprint(), files_[0]->fingerprint());
}

TEST_F(MixtureTest, TheFingerprintIsOfFilesAndShares) {
  const std::uint64_t whole = mixture({0.5, 0.5}).fingerprint();
  EXPECT_EQ(mixture({2, 2}).fingerprint(), whole);
  EXPECT_NE(mixture({0.5, 0.6}).fingerprint(), whole);
  EXPECT_NE(mixture({0.5, 0.5, 0.5}).fingerprint(), whole);
  std::swap(files_[0], files_[1]);
  EXPECT_NE(mixture({0.5, 0.5}).fingerprint(), whole);
}

TEST_F(MixtureTest, SamplesComeInProportionAndAreThoseOfTheSources) {
  Mixture m = mixture({0.5, 0.3, 0.2});
  const TokenBatch batch = m.fetch(0, 1000);  // several epochs of each
  ASSERT_EQ(batch.num_sequences, 1000);
  ASSERT_EQ(batch.tokens.size(), 1000U * length);
  std::vector<std::int64_t> counts(3);
  std::vector<Loader> loaders = m.sources();
  for (std::int64_t i = 0; i < 1000; ++i) {
    const int s = source_of(batch, i);
    const TokenBatch own = loaders[s].fetch(counts[s]++, 1);
    ASSERT_EQ(sequence(batch.tokens, i), own.tokens) << i;
    ASSERT_EQ(sequence(batch.targets, i), own.targets) << i;
    ASSERT_EQ(sequence(batch.positions, i), own.positions) << i;
    ASSERT_EQ(sequence(batch.documents, i), own.documents) << i;
    for (const auto& [source, weight] : {std::pair{0, 0.5}, {1, 0.3}, {2, 0.2}})
      ASSERT_LT(std::abs(static_cast<double>(counts[source]) - weight * static_cast<double>(i + 1)), 1);
  }
  EXPECT_THAT(counts, ElementsAre(500, 300, 200));
  EXPECT_EQ(m.num_targets(0, 1000), batch.num_targets());
  EXPECT_EQ(m.num_targets(7, 3), m.fetch(7, 3).num_targets());
  EXPECT_EQ(m.fetch(7, 0).sequence_length, length);
}

TEST_F(MixtureTest, ASampleIsAFunctionOfSeedAndIndex) {
  Mixture one = mixture({0.5, 0.3, 0.2});
  Mixture other = mixture({0.5, 0.3, 0.2});
  const TokenBatch all = one.fetch(0, 400);
  for (const std::int64_t i : {399, 0, 17, 200, 201}) EXPECT_EQ(other.fetch(i, 1).tokens, sequence(all.tokens, i)) << i;
  const TokenBatch part = other.fetch(123, 7);
  EXPECT_TRUE(std::equal(part.tokens.begin(), part.tokens.end(), all.tokens.begin() + 123 * length));
  EXPECT_EQ(other.fetch(5, 0).num_sequences, 0);
  EXPECT_NE(mixture({0.5, 0.3, 0.2}, 0.2, 2).fetch(0, 10).tokens, one.fetch(0, 10).tokens);
  // Two sources of one file are shuffled apart.
  const std::vector<MixtureSource> twice = {{files_[0], 1}, {files_[0], 1}};
  Mixture same(twice, {.sequence_length = length, .vocabulary = 5000, .seed = 1, .held_out = 0});
  const TokenBatch pair = same.fetch(0, 2);
  EXPECT_NE(sequence(pair.tokens, 0), sequence(pair.tokens, 1));
}

TEST_F(MixtureTest, HeldOutSequencesAreInProportionAndApart) {
  const Mixture m = mixture({0.5, 0.25, 0.25});
  const std::int64_t n = m.num_held_out_sequences();
  ASSERT_GT(n, 3);
  const TokenBatch batch = m.held_out_batch(n);
  std::vector<std::int64_t> counts(3);
  for (std::int64_t i = 0; i < n; ++i) ++counts[source_of(batch, i)];
  for (std::int64_t i = 0; i < n; ++i)
    EXPECT_EQ(m.held_out_sources(n)[static_cast<std::size_t>(i)], static_cast<std::size_t>(source_of(batch, i))) << i;
  for (std::size_t s = 0; s < 3; ++s) {
    EXPECT_LT(std::abs(static_cast<double>(counts[s]) - (s == 0 ? 0.5 : 0.25) * static_cast<double>(n)), 1);
    EXPECT_LE(counts[s], m.sources()[s].num_held_out_sequences());
  }
  // One more would be too many for some source.
  EXPECT_EQ(counts[0], m.sources()[0].num_held_out_sequences());
  EXPECT_THAT(error_of([&] { (void)m.held_out_batch(n + 1); }), HasSubstr("in proportion to the weights"));
  EXPECT_EQ(m.held_out_batch(0).num_sequences, 0);
  EXPECT_EQ(mixture({0.5, 0.25, 0.25}, 0).num_held_out_sequences(), 0);
}

TEST_F(MixtureTest, ASourceWithoutHeldOutTextHasNoPartInIt) {
  const std::string prefix = folder_ / "single";
  TokenFileWriter writer(prefix, 5000);  // one document: nothing is held out of it
  writer.add(std::vector<std::int32_t>(100, 4000));
  writer.finish();
  const Mixture m({{files_[0], 1}, {std::make_shared<TokenFile>(prefix), 3}},
                  {.sequence_length = length, .vocabulary = 5000, .seed = 1, .held_out = 0.2});
  EXPECT_EQ(m.num_held_out_sequences(), m.sources()[0].num_held_out_sequences());
  EXPECT_EQ(m.held_out_batch(2).tokens, m.sources()[0].held_out_batch(2).tokens);
  EXPECT_EQ(m.held_out_sources(2), (std::vector<std::size_t>{0, 0}));
}

TEST_F(MixtureTest, UnigramCountsAreWeighted) {
  const Mixture m = mixture({0.75, 0.25});
  const auto counts = m.unigram_counts();
  ASSERT_EQ(counts.size(), 5000U);
  double of_first = 0;
  double total = 0;
  for (std::size_t v = 0; v < counts.size(); ++v) {
    total += static_cast<double>(counts[v]);
    if (v >= 1 && v < 1000) of_first += static_cast<double>(counts[v]);
  }
  const auto own = m.sources()[0].unigram_counts();
  double own_text = 0;
  double own_total = 0;
  for (std::size_t v = 0; v < own.size(); ++v) {
    own_total += static_cast<double>(own[v]);
    if (v > 0) own_text += static_cast<double>(own[v]);
  }
  EXPECT_NEAR(of_first / total, 0.75 * own_text / own_total, 0.02);
  EXPECT_NEAR(total, static_cast<double>(m.tokens_per_epoch()), 0.05 * total);
}

TEST_F(MixtureTest, ASourceThatIsTooSmallIsNamed) {
  const std::string prefix = folder_ / "small";
  TokenFileWriter writer(prefix, 5000);
  writer.add(std::vector<std::int32_t>{1, 0});
  writer.finish();
  EXPECT_THAT(error_of([&] {
                Mixture({{files_[0], 1}, {std::make_shared<TokenFile>(prefix), 3}},
                        {.sequence_length = length, .vocabulary = 5000});
              }),
              HasSubstr(prefix + ": the 1 training documents have 2 tokens, expected at least 13"));
}

}  // namespace
}  // namespace limbeck::data
