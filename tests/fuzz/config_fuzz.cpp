// A config of any text; a line that begins with "--set " gives one override. What is accepted is written and read
// again.
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "launch/config/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace limbeck;
  std::istringstream lines(std::string(reinterpret_cast<const char*>(data), size));
  std::string text;
  std::vector<std::string> sets;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("--set "))
      sets.push_back(line.substr(6));
    else
      text += line + "\n";
  }
  try {
    const launch::RunConfig config = launch::parse_config(text, "run.textproto", sets);
    const launch::RunConfig again = launch::parse_config(launch::to_textproto(config), "again.textproto");
    if (!(again == config)) std::abort();
  } catch (const core::Error&) {
  }
  return 0;
}
