// Sixteen sequences, each with another number of targets and of documents of other lengths, as one micro-batch, as four
// of four, and on four ranks: one loss and one gradient, of a teacher beside the student and of its cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "data/teacher_cache/cache_writing.h"
#include "data/tokenizers/tokenizer.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/run/step.h"
#include "optim/cached_distillation.h"
#include "optim/objectives.h"
#include "tests/support/golden_model.h"
#include "tests/support/small_model.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/thread_ranks.h"

namespace limbeck::launch {
namespace {

using core::DType;

constexpr std::int64_t vocabulary = 257, rows_of_head = 264, length = 24, sequences = 16, kept = 8;

struct Case {
  const char* name;
  bool is_cached;
  double ce_weight, temperature;
  bool renormalised = false;
};

struct Ran {
  double loss = 0, objective = 0, hidden = 0;
  std::map<std::string, std::vector<double>> gradients;
};

class RaggedSteps : public ::testing::Test {
 protected:
  RaggedSteps() : tokenizer_(data::byte_tokenizer()) {
    data::TokenFileWriter writer((folder_ / "text").string(), vocabulary);
    for (int d = 0; d < 60; ++d) {
      std::vector<std::int32_t>& ids = documents_.emplace_back();
      for (int i = 0; i < 1 + d * 7 % 29; ++i) ids.push_back((i * i * (1 + d % 5) + d * 11) % 256);
      ids.push_back(256);
      writer.add(ids);
    }
    writer.finish();
    file_ = std::make_shared<data::TokenFile>((folder_ / "text").string());
    write_cache();
  }
  static nn::ModelConfig config(std::int64_t num_experts) { return testing::small_model(rows_of_head, num_experts); }
  /// Weights that leave distributions far from even.
  static void make_steep(nn::Transformer& model, std::uint64_t seed) {
    model.init_random(seed);
    for (core::Parameter* p : model.parameters())
      if (p->global_shape.rank() > 1) core::init_normal(*p, 0.35, seed);
  }
  data::Mixture text() const {
    return data::Mixture({{file_, 1}}, {.sequence_length = length, .vocabulary = vocabulary, .seed = 3});
  }
  /// Of sequence n the first n + 3 tokens have targets, as far as they had some.
  data::TokenBatch samples() const {
    data::Mixture mixture = text();
    data::TokenBatch batch = mixture.fetch(0, sequences);
    for (std::int64_t n = 0; n < sequences; ++n)
      for (std::int64_t i = n + 3; i < length; ++i) batch.targets[static_cast<std::size_t>(n * length + i)] = -1;
    return batch;
  }

