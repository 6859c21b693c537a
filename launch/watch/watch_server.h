// Serves the page of watched runs on this machine alone: "/", which follows the runs, "/page", its newest content, and
// "/events", server-sent events (HTML Living Standard, 9.2) of what is new. Nothing else is answered, no file is named
// by a request, and nothing is changed by one. A connection is of one request, and takes a thread from when it has
// asked.
//
//     WatchServer server(watched, 8765);
//     print_note("http://127.0.0.1:{}/\n", server.port());
//     server.serve(stop_requested);
#pragma once

#include <functional>
#include <memory>

#include "launch/watch/watched_runs.h"

namespace limbeck::launch {

class WatchServer {
 public:
  /// Listens on 127.0.0.1; port 0: any that is free. Throws where it cannot be had.
  WatchServer(WatchedRuns& watched, int port);
  ~WatchServer();
  WatchServer(const WatchServer&) = delete;
  WatchServer& operator=(const WatchServer&) = delete;

  int port() const;
  /// Answers, and looks at the runs once a second, until `is_over`.
  void serve(const std::function<bool()>& is_over);

 private:
  class Http;
  WatchedRuns& watched_;
  std::unique_ptr<Http> http_;
};

}  // namespace limbeck::launch
