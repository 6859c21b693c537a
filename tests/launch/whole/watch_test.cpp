// `limbeck watch`, asked as a browser asks it, and as nobody should.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <deque>
#include <fstream>
#include <memory>
#include <thread>

#include "launch/run/heartbeat.h"
#include "launch/watch/http.h"
#include "tests/support/run_limbeck.h"

namespace limbeck {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::run_shell;
using testing::RunFolder;
using ::testing::StartsWith;

class Connection {
 public:
  explicit Connection(int port) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<std::uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const timeval limit{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  }
  ~Connection() { ::close(socket_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// The first bytes of the answer to these bytes.
  std::string answer(const std::string& request) const {
    [[maybe_unused]] const auto sent = ::send(socket_, request.data(), request.size(), MSG_NOSIGNAL);
    std::array<char, 512> bytes{};
    const auto n = ::recv(socket_, bytes.data(), bytes.size(), 0);
    return n > 0 ? std::string(bytes.data(), static_cast<std::size_t>(n)) : "";
  }
  /// Whether the other side has not ended it.
  bool is_open() const {
    char byte = 0;
    return ::recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
  }

 private:
  int socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
};

/// `limbeck watch` in a folder, until this is destroyed.
class Watching {
 public:
  Watching(const RunFolder& folder, const std::string& runs) : folder_(folder) {
    // The change of folder is the background's alone.
    run_shell(fmt::format("{} >watch.out 2>&1 & echo $! >{}/watch.pid", folder.command("watch " + runs + " --port 0"),
                          folder.path().string()));
    for (int i = 0; i < 1000 && port_ == 0; ++i) {
      const std::string said = folder.read("watch.out");
      if (const std::size_t at = said.find("http://127.0.0.1:"); at != std::string::npos && said.ends_with("\n"))
        port_ = std::stoi(said.substr(at + 17));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  ~Watching() { end(); }
  Watching(const Watching&) = delete;
  Watching& operator=(const Watching&) = delete;

  int port() const { return port_; }
  /// By SIGTERM, for a shell makes what it starts in the background ignore Ctrl-C; true where the program is gone
  /// within some seconds.
  bool end() {
    return run_shell(fmt::format("cd {} && pid=$(cat watch.pid) || exit 1; kill -TERM $pid 2>/dev/null; for i in $(seq "
                                 "300); do kill -0 $pid 2>/dev/null || exit 0; sleep 0.02; done; kill -9 $pid; exit 1",
                                 folder_.path().string()))
               .code == 0;
  }
  httplib::Client client() const {
    httplib::Client client("127.0.0.1", port_);
    client.set_read_timeout(20);
    return client;
  }
  /// The first bytes of the answer to these bytes.
  std::string answer(const std::string& request) const { return Connection(port_).answer(request); }
  std::string request(const std::string& target) const {
    return fmt::format("GET {} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n\r\n", target, port_);
  }
  std::string get(const std::string& target) const { return answer(request(target)); }

 private:
  const RunFolder& folder_;
  int port_ = 0;
};

TEST(Watch, ServesTheReportAndSaysWhatIsNew) {
  const RunFolder folder("watch");
  folder.succeed("train tiny.textproto --steps 3 --quiet --out run");
  launch::Beat beat{.rank = 0, .host = "</script>&h", .pid = 7, .step = 3, .operations = 9};
  beat.operation = "all-reduce of gradients";
  beat.is_waiting = true;
  beat.time = 1e9;
  std::string line = launch::to_json(beat).dump();
  line.resize(1023, ' ');
  fs::create_directories(folder.path() / "run/ranks");
  folder.write("run/ranks/0.json", line + "\n");
  Watching watching(folder, "run");
  ASSERT_GT(watching.port(), 0) << folder.read("watch.out");
  httplib::Client client = watching.client();
  const auto page = client.Get("/");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200);
  EXPECT_THAT(page->get_header_value("Content-Type"), StartsWith("text/html"));
  EXPECT_THAT(page->body, AllOf(HasSubstr("<title>run"), HasSubstr("connect-src 'self'"), HasSubstr("EventSource"),
                                HasSubstr("<dt>Steps</dt><dd>3</dd>")));

  // What is sent first, and, when there is another line, that the page is new.
  std::string events;
  bool has_written = false;
  client.Get("/events", [&](const char* data, std::size_t size) {
    events.append(data, size);
    if (!has_written && events.find("event: ranks") != std::string::npos) {
      has_written = true;
      std::string lines = folder.read("run/metrics.jsonl");
      std::string last = lines.substr(lines.rfind("{\"step\":3"));
      last.replace(0, 9, "{\"step\":4");
      folder.write("run/metrics.jsonl", lines + last);
    }
    return events.find("event: page\ndata: 2\n\n") == std::string::npos;
  });
  EXPECT_THAT(events, HasSubstr("event: ranks\ndata: [{\"run\":\"run\",\"rank\":0,\"host\":\"</script>&h\",\"pid\":7,"
                                "\"step\":3,\"operation\":\"all-reduce of gradients\",\"waits\":true,\"age\":"));
  EXPECT_THAT(events, AllOf(HasSubstr("event: page\ndata: 1\n\n"), HasSubstr("event: page\ndata: 2\n\n")));
  EXPECT_THAT(client.Get("/page")->body, HasSubstr("<dt>Steps</dt><dd>4</dd>"));
  EXPECT_TRUE(watching.end());
}

TEST(Watch, ARunWithoutAStepIsWaitedFor) {
  const RunFolder folder("watch_empty");
  folder.succeed("train tiny.textproto --steps 1 --quiet --out run");
  fs::remove(folder.path() / "run/metrics.jsonl");
  const Watching watching(folder, "run");
  EXPECT_THAT(watching.client().Get("/")->body, HasSubstr("no step has been done yet"));
  // Gone while it is watched: the page says so, and comes back with the run.
  fs::rename(folder.path() / "run", folder.path() / "away");
  httplib::Client client = watching.client();
  std::string body;
  for (int i = 0; i < 100 && body.find("away") == std::string::npos && body.find("run:") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    body = client.Get("/page")->body;
    if (body.find("no step has been done yet") == std::string::npos) break;
  }
  EXPECT_THAT(body, Not(HasSubstr("no step has been done yet")));
  EXPECT_THAT(body, HasSubstr("run"));
}

TEST(Watch, AnswersNothingElse) {
  const RunFolder folder("watch_hostile");
  folder.succeed("train tiny.textproto --steps 1 --quiet --out run");
  Watching watching(folder, "run");
  for (const char* target :
       {"/config.textproto", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/../run", "//etc/passwd",
        "/events/", "/.", "*", "http://example.org/", "/page%00.html"})
    EXPECT_THAT(watching.get(target), AllOf(::testing::ContainsRegex("^HTTP/1.1 4[0-9][0-9]"), Not(HasSubstr("root:"))))
        << target;
  for (const char* method : {"POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
    EXPECT_THAT(watching.answer(fmt::format("{} / HTTP/1.1\r\nHost: localhost:{}\r\nContent-Length: 0\r\n\r\n", method,
                                            watching.port())),
                ::testing::ContainsRegex("^HTTP/1.1 4[0-9][0-9]"))
        << method;
  // A page of elsewhere, whose name somebody makes lead here.
  for (const char* host : {"evil.example", "evil.example:{}", "127.0.0.1", "localhost.evil.example:{}", ""})
    EXPECT_THAT(watching.answer(fmt::format("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                                            fmt::format(fmt::runtime(host), watching.port()))),
                StartsWith("HTTP/1.1 403"))
        << host;
  EXPECT_THAT(watching.answer("GET / HTTP/1.0\r\n\r\n"), StartsWith("HTTP/1.1 403"));
  // What is no request, or too long a one, ends a connection and nothing more.
  watching.answer(std::string(100000, 'A'));
  watching.answer("GET " + std::string(20000, '/') + " HTTP/1.1\r\n\r\n");
  watching.answer("GET / HTTP/1.1\r\nHost: x\r\n" + std::string(20000, 'h') + ": 1\r\n\r\n");
  watching.answer(std::string("\0\r\n\r\n", 5));
  watching.answer("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n");
  EXPECT_THAT(watching.get("/"), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(watching.end());
}

TEST(Watch, ManyFollowAndSomeAreTurnedAway) {
  const RunFolder folder("watch_many");
  folder.succeed("train tiny.textproto --steps 1 --quiet --out run");
  Watching watching(folder, "run");
  std::atomic<int> told = 0, refused = 0;
  std::vector<std::thread> followers;
  for (int i = 0; i < 103; ++i)
    followers.emplace_back([&] {
      httplib::Client client = watching.client();
      const auto answer = client.Get(
          "/events",
          [&](const httplib::Response& response) {
            refused += response.status == 503 ? 1 : 0;
            return response.status == 200;
          },
          [&](const char*, std::size_t) {
            ++told;
            while (told + refused < 103) std::this_thread::sleep_for(std::chrono::milliseconds(5));
            return false;
          });
    });
  for (std::thread& follower : followers) follower.join();
  EXPECT_EQ(told, 100);
  EXPECT_EQ(refused, 3);
  EXPECT_THAT(watching.get("/"), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(watching.end());
}

/// More than it has threads; and one of them asks later.
TEST(Watch, WhoHasNotAskedYetHoldsNobodyUp) {
  const RunFolder folder("watch_silent");
  folder.succeed("train tiny.textproto --steps 1 --quiet --out run");
  Watching watching(folder, "run");
  std::deque<Connection> silent;
  for (int i = 0; i < 120; ++i) silent.emplace_back(watching.port());
  EXPECT_THAT(watching.get("/"), StartsWith("HTTP/1.1 200"));
  for (const Connection& connection : silent) EXPECT_TRUE(connection.is_open());
  EXPECT_THAT(silent[60].answer(watching.request("/page")), StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(watching.end());
}

TEST(Watch, WhatCannotBeWatchedIsSaid) {
  const RunFolder folder("watch_wrong");
  EXPECT_EQ(folder.limbeck("watch text").code, 2);
  EXPECT_THAT(folder.limbeck("watch nowhere").output, HasSubstr("nowhere: is no run, expected the directory of one"));
  folder.succeed("train tiny.textproto --steps 1 --quiet --out run");
  Watching watching(folder, "run");
  const testing::Outcome second = folder.limbeck(fmt::format("watch run --port {}", watching.port()));
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.output, HasSubstr(fmt::format("127.0.0.1:{} cannot be listened on", watching.port())));
}

}  // namespace
}  // namespace limbeck
