// `limbeck cache-teacher`: what a teacher says of a text, into files.
#include <charconv>
#include <filesystem>

#include "core/counted.h"
#include "data/teacher_cache/teacher_cache.h"
#include "launch/commands/commands.h"
#include "launch/plan/automatic_layout.h"
#include "launch/run/run_config.h"
#include "launch/run/session.h"
#include "launch/run/stop_flag.h"
#include "launch/run/teacher_caching.h"

namespace limbeck::launch {
namespace {

/// What the first rank says at the end.
void say_cache(const std::filesystem::path& folder, bool verifies, const Log& log) {
  const data::TeacherCache cache(folder);
  if (verifies) cache.check_whole();
  std::uintmax_t bytes = 0;
  for (const data::CachePartInfo& part : cache.manifest().parts) bytes += static_cast<std::uintmax_t>(part.file.size);
  const std::int64_t positions = cache.manifest().num_positions();
  log->info("{} has {} of {}, {:.1f} bytes each{}", folder.string(), core::counted(positions, "position"),
            core::counted(static_cast<std::int64_t>(cache.num_documents()), "document"),
            static_cast<double>(bytes) / static_cast<double>(std::max<std::int64_t>(positions, 1)),
            verifies ? "; every byte is as it was written" : "");
}

/// The student's layout on the same ranks, of which more have texts of their own then: its teacher has no stages.
std::string without_stages(const std::string& text) {
  if (text.empty()) return text;
  const parallel::Layout layout = parallel::parse_layout(text);
  if (layout.pp <= 1) return text;
  std::string rest;
  for (const auto& [name, size] : parallel::layout_axes)
    if (name != "pp" && name != "dp" && layout.*size > 0) rest += fmt::format("{}{}", name, layout.*size);
  return rest;
}

/// Of "I/N".
std::optional<data::CacheShare> share_of(const std::optional<std::string>& text) {
  if (!text) return std::nullopt;
  data::CacheShare share;
  const char *at = text->data(), *end = at + text->size();
  const auto index = std::from_chars(at, end, share.index);
  const bool has_both = index.ec == std::errc() && index.ptr != end && *index.ptr == '/';
  const auto count = std::from_chars(has_both ? index.ptr + 1 : end, end, share.count);
  if (count.ec != std::errc() || count.ptr != end || share.index < 0 || share.index >= share.count)
    core::fail_usage("cache-teacher: --share is '{}', expected I/N with 0 <= I < N", *text);
  return share;
}

}  // namespace

int run_cache_teacher(const CacheTeacherOptions& options) {
  const std::optional<data::CacheShare> share = share_of(options.share);
  RunConfig config = load_given_config(options.configs, options.sets);
  if (options.threads) config.train.threads = *options.threads;
  if (!config.teacher) check_for_distill(config);
  if (options.out) config.teacher->cache = *options.out;
  if (config.teacher->cache.empty())
    core::fail_usage("cache-teacher: there is no folder for the cache, expected --out DIR or teacher.cache");
  const std::filesystem::path folder = config.teacher->cache;
  config.teacher->cache.clear();  // the teacher runs
  if (config.teacher && !config.teacher->others.empty())
    core::fail_usage("cache-teacher: teacher.others is given, expected none: a cache is of one teacher");
  if (config.objective.bridge != Bridge::None)
    core::fail_usage("cache-teacher: objective.bridge is given, expected none: a cache is of the text's own tokens");
  if (is_automatic(config))
    core::fail_usage(
        "cache-teacher: parallel.layout is auto, which is planned for training, expected a layout, or none");
  config.parallel.layout = without_stages(config.parallel.layout);
  check_for_distill(config);
  catch_stop_signals();
  bool is_done = false;
  in_world(config, fmt::format("command: cache-teacher\ncache: {}\n", folder.string()), [&](Rank& rank) {
    const Log log = make_log(rank.world().rank(), options.verbosity);
    try {
      Session session(rank, config, log);
      write_teacher_cache(session, cache_identity(session), folder, share, log);
      if (share)
        log->info("{} has this share; when all are there, the same command without --share closes the cache",
                  folder.string());
      else
        on_first_rank(rank, [&] { say_cache(folder, options.verify, log); });
      is_done = true;
    } catch (const Stopped&) {
      log->info("stopped, and what is done is kept; the same command goes on");
    }
  });
  return is_done ? 0 : 3;
}

}  // namespace limbeck::launch
