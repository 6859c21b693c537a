#include "launch/run/teacher_caching.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <set>
#include <utility>

#include "core/counted.h"
#include "core/ops/head_loss.h"
#include "core/start_thread.h"
#include "data/tokenizers/vocabulary.h"
#include "launch/console/progress.h"
#include "launch/run/evaluation_sets.h"
#include "launch/run/stop_flag.h"
#include "launch/run/text_evaluation.h"
#include "launch/run/threads.h"

namespace limbeck::launch {
namespace {

using core::Tensor;

constexpr std::int64_t tokens_at_once =
    1024;  // of the teacher's passes; what is read together depends on the text alone
constexpr std::int64_t logits_at_once = 256;      // rows of them that exist at once
constexpr std::int64_t positions_a_file = 32768;  // a killed writer loses less than that
constexpr std::int64_t entries_a_file = std::int64_t{1} << 28U;

/// A file holds less where its rows are wide, for it is made in memory; a document is not cut.
std::int64_t positions_of_file(const data::CacheContents& contents) {
  return std::clamp<std::int64_t>(entries_a_file / (contents.width() + contents.hidden_size()), 1, positions_a_file);
}

/// A document of a file under way, of which rows up to `first` are in the writer's hands.
struct Pending {
  data::DocumentKey key;
  std::vector<std::int32_t> ids;
  std::int64_t first = 0;
  data::CachedRows rows;  // of one pass: from `first` on

  std::int64_t num_positions() const { return std::ssize(ids) - 1; }
};

class TeacherPasses {
 public:
  TeacherPasses(Session& session, const data::CacheIdentity& identity)
      : session_(session), identity_(identity), threads_(threads_of_rank(session.config.train.threads)) {}

  /// Whole documents of `work` into the writer; fewer where a signal asks to stop and the ranks need not agree on it.
  /// `done` hears of positions.
  void run(const data::CacheWork& work, const std::vector<data::CacheText>& texts, data::CachePartWriter& writer,
           const std::function<void(std::int64_t)>& done) {
    for (const auto& [text, document] : work.documents) {
      if (session_.rank.comms().tensor->size() == 1 && stop_requested()) break;
      Pending& pending = *pending_.emplace_back(std::make_unique<Pending>());
      pending.ids = texts[text].read(document);
      for (const std::int32_t id : pending.ids)
        core::check(id >= 0 && id < identity_.contents.vocabulary,
                    "{}: document {} holds token {}, which is outside the vocabulary of {}", texts[text].name, document,
                    id, identity_.contents.vocabulary);
      pending.key = data::document_key(pending.ids);
      const std::int64_t length = std::ssize(pending.ids);
      for (const Window& window : windows_of({&length, 1}, {.length = identity_.window, .stride = identity_.stride})) {
        if (num_tokens_ + window.count > tokens_at_once) pass(writer, done);
        queue_.emplace_back(&pending, window);
        num_tokens_ += window.count;
      }
    }
    pass(writer, done);
  }

 private:
  /// The queued windows as one batch.
  void pass(data::CachePartWriter& writer, const std::function<void(std::int64_t)>& done) {
    if (queue_.empty()) return;
    for (const auto& [document, window] : queue_)  // the last of each document says how far it goes
      document->rows.n = window.first + window.count - document->first;
    for (const auto& document : pending_) document->rows.resize(document->rows.n, identity_.contents);
    std::vector<nn::TextPart> parts;
    for (const auto& [document, window] : queue_)
      parts.push_back({std::span(document->ids)
                           .subspan(static_cast<std::size_t>(window.first), static_cast<std::size_t>(window.count))});
    const nn::Batch batch = nn::sequences_of(session_.rank.memory(), parts);
    core::Tape off(core::Tape::Mode::Off);
    const nn::Transformer& teacher = *session_.teacher;
    nn::Pass teaching = teacher.pass(batch);
    std::vector<Tensor> kept;  // hidden states of the layers that are kept, on the host
    if (!identity_.contents.hidden_layers.empty())
      teaching.gives = [&](std::int64_t layer, const core::Var& given) {
        if (std::ranges::count(identity_.contents.hidden_layers, layer) > 0)
          kept.push_back(given.value.to(core::DType::F32).in(session_.rank.host_memory()));
      };
    const Tensor hidden = teacher.forward(off, teaching).hidden.value;
    for (std::int64_t first = 0; first < batch.num_tokens(); first += logits_at_once) {
      const std::int64_t count = std::min(logits_at_once, batch.num_tokens() - first);
      Tensor logits = core::logits_of(hidden.rows(first, count), teacher.head().value, teacher.head_bias().value);
      nn::TensorComm& vocabulary = *session_.rank.comms().tensor;
      if (vocabulary.size() > 1) logits = vocabulary.gather(logits, 1, teacher.config().vocabulary);
      make_rows(logits.to(core::DType::F32).in(session_.rank.host_memory()), first, count, batch.offsets_on_host);
    }
    keep_hidden(kept, batch.offsets_on_host);
    write_rows(writer, done);
    queue_.clear();
    num_tokens_ = 0;
  }

