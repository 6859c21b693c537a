// What a run wrote down of its steps, as columns.
//
//     const RunRecord record = read_run_record(run.metrics());
//     record.series.at("loss").values.back();
//     record.loads.at(3).entropy;                     // of the experts of layer 3
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace limbeck::launch {

/// Values at steps, in order.
struct Series {
  std::vector<double> steps;
  std::vector<double> values;
  void add(double step, double value);
};

struct LayerLoad {
  Series min, max, entropy, drops;        // expert_load.h
  Series starved;                         // share of the experts that starve (expert_load.h)
  Series untaken;                         // share of the tokens that no expert took
  std::int64_t assignments_step = 0;      // of the last counts there are; 0: there are none
  std::vector<std::int64_t> assignments;  // [E]
};

/// exposed_s and sent_bytes, of an axis.
struct AxisTraffic {
  Series exposed_s, inside, across;
};

struct RunRecord {
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  std::map<std::string, Series> series;  // of the fields that are numbers, but for "step"; "seconds" in any case
  std::map<std::string, std::map<std::string, Series>> sets;  // eval_sets, by set and figure
  std::map<std::int64_t, LayerLoad> loads;                    // by layer
  std::map<std::string, AxisTraffic> traffic;                 // by axis of the mesh
  std::map<std::string, Series> memory;                       // memory_bytes, by part
  bool is_whole = true;                                       // false: the last line was half written, and is not here

  bool is_empty() const { return last_step == 0 && series.empty(); }
  /// The last value of a field, or `otherwise`.
  double last(const std::string& field, double otherwise = 0) const;
};

/// Reads metrics.jsonl; a value that is null is left out. Throws "FILE:LINE: ..." at a line that no run writes: no
/// object, steps that go back, a field that is text, a load without its layer. Empty where there is no line yet.
RunRecord read_run_record(const std::filesystem::path& metrics);

}  // namespace limbeck::launch
