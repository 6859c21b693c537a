// What a run reads of a teacher's cache: each token's own row, wherever sequences cut documents; and the figures that
// come of it.
#include "launch/run/cached_teacher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "data/teacher_cache/cache_writing.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/run/token_figures.h"
#include "tests/support/heard_of.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using data::CacheContents;
using data::CachedRows;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

constexpr std::int64_t vocabulary = 257;

/// Logits that tell the document's tokens up to a place.
std::vector<float> logits_at(const std::vector<std::int32_t>& ids, std::int64_t position) {
  double state = 1;
  for (std::int64_t i = 0; i <= position; ++i) state = std::fmod(state * 1.7 + ids[static_cast<std::size_t>(i)], 97);
  std::vector<float> logits;
  for (int v = 0; v < vocabulary; ++v) logits.push_back(static_cast<float>(2 * std::sin(state + v * v)));
  return logits;
}

/// What a layer gives there.
float hidden_at(const std::vector<std::int32_t>& ids, std::int64_t position, std::int64_t layer, std::int64_t channel) {
  return logits_at(ids, position)[static_cast<std::size_t>(channel)] + 10 * static_cast<float>(layer);
}

std::vector<double> softmax(const std::vector<double>& z) {
  const double greatest = *std::max_element(z.begin(), z.end());
  std::vector<double> p;
  for (const double value : z) p.push_back(std::exp(value - greatest));
  const double sum = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= sum;
  return p;
}

std::int64_t place_of_greatest(const std::vector<double>& values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

constexpr std::int64_t channels = 3, head_rows = 264;  // of a student; seven of the rows are padding

double hidden_of_student(std::int64_t token, std::int64_t c) {
  return 1.5 * std::sin(3.1 * static_cast<double>(token) + 7.7 * static_cast<double>(c));
}
double head_of_student(std::int64_t v, std::int64_t c) {
  return std::cos(1.3 * static_cast<double>(v) + static_cast<double>(c * c));
}
std::vector<double> probabilities_of_student(std::int64_t token) {
  std::vector<double> z(vocabulary);
  for (std::int64_t v = 0; v < vocabulary; ++v)
    for (std::int64_t c = 0; c < channels; ++c)
      z[static_cast<std::size_t>(v)] += hidden_of_student(token, c) * head_of_student(v, c);
  return softmax(z);
}

/// KL(p, q) and sum min(p, q) over the `kept` likeliest tokens of p and one outcome for all others.
std::pair<double, double> with_ghost(const std::vector<double>& p, const std::vector<double>& q, std::int64_t kept) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
  double kl = 0, least = 0, rest_p = 0, rest_q = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double of_teacher = p[order[i]], of_student = q[order[i]];
    if (static_cast<std::int64_t>(i) < kept) {
      kl += of_teacher * std::log(of_teacher / of_student);
      least += std::min(of_teacher, of_student);
    } else {
      rest_p += of_teacher;
      rest_q += of_student;
    }
  }
  if (rest_p > 0) kl += rest_p * std::log(rest_p / rest_q);
  return {kl, least + std::min(rest_p, rest_q)};
}

