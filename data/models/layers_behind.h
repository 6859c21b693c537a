// Layers behind a model's last, which predict further tokens: files of some families have them.
//
//     if (is_of_a_layer_behind(name, "model.layers.", config.num_layers)) ++num_skipped;
#pragma once

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>

namespace limbeck::data {

/// Whether a tensor PREFIXn... is of layer `num_layers` or a later one.
inline bool is_of_a_layer_behind(std::string_view name, std::string_view prefix, std::int64_t num_layers) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  std::int64_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  return error == std::errc() && end != name.data() + name.size() && *end == '.' && layer >= num_layers;
}

inline std::string notice_of_layers_behind(const std::string& source, std::int64_t num_skipped,
                                           std::int64_t num_layers) {
  return fmt::format("{}: {} tensors of layers from {} on, which predict further tokens, are not read", source,
                     num_skipped, num_layers);
}

}  // namespace limbeck::data
