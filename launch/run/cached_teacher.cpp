#include "launch/run/cached_teacher.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/counted.h"
#include "core/error.h"
#include "core/ops/sparse_targets.h"
#include "core/start_thread.h"
#include "data/tokenizers/vocabulary.h"

namespace limbeck::launch {

using core::DType;
using core::fail_usage;
using core::Tensor;

CachedTeacher::CachedTeacher(std::shared_ptr<const data::TeacherCache> cache, TokensOf tokens_of, double temperature,
                             DType dtype, parallel::FileWaits* waits)
    : cache_(std::move(cache)),
      tokens_of_(std::move(tokens_of)),
      temperature_(temperature),
      dtype_(dtype),
      waits_(waits) {
  const data::CacheContents& contents = cache_->contents();
  const auto place = contents.place_of(is_whole() ? 1 : temperature);
  if (!place)
    fail_usage("objective.temperature is {}, expected one that teacher.cache, {}, is for: {}", temperature,
               cache_->folder().string(), fmt::join(contents.temperatures, ", "));
  tempered_ = *place;
  plain_ = *contents.place_of(1);
}

CachedTeacher::CachedTeacher(const std::filesystem::path& folder, const data::Mixture& text, const CacheOwner& owner,
                             double temperature, DType dtype, parallel::FileWaits* waits)
    : CachedTeacher(
          std::make_shared<const data::TeacherCache>(folder),
          [&text](const data::TokenBatch::Piece& piece) {
            return text.sources().at(piece.source).file().read(piece.document);
          },
          temperature, dtype, waits) {
  data::CacheIdentity wanted = cache_->identity();
  if (!owner.teacher.empty()) wanted.teacher = owner.teacher, wanted.teacher_source = owner.source;
  wanted.tokenizer_tokens = data::named_size(*owner.tokenizer);
  wanted.tokenizer = data::vocabulary_fingerprint(*owner.tokenizer, wanted.tokenizer_tokens);
  if (const auto difference = data::identity_difference(cache_->identity(), wanted))
    fail_usage("teacher.cache, {}, {}", folder.string(), *difference);
  for (const data::Loader& loader : text.sources()) {
    const auto& texts = cache_->manifest().texts;
    const bool is_there = std::any_of(texts.begin(), texts.end(), [&](const data::CachedText& cached) {
      return cached.fingerprint == loader.fingerprint();
    });
    if (!is_there)
      fail_usage(
          "teacher.cache, {}, is of another text: {}, of fingerprint {:016x}, is not wholly in it, expected after "
          "`limbeck cache-teacher` with this config",
          folder.string(), loader.file().prefix(), loader.fingerprint());
  }
}

CachedTeacher::~CachedTeacher() = default;

std::unique_ptr<CachedTeacher> CachedTeacher::to_measure() const {
  return std::unique_ptr<CachedTeacher>(new CachedTeacher(cache_, tokens_of_, 1, dtype_, waits_));
}

std::unique_ptr<CachedTeacher> CachedTeacher::to_measure(std::span<const data::Document> documents) const {
  const auto tokens_of = [documents](const data::TokenBatch::Piece& piece) {
    return documents[static_cast<std::size_t>(piece.document)].ids;
  };
  return std::unique_ptr<CachedTeacher>(new CachedTeacher(cache_, tokens_of, 1, dtype_, waits_));
}

std::int64_t CachedTeacher::num_missing(std::span<const data::Document> documents) const {
  return std::ranges::count_if(documents, [&](const data::Document& document) {
    return document.ids.size() > 1 && !cache_->find(data::document_key(document.ids));
  });
}

Known CachedTeacher::known() const {
  const data::CacheContents& contents = cache_->contents();
  if (contents.kind == data::CacheKind::Sampled) return Known::Drawn;
  return contents.width() == contents.vocabulary ? Known::Whole : Known::Kept;
}

data::TeacherCache::Place CachedTeacher::place_of(const data::TokenBatch::Piece& piece) {
  const std::pair key{piece.source, piece.document};
  {
    const std::scoped_lock lock(mutex_);
    if (const auto found = places_.find(key); found != places_.end()) return found->second;
  }
  const std::vector<std::int32_t> tokens = tokens_of_(piece);
  const auto place = cache_->find(data::document_key(tokens));
  core::check(place.has_value(), "{}: document {} of text {} is not in it", cache_->folder().string(), piece.document,
              piece.source);
  const std::int64_t there = cache_->num_positions(*place);
  core::check(there == std::ssize(tokens) - 1, "{}: {} has {} of document {} of text {}, expected {}",
              cache_->folder().string(), cache_->manifest().parts[place->part].file.name,
              core::counted(there, "position"), piece.document, piece.source, std::ssize(tokens) - 1);
  const std::scoped_lock lock(mutex_);
  places_.emplace(key, *place);
  return *place;
}

parallel::FileWait CachedTeacher::reading() const {
  return {waits_, [this] { return "reads " + cache_->folder().string(); }};
}

CachedTeacher::Rows CachedTeacher::read(const data::TokenBatch& batch) {
  const data::CacheContents& contents = cache_->contents();
  const std::size_t n = batch.tokens.size(), width = static_cast<std::size_t>(contents.width());
  const bool draws = contents.kind == data::CacheKind::Sampled;
  Rows rows{.tokens = batch.tokens,
            .ids = std::vector<std::int32_t>(n * width, -1),
            .likeliest = std::vector<std::int32_t>(n),
            .log_p = std::vector<float>(n * width),
            .rest = std::vector<float>(n),
            .target_loss = std::vector<float>(n)};
  if (tempered_ != plain_) rows.log_p_tempered = rows.log_p, rows.rest_tempered = rows.rest;
  const auto channels = static_cast<std::size_t>(contents.hidden_width);
  rows.hidden.assign(contents.hidden_layers.size(), std::vector<float>(n * channels));
  for (const data::TokenBatch::Piece& piece : batch.pieces) {
    const data::TeacherCache::Place place = place_of(piece);
    // A document's last token has no row; one whose target is masked has.
    const std::int64_t count = std::min(piece.count, cache_->num_positions(place) - piece.position);
    if (count <= 0) continue;
    const data::CachedRows cached = cache_->read(place, piece.position, count);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto to = static_cast<std::size_t>(piece.first + i);
      if (batch.targets[to] < 0) continue;
      const auto from = cached.ids.begin() + i * cached.width;
      std::copy_n(from, width, rows.ids.begin() + static_cast<std::ptrdiff_t>(to * width));
      const std::span<float> plain(rows.log_p.data() + to * width, width);
      if (draws)
        std::copy_n(cached.log_p.begin() + i * cached.width, width, plain.begin());
      else
        data::log_probabilities_at(cached, i, contents, plain_, plain);
      rows.rest[to] = cached.rest_at(plain_, i);
      if (tempered_ != plain_) {
        data::log_probabilities_at(cached, i, contents, tempered_, {rows.log_p_tempered.data() + to * width, width});
        rows.rest_tempered[to] = cached.rest_at(tempered_, i);
      }
      for (std::size_t layer = 0; layer < rows.hidden.size(); ++layer)
        std::copy_n(cached.hidden.begin() + i * cached.hidden_size + static_cast<std::ptrdiff_t>(layer * channels),
                    channels, rows.hidden[layer].begin() + static_cast<std::ptrdiff_t>(to * channels));
      rows.likeliest[to] = cached.likeliest[static_cast<std::size_t>(i)];
      rows.target_loss[to] = cached.target_loss[static_cast<std::size_t>(i)];
      rows.kept_mass += draws ? 1 : -std::expm1(static_cast<double>(rows.rest[to]));
      rows.num_targets += 1;
    }
  }
  return rows;
}