class CachedTeacherTest : public ::testing::Test {
 protected:
  CachedTeacherTest() : tokenizer_(data::byte_tokenizer()) {
    for (const int source : {0, 1}) {
      const std::string prefix = (folder_ / ("text" + std::to_string(source))).string();
      data::TokenFileWriter writer(prefix, vocabulary);
      for (int d = 0; d < 9; ++d) {
        std::vector<std::int32_t> ids;
        for (int i = 0; i < 3 + d * 7 % 31; ++i) ids.push_back((i * i + d * 11 + 50 * source) % 256);
        ids.push_back(256);
        writer.add(ids);
      }
      writer.finish();
      files_.push_back(std::make_shared<data::TokenFile>(prefix));
    }
  }
  data::CacheIdentity identity(const CacheContents& contents) const {
    data::CacheIdentity id{.teacher = "abc", .teacher_source = "teacher", .contents = contents};
    id.tokenizer_tokens = data::named_size(*tokenizer_);
    id.tokenizer = data::vocabulary_fingerprint(*tokenizer_, id.tokenizer_tokens);
    id.window = 64, id.stride = 32;
    return id;
  }
  void write(const CacheContents& contents) const {
    data::begin_teacher_cache(cache_, identity(contents));
    std::vector<data::CachePartInfo> infos;
    for (const data::CacheWork& work :
         data::cache_work(data::TeacherCache(cache_), {files_.begin(), files_.end()}, 40)) {
      data::CachePartWriter writer(cache_, work.name, identity(contents));
      for (const auto& [text, d] : work.documents) {
        const std::vector<std::int32_t> ids = files_[text]->read(d);
        CachedRows rows;
        rows.resize(std::ssize(ids) - 1 - positions_left_out_, contents);
        for (std::size_t i = 0; i < rows.hidden.size(); ++i) {
          const auto at = static_cast<std::int64_t>(i);
          rows.hidden[i] =
              hidden_at(ids, at / rows.hidden_size,
                        contents.hidden_layers[static_cast<std::size_t>(at % rows.hidden_size / contents.hidden_width)],
                        at % contents.hidden_width);
        }
        for (std::int64_t t = 0; t < rows.n; ++t)
          data::RowsMaker(contents).make(logits_at(ids, t), ids[static_cast<std::size_t>(t + 1)],
                                         data::document_key(ids), t, rows, t);
        writer.add(data::document_key(ids), rows);
      }
      infos.push_back(writer.finish());
    }
    data::finish_teacher_cache(cache_, infos, files_);
  }
  data::Mixture text(std::int64_t length) const {
    return data::Mixture({{files_[0], 2}, {files_[1], 1}},
                         {.sequence_length = length, .vocabulary = vocabulary, .seed = 3, .held_out = 0.2});
  }
  /// The rows of each token with a target are those of the document's own place.
  void expect_rows(const CachedTeacher::Part& part, const data::TokenBatch& batch, double temperature) const {
    const core::SparseTargets& targets = part.targets;
    const std::int64_t width = targets.ids.shape()[1];
    std::int64_t seen = 0;
    for (const data::TokenBatch::Piece& piece : batch.pieces) {
      const std::vector<std::int32_t> ids = files_.at(piece.source)->read(piece.document);
      for (std::int64_t i = 0; i < piece.count; ++i) {
        const auto t = static_cast<std::size_t>(piece.first + i);
        ++seen;
        ASSERT_EQ(batch.tokens[t], ids[static_cast<std::size_t>(piece.position + i)]);
        if (batch.targets[t] < 0) continue;
        const std::vector<float> z = logits_at(ids, piece.position + i);
        const auto log_p = [&](std::int32_t v, double at) {
          double sum = 0;
          for (const float other : z)
            sum += std::exp((static_cast<double>(other) - z[static_cast<std::size_t>(v)]) / at);
          return -std::log(sum);
        };
        for (std::int64_t j = 0; j < width; ++j) {
          const std::int64_t at = static_cast<std::int64_t>(t) * width + j;
          const std::int32_t v = targets.ids.data<std::int32_t>()[at];
          ASSERT_NEAR(targets.log_p.data<float>()[at], log_p(v, 1), 1e-5);
          if (temperature != 1) {
            ASSERT_NEAR(targets.log_p_tempered.data<float>()[at], log_p(v, temperature), 1e-5);
          }
        }
        for (const auto& [layer, states] : part.hidden)
          for (std::int64_t c = 0; c < states.shape()[1]; ++c)
            ASSERT_EQ(states.data<float>()[static_cast<std::int64_t>(t) * states.shape()[1] + c],
                      hidden_at(ids, piece.position + i, layer, c));
        ASSERT_NEAR(targets.target_loss.data<float>()[t], -log_p(batch.targets[t], 1), 1e-5);
      }
    }
    ASSERT_EQ(seen, std::ssize(batch.tokens));
  }
  /// The teacher's probabilities at each token of a batch; nothing behind a document's last one.
  std::vector<std::vector<double>> probabilities_of(const data::TokenBatch& batch) const {
    std::vector<std::vector<double>> all(batch.tokens.size());
    for (const data::TokenBatch::Piece& piece : batch.pieces) {
      const std::vector<std::int32_t> ids = files_.at(piece.source)->read(piece.document);
      for (std::int64_t i = 0; i < piece.count; ++i) {
        const std::vector<float> z = logits_at(ids, piece.position + i);
        all[static_cast<std::size_t>(piece.first + i)] = softmax({z.begin(), z.end()});
      }
    }
    return all;
  }
  /// The figures of a student against the cache, on the first rank of a tensor group of so many; then `check` hears of
  /// each token with a target, with its place in the batch.
  void measure(int ranks, double temperature, const data::TokenBatch& batch,
               const std::function<void(std::size_t, const TokenFigures&, const core::SparseTargets*)>& check) const {
    testing::run_ranks(ranks, [&](testing::RankWorld& world) {
      Rank rank(world.comm, ranks == 1 ? "dp1" : "tp2", 1);
      const data::Mixture mixture = text(16);
      const auto teacher =
          CachedTeacher(cache_, mixture, {"", "", tokenizer_.get()}, temperature, core::DType::F64).to_measure();
      const std::int64_t n = std::ssize(batch.tokens), rows = head_rows / ranks,
                         first = rows * rank.comms().tensor->rank();
      std::vector<double> hidden, head;
      for (std::int64_t i = 0; i < n * channels; ++i) hidden.push_back(hidden_of_student(i / channels, i % channels));
      for (std::int64_t i = 0; i < rows * channels; ++i)
        head.push_back(head_of_student(first + i / channels, i % channels));
      const auto source = teacher->targets(rank.memory(), batch, first, rows);
      const std::vector<TokenFigures> figures =
          token_figures(rank, core::Tensor::from<std::int32_t>(rank.memory(), {n}, batch.targets),
                        {.hidden = core::Tensor::from<double>(rank.memory(), {n, channels}, hidden),
                         .head = core::Tensor::from<double>(rank.memory(), {rows, channels}, head),
                         .vocabulary_offset = first,
                         .source = source.get()},
                        vocabulary);
      if (!rank.is_first()) return;
      ASSERT_EQ(std::ssize(figures), batch.num_targets());
      std::optional<core::SparseTargets> sparse;
      if (source->is_sparse()) sparse = source->sparse(0, n);
      auto figure = figures.begin();
      for (std::size_t t = 0; t < batch.targets.size(); ++t)
        if (batch.targets[t] >= 0) check(t, *figure++, sparse ? &*sparse : nullptr);
    });
  }
  TemporaryFolder folder_;
  std::filesystem::path cache_ = folder_ / "cache";
  std::shared_ptr<const data::Tokenizer> tokenizer_;
  std::vector<std::shared_ptr<const data::TokenFile>> files_;
  std::int64_t positions_left_out_ = 0;  // at the end of each document
  core::MemoryPtr memory_ = core::Memory::cpu(1);
};

