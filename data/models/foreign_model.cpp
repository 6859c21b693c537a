#include "data/models/foreign_model.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "data/files/file_kind.h"

namespace limbeck::data {

namespace {

namespace fs = std::filesystem;

constexpr const char* of_ggml = "is a GGML file, the format before GGUF (August 2023), which is not read";
constexpr const char* of_pytorch = "is PyTorch's own format, which is not read";

struct Magic {
  std::string_view bytes;
  const char* what;
};
// The GGML formats have their magic as a little-endian number: GGML, GGMF, GGJT, GGLA.
constexpr std::array magics = {
    Magic{"lmgg", of_ggml},          Magic{"fmgg", of_ggml},
    Magic{"tjgg", of_ggml},          Magic{"algg", "is a LoRA adapter of GGML, which is not read"},
    Magic{"PK\x03\x04", of_pytorch}, Magic{"\x80\x02", of_pytorch}};

std::string foreign_file(const fs::path& path) {
  const std::string bytes = head_of_file(path).value_or("");
  for (const auto& magic : magics)
    if (bytes.starts_with(magic.bytes)) return magic.what;
  if (path.extension() == ".safetensors" && bytes.size() > 8 && bytes[8] == '{')
    return "is a safetensors file alone, which lacks config.json beside it: give the folder";
  return "";
}

std::string foreign_folder(const fs::path& path) {
  std::string gguf;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (name == "adapter_config.json") return "holds a LoRA adapter without its model";
    if (name == "params.json" || name.starts_with("consolidated."))
      return "holds " + name + ": Meta's or Mistral's own format, which is not read";
    if (name.ends_with(".gguf")) gguf = name;
  }
  return gguf.empty() ? "" : "holds " + gguf + ": give that file";
}

}  // namespace

std::string foreign_model(const fs::path& path) {
  return fs::is_directory(path) ? foreign_folder(path) : foreign_file(path);
}

}  // namespace limbeck::data