  /// What the teacher gives of a document: logits and the last layer's stream, a row a token.
  struct Read {
    std::vector<std::vector<double>> logits, stream;
  };
  Read read(const nn::Transformer& teacher, const std::vector<std::int32_t>& ids) const {
    const nn::Batch batch = nn::one_sequence(teacher.memory(), ids, 0);
    core::Tape off(core::Tape::Mode::Off);
    nn::Pass pass = teacher.pass(batch);
    core::Tensor stream;
    pass.gives = [&](std::int64_t layer, const core::Var& given) {
      if (layer == 1) stream = given.value;
    };
    const core::Tensor logits = core::logits_of(teacher.forward(off, pass).hidden.value, teacher.head().value);
    Read result;
    for (std::int64_t t = 0; t < std::ssize(ids); ++t) {
      const double *z = logits.data<double>() + t * rows_of_head, *x = stream.data<double>() + t * 16;
      result.logits.emplace_back(z, z + vocabulary);
      result.stream.emplace_back(x, x + 16);
    }
    return result;
  }
  void write_cache() {
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      Rank rank(world.comm, "dp1", 1);
      nn::Transformer teacher(config(0), rank.frozen_copy(DType::F64));
      make_steep(teacher, 5);
      for (const auto& ids : documents_) read_.push_back(read(teacher, ids));
    });
    const data::CacheContents contents{.kept = kept,
                                       .quantised = false,
                                       .temperatures = {1, 2},
                                       .vocabulary = vocabulary,
                                       .hidden_layers = {1},
                                       .hidden_width = 16};
    data::CacheIdentity id{.teacher = "abc", .teacher_source = "teacher", .contents = contents};
    id.tokenizer_tokens = data::named_size(*tokenizer_);
    id.tokenizer = data::vocabulary_fingerprint(*tokenizer_, id.tokenizer_tokens);
    id.window = 64, id.stride = 32;
    data::begin_teacher_cache(folder_ / "cache", id);
    std::vector<data::CachePartInfo> infos;
    const std::vector<data::CacheText> texts = {file_};
    for (const data::CacheWork& work : data::cache_work(data::TeacherCache(folder_ / "cache"), texts, 4096)) {
      data::CachePartWriter writer(folder_ / "cache", work.name, id);
      for (const auto& [source, d] : work.documents) {
        const std::vector<std::int32_t>& ids = documents_.at(static_cast<std::size_t>(d));
        const Read& of_document = read_.at(static_cast<std::size_t>(d));
        data::CachedRows rows;
        rows.resize(std::ssize(ids) - 1, contents);
        for (std::int64_t t = 0; t < rows.n; ++t) {
          const auto at = static_cast<std::size_t>(t);
          const std::vector<float> logits(of_document.logits[at].begin(), of_document.logits[at].end());
          data::RowsMaker(contents).make(logits, ids[at + 1], data::document_key(ids), t, rows, t);
          std::copy(of_document.stream[at].begin(), of_document.stream[at].end(), rows.hidden.begin() + t * 16);
        }
        writer.add(data::document_key(ids), rows);
      }
      infos.push_back(writer.finish());
    }
    data::finish_teacher_cache(folder_ / "cache", infos, {{file_}});
  }