TEST_F(CachedTeacherTest, ATokenHasItsOwnRowHoweverTheTextIsPacked) {
  write({.kept = 20,
         .quantised = false,
         .temperatures = {1, 2},
         .vocabulary = vocabulary,
         .hidden_layers = {1, 5},
         .hidden_width = 3});
  for (const std::int64_t length : {1, 5, 16, 40})
    for (const double temperature : {1.0, 2.0}) {
      data::Mixture mixture = text(length);
      CachedTeacher teacher(cache_, mixture, {"abc", "teacher", tokenizer_.get()}, temperature, core::DType::F32);
      std::vector<data::TokenBatch> batches;
      for (std::int64_t first = 0; first < 12; first += 3) batches.push_back(mixture.fetch(first, 3));
      teacher.prefetch({batches[0], batches[1]});
      teacher.prefetch({batches[2]});
      for (const std::size_t b : {0, 1, 2, 3}) expect_rows(teacher.take(memory_, batches[b]), batches[b], temperature);
      // Other text than was said before.
      teacher.prefetch({batches[0]});
      expect_rows(teacher.take(memory_, batches[1]), batches[1], temperature);
      double targets = 0;
      for (const std::size_t b : {0, 1, 2, 3, 1}) targets += static_cast<double>(batches[b].num_targets());
      const CachedTeacher::Figures figures = teacher.take_figures();
      EXPECT_EQ(figures.tokens, targets);
      EXPECT_GT(figures.kept_mass, 20.0 / vocabulary * targets);
      EXPECT_LT(figures.kept_mass, targets);
      EXPECT_EQ(teacher.take_figures().tokens, 0);
    }
}