  /// Of what the layers gave, [T,C] each.
  void keep_hidden(const std::vector<Tensor>& layers, const std::vector<std::int64_t>& offsets) {
    const std::int64_t width = identity_.contents.hidden_width;
    for (std::size_t n = 0; n < queue_.size(); ++n) {
      const auto& [document, window] = queue_[n];
      data::CachedRows& rows = document->rows;
      for (std::int64_t i = window.count - window.num_scored; i < window.count; ++i)
        if (const std::int64_t at = window.first + i - document->first; at < rows.n)
          for (std::size_t layer = 0; layer < layers.size(); ++layer)
            std::copy_n(layers[layer].host<float>() + (offsets[n] + i) * width, width,
                        rows.hidden.begin() + at * rows.hidden_size + static_cast<std::int64_t>(layer) * width);
    }
  }

  /// Of logits [count,V] of the batch's tokens [first, first + count), by several threads.
  void make_rows(const Tensor& logits, std::int64_t first, std::int64_t count,
                 const std::vector<std::int64_t>& offsets) {
    const auto columns = static_cast<std::size_t>(logits.shape()[1]);
    std::vector<std::exception_ptr> errors(static_cast<std::size_t>(threads_));
    {
      std::vector<std::jthread> threads;
      for (int t = 0; t < threads_; ++t)
        threads.push_back(core::start_thread("a teacher's distributions", [&, t] {
          try {
            data::RowsMaker maker(identity_.contents);
            for (std::int64_t i = t; i < count; i += threads_) {
              const auto after = std::upper_bound(offsets.begin(), offsets.end(), first + i);
              const auto& [document, window] = queue_[static_cast<std::size_t>(after - offsets.begin() - 1)];
              const std::int64_t in_window = first + i - *(after - 1);
              if (in_window < window.count - window.num_scored) continue;
              const std::int64_t at = window.first + in_window;
              maker.make({logits.host<float>() + static_cast<std::size_t>(i) * columns, columns},
                         document->ids[static_cast<std::size_t>(at + 1)], document->key, at, document->rows,
                         at - document->first);
            }
          } catch (...) {
            errors[static_cast<std::size_t>(t)] = std::current_exception();
          }
        }));
    }
    for (const std::exception_ptr& error : errors)
      if (error) std::rethrow_exception(error);
  }

  /// What the pass made, of documents in order, of which the last may go on.
  void write_rows(data::CachePartWriter& writer, const std::function<void(std::int64_t)>& done) {
    for (const auto& document : pending_) {
      if (document->rows.n == 0) continue;
      if (document->first == 0) writer.begin(document->key, document->num_positions());
      writer.append(document->rows);
      done(document->rows.n);
      document->first += std::exchange(document->rows.n, 0);
    }
    while (!pending_.empty() && pending_.front()->first == pending_.front()->num_positions()) pending_.pop_front();
  }

