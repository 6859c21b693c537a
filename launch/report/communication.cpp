#include "launch/report/communication.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "launch/console/numbers.h"

namespace limbeck::launch {

using parallel::CommAxis;
using parallel::Traffic;

namespace {

/// Calls f(axis, its name) for those that the traffic has.
template <class F>
void for_each_axis(const Traffic& traffic, const F& f) {
  for (std::size_t i = 0; i < parallel::comm_axis_names.size(); ++i)
    if (const auto axis = static_cast<CommAxis>(i); traffic.has(axis))
      f(axis, std::string(parallel::comm_axis_names[i]));
}

double seconds_waited(const Traffic& traffic, CommAxis axis) {
  return 1e-9 * static_cast<double>(traffic.at(axis, Traffic::WaitedNs));
}

/// Of sums over steps.
AxisCommunication mean_of(AxisCommunication sums, double steps, double seconds) {
  sums.share = seconds > 0 ? sums.exposed_s / seconds : 0;
  for (double* sum : {&sums.inside, &sums.across, &sums.exposed_s}) *sum /= steps;
  return sums;
}

}  // namespace

void add_traffic(nlohmann::ordered_json& line, const Traffic& traffic) {
  for_each_axis(traffic, [&](CommAxis axis, const std::string& name) {
    line["exposed_s"][name] = seconds_waited(traffic, axis);
    line["sent_bytes"][name] = {{"inside", traffic.at(axis, Traffic::BytesInside)},
                                {"across", traffic.at(axis, Traffic::BytesAcross)}};
  });
}

std::vector<AxisCommunication> communication_of(const Traffic& sum, std::int64_t steps, double seconds) {
  std::vector<AxisCommunication> axes;
  for_each_axis(sum, [&](CommAxis axis, const std::string& name) {
    axes.push_back(mean_of({.axis = name,
                            .inside = static_cast<double>(sum.at(axis, Traffic::BytesInside)),
                            .across = static_cast<double>(sum.at(axis, Traffic::BytesAcross)),
                            .exposed_s = seconds_waited(sum, axis)},
                           static_cast<double>(steps), seconds));
  });
  return axes;
}

std::vector<AxisCommunication> communication_of(const RunRecord& record) {
  std::vector<AxisCommunication> axes;
  for (const auto& [axis, traffic] : record.traffic)
    axes.push_back(
        mean_of({.axis = axis, .inside = traffic.inside, .across = traffic.across, .exposed_s = traffic.waited_s},
                static_cast<double>(std::max<std::int64_t>(1, record.traffic_steps)), record.traffic_seconds));
  return axes;
}

std::array<std::string, communication_columns.size()> cells_of(const AxisCommunication& axis) {
  return {short_count(axis.inside), short_count(axis.across), fmt::format("{:.4f}", axis.exposed_s),
          fmt::format("{:.1f}", 100 * axis.share)};
}

std::string communication_text(const std::vector<AxisCommunication>& axes) {
  if (axes.empty()) return "";
  std::string text = fmt::format("\n{:<34}", "Communication by axis, a step");
  for (const char* column : communication_columns) text += fmt::format("{:>15}", column);
  for (const AxisCommunication& axis : axes) {
    text += fmt::format("\n{:<34}", axis.axis);
    for (const std::string& cell : cells_of(axis)) text += fmt::format("{:>15}", cell);
  }
  return text + '\n';
}

}  // namespace limbeck::launch
