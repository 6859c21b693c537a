// How two models differ, for a terminal and as JSON.
//
//     text += differences_text("other.gguf", "documents", text_differences(...));
//     json["against"] = differences_json("other.gguf", text_differences(...));
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/run/paired_bootstrap.h"

namespace limbeck::launch {

/// A row a figure: both values, the difference, its 95 % interval and p. `units`: of what there are resamples. Says so
/// where there are too few units to resample.
std::string differences_text(const std::string& against, const std::string& units,
                             const std::vector<FigureDifference>& differences);
/// One object: "model", "resamples", "seed", "differences": by name "value", "against", "difference", "low", "high",
/// "p_value".
nlohmann::ordered_json differences_json(const std::string& against, const std::vector<FigureDifference>& differences);

}  // namespace limbeck::launch