  Session& session_;
  const data::CacheIdentity& identity_;
  int threads_;
  std::deque<std::unique_ptr<Pending>> pending_;
  std::vector<std::pair<Pending*, Window>> queue_;
  std::int64_t num_tokens_ = 0;
};

}  // namespace

data::CacheIdentity cache_identity(const Session& session) {
  const TeacherConfig& c = *session.config.teacher;
  if (session.config.precision.sharded_teacher)
    core::fail_usage("precision.sharded_teacher is true, expected false: each rank reads documents of its own");
  if (session.others) core::fail_usage("teacher.others is given, expected none: a cache is of one teacher");
  if (session.teacher_lacks_tokens())
    core::fail_usage("{}: the teacher lacks tokens of data.tokenizer, expected one that has all for a cache", c.source);
  data::CacheIdentity identity{.teacher = session.teacher_fingerprint, .teacher_source = c.source, .contents = {}};
  identity.tokenizer_tokens = data::named_size(*session.tokenizer);
  identity.tokenizer = data::vocabulary_fingerprint(*session.tokenizer, identity.tokenizer_tokens);
  identity.window = c.cache_window > 0 ? c.cache_window : session.config.data.sequence_length;
  if (identity.window > session.teacher->config().max_positions)
    core::fail_usage("teacher.cache_window is {}, expected at most the teacher's {} positions", identity.window,
                     session.teacher->config().max_positions);
  identity.stride = std::max<std::int64_t>(1, identity.window / 2);
  std::set<double> temperatures(c.cache_temperatures.begin(), c.cache_temperatures.end());
  temperatures.insert(1);
  if (c.cache_temperatures.empty()) temperatures.insert(session.config.objective.temperature);
  identity.contents = {.kind = c.cache_kind,
                       .kept = c.cache_tokens,
                       .quantised = !c.cache_exact,
                       .temperatures = {temperatures.begin(), temperatures.end()},
                       .vocabulary = session.tokenizer->vocabulary_size()};
  const nn::ModelConfig& teacher = session.teacher->config();
  const std::set<std::int64_t> layers(c.cache_hidden_layers.begin(), c.cache_hidden_layers.end());
  if (!layers.empty() && (*layers.begin() < 0 || *layers.rbegin() >= teacher.num_layers))
    core::fail_usage("teacher.cache_hidden_layers has {}, expected layers of the teacher's {}, from 0",
                     *layers.begin() < 0 ? *layers.begin() : *layers.rbegin(), teacher.num_layers);
  identity.contents.hidden_layers = {layers.begin(), layers.end()};
  identity.contents.hidden_width = layers.empty() ? 0 : teacher.width;
  identity.contents.check_valid();
  return identity;
}

void write_teacher_cache(Session& session, const data::CacheIdentity& identity, const std::filesystem::path& folder,
                         const std::optional<data::CacheShare>& share, const Log& log) {
  Rank& rank = session.rank;
  std::optional<data::CacheLock> lock;
  on_first_rank(rank, [&] {
    lock.emplace(folder, share);
    if (share) return data::join_teacher_cache(folder, identity);
    const data::CacheLeftovers left = data::begin_teacher_cache(folder, identity);
    if (left.documents > 0)
      log->info("earlier writers left {} of {}, which are taken in", core::counted(left.positions, "position"),
                core::counted(left.documents, "document"));
  });
  std::vector<std::shared_ptr<const data::TokenFile>> files;
  for (const data::Loader& loader : session.text->sources())
    files.push_back(std::make_shared<data::TokenFile>(loader.file().prefix()));
  const std::vector<EvaluationSet> sets = read_evaluation_sets(session, log);
  std::vector<data::CacheText> texts(files.begin(), files.end());
  for (const EvaluationSet& set : sets) texts.emplace_back("evaluation set " + set.name, set.documents);
  std::vector<data::CacheWork> works;
  while_others_hear(
      rank, [&] { works = data::cache_work(data::TeacherCache(folder), texts, positions_of_file(identity.contents)); });
  if (share) while_others_hear(rank, [&] { works = data::of_share(std::move(works), folder, *share); });
  std::int64_t missing = 0;
  for (const data::CacheWork& work : works) missing += work.positions;
  log->info("{} of {}the text{} are missing in {}", core::counted(missing, "position"),
            share ? fmt::format("share {}/{} of ", share->index, share->count) : "",
            sets.empty() ? "" : " and the evaluation sets", folder.string());

  const auto ranks = static_cast<std::size_t>(rank.mesh().data().size());
  const auto mine = static_cast<std::size_t>(rank.mesh().data().rank());
  const bool writes = rank.comms().tensor->rank() == 0;
  std::string infos;  // of this rank's files, a line each
  bool is_stopped = false;
  {
    TeacherPasses passes(session, identity);
    Progress progress(log, "position", 0, missing, 32768);
    std::int64_t done = 0;  // of this rank; the others are about as far
    for (std::size_t first = 0; first < works.size() && !is_stopped; first += ranks) {
      const auto write = [&] {
        if (first + mine >= works.size()) return;
        const data::CacheWork& work = works[first + mine];
        data::CachePartWriter writer(folder, work.name, identity);
        passes.run(work, texts, writer, [&](std::int64_t positions) {
          done += positions;
          progress.update(std::min<std::int64_t>(missing, done * static_cast<std::int64_t>(ranks)), {});
        });
        if (writes && writer.num_positions() > 0) infos += data::to_text(writer.finish()) + "\n";
      };
      if (rank.comms().tensor->size() == 1)
        while_others_hear(rank, write);
      else
        write();
      is_stopped = stop_is_agreed(rank);
    }
    progress.finish();
  }
  const std::vector<std::string> all = gather_strings(rank, infos);
  on_first_rank(rank, [&] {
    std::vector<data::CachePartInfo> parts;
    for (const std::string& lines : all)
      for (std::size_t at = 0; at < lines.size(); at = lines.find('\n', at) + 1)
        parts.push_back(data::cache_part_info_from_text(lines.substr(at, lines.find('\n', at) - at), "a rank's file"));
    if (!share) data::finish_teacher_cache(folder, parts, is_stopped ? decltype(files){} : files);
    lock.reset();
  });
  if (is_stopped) throw Stopped();
}

}  // namespace limbeck::launch
