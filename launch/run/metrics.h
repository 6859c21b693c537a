// metrics.jsonl: one JSON object a line, on the disk's side of the process as soon as it is written. Numbers have the
// digits that read back to the same bits.
//
//     Metrics metrics(run.metrics(), /*first_step=*/checkpoint_step);   // lines of later steps go
//     metrics.write({{"step", 3}, {"loss", 2.5}});
//     read_metrics(run.metrics(), [](const MetricsLine& line) { use(line.step, line.values["loss"]); });
//
//     MetricsReader reader(run.metrics());   // of a file that grows
//     reader.read(use);                      // and later again, from where it was
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "data/files/output_file.h"

namespace limbeck::launch {

struct MetricsLine {
  std::int64_t number = 0;  // in the file, from 1
  std::int64_t step = 0;
  std::string text;  // without its newline
  nlohmann::json values;
};

/// Every whole line, in order; false where the file ends in one that was half written. Throws "FILE:LINE: ..." at a
/// line that is not an object with a whole number "step".
bool read_metrics(const std::filesystem::path& file, const std::function<void(const MetricsLine&)>& each);

/// Reads a file that grows, each line once.
class MetricsReader {
 public:
  explicit MetricsReader(std::filesystem::path file) : file_(std::move(file)) {}

  /// The whole lines behind those that it has read, as read_metrics.
  bool read(const std::function<void(const MetricsLine&)>& each);
  /// Whether the last line that it has read is where it was; else the file has been cut or is another.
  bool continues() const;

 private:
  std::filesystem::path file_;
  std::string last_text_;
  std::int64_t num_lines_ = 0;
  std::streamoff last_begin_ = 0, end_ = 0;  // of the last line that was read
};

/// The seconds that a run had trained after each of its lines: "seconds", or where an older run's lines have none, the
/// sum of what their tokens took at their speed.
class TrainingSeconds {
 public:
  /// After the next line.
  double add(const nlohmann::json& line);
  double value() const { return seconds_; }

 private:
  double seconds_ = 0;
  double tokens_ = 0;
};

class Metrics {
 public:
  /// Appends to the file. Lines whose "step" is above `last_step` are removed first, as is a last line that was half
  /// written; the file is replaced at once, so a kill leaves the old one or the new one. Throws, naming the line, where
  /// another is not an object with a "step".
  Metrics(const std::filesystem::path& file, std::int64_t last_step);

  /// One line. `values` has a "step". Throws if the disk does not take it.
  void write(const nlohmann::ordered_json& values);
  /// Of training, in the lines that were there.
  double seconds_before() const { return before_.value(); }

 private:
  TrainingSeconds before_;
  std::optional<data::OutputFile> out_;
};

}  // namespace limbeck::launch