std::vector<float> CachedTeacher::read_whole(const data::TokenBatch& batch, std::int64_t first, std::int64_t count,
                                             std::int64_t first_column, std::int64_t columns) {
  std::vector<float> logits(static_cast<std::size_t>(count * columns));
  const std::int64_t of_block = cache_->contents().rows_of_block(),
                     own = std::clamp<std::int64_t>(cache_->contents().vocabulary - first_column, 0, columns);
  for (const data::TokenBatch::Piece& piece : batch.pieces) {
    const std::int64_t begin = std::max(piece.first, first), end = std::min(piece.first + piece.count, first + count);
    if (begin >= end) continue;
    const data::TeacherCache::Place place = place_of(piece);
    const std::int64_t shift = piece.position - piece.first,  // from a token of the batch to one of the document
        last = std::min(end + shift, cache_->num_positions(place));
    for (std::int64_t position = begin + shift, next = 0; position < last; position = next) {
      next = std::min((position / of_block + 1) * of_block, last);
      const data::CachedRows cached = cache_->read(place, position, next - position);
      for (std::int64_t i = 0; i < cached.n; ++i)
        std::copy_n(cached.log_p.begin() + i * cached.width + first_column, own,
                    logits.begin() + (position + i - shift - first) * columns);
    }
  }
  return logits;
}