  /// One step of the student under a layout; `then` hears of it on each rank.
  template <class F>
  void run(Rank& rank, const Case& c, std::int64_t micro_batches, bool recompute, F&& then) const {
    nn::Transformer student(config(4), rank.sharded(DType::F64));
    make_steep(student, 9);
    nn::Transformer teacher(config(0), rank.frozen_copy(DType::F64));
    make_steep(teacher, 5);
    const data::Mixture mixture = text();
    CachedTeacher cached(folder_ / "cache", mixture, {"abc", "teacher", tokenizer_.get()}, c.temperature, DType::F64);
    const optim::CachedDistillation of_cache(
        {.ce_weight = c.ce_weight, .temperature = c.temperature, .renormalised = c.renormalised});
    const optim::Distillation of_teacher({.ce_weight = c.ce_weight, .temperature = c.temperature});
    const core::Objective& objective =
        c.is_cached ? static_cast<const core::Objective&>(of_cache) : static_cast<const core::Objective&>(of_teacher);
    StepModels models{student, c.is_cached ? nullptr : &teacher, objective};
    if (c.is_cached) models.cached = &cached;
    parallel::GradientSync sync(student.parameters(), rank.mesh(), rank.memory(), DType::F64);
    const StepResult result = forward_backward(rank, models, samples(),
                                               {.micro_batches = micro_batches,
                                                .router = {.balance = 0.01, .z = 0.001},
                                                .recompute = recompute,
                                                .valid_vocabulary = vocabulary,
                                                .hidden = HiddenMatch{.weight = 0.3, .layers = {-1, 1}}},
                                               sync);
    then(result, student);
  }
  /// The mean over the step's targets of KL to the teacher that has read each document from its beginning, over its
  /// likeliest tokens and all others as one.
  double ghost_kl(const nn::Transformer& student, double temperature) const {
    const data::TokenBatch batch = samples();
    const nn::Batch all = make_batch(student.memory(), batch, 0, sequences);
    core::Tape off(core::Tape::Mode::Off);
    const core::Tensor logits =
        core::logits_of(student.forward(off, student.pass(all)).hidden.value, student.head().value);
    const auto softmax = [&](const double* z) {
      std::vector<double> p;
      for (std::int64_t v = 0; v < vocabulary; ++v) p.push_back(std::exp(z[v] / temperature));
      const double sum = std::accumulate(p.begin(), p.end(), 0.0);
      for (double& value : p) value /= sum;
      return p;
    };
    double kl = 0;
    for (const data::TokenBatch::Piece& piece : batch.pieces)
      for (std::int64_t i = 0; i < piece.count; ++i) {
        const std::int64_t t = piece.first + i;
        if (batch.targets[static_cast<std::size_t>(t)] < 0) continue;
        const auto& z =
            read_[static_cast<std::size_t>(piece.document)].logits[static_cast<std::size_t>(piece.position + i)];
        const std::vector<double> p = softmax(z.data()), q = softmax(logits.data<double>() + t * rows_of_head);
        std::vector<std::size_t> order(p.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
        double rest_p = 1, rest_q = 1;
        for (std::size_t j = 0; j < kept; ++j) {
          kl += p[order[j]] * std::log(p[order[j]] / q[order[j]]);
          rest_p -= p[order[j]];
          rest_q -= q[order[j]];
        }
        kl += rest_p * std::log(rest_p / rest_q);
      }
    return kl / static_cast<double>(batch.num_targets());
  }

  testing::TemporaryFolder folder_;
  std::shared_ptr<const data::Tokenizer> tokenizer_;
  std::vector<std::vector<std::int32_t>> documents_;
  std::vector<Read> read_;
  std::shared_ptr<const data::TokenFile> file_;
};

TEST_F(RaggedSteps, AreOneGradientHoweverTheyAreCut) {
  struct Layout {
    const char* name;
    int ranks;
    std::int64_t micro_batches;
    bool recompute = false;
  };
  for (const Case& c : {Case{"beside", false, 0.2, 2},
                        {"ghost", true, 0, 1},
                        {"warm ghost", true, 0.2, 2},
                        {"renormalised", true, 0.2, 1, true}}) {
    SCOPED_TRACE(c.name);
    Ran expected;
    testing::run_ranks(1, [&](testing::RankWorld& world) {
      Rank rank(world.comm, "dp1", 1);
      run(rank, c, 1, false, [&](const StepResult& result, nn::Transformer& student) {
        expected = {result.loss(), result.objective, result.hidden, {}};
        for (const core::Parameter* p : student.parameters())
          expected.gradients[p->name] = testing::values_of(p->slot->grad);
        if (!c.is_cached || c.ce_weight > 0) return;
        EXPECT_NEAR(result.objective, ghost_kl(student, c.temperature), 1e-5);
      });
    });
    ASSERT_GT(expected.hidden, 0);
    for (const Layout& layout :
         {Layout{"dp1", 1, 4}, Layout{"dp1", 1, 16, true}, Layout{"dp4", 4, 1}, Layout{"dp4", 4, 4},
          Layout{"ep4", 4, 1}, Layout{"tp2dp2", 4, 2}, Layout{"cp2dp2", 4, 1}}) {
      SCOPED_TRACE(fmt::format("{} {}", layout.name, layout.micro_batches));
      testing::run_ranks(layout.ranks, [&](testing::RankWorld& world) {
        Rank rank(world.comm, layout.name, 1);
        run(rank, c, layout.micro_batches, layout.recompute, [&](const StepResult& result, nn::Transformer& student) {
          EXPECT_NEAR(result.loss(), expected.loss, 1e-11);
          EXPECT_NEAR(result.objective, expected.objective, 1e-11);
          EXPECT_NEAR(result.hidden, expected.hidden, 1e-11);
          EXPECT_LE(testing::worst_gradient_error(student.parameters(), expected.gradients), 1e-11);
        });
      });
    }
  }
}

}  // namespace
}  // namespace limbeck::launch
