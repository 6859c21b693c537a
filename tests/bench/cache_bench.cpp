// What a teacher cache of a config costs and how far it rounds: bytes a position of its files, and the divergence of
// the config's student, as it starts, from the cached distributions beside that from the same tokens' distributions as
// the teacher gives them, unrounded. tests/bench/cache_error.sh makes the cache and runs it.
//
//     build/release/bin/bench_cache CONFIG.textproto CACHE [FIELD=VALUE...]
//
// A line of JSON: kl is the mean ghost KL of the unrounded top k, error the mean of what a position's cached one is off
// it, bias the same with its sign; both in parts of kl. read_us is the processor's time that a position takes to be
// read, unpacked and made log-probabilities.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <nlohmann/json.hpp>

#include "core/ops/head_loss.h"
#include "data/teacher_cache/teacher_cache.h"
#include "launch/run/run_config.h"
#include "launch/run/session.h"
#include "launch/run/text_evaluation.h"

namespace {

using namespace limbeck;

/// Logits [count,V] of a window by itself.
core::Tensor logits_of(const nn::Transformer& model, const core::MemoryPtr& memory,
                       std::span<const std::int32_t> tokens) {
  const nn::TextPart part{.tokens = tokens};
  const nn::Batch batch = nn::sequences_of(memory, {&part, 1});
  core::Tape off(core::Tape::Mode::Off);
  const core::Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
  return core::logits_of(hidden, model.head().value, model.head_bias().value).to(core::DType::F32);
}

/// KL over the kept tokens of a row and one outcome for all others, of log_p (and rest) from log_q of all tokens.
double ghost_kl(std::span<const std::int32_t> ids, std::span<const float> log_p, double rest,
                std::span<const float> student) {
  const double most = *std::max_element(student.begin(), student.end());
  double all = 0, others = 0;
  std::size_t next = 0;
  for (std::size_t v = 0; v < student.size(); ++v) {
    const double e = std::exp(student[v] - most);
    all += e;
    if (next < ids.size() && ids[next] == static_cast<std::int32_t>(v))
      ++next;
    else
      others += e;
  }
  double sum = 0;
  for (std::size_t j = 0; j < ids.size(); ++j) {
    const double log_q = student[static_cast<std::size_t>(ids[j])] - most - std::log(all);
    sum += std::exp(log_p[j]) * (log_p[j] - log_q);
  }
  return std::isfinite(rest) ? sum + std::exp(rest) * (rest - std::log(others / all)) : sum;
}

struct Sums {
  double positions = 0, kl = 0, error = 0, bias = 0, read_seconds = 0;
};

double thread_seconds() {
  std::timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Adds a window's positions.
void add_window(launch::Session& session, const data::TeacherCache& cache, const data::TeacherCache::Place& place,
                const std::vector<std::int32_t>& ids, const launch::Window& window, Sums& sums) {
  const auto vocabulary = static_cast<std::size_t>(cache.contents().vocabulary);
  const std::span<const std::int32_t> tokens(ids.data() + window.first, static_cast<std::size_t>(window.count));
  const core::Tensor teacher = logits_of(*session.teacher, session.rank.memory(), tokens),
                     student = logits_of(*session.student, session.rank.memory(), tokens);
  const std::int64_t skipped = window.count - window.num_scored, first = window.first + skipped;
  const double since = thread_seconds();
  const data::CachedRows cached = cache.read(place, first, window.num_scored);
  std::vector<float> log_p(static_cast<std::size_t>(cached.width));
  for (std::int64_t i = 0; i < window.num_scored; ++i)
    data::log_probabilities_at(cached, i, cache.contents(), 0, log_p);
  sums.read_seconds += thread_seconds() - since;
  data::CacheContents contents = cache.contents();
  contents.quantised = false;
  data::RowsMaker maker(contents);
  data::CachedRows exact;
  exact.resize(window.num_scored, contents);
  const auto width = static_cast<std::size_t>(exact.width);
  for (std::int64_t i = 0; i < window.num_scored; ++i) {
    const auto row = [&](const core::Tensor& logits) {
      return std::span(logits.data<float>() + (skipped + i) * logits.shape()[1], vocabulary);
    };
    maker.make(row(teacher), ids[static_cast<std::size_t>(first + i + 1)], data::document_key(ids), first + i, exact,
               i);
    const auto kl = [&](const data::CachedRows& rows) {
      const std::size_t at = *contents.place_of(1);
      data::log_probabilities_at(rows, i, contents, at, log_p);
      return ghost_kl({rows.ids.data() + static_cast<std::size_t>(i) * width, width}, log_p, rows.rest_at(at, i),
                      row(student));
    };
    const double expected = kl(exact), got = kl(cached);
    sums.positions += 1;
    sums.kl += expected;
    sums.error += std::abs(got - expected);
    sums.bias += got - expected;
  }
}

void run(launch::Rank& rank, const launch::RunConfig& config, const std::filesystem::path& folder) {
  const launch::Log log = launch::make_log(rank.world().rank());
  launch::Session session(rank, config, log);
  session.start_student();
  const data::TeacherCache cache(folder);
  core::check(cache.contents().kind == data::CacheKind::TopK, "{}: keeps {}, expected TOP_K", folder.string(),
              data::name_of(cache.contents().kind));
  Sums sums;
  for (const data::Loader& loader : session.text->sources())
    for (std::int64_t d = 0; d < loader.file().num_documents(); ++d) {
      const std::vector<std::int32_t> ids = loader.file().read(d);
      const auto place = cache.find(data::document_key(ids));
      core::check(place.has_value(), "{}: document {} is not in it", folder.string(), d);
      const std::int64_t length = std::ssize(ids);
      for (const launch::Window& window :
           launch::windows_of({&length, 1}, {.length = cache.identity().window, .stride = cache.identity().stride}))
        add_window(session, cache, *place, ids, window, sums);
    }
  std::uintmax_t bytes = std::filesystem::file_size(folder / data::cache_manifest_name);
  for (const data::CachePartInfo& part : cache.manifest().parts) bytes += static_cast<std::uintmax_t>(part.file.size);
  const nlohmann::ordered_json result = {
      {"positions", sums.positions},
      {"bytes_a_position", static_cast<double>(bytes) / static_cast<double>(cache.manifest().num_positions())},
      {"kl", sums.kl / sums.positions},
      {"error", sums.error / sums.kl},
      {"bias", sums.bias / sums.kl},
      {"read_us", 1e6 * sums.read_seconds / sums.positions}};
  fmt::print("{}\n", result.dump());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: bench_cache CONFIG.textproto CACHE [FIELD=VALUE...]\n");
    return 2;
  }
  try {
    launch::RunConfig config = launch::load_given_config({argv[1]}, {argv + 3, argv + argc});
    launch::in_world(config, "command: bench_cache\n", [&](launch::Rank& rank) { run(rank, config, argv[2]); });
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_cache: error: {}\n", error.what());
    return 1;
  }
}