class CachedTeacher::WholeRows final : public core::TargetSource {
 public:
  WholeRows(CachedTeacher& teacher, core::MemoryPtr memory, const data::TokenBatch& batch, std::int64_t further,
            std::int64_t first_column, std::int64_t columns)
      : teacher_(teacher),
        memory_(std::move(memory)),
        batch_(batch),
        further_(further),
        first_column_(first_column),
        columns_(columns) {
    begin(0, usual_chunk);
  }

  Tensor logits(std::int64_t first, std::int64_t count) override {
    const auto since = std::chrono::steady_clock::now();
    {
      const parallel::FileWait scope = teacher_.reading();
      if (!ahead_ || ahead_->first != first || ahead_->count != count) begin(first, count);
      ahead_->thread.join();
    }
    const std::unique_ptr<Chunk> chunk = std::move(ahead_);
    if (chunk->error) std::rethrow_exception(chunk->error);
    begin(first + count, count);
    teacher_.figures_.wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
    return Tensor::from<float>(memory_, {count, columns_}, chunk->logits).to(teacher_.dtype_);
  }

 private:
  static constexpr std::int64_t usual_chunk = 256;  // of head_loss on a CPU
  struct Chunk {
    std::int64_t first = 0, count = 0;
    std::vector<float> logits = {};
    std::exception_ptr error = {};
    std::jthread thread = {};
  };

  /// Tokens [first, first + count), as many as there are.
  void begin(std::int64_t first, std::int64_t count) {
    ahead_.reset();
    count = std::min(count, std::ssize(batch_.tokens) - first);
    if (count <= 0 && first > 0) return;
    ahead_ = std::make_unique<Chunk>(Chunk{.first = first, .count = count});
    ahead_->thread = core::start_thread("reading the teacher cache", [this, own = ahead_.get()] {
      try {
        own->logits = teacher_.read_whole(batch_, own->first + further_, own->count, first_column_, columns_);
      } catch (...) {
        own->error = std::current_exception();
      }
    });
  }

  CachedTeacher& teacher_;
  core::MemoryPtr memory_;
  const data::TokenBatch& batch_;
  std::int64_t further_, first_column_, columns_;
  std::unique_ptr<Chunk> ahead_;
};

std::unique_ptr<core::TargetSource> CachedTeacher::whole(const core::MemoryPtr& memory, const data::TokenBatch& batch,
                                                         std::int64_t further, std::int64_t first_column,
                                                         std::int64_t columns) {
  core::check(is_whole(), "{}: keeps {}, expected FULL for whole distributions", cache_->folder().string(),
              data::name_of(cache_->contents().kind));
  if (further == 0) {
    figures_.tokens += static_cast<double>(batch.num_targets());
    figures_.kept_mass += static_cast<double>(batch.num_targets());
  }
  return std::make_unique<WholeRows>(*this, memory, batch, further, first_column, columns);
}

