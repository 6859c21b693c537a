#include "launch/report/event_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>

#include "core/error.h"
#include "launch/report/event.pb.h"

namespace limbeck::launch {

namespace fs = std::filesystem;
using core::check;

namespace {

constexpr std::string_view name_begin = "events.out.tfevents.";

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1U) ^ (crc % 2 == 1 ? 0x82f63b78U : 0U);
    table[byte] = crc;
  }
  return table;
}

std::string little_endian(std::uint64_t value, int num_bytes) {
  std::string bytes;
  for (int i = 0; i < num_bytes; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xffU);
  return bytes;
}

std::string with_checksum(const std::string& bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return bytes + little_endian(((crc >> 15U) | (crc << 17U)) + 0xa282ead8U, 4);
}

/// TensorBoard reads the files of a folder in the order of their names, so a name has the second, or the one after that
/// of the newest file there.
std::string next_name(const fs::path& folder) {
  auto second = static_cast<std::int64_t>(wall_time());
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(name_begin)) continue;
    std::int64_t there = 0;
    std::from_chars(name.data() + name_begin.size(), name.data() + name.size(), there);
    if (there < 1'000'000'000'000) second = std::max(second, there + 1);
  }
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host = {"localhost"};
  return fmt::format("{}{:010}.{}", name_begin, second, host.data());
}

events::Event new_event(double time, std::int64_t step) {
  events::Event event;
  event.set_wall_time(time);
  event.set_step(step);
  return event;
}

void add(events::Summary& summary, const std::string& tag, const nlohmann::ordered_json& value);

void add_list(events::Summary& summary, const std::string& tag, const nlohmann::ordered_json& list) {
  const auto is_number = [](const auto& value) { return value.is_number(); };
  if (!std::all_of(list.begin(), list.end(), is_number)) {
    for (std::size_t i = 0; i < list.size(); ++i)
      add(summary, fmt::format("{}/layer_{}", tag, list[i].is_object() ? list[i].value("layer", i) : i), list[i]);
    return;
  }
  if (list.empty()) return;
  events::Summary::Value& value = *summary.add_value();
  value.set_tag(tag);
  events::Histogram& histogram = *value.mutable_histo();
  histogram.set_min(-0.5);
  histogram.set_max(static_cast<double>(list.size()) - 0.5);
  for (std::size_t i = 0; i < list.size(); ++i) {
    const double count = list[i].get<double>();
    const auto place = static_cast<double>(i);
    histogram.set_num(histogram.num() + count);
    histogram.set_sum(histogram.sum() + count * place);
    histogram.set_sum_squares(histogram.sum_squares() + count * place * place);
    histogram.add_bucket_limit(place + 0.5);
    histogram.add_bucket(count);
  }
}

void add(events::Summary& summary, const std::string& tag, const nlohmann::ordered_json& value) {
  if (value.is_number()) {
    events::Summary::Value& scalar = *summary.add_value();
    scalar.set_tag(tag);
    scalar.set_simple_value(value.get<float>());
  } else if (value.is_object()) {
    for (const auto& [name, inner] : value.items())
      if (name != "layer") add(summary, tag + '/' + name, inner);
  } else if (value.is_array()) {
    add_list(summary, tag, value);
  }
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<std::uint32_t, 256> table = crc_table();
  std::uint32_t crc = 0xffffffffU;
  for (const char c : bytes) crc = (crc >> 8U) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xffU];
  return ~crc;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

EventFile::EventFile(const fs::path& folder, std::int64_t last_step)
    : path_(folder / next_name(folder)), first_step_(last_step + 1), out_(path_) {
  events::Event version = new_event(wall_time(), 0);
  version.set_file_version("brain.Event:2");
  append(version.SerializeAsString());
  events::Event start = new_event(wall_time(), first_step_);
  start.mutable_session_log()->set_status(events::SessionLog::START);
  append(start.SerializeAsString());
}

void EventFile::write(const nlohmann::ordered_json& values) {
  events::Event event = new_event(values.at("time").get<double>(), values.at("step").get<std::int64_t>());
  for (const auto& [name, value] : values.items()) {
    if (name == "step" || name == "time") continue;
    const bool is_evaluation = name.starts_with("eval_");
    const std::string tag = is_evaluation ? "eval/" + name.substr(5) : value.is_number() ? "train/" + name : name;
    add(*event.mutable_summary(), tag, value);
  }
  append(event.SerializeAsString());
}

void EventFile::write_text(const std::string& tag, std::string_view text) {
  events::Event event = new_event(wall_time(), first_step_);
  events::Summary::Value& value = *event.mutable_summary()->add_value();
  value.set_tag(tag);
  value.mutable_metadata()->mutable_plugin_data()->set_plugin_name("text");
  value.mutable_metadata()->set_data_class(events::SummaryMetadata::DATA_CLASS_TENSOR);
  value.mutable_tensor()->set_dtype(events::Tensor::DT_STRING);
  // Markdown: four spaces keep it as it is.
  std::string shown = "    ";
  for (const char c : text) {
    shown += c;
    if (c == '\n') shown += "    ";
  }
  value.mutable_tensor()->add_string_val(shown);
  append(event.SerializeAsString());
}

void EventFile::append(const std::string& event) {
  out_.write(with_checksum(little_endian(event.size(), 8)));
  out_.write(with_checksum(event));
  out_.flush();
}

}  // namespace limbeck::launch
