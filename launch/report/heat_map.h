// How the experts of each layer were used, as maps of colours with a row a layer: a column an expert, or a part of the
// steps.
//
//     page += load_map(record.loads);        // the last counts of each layer
//     page += entropy_map(record.loads);     // how even the load was over the run
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "launch/run/run_record.h"

namespace limbeck::launch {

/// A <figure>; empty where no layer has counts. A cell's colour is its expert's share over an even share, from a
/// quarter or less to four times or more; experts that got nothing have a colour of their own. Where there are more
/// columns or rows than can be seen, a cell is the mean of neighbouring experts, and every k-th layer is shown.
/// `of` is put to the title where it is not empty: whose experts they are.
std::string load_map(const std::map<std::int64_t, LayerLoad>& loads, const std::string& of = "");

/// A <figure>; empty where there are fewer than two steps. A cell's colour is the mean entropy of the load of a layer
/// over some steps, in ninths from 0.6 or less to 0.95 or more.
std::string entropy_map(const std::map<std::int64_t, LayerLoad>& loads, const std::string& of = "");

/// The colour of a share that is `ratio` times an even one: 0 (a quarter or less) to 8 (four times or more), 4 even.
int load_colour(double ratio);

}  // namespace limbeck::launch
