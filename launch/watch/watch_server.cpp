#include "launch/watch/watch_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
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
constexpr int seconds_to_ask = 30;              // of who has connected, which the system waits for
constexpr int seconds_to_send_and_take = 5;     // of who is in the middle of a request or an answer
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
    // Not SO_REUSEPORT, the library's own: with it another server may take the same port. Whoever has connected and not
    // asked yet is left to the system: a thread of the library would hold itself up for him, and after some seconds, by
    // its own clock, close on a request that has come meanwhile; on a machine that trains either may get no processor.
    server.set_socket_options([this](socket_t socket) {
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
      ::setsockopt(socket, IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds_to_ask, sizeof seconds_to_ask);
      listening_ = socket;
    });
    // Nor is a thread kept for another request of the same: all who follow ask for each new page.
    server.set_keep_alive_max_count(1);
    server.set_payload_max_length(most_bytes_asked);
    server.set_read_timeout(seconds_to_send_and_take);
    server.set_write_timeout(seconds_to_send_and_take);
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

  /// False where the port cannot be had; 0: any, and `port` says which.
  bool listen(int wanted) {
    port = wanted;
    if (port == 0)
      port = server.bind_to_any_port(here);
    else if (!server.bind_to_port(here, port))
      return false;
    // The library's queue is of 5 who wait to be heard. When all ask at once, others would try again after a second.
    return port > 0 && ::listen(listening_, SOMAXCONN) == 0;
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
  socket_t listening_ = INVALID_SOCKET;
  std::atomic<int> num_followers_ = 0;
};

WatchServer::WatchServer(WatchedRuns& watched, int port) : watched_(watched), http_(std::make_unique<Http>(watched)) {
  core::check(http_->listen(port), "{}:{} cannot be listened on, expected a port that is free (--port N; 0: any)", here,
              port);
}

WatchServer::~WatchServer() = default;

int WatchServer::port() const { return http_->port; }

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
    core::check(answers, "{}:{} is listened on no more", here, port());
    if (std::chrono::steady_clock::now() >= next_look) {
      watched_.look();
      next_look = std::chrono::steady_clock::now() + between_looks;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace limbeck::launch
