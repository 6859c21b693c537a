#include "launch/metrics.h"

#include <string>

#include "core/error.h"
#include "data/atomic_file.h"

namespace limbeck::launch {

using core::check;
using core::fail;

namespace {

/// The lines of `file` up to `last_step`, and whether any was left out.
std::pair<std::string, bool> cut_back(const std::filesystem::path& file, std::int64_t last_step) {
  std::ifstream in(file, std::ios::binary);
  check(in.is_open(), "{}: cannot be read", file.string());
  std::string kept;
  bool is_cut = false;
  std::string line;
  for (std::int64_t number = 1; std::getline(in, line); ++number) {
    if (in.eof()) return {kept, true};  // no newline: half written
    const auto values = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!values.is_object() || !values.contains("step") || !values["step"].is_number_integer())
      fail("{}:{}: expected a JSON object with a whole number \"step\"", file.string(), number);
    if (values["step"].get<std::int64_t>() <= last_step)
      kept += line + '\n';
    else
      is_cut = true;
  }
  check(!in.bad(), "{}: cannot be read", file.string());
  return {kept, is_cut};
}

}  // namespace

Metrics::Metrics(const std::filesystem::path& file, std::int64_t last_step) : file_(file) {
  if (std::filesystem::exists(file)) {
    const auto [kept, is_cut] = cut_back(file, last_step);
    if (is_cut) data::write_file_atomically(file, kept);
  }
  out_.open(file, std::ios::binary | std::ios::app);
  check(out_.is_open(), "{}: cannot be written", file.string());
}

void Metrics::write(const nlohmann::ordered_json& values) {
  out_ << values.dump() << '\n' << std::flush;
  check(out_.good(), "{}: cannot be written, is the disk full?", file_.string());
}

}  // namespace limbeck::launch
