// TensorBoard event files: the lines of metrics.jsonl once more, in the form that `tensorboard --logdir runs` opens.
//
//     EventFile events(run.path(), /*last_step=*/checkpoint_step);   // later steps of earlier files are void
//     events.write_text("config", to_textproto(config));
//     events.write({{"step", 3}, {"time", 1.7e9}, {"loss", 2.5}, {"eval_kl", 0.3}});   // train/loss, eval/kl
//
// A file is a row of records: length (8 bytes), its checksum (4), a serialized Event, its checksum (4); little-endian.
// The checksum is CRC-32C (RFC 3720, B.4), rotated right by 15 bits plus 0xa282ead8.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "data/files/output_file.h"

namespace limbeck::launch {

class EventFile {
 public:
  /// A new file in `folder`, whose name sorts after those of earlier ones. Throws, naming it, if it cannot be written.
  EventFile(const std::filesystem::path& folder, std::int64_t last_step);

  /// A line of metrics.jsonl, with "step" and "time"; it is with the system when this returns. A number is a scalar:
  /// "eval_x" is eval/x and any other field train/x. A list of objects has a group of scalars for each, by its "layer":
  /// expert_load/layer_3/entropy. A list of numbers is a histogram over the places in it.
  void write(const nlohmann::ordered_json& values);
  /// A text, shown as it is, at the step that the file begins with.
  void write_text(const std::string& tag, std::string_view text);

  const std::filesystem::path& path() const { return path_; }

 private:
  void append(const std::string& event);

  std::filesystem::path path_;
  std::int64_t first_step_;
  data::OutputFile out_;
};

/// CRC-32C of `bytes`.
std::uint32_t crc32c(std::string_view bytes);

/// Seconds since 1970.
double wall_time();

}  // namespace limbeck::launch
