// What the steps of a run cost in exchanges between ranks, by axis of the mesh: bytes that were sent, and the time in
// which a rank's computing thread or its GPU's kernels waited. docs/parallelism.md, "What is exposed", says what is
// counted.
//
//     add_traffic(line, traffic);                                        // a step's fields of metrics.jsonl
//     text += communication_text(communication_of(sum, steps, seconds)); // a table; "" without other ranks
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/run/run_record.h"
#include "parallel/comm/traffic.h"

namespace limbeck::launch {

/// Of a step, mean.
struct AxisCommunication {
  std::string axis;
  double inside = 0, across = 0;  // bytes
  double exposed_s = 0;
  double share = 0;  // of the steps' time
};

/// Fields exposed_s and sent_bytes of a line of metrics.jsonl, with the axes that the step had; none where it had none.
void add_traffic(nlohmann::ordered_json& line, const parallel::Traffic& traffic);

/// Of the sum over so many steps, which took so many seconds.
std::vector<AxisCommunication> communication_of(const parallel::Traffic& sum, std::int64_t steps, double seconds);
/// Of the steps that a run wrote down.
std::vector<AxisCommunication> communication_of(const RunRecord& record);

inline constexpr std::array<const char*, 4> communication_columns = {"bytes inside", "bytes across", "exposed, s",
                                                                     "% of the step"};
/// Under those.
std::array<std::string, communication_columns.size()> cells_of(const AxisCommunication& axis);

/// A table for the screen, with an empty line before it; "" where no axis has any.
std::string communication_text(const std::vector<AxisCommunication>& axes);

}  // namespace limbeck::launch
