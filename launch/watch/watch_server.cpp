#include "launch/watch/watch_server.h"

#include <sys/socket.h>

#include <array>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "core/error.h"
#include "core/start_thread.h"
#include "launch/watch/http.h"

namespace limbeck::launch {
namespace {

constexpr const char* here = "127.0.0.1";
constexpr int most_followers = 100;  // each takes a thread
constexpr std::size_t num_threads = most_followers + 8;
constexpr std::size_t most_bytes_asked = 1024;  // of the body of a request, which is never read
constexpr auto between_looks = std::chrono::milliseconds(1000);
constexpr auto between_signs = std::chrono::milliseconds(5000);  // by which a follower that has gone is noticed

/// Whether a request is for this server by its own name: another would be a page of elsewhere whose name leads here
/// (DNS rebinding).
bool is_for_us(const std::string& host, int port) {
  for (const char* name : {"127.0.0.1", "localhost"})
    if (host == fmt::format("{}:{}", name, port)) return true;
  return false;
}

}  // namespace

class WatchServer::Http {
 public:
  explicit Http(WatchedRuns& watched) : watched_(watched) {
    server.new_task_queue = [] { return new httplib::ThreadPool(num_threads); };  // which httplib deletes
    // Not SO_REUSEPORT, the library's own: with it another server may take the same port.
    server.set_socket_options([](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    server.set_payload_max_length(most_bytes_asked);
    server.set_read_timeout(5);
    server.set_write_timeout(5);
    server.set_default_headers({{"Cache-Control", "no-store"},
                                {"X-Content-Type-Options", "nosniff"},
                                {"Cross-Origin-Resource-Policy", "same-origin"},
                                {"Referrer-Policy", "no-referrer"}});
    server.set_pre_routing_handler([this](const httplib::Request& request, httplib::Response& response) {
      if (request.method != "GET" && request.method != "HEAD") return refuse(response, 405, "only GET is answered\n");
      if (!is_for_us(request.get_header_value("Host"), port)) return refuse(response, 403, "not for this server\n");
      return httplib::Server::HandlerResponse::Unhandled;
    });
    // In pieces, which the library does not compress: that takes seconds of a processor that trains.
    const auto give_page = [this](const httplib::Request&, httplib::Response& response) {
      const auto page = watched_.page();
      response.set_content_provider(page->size(), "text/html; charset=utf-8",
                                    [page](std::size_t at, std::size_t length, httplib::DataSink& sink) {
                                      return sink.write(page->data() + at, length);
                                    });
    };
    server.Get("/", give_page);
    server.Get("/page", give_page);
    server.Get("/events", [this](const httplib::Request&, httplib::Response& response) { follow(response); });
  }

  httplib::Server server;
  int port = 0;

 private:
  static httplib::Server::HandlerResponse refuse(httplib::Response& response, int status, const char* why) {
    response.status = status;
    response.set_content(why, "text/plain");
    return httplib::Server::HandlerResponse::Handled;
  }

  /// It is told first of all that there is: what it loaded may be older.
  void follow(httplib::Response& response) {
    if (++num_followers_ > most_followers) {
      --num_followers_;
      refuse(response, 503, "too many follow already\n");
      return;
    }
    auto seen = std::make_shared<News>();
    response.set_chunked_content_provider(
        "text/event-stream",
        [this, seen](std::size_t, httplib::DataSink& sink) {
          const bool goes_on = watched_.wait_for_news(*seen, between_signs);
          const News now = watched_.news();
          std::string said;
          if (now.ranks != seen->ranks) said += fmt::format("event: ranks\ndata: {}\n\n", *watched_.ranks());
          if (now.page != seen->page) said += fmt::format("event: page\ndata: {}\n\n", now.page);
          if (said.empty()) said = ":\n\n";
          *seen = now;
          if (!goes_on) {
            sink.done();
            return true;
          }
          return sink.write(said.data(), said.size());
        },
        [this](bool) { --num_followers_; });
  }

  WatchedRuns& watched_;
  std::atomic<int> num_followers_ = 0;
};

WatchServer::WatchServer(WatchedRuns& watched, int port)
    : watched_(watched), http_(std::make_unique<Http>(watched)), port_(port) {
  if (port == 0)
    port_ = http_->server.bind_to_any_port(here);
  else if (!http_->server.bind_to_port(here, port))
    port_ = -1;
  core::check(port_ > 0, "{}:{} cannot be listened on, expected a port that is free (--port N; 0: any)", here, port);
  http_->port = port_;
}

WatchServer::~WatchServer() = default;

void WatchServer::serve(const std::function<bool()>& is_over) {
  std::atomic<bool> answers = true;
  const std::jthread answering = core::start_thread("answering", [&] {
    http_->server.listen_after_bind();
    answers = false;
  });
  // Also where something is thrown here: the thread ends first. To stop one that does not listen yet does nothing.
  const std::shared_ptr<void> ending(nullptr, [&](void*) {
    watched_.end();
    for (; answers; std::this_thread::sleep_for(std::chrono::milliseconds(10))) http_->server.stop();
  });
  auto next_look = std::chrono::steady_clock::now();
  while (!is_over()) {
    core::check(answers, "{}:{} is listened on no more", here, port_);
    if (std::chrono::steady_clock::now() >= next_look) {
      watched_.look();
      next_look = std::chrono::steady_clock::now() + between_looks;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace limbeck::launch
