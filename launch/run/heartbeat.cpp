#include "launch/run/heartbeat.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <utility>

#include "core/start_thread.h"
#include "launch/report/event_file.h"
#include "parallel/comm/engine.h"

namespace limbeck::launch {

namespace fs = std::filesystem;

namespace {

constexpr auto period = std::chrono::seconds(1);
constexpr std::size_t record_bytes = 1024;  // always the same, so that a file is overwritten in place and never cut

/// A line of that length. Of the names of an operation and a file the beginning is enough.
std::string record_of(Beat beat) {
  std::string text = to_json(beat).dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  while (text.size() >= record_bytes && !(beat.operation.empty() && beat.disk.empty())) {
    std::string& longer = beat.operation.size() > beat.disk.size() ? beat.operation : beat.disk;
    longer.resize(longer.size() / 2);
    text = to_json(beat).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  }
  text.resize(record_bytes - 1, ' ');
  return text + '\n';
}

}  // namespace

nlohmann::ordered_json to_json(const Beat& beat) {
  return {{"rank", beat.rank},          {"host", beat.host},           {"pid", beat.pid},
          {"step", beat.step},          {"operation", beat.operation}, {"operations", beat.operations},
          {"waiting", beat.is_waiting}, {"disk", beat.disk},           {"time", beat.time}};
}

std::optional<Beat> read_beat(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text(record_bytes, '\0');
  if (!in.read(text.data(), record_bytes)) return std::nullopt;
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  try {
    return Beat{.rank = json.at("rank").get<int>(),
                .host = json.at("host").get<std::string>(),
                .pid = json.at("pid").get<std::int64_t>(),
                .step = json.at("step").get<std::int64_t>(),
                .operations = json.at("operations").get<std::int64_t>(),
                .operation = json.at("operation").get<std::string>(),
                .is_waiting = json.at("waiting").get<bool>(),
                .disk = json.value("disk", ""),  // older ones have none
                .time = json.at("time").get<double>()};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::vector<Beat> read_beats(const fs::path& folder) {
  std::vector<Beat> beats;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (entry->path().extension() == ".json")
      if (const auto beat = read_beat(entry->path())) beats.push_back(*beat);
  std::ranges::sort(beats, {}, &Beat::rank);
  return beats;
}

fs::path beat_file(const fs::path& folder, int rank) { return folder / fmt::format("{}.json", rank); }

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

bool is_supervised() { return std::getenv(supervised_variable) != nullptr; }

Heartbeat::Heartbeat(fs::path folder, int rank)
    : folder_(std::move(folder)), beat_{.rank = rank, .host = host_name(), .pid = ::getpid()} {}

Heartbeat::~Heartbeat() = default;

void Heartbeat::begin() {
  if (thread_.joinable()) return;
  thread_ = core::start_thread("signs of life", [this](const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any timer;
    std::unique_lock lock(mutex);
    do write();
    while (!timer.wait_for(lock, stop, period, [] { return false; }) && !stop.stop_requested());
    write();  // where it was at the end
  });
}

void Heartbeat::follow(const parallel::Engine* engine) {
  const std::scoped_lock lock(mutex_);
  look();  // the last of one that goes
  engine_ = engine;
}

void Heartbeat::look() {
  if (engine_ == nullptr) return;
  const parallel::Whereabouts here = engine_->whereabouts();
  beat_.step = here.at.step;
  beat_.operation = here.at.operation;
  beat_.operations = here.at.number;
  beat_.is_waiting = here.is_waiting;
  beat_.disk = here.disk;
}

void Heartbeat::write() {
  const std::scoped_lock lock(mutex_);
  look();
  beat_.time = wall_time();
  const int file = ::open(beat_file(folder_, beat_.rank).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0) return;
  const std::string record = record_of(beat_);
  [[maybe_unused]] const ssize_t written = ::pwrite(file, record.data(), record.size(), 0);
  ::close(file);
}

}  // namespace limbeck::launch