// Rows of whole distributions come by chunks of any size, for tokens further on, and of a part of the vocabulary.
TEST_F(CachedTeacherTest, WholeDistributionsAreReadByChunks) {
  write({.kind = data::CacheKind::Full, .quantised = false, .vocabulary = vocabulary});
  for (const std::int64_t length : {1, 7, 40}) {
    data::Mixture mixture = text(length);
    CachedTeacher teacher(cache_, mixture, {"", "", tokenizer_.get()}, /*temperature=*/1.7, core::DType::F32);
    ASSERT_TRUE(teacher.is_whole());
    const data::TokenBatch batch = mixture.fetch(2, 9);
    const std::int64_t n = std::ssize(batch.tokens);
    for (const std::int64_t further : {0, 2})
      for (const auto& [first_column, columns] :
           std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 264}, {200, 64}})
        for (const std::int64_t chunk : {std::int64_t{5}, n}) {
          const auto rows = teacher.whole(memory_, batch, further, first_column, columns);
          std::int64_t seen = 0;
          for (std::int64_t first = 0; first < n; first += chunk) {
            const std::int64_t count = std::min(chunk, n - first);
            const core::Tensor logits = rows->logits(first, count);
            ASSERT_EQ(logits.shape(), (core::Shape{count, columns}));
            for (const data::TokenBatch::Piece& piece : batch.pieces) {
              const std::vector<std::int32_t> ids = files_.at(piece.source)->read(piece.document);
              for (std::int64_t i = 0; i < piece.count; ++i) {
                const std::int64_t row = piece.first + i - further - first;
                if (row < 0 || row >= count || piece.position + i + 1 == std::ssize(ids)) continue;
                ++seen;
                const std::vector<float> z = logits_at(ids, piece.position + i);
                const float* got = logits.data<float>() + row * columns;
                const std::int64_t some = std::min(columns, vocabulary - first_column);
                for (std::int64_t v = 0; v < some; ++v)  // up to a number that the row has in common
                  ASSERT_NEAR(got[v] - got[0], z[first_column + v] - z[first_column], 1e-4);
              }
            }
          }
          EXPECT_GT(seen, (n - further) / 2);
        }
    EXPECT_EQ(teacher.take_figures().tokens, 4.0 * static_cast<double>(batch.num_targets()));
  }
  data::Mixture mixture = text(8);
  std::filesystem::remove_all(cache_);
  write({.kept = 5, .vocabulary = vocabulary});
  CachedTeacher part(cache_, mixture, {"", "", tokenizer_.get()}, 1, core::DType::F32);
  EXPECT_THAT(error_of([&] { part.whole(memory_, mixture.fetch(0, 1), 0, 0, 5); }), HasSubstr("expected FULL"));
}

TEST_F(CachedTeacherTest, SaysThatItReadsWhileTheRankWaits) {
  data::Mixture mixture = text(16);
  const data::TokenBatch batch = mixture.fetch(2, 9);
  for (const CacheContents& contents :
       {CacheContents{.kind = data::CacheKind::Full, .quantised = false, .vocabulary = vocabulary},
        CacheContents{.kept = 20, .quantised = false, .vocabulary = vocabulary}}) {
    std::filesystem::remove_all(cache_);
    write(contents);
    parallel::FileWaits waits;
    CachedTeacher teacher(cache_, mixture, {"", "", tokenizer_.get()}, 1, core::DType::F32, &waits);
    const auto measured = teacher.to_measure();
    for (CachedTeacher* of : {&teacher, measured.get()}) {
      const std::string heard = testing::heard_of(waits, [&] {
        const auto rows = of->targets(memory_, batch, 0, vocabulary);
        if (of->is_whole()) rows->logits(0, 5);
      });
      EXPECT_EQ(heard, "reads " + cache_.string());
      EXPECT_EQ(waits.now(), "");
    }
  }
}

