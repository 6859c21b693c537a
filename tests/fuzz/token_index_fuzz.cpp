// A token file of any bytes: the first two give the length of the .idx that follows, the rest is the .bin.
#include <algorithm>
#include <string>

#include "core/error.h"
#include "data/text/token_file.h"
#include "tests/support/temporary_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace limbeck;
  static const testing::TemporaryFolder folder;
  if (size < 2) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const std::size_t length = std::min<std::size_t>(data[0] + 256U * data[1], size - 2);
  testing::write_file(folder / "tokens.idx", bytes.substr(2, length));
  testing::write_file(folder / "tokens.bin", bytes.substr(2 + length));
  try {
    const data::TokenFile tokens((folder / "tokens").string());
    for (std::int64_t i = 0; i < tokens.num_documents(); ++i) tokens.read(i);
  } catch (const core::Error&) {
  }
  return 0;
}
