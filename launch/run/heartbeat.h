// Signs of life of a run's ranks, for those who watch it from outside: RUN/ranks/R.json, a small file a rank, which it
// rewrites once a second with where it is (docs/runs.md).
//
//     Heartbeat heartbeat(run.ranks(), launcher_rank().rank);
//     heartbeat.begin();
//     { const Heartbeat::Followed followed(heartbeat, world->engine()); train(); }
//     for (const Beat& beat : read_beats(run.ranks())) use(beat.host, beat.step, beat.operation);
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace limbeck::parallel {
class Engine;
}

namespace limbeck::launch {

/// Where a rank was when it wrote so.
struct Beat {
  int rank = 0;
  std::string host = {};
  std::int64_t pid = 0;
  std::int64_t step = 0;        // that it was at; 0: before the first
  std::int64_t operations = 0;  // that it has begun with other ranks
  std::string operation = {};   // the one that it waits in, or else its last
  bool is_waiting = false;
  std::string disk = {};  // what it waits for a disk with: "reads data/train.bin"; "" while it does not
  double time = 0;        // seconds since 1970, by its own clock
  friend bool operator==(const Beat&, const Beat&) = default;
};

nlohmann::ordered_json to_json(const Beat& beat);
/// Nothing where the file is not there, or not whole.
std::optional<Beat> read_beat(const std::filesystem::path& file);
/// Of all ranks that have written one, by rank; none where there is no such folder.
std::vector<Beat> read_beats(const std::filesystem::path& folder);
/// The file of a rank.
std::filesystem::path beat_file(const std::filesystem::path& folder, int rank);

/// The name of this machine.
std::string host_name();

/// True where `limbeck launch` started this process, which makes the folder of the signs and wants them from the
/// beginning on, before the ranks meet.
bool is_supervised();
inline constexpr const char* supervised_variable = "LIMBECK_SUPERVISED";

class Heartbeat {
 public:
  Heartbeat(std::filesystem::path folder, int rank);
  ~Heartbeat();
  Heartbeat(const Heartbeat&) = delete;
  Heartbeat& operator=(const Heartbeat&) = delete;

  /// From here on a thread writes, once a second, where the folder is there; what cannot be written is left out: a full
  /// disk takes nothing from a file that is there already. Does nothing the second time.
  void begin();

  /// While it lives, the rank is where its engine says.
  class Followed {
   public:
    Followed(Heartbeat& heartbeat, const parallel::Engine& engine) : heartbeat_(heartbeat) {
      heartbeat_.follow(&engine);
    }
    ~Followed() { heartbeat_.follow(nullptr); }
    Followed(const Followed&) = delete;
    Followed& operator=(const Followed&) = delete;

   private:
    Heartbeat& heartbeat_;
  };

 private:
  void follow(const parallel::Engine* engine);
  void look();  // with the lock
  void write();

  std::filesystem::path folder_;
  std::mutex mutex_;
  const parallel::Engine* engine_ = nullptr;
  Beat beat_;
  std::jthread thread_;
};

}  // namespace limbeck::launch
