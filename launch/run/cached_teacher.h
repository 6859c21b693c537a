// A teacher whose distributions are read from a cache (docs/teacher_cache.md) while the student trains: the rows of the
// next step are read and unpacked on a thread of their own.
//
//     CachedTeacher teacher(folder, text, {fingerprint, source, tokenizer.get()}, /*temperature=*/1, core::DType::F32);
//     teacher.prefetch(batches_of_the_next_step);
//     CachedTeacher::Part part = teacher.take(memory, batch);           // waits for what is not there yet
//     auto rows = teacher.whole(memory, batch, 0, student.vocabulary_part().first, columns);   // of a cache of FULL
//     auto figures_of = teacher.to_measure();                                                 // of any, at temperature
//     1
#pragma once

#include <cstdint>
#include <deque>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/ops/head_loss.h"
#include "data/teacher_cache/teacher_cache.h"
#include "data/text/documents.h"
#include "data/text/mixture.h"
#include "data/tokenizers/tokenizer.h"
#include "launch/run/known_teacher.h"
#include "parallel/comm/file_waits.h"

namespace limbeck::launch {

/// What a run's text makes of a cache's identity: who the teacher and the tokenizer are.
struct CacheOwner {
  std::string teacher;  // its fingerprint; empty: whoever the cache is of
  std::string source;   // where it lies
  const data::Tokenizer* tokenizer = nullptr;
};

class CachedTeacher {
 public:
  /// Throws a UsageError, which names the cache and says what it is of, where that is another teacher, tokenizer or
  /// text, or where `temperature` is none of its own; whole distributions are of every temperature. `waits`: the
  /// rank's, which says while it waits for what is read; null: nobody asks.
  CachedTeacher(const std::filesystem::path& folder, const data::Mixture& text, const CacheOwner& owner,
                double temperature, core::DType dtype, parallel::FileWaits* waits = nullptr);
  ~CachedTeacher();
  CachedTeacher(const CachedTeacher&) = delete;
  CachedTeacher& operator=(const CachedTeacher&) = delete;

  /// The same cache at temperature 1, with nothing on its way: of the same text, which has to stay there.
  std::unique_ptr<CachedTeacher> to_measure() const;
  /// Of `documents`, which have to stay there: a piece of a batch names one by its place among them.
  std::unique_ptr<CachedTeacher> to_measure(std::span<const data::Document> documents) const;
  /// How many of the documents that have two tokens are not in the cache.
  std::int64_t num_missing(std::span<const data::Document> documents) const;

  const data::TeacherCache& cache() const { return *cache_; }
  /// Whether it keeps whole distributions, which whole() gives as logits; else take() gives the part that it keeps.
  bool is_whole() const { return cache_->contents().kind == data::CacheKind::Full; }
  /// Of which figures against it are: whole also where all tokens are among the kept ones.
  Known known() const;
  core::DType dtype() const { return dtype_; }

  /// Begins to read what these batches need. The next calls of take() are for them.
  void prefetch(std::vector<data::TokenBatch> batches);
  bool has_prefetched() const { return !jobs_.empty(); }

  /// Of all tokens of a batch that have a target; rows of others say nothing.
  struct Part {
    core::SparseTargets targets;
    std::map<std::int64_t, core::Tensor> hidden;  // by the teacher's layer that is kept: its hidden states [T,Ct]
    /// All that there is, in the same order for every part of a cache.
    std::vector<core::Tensor*> columns();
  };
  /// Throws where a document is not in the cache, and whatever reading does.
  Part take(const core::MemoryPtr& memory, const data::TokenBatch& batch);

  /// Logits of a batch, which has to stay there: row i is of token i + further, of the `columns` tokens of the
  /// vocabulary from `first_column` on. A chunk is read while the one before is worked on, so that no more than two
  /// exist; the first is on its way from here on.
  std::unique_ptr<core::TargetSource> whole(const core::MemoryPtr& memory, const data::TokenBatch& batch,
                                            std::int64_t further, std::int64_t first_column, std::int64_t columns);

  /// What it says of a batch, which has to stay there, as head_loss asks for it: whole(), or what take() gives.
  std::unique_ptr<core::TargetSource> targets(const core::MemoryPtr& memory, const data::TokenBatch& batch,
                                              std::int64_t first_column, std::int64_t columns);

  struct Figures {
    double wait_seconds = 0;  // that take() waited or read
    double kept_mass = 0;     // sum over the tokens with a target, of the probability of what is kept
    double tokens = 0;        // with a target
  };
  /// Since the last call.
  Figures take_figures() { return std::exchange(figures_, {}); }

 private:
  using TokensOf = std::function<std::vector<std::int32_t>(const data::TokenBatch::Piece&)>;  // of its document
  CachedTeacher(std::shared_ptr<const data::TeacherCache> cache, TokensOf tokens_of, double temperature,
                core::DType dtype, parallel::FileWaits* waits);
  class WholeRows;
  /// Columns of a batch's targets on the host.
  struct Rows {
    std::vector<std::int32_t> tokens;  // of the batch: whose rows they are
    std::vector<std::int32_t> ids, likeliest;
    std::vector<float> log_p, rest, target_loss;
    std::vector<float> log_p_tempered = {}, rest_tempered = {};
    std::vector<std::vector<float>> hidden = {};  // of each kept layer [T,Ct]
    double kept_mass = 0, num_targets = 0;
  };
  struct Job {
    std::vector<data::TokenBatch> batches;
    std::vector<Rows> rows;
    std::exception_ptr error;
    std::jthread thread;
  };
  Rows read(const data::TokenBatch& batch);
  /// Those of a batch, waited for, or read where they are not on their way.
  Rows rows_of(const data::TokenBatch& batch);
  /// While the rank waits for the cache's files.
  parallel::FileWait reading() const;
  /// Of tokens [first, first + count) into rows of `columns`; zeros where there is nothing.
  std::vector<float> read_whole(const data::TokenBatch& batch, std::int64_t first, std::int64_t count,
                                std::int64_t first_column, std::int64_t columns);
  data::TeacherCache::Place place_of(const data::TokenBatch::Piece& piece);
  Part to_tensors(const core::MemoryPtr& memory, const Rows& rows) const;

  std::shared_ptr<const data::TeacherCache> cache_;
  TokensOf tokens_of_;
  double temperature_;
  core::DType dtype_;
  parallel::FileWaits* waits_;
  std::size_t plain_ = 0, tempered_ = 0;  // places of temperature 1 and of the training's
  std::mutex mutex_;
  std::map<std::pair<std::size_t, std::int64_t>, data::TeacherCache::Place> places_;  // by source and document
  std::deque<std::unique_ptr<Job>> jobs_;
  std::deque<Rows> ready_;
  Figures figures_;
};

}  // namespace limbeck::launch
