// What a run wrote down of its steps, as columns.
//
//     const RunRecord record = RecordReader(run.metrics()).read();
//     record.series.at("loss").values.back();
//     record.loads.at(3).entropy;                     // of the experts of layer 3
//
//     RecordReader reader(run.metrics(), 1024);       // of a run that goes on, in a memory that does not
//     reader.read().last("loss");                     // and later again: only new lines are read
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace limbeck::launch {

/// Values at steps, in order. Of a series that is kept in few points each stands for some values that follow one
/// another: their mean, at their mean step; but the last is always the last value.
struct Series {
  std::vector<double> steps;
  std::vector<double> values;
  std::vector<double> low, high;  // least and greatest of each point's values; empty where a point is one value
  std::int64_t values_a_point = 1;
  std::int64_t num_values = 0;
  double first_step = 0, first_value = 0;  // of the first value

  /// A value that is not finite is left out. Of more than `most_points` (even; 0: without a bound) two make one.
  void add(double step, double value, std::size_t most_points = 0);
  double least() const;     // of all values, of which there is one
  double greatest() const;  // likewise
};

/// Steps that ended one after another: from the first of these ends to the last, in seconds since 1970.
struct Stretch {
  double begin = 0, end = 0;
  double seconds = 0;  // from end to end; a clock that was set back counts for nothing
};

/// The stretches with one more end of a step. Of more than twice `most` (0: without a bound) those are joined that lie
/// closest together, so that the longest gaps, of which pauses of a run are some, stay known.
void add_time(std::vector<Stretch>& stretches, double time, std::size_t most = 0);

struct LayerLoad {
  Series min, max, entropy, drops;        // expert_load.h
  Series starved;                         // share of the experts that starve (expert_load.h)
  Series untaken;                         // share of the tokens that no expert took
  std::int64_t assignments_step = 0;      // of the last counts there are; 0: there are none
  std::vector<std::int64_t> assignments;  // [E]
};

/// exposed_s and sent_bytes, of an axis.
struct AxisTraffic {
  Series exposed_s;
  double waited_s = 0, inside = 0, across = 0;  // of all steps together
};

struct RunRecord {
  std::int64_t first_step = 0;
  std::int64_t last_step = 0;
  std::map<std::string, Series> series;  // of fields that are numbers, but "step", "time"; "seconds" in any case
  std::vector<Stretch> times;            // by "time"
  std::map<std::string, std::map<std::string, Series>> sets;  // eval_sets, by set and figure
  std::map<std::int64_t, LayerLoad> loads;                    // by layer
  std::map<std::string, AxisTraffic> traffic;                 // by axis of the mesh
  std::int64_t traffic_steps = 0;                             // that say what they exchanged, and their time
  double traffic_seconds = 0;
  std::map<std::string, Series> memory;  // memory_bytes, by part
  bool is_whole = true;                  // false: the last line was half written, and is not here

  bool is_empty() const { return last_step == 0 && series.empty(); }
  /// The last value of a field, or `otherwise`.
  double last(const std::string& field, double otherwise = 0) const;
};

/// Reads metrics.jsonl, of a run that goes on again and again, and then only what is new. A value that is null is left
/// out.
class RecordReader {
 public:
  /// Of each series at most so many points are kept, and the last value; 0: all. Of times twice as many stretches.
  explicit RecordReader(std::filesystem::path metrics, std::size_t most_points = 0);
  RecordReader(RecordReader&&) noexcept;
  RecordReader& operator=(RecordReader&&) noexcept;
  ~RecordReader();

  /// Empty where there is no file yet, or no line; from the first line where the file is another, or was cut, since.
  /// Throws "FILE:LINE: ..." at a line that no run writes: no object, steps that go back, a field that is text, a load
  /// without its layer; and then begins anew the next time.
  const RunRecord& read();

 private:
  class Lines;
  std::filesystem::path metrics_;
  std::size_t most_points_ = 0;
  std::unique_ptr<Lines> lines_;
};

}  // namespace limbeck::launch
