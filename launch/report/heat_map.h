// How the experts of each layer were used, as a map of colours: a row a layer, a column an expert.
//
//     page += load_map(record.loads);     // the last counts of each layer
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "launch/run/run_record.h"

namespace limbeck::launch {

/// A <figure>; empty where no layer has counts. A cell's colour is its expert's share over an even share, from a
/// quarter or less to four times or more; experts that got nothing have a colour of their own. Where there are more
/// columns or rows than can be seen, a cell is the mean of neighbouring experts, and every k-th layer is shown.
std::string load_map(const std::map<std::int64_t, LayerLoad>& loads);

/// The colour of a share that is `ratio` times an even one: 0 (a quarter or less) to 8 (four times or more), 4 even.
int load_colour(double ratio);

}  // namespace limbeck::launch