// Of whole distributions figures are exact; of the likeliest tokens KL is at most the whole one's, sum min(p, q) at
// least; the rest is exact. Against float64, of the logits that the cache was made of.
TEST_F(CachedTeacherTest, FiguresAreOfWhatIsKept) {
  struct Case {
    CacheContents contents;
    Known known;
    std::int64_t kept;
  };
  data::Mixture mixture = text(16);
  const data::TokenBatch batch = mixture.fetch(2, 9);
  const std::vector<std::vector<double>> p = probabilities_of(batch);
  for (const Case& c :
       {Case{{.kind = data::CacheKind::Full, .quantised = false, .vocabulary = vocabulary}, Known::Whole, vocabulary},
        Case{{.kept = 300, .quantised = false, .vocabulary = vocabulary}, Known::Whole, vocabulary},
        Case{{.kept = 6, .quantised = false, .temperatures = {1, 2}, .vocabulary = vocabulary}, Known::Kept, 6}}) {
    std::filesystem::remove_all(cache_);
    write(c.contents);
    EXPECT_EQ(CachedTeacher(cache_, mixture, {"", "", tokenizer_.get()}, 1, core::DType::F64).known(), c.known);
    double slack = 0, more = 0;
    for (const int ranks : {1, 2})
      measure(ranks, c.contents.temperatures.back(), batch,
              [&](std::size_t t, const TokenFigures& found, const core::SparseTargets*) {
                const std::vector<double> q = probabilities_of_student(static_cast<std::int64_t>(t));
                const auto target = static_cast<std::size_t>(batch.targets[t]);
                const auto [kl, least] = with_ghost(p[t], q, c.kept);
                EXPECT_NEAR(found.ce, -std::log(q[target]), 1e-9);
                EXPECT_NEAR(found.teacher_ce, -std::log(p[t][target]), 2e-5);
                EXPECT_NEAR(found.kl, kl, 2e-5);
                EXPECT_NEAR(found.sum_min, least, 2e-5);
                EXPECT_EQ(found.agreement, place_of_greatest(p[t]) == place_of_greatest(q) ? 1 : 0);
                EXPECT_NEAR(found.top.probability, *std::max_element(q.begin(), q.end()), 1e-9);
                EXPECT_NEAR(found.teacher_top.probability, *std::max_element(p[t].begin(), p[t].end()), 2e-5);
                EXPECT_EQ(found.teacher_top.is_right, place_of_greatest(p[t]) == batch.targets[t]);
                const auto [whole, overlap] = with_ghost(p[t], q, vocabulary);
                slack += whole - found.kl;
                more += found.sum_min - overlap;
              });
    EXPECT_EQ(slack > 1, c.known == Known::Kept) << slack;
    EXPECT_EQ(more > 1, c.known == Known::Kept) << more;
  }
}

// Of draws KL is that of their shares and the entropy, right in the mean; what they do not tell is not told.
TEST_F(CachedTeacherTest, FiguresOfDrawsAreEstimates) {
  data::Mixture mixture = text(16);
  const data::TokenBatch batch = mixture.fetch(0, 12);
  const std::vector<std::vector<double>> p = probabilities_of(batch);
  write({.kind = data::CacheKind::Sampled, .kept = 40, .quantised = false, .vocabulary = vocabulary});
  std::vector<double> errors;
  measure(1, 1, batch, [&](std::size_t t, const TokenFigures& found, const core::SparseTargets* drawn) {
    const std::vector<double> q = probabilities_of_student(static_cast<std::int64_t>(t));
    double estimate = 0;
    for (const double one : p[t]) estimate += one * std::log(one);  // less the entropy
    const std::int64_t entries = drawn->ids.shape()[1];
    for (std::int64_t j = static_cast<std::int64_t>(t) * entries; j < static_cast<std::int64_t>(t + 1) * entries; ++j)
      if (const std::int32_t v = drawn->ids.data<std::int32_t>()[j]; v >= 0)
        estimate -= drawn->log_p.data<double>()[j] * std::log(q[static_cast<std::size_t>(v)]);
    EXPECT_NEAR(found.kl, estimate, 2e-5);
    EXPECT_EQ(found.agreement, place_of_greatest(p[t]) == place_of_greatest(q) ? 1 : 0);
    EXPECT_NEAR(found.teacher_ce, -std::log(p[t][static_cast<std::size_t>(batch.targets[t])]), 2e-5);
    EXPECT_EQ(found.teacher_top.probability, 0);
    errors.push_back(found.kl - with_ghost(p[t], q, vocabulary).first);
  });
  double mean = 0, square = 0;
  for (const double e : errors) mean += e / static_cast<double>(errors.size());
  for (const double e : errors) square += (e - mean) * (e - mean);
  const double n = static_cast<double>(errors.size());
  EXPECT_GT(n, 100);
  EXPECT_LT(std::abs(mean), 4 * std::sqrt(square) / n);
  EXPECT_GT(std::sqrt(square / n), 0.01);
}

