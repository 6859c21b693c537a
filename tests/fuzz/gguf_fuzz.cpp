// A GGUF file of any bytes: keys, tensor table, weights, and the model and tokenizer that it claims to hold.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "data/models/gguf_model.h"
#include "data/tokenizers/tokenizer_gguf.h"
#include "tests/fuzz/input_file.h"

namespace {

using namespace limbeck;

/// What is refused in words is fine; whatever else it throws or does is not.
template <class F>
void try_to(F&& f) {
  try {
    f();
  } catch (const core::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const testing::InputFile input(data, size);
  try_to([&] {
    const auto file = std::make_shared<const data::GgufFile>(input.path());
    for (const auto& named : file->tensors()) {
      const data::GgufTensor& tensor = named.second;
      const std::int64_t count = std::min<std::int64_t>(tensor.shape.numel(), 1024);
      std::vector<float> values(static_cast<std::size_t>(count));
      try_to([&] { file->read(tensor, 0, count, values.data()); });
      try_to([&] { file->read(tensor, tensor.shape.numel() - count, count, values.data()); });
    }
    try_to([&] { const data::GgufModel model(file); });
    try_to([&] {
      const auto tokenizer = data::tokenizer_from_gguf(*file);
      const std::vector<std::int32_t> ids = tokenizer->encode("A new day, 2026\n\xF0\x9F\x8C\x8D \xFF</s>", true);
      tokenizer->decode(ids);
    });
  });
  return 0;
}
