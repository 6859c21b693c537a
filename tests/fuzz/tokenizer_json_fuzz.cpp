// A tokenizer.json of any bytes, and a text that holds what tokenizers treat differently.
#include <string>

#include "core/error.h"
#include "data/tokenizers/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace limbeck;
  try {
    const auto tokenizer =
        data::tokenizer_from_hugging_face({std::string(reinterpret_cast<const char*>(data), size), ""}, "input");
    for (const bool parse_special : {false, true}) {
      const auto ids = tokenizer->encode("Hello  e\u0301 \u1100\u1161 1999 [a]<s>\n\n ab\xff", parse_special);
      tokenizer->decode(ids);
    }
    data::tokenizer_from_json(tokenizer->to_json(), "copy");
  } catch (const core::Error&) {
  }
  return 0;
}