TEST_F(CachedTeacherTest, DocumentsOfAnEvaluationSetAreFoundByWhatTheySay) {
  write({.kept = 20, .quantised = false, .vocabulary = vocabulary});
  const data::Mixture mixture = text(16);
  const CachedTeacher teacher(cache_, mixture, {"", "", tokenizer_.get()}, 1, core::DType::F32);
  std::vector<data::Document> documents;
  for (const std::int64_t d : {5, 2}) documents.push_back({.name = "a set's", .ids = files_[1]->read(d)});
  documents.push_back({.name = "of one token", .ids = {7}});
  EXPECT_EQ(teacher.num_missing(documents), 0);
  data::TokenBatch batch;  // from the middle of the first on, and the second
  for (const auto& [at, position] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 3}, {1, 0}}) {
    const std::vector<std::int32_t>& ids = documents[static_cast<std::size_t>(at)].ids;
    const std::int64_t count = std::ssize(ids) - 1 - position;
    batch.pieces.push_back({.document = at, .position = position, .first = std::ssize(batch.tokens), .count = count});
    batch.tokens.insert(batch.tokens.end(), ids.begin() + position, ids.end() - 1);
    batch.targets.insert(batch.targets.end(), ids.begin() + position + 1, ids.end());
  }
  const CachedTeacher::Part part = teacher.to_measure(documents)->take(memory_, batch);
  batch.pieces[0].document = 5, batch.pieces[1].document = 2;  // as the text has them
  for (data::TokenBatch::Piece& piece : batch.pieces) piece.source = 1;
  expect_rows(part, batch, 1);
  documents.push_back({.name = "another", .ids = {1, 2, 3}});
  EXPECT_EQ(teacher.num_missing(documents), 1);
}

// Whoever makes a file can give a document fewer rows than it has tokens to predict.
TEST_F(CachedTeacherTest, DocumentsHaveARowForEachToken) {
  data::Mixture mixture = text(8);
  const auto error_of_reading = [&](data::CacheKind kind) {
    std::filesystem::remove_all(cache_);
    write({.kind = kind, .kept = 5, .vocabulary = vocabulary});
    CachedTeacher teacher(cache_, mixture, {"", "", tokenizer_.get()}, 1, core::DType::F32);
    return error_of([&] {
      const data::TokenBatch batch = mixture.fetch(0, 2);
      teacher.targets(memory_, batch, 0, vocabulary)->logits(0, 2);
    });
  };
  positions_left_out_ = 1;
  for (const data::CacheKind kind : {data::CacheKind::TopK, data::CacheKind::Full}) {
    const std::string error = error_of_reading(kind);
    EXPECT_THAT(error,
                ::testing::ContainsRegex("part_.* has [0-9]+ positions? of document [0-9]+ of text [01], expected"));
  }
}

TEST_F(CachedTeacherTest, WhatDoesNotFitIsRefusedByName) {
  write({.kept = 5, .vocabulary = vocabulary});
  const data::Mixture mixture = text(8);
  const auto error = [&](const CacheOwner& owner, double temperature, const data::Mixture& of) {
    return error_of([&] { CachedTeacher teacher(cache_, of, owner, temperature, core::DType::F32); });
  };
  const CacheOwner owner{"abc", "teacher", tokenizer_.get()};
  EXPECT_EQ(error(owner, 1, mixture), "");
  EXPECT_THAT(error({"abd", "teacher", tokenizer_.get()}, 1, mixture), HasSubstr("is of another teacher"));
  EXPECT_THAT(error(owner, 1.5, mixture), HasSubstr("objective.temperature is 1.5"));
  const std::string prefix = (folder_ / "other").string();
  data::TokenFileWriter writer(prefix, vocabulary);
  for (int d = 0; d < 4; ++d) writer.add(std::vector<std::int32_t>(12, d));
  writer.finish();
  const data::Mixture other({{std::make_shared<data::TokenFile>(prefix), 1}},
                            {.sequence_length = 8, .vocabulary = vocabulary, .seed = 3, .held_out = 0.2});
  EXPECT_THAT(error(owner, 1, other), HasSubstr("is of another text"));
  // A block that is damaged later is found when it is read, from the thread that reads ahead too.
  data::Mixture again = text(8);
  CachedTeacher teacher(cache_, again, owner, 1, core::DType::F32);
  for (const auto& part : teacher.cache().manifest().parts) {
    std::string bytes = testing::read_file(cache_ / part.file.name);
    for (std::size_t at = bytes.size() * 2 / 3; at < bytes.size(); ++at) bytes[at] = static_cast<char>(bytes[at] ^ 1);
    testing::write_file(cache_ / part.file.name, bytes);
  }
  const data::TokenBatch batch = again.fetch(0, 4);
  teacher.prefetch({batch});
  EXPECT_THAT(error_of([&] { teacher.take(memory_, batch); }), HasSubstr("is corrupt"));
}

}  // namespace
}  // namespace limbeck::launch
