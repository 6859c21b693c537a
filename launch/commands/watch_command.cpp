// `limbeck watch`.

#include <malloc.h>

#include "core/error.h"
#include "launch/commands/commands.h"
#include "launch/console/log.h"
#include "launch/console/streams.h"
#include "launch/run/stop_flag.h"
#include "launch/watch/watch_server.h"

namespace limbeck::launch {
namespace {

/// A page's text goes back to the system when the next one is there. By itself glibc raises what it calls large to the
/// largest block that was freed, and twice that it keeps: what is resident then depends on which pages came before.
void give_back_large_blocks() { ::mallopt(M_MMAP_THRESHOLD, 128 << 10); }

}  // namespace

int run_watch(const WatchOptions& options) {
  if (is_left_to_first_rank("watch")) return 0;
  give_back_large_blocks();
  WatchedRuns watched(options.runs);
  catch_stop_signals();
  WatchServer server(watched, static_cast<int>(options.port));
  print_result("http://127.0.0.1:{}/ follows {}; Ctrl-C ends it\n", server.port(),
               options.runs.size() == 1 ? options.runs[0].string() : fmt::format("{} runs", options.runs.size()));
  flush_results();
  server.serve(stop_requested);
  return 0;
}

}  // namespace limbeck::launch
