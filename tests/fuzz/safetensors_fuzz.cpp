// A safetensors file of any bytes: header, and values of what it says to hold.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "data/models/safetensors.h"
#include "tests/fuzz/input_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace limbeck;
  const testing::InputFile input(data, size);
  try {
    const data::SafetensorsFile file(input.path());
    for (const auto& [name, tensor] : file.tensors()) {
      const std::int64_t count = std::min<std::int64_t>(tensor.shape.numel(), 1024);
      const core::DType to = tensor.dtype == core::DType::I64 ? core::DType::I64 : core::DType::F32;
      std::vector<std::byte> values(static_cast<std::size_t>(core::bytes_of(to, count)));
      data::SafetensorsFile::read(tensor, 0, count, to, values.data());
      data::SafetensorsFile::read(tensor, tensor.shape.numel() - count, count, to, values.data());
    }
    file.metadata("format");
  } catch (const core::Error&) {
  }
  return 0;
}
