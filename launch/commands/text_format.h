// What --format names.
//
//     options.format = text_format("jsonl");
#pragma once

#include <string_view>

#include "data/text/text_source.h"

namespace limbeck::launch {

/// Of "auto", "text", "jsonl", "chat" and "pairs".
inline data::TextFormat text_format(std::string_view name) {
  if (name == "text") return data::TextFormat::Plain;
  if (name == "chat") return data::TextFormat::Chat;
  if (name == "pairs") return data::TextFormat::Pairs;
  return name == "jsonl" ? data::TextFormat::JsonLines : data::TextFormat::Auto;
}

}  // namespace limbeck::launch
