// Golden files of text: a JSON value a line, packed or not, with bytes in hexadecimal.
//
//     for (const nlohmann::json& line : golden_lines("tokenizer/merges.jsonl.gz")) encode(from_hex(line["text"]));
#pragma once

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "data/text/text_source.h"
#include "tests/support/teacher_file.h"

namespace limbeck::testing {

inline std::vector<nlohmann::json> golden_lines(const std::string& name) {
  std::istringstream lines(data::read_document(golden_path(name)));
  std::vector<nlohmann::json> result;
  for (std::string line; std::getline(lines, line);) result.push_back(nlohmann::json::parse(line));
  return result;
}

inline std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

}  // namespace limbeck::testing
