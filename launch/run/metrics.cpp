#include "launch/run/metrics.h"

#include <algorithm>
#include <fstream>
#include <string>

#include "core/error.h"
#include "core/system_error.h"
#include "data/files/atomic_file.h"
#include "data/files/json_text.h"

namespace limbeck::launch {

using core::check;
using core::fail;

bool MetricsReader::read(const std::function<void(const MetricsLine&)>& each) {
  check(std::filesystem::is_regular_file(file_), "{}: is no file, expected the metrics of a run", file_.string());
  std::ifstream in(file_, std::ios::binary);
  core::check_system(in.is_open() && in.seekg(end_), "{}: cannot be read", file_.string());
  MetricsLine line;
  while (std::getline(in, line.text)) {
    if (in.eof()) return false;  // no newline
    line.number = num_lines_ + 1;
    line.values = nlohmann::json::parse(line.text, nullptr, /*allow_exceptions=*/false);
    if (data::has_zero_byte(line.text) || !line.values.is_object() || !line.values.contains("step") ||
        !line.values["step"].is_number_integer())
      fail("{}:{}: expected a JSON object with a whole number \"step\"", file_.string(), line.number);
    line.step = line.values["step"].get<std::int64_t>();
    each(line);
    num_lines_ = line.number;
    last_begin_ = end_;
    end_ += std::ssize(line.text) + 1;
    last_text_ = line.text;
  }
  core::check_system(!in.bad(), "{}: cannot be read", file_.string());
  return true;
}

bool MetricsReader::continues() const {
  if (num_lines_ == 0) return true;
  std::ifstream in(file_, std::ios::binary);
  std::string there(last_text_.size() + 1, '\0');
  in.seekg(last_begin_);
  in.read(there.data(), std::ssize(there));
  return in.good() && there == last_text_ + '\n';
}

bool read_metrics(const std::filesystem::path& file, const std::function<void(const MetricsLine&)>& each) {
  return MetricsReader(file).read(each);
}

double TrainingSeconds::add(const nlohmann::json& line) {
  const auto number = [&](const char* name, double otherwise) {
    const auto found = line.find(name);
    return found != line.end() && found->is_number() ? found->get<double>() : otherwise;
  };
  const double tokens = number("tokens", tokens_);
  const double speed = number("tokens_per_s", 0);
  const double of_step = speed > 0 && tokens > tokens_ ? (tokens - tokens_) / speed : 0;
  tokens_ = tokens;
  seconds_ = std::max(seconds_, number("seconds", seconds_ + of_step));
  return seconds_;
}

Metrics::Metrics(const std::filesystem::path& file, std::int64_t last_step) {
  if (std::filesystem::exists(file)) {
    std::string kept;
    bool is_cut = false;
    const bool is_whole = read_metrics(file, [&](const MetricsLine& line) {
      if (line.step > last_step) {
        is_cut = true;
        return;
      }
      kept += line.text + '\n';
      before_.add(line.values);
    });
    if (is_cut || !is_whole) data::write_file_atomically(file, kept);
  }
  out_.emplace(file, std::filesystem::exists(file) ? static_cast<std::int64_t>(std::filesystem::file_size(file)) : 0);
}

void Metrics::write(const nlohmann::ordered_json& values) {
  out_->write(values.dump() + '\n');
  out_->flush();
}

}  // namespace limbeck::launch
