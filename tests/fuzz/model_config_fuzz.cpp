// A config.json of any text. The model of one that is accepted can be written as its family, and is read again as it
// was.
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "data/models/hugging_face_config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace limbeck;
  try {
    const auto read =
        data::parse_hugging_face_config(std::string(reinterpret_cast<const char*>(data), size), "config.json");
    if (data::beyond(*read.family, read.model)) std::abort();
    data::ConfigFields::Json json = data::write_config(*read.family, read.model);
    if (!(data::parse_hugging_face_config(json.dump(), "again.json").model == read.model)) std::abort();
  } catch (const core::Error&) {
  }
  return 0;
}
