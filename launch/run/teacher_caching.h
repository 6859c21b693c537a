// A teacher over all documents of a run's text and of its evaluation sets, and what it says of them into files
// (docs/teacher_cache.md).
//
//     const data::CacheIdentity identity = cache_identity(session);
//     write_teacher_cache(session, identity, folder, log);          // collective; throws Stopped at a signal
#pragma once

#include <filesystem>
#include <optional>

#include "data/teacher_cache/cache_writing.h"
#include "launch/console/log.h"
#include "launch/run/session.h"

namespace limbeck::launch {

/// Whose distributions, and what of them, as the config of a session with a teacher asks.
data::CacheIdentity cache_identity(const Session& session);

/// Collective: the ranks that read other text share the files that are missing, or of these a share, with which the
/// cache is not closed. Throws Stopped (stop_flag.h) at a signal, with what was done kept.
void write_teacher_cache(Session& session, const data::CacheIdentity& identity, const std::filesystem::path& folder,
                         const std::optional<data::CacheShare>& share, const Log& log);

}  // namespace limbeck::launch