std::unique_ptr<core::TargetSource> CachedTeacher::targets(const core::MemoryPtr& memory, const data::TokenBatch& batch,
                                                           std::int64_t first_column, std::int64_t columns) {
  if (is_whole()) return whole(memory, batch, 0, first_column, columns);
  return std::make_unique<core::SparseTeacher>(take(memory, batch).targets);
}

void CachedTeacher::prefetch(std::vector<data::TokenBatch> batches) {
  auto job = std::make_unique<Job>();
  job->batches = std::move(batches);
  Job* own = job.get();
  job->thread = core::start_thread("reading the teacher cache", [this, own] {
    try {
      for (const data::TokenBatch& batch : own->batches) own->rows.push_back(read(batch));
    } catch (...) {
      own->error = std::current_exception();
    }
  });
  jobs_.push_back(std::move(job));
}

CachedTeacher::Rows CachedTeacher::rows_of(const data::TokenBatch& batch) {
  const parallel::FileWait scope = reading();
  if (ready_.empty() && !jobs_.empty()) {
    const std::unique_ptr<Job> job = std::move(jobs_.front());
    jobs_.pop_front();
    job->thread.join();
    if (job->error) std::rethrow_exception(job->error);
    for (Rows& rows : job->rows) ready_.push_back(std::move(rows));
  }
  if (ready_.empty() || ready_.front().tokens != batch.tokens) {  // other text is read than was said before
    ready_.clear();
    jobs_.clear();
    return read(batch);
  }
  Rows rows = std::move(ready_.front());
  ready_.pop_front();
  return rows;
}

CachedTeacher::Part CachedTeacher::take(const core::MemoryPtr& memory, const data::TokenBatch& batch) {
  const auto begin = std::chrono::steady_clock::now();
  const Rows rows = rows_of(batch);
  figures_.wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  figures_.kept_mass += rows.kept_mass;
  figures_.tokens += rows.num_targets;
  return to_tensors(memory, rows);
}

std::vector<Tensor*> CachedTeacher::Part::columns() {
  std::vector<Tensor*> all;
  for (Tensor* column : targets.columns())
    if (column->defined()) all.push_back(column);
  for (auto& [layer, states] : hidden) all.push_back(&states);
  return all;
}

CachedTeacher::Part CachedTeacher::to_tensors(const core::MemoryPtr& memory, const Rows& rows) const {
  const auto n = std::ssize(rows.tokens), width = cache_->contents().width();
  const auto wide = [&](const std::vector<float>& values) {
    return Tensor::from<float>(memory, {n, width}, values).to(dtype_);
  };
  const auto one = [&](const std::vector<float>& values) {
    return Tensor::from<float>(memory, {n}, values).to(dtype_);
  };
  core::SparseTargets targets{.ids = Tensor::from<std::int32_t>(memory, {n, width}, rows.ids),
                              .log_p = wide(rows.log_p),
                              .rest = one(rows.rest),
                              .likeliest = Tensor::from<std::int32_t>(memory, {n}, rows.likeliest),
                              .target_loss = one(rows.target_loss),
                              .temperature = temperature_,
                              .draws = cache_->contents().kind == data::CacheKind::Sampled};
  if (temperature_ != 1) {
    targets.log_p_tempered = wide(rows.log_p_tempered);
    targets.rest_tempered = one(rows.rest_tempered);
  }
  Part part{.targets = std::move(targets), .hidden = {}};
  const data::CacheContents& contents = cache_->contents();
  for (std::size_t layer = 0; layer < rows.hidden.size(); ++layer)
    part.hidden.emplace(contents.hidden_layers[layer],
                        Tensor::from<float>(memory, {n, contents.hidden_width}, rows.hidden[layer]).to(dtype_));
  return part;
}

}  // namespace limbeck::launch
