#include "data/files/file_kind.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <memory>

#include "core/error.h"

namespace limbeck::data {

namespace {

using namespace std::string_view_literals;

constexpr std::string_view binary_data = "binary data";

struct Magic {
  std::size_t offset;
  std::string_view bytes;
  std::string_view name;
};

/// Bytes that no text in UTF-8 begins with.
constexpr std::array binary_magics = {
    Magic{0, "\x1f\x8b"sv, "a gzip file"},
    Magic{0, "\x28\xb5\x2f\xfd"sv, "a zstd file"},
    Magic{0, "\xfd\x37zXZ\0"sv, "an xz file"},
    Magic{0, "\x5d\0\0"sv, "an lzma file"},
    Magic{0, "\x04\x22\x4d\x18"sv, "an lz4 file"},
    Magic{0, "\x1f\x9d"sv, "a file of compress (.Z)"},
    Magic{0, "\xff\x06\0\0sNaPpY"sv, "a snappy file"},
    Magic{0, "\x89LZO\0"sv, "an lzop file"},
    Magic{0, "PK\x03\x04"sv, "a zip archive"},
    Magic{0, "PK\x05\x06"sv, "a zip archive"},
    Magic{0, "PK\x07\x08"sv, "a zip archive"},
    Magic{0, "7z\xbc\xaf\x27\x1c"sv, "a 7z archive"},
    Magic{0, "Rar!\x1a\x07"sv, "a rar archive"},
    Magic{257, "ustar\0"sv, "a tar archive"},
    Magic{257, "ustar  \0"sv, "a tar archive"},
    Magic{0, "ARROW1\0\0"sv, "an Arrow (Feather) file"},
    Magic{0, "Obj\x01"sv, "an Avro file"},
    Magic{0, "\x93NUMPY"sv, "a NumPy file"},
    Magic{0, "%PDF-"sv, "a PDF document"},
    Magic{0, "{\\rtf"sv, "an RTF document"},
    Magic{0, "\x80\x02"sv, "a Python pickle"},
    Magic{0, "\x80\x03"sv, "a Python pickle"},
    Magic{0, "\x80\x04"sv, "a Python pickle"},
    Magic{0, "\x80\x05"sv, "a Python pickle"},
    Magic{0, "\x89HDF\r\n\x1a\n"sv, "an HDF5 file"},
    Magic{0, "SQLite format 3\0"sv, "an SQLite database"},
    Magic{0, "MMIDIDX\0\0"sv, "the index of a token file"},
    Magic{0,
          "\x7f"
          "ELF"sv,
          "a program"},
    Magic{0, "\x89PNG\r\n\x1a\n"sv, "a PNG image"},
    Magic{0, "\xff\xd8\xff"sv, "a JPEG image"},
    Magic{0, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"sv, "an old Office document"},
    // The longer mark first: that of UTF-16 begins it.
    Magic{0, "\xff\xfe\0\0"sv, "text in UTF-32"},
    Magic{0, "\0\0\xfe\xff"sv, "text in UTF-32"},
    Magic{0, "\xff\xfe"sv, "text in UTF-16"},
    Magic{0, "\xfe\xff"sv, "text in UTF-16"},
};

/// Words that a text may begin with too: they count where bytes follow that are no text.
constexpr std::array word_magics = {
    Magic{0, "GGUF"sv, "a GGUF file"},       Magic{0, "PAR1"sv, "a Parquet file"},
    Magic{0, "PARE"sv, "a Parquet file"},    Magic{0, "FEA1"sv, "a Feather file"},
    Magic{0, "ORC"sv, "an ORC file"},        Magic{0, "LZIP"sv, "an lzip file"},
    Magic{0, "BZh"sv, "a bzip2 file"},       Magic{0, "SEQ"sv, "a Hadoop file"},
    Magic{0, "GIF8"sv, "a GIF image"},       Magic{0, "RIFF"sv, "a RIFF file"},
    Magic{0, "OggS"sv, "an Ogg file"},       Magic{0, "ID3"sv, "an MP3 file"},
    Magic{0, "ggml"sv, "an old GGML model"}, Magic{0, "lmgg"sv, "an old GGML model"},
    Magic{0, "tjgg"sv, "an old GGML model"}, Magic{0, "fmgg"sv, "an old GGML model"},
};

bool has(std::string_view head, const Magic& magic) {
  return head.size() > magic.offset && head.substr(magic.offset).starts_with(magic.bytes);
}

/// The control characters that no text has.
bool has_control(std::string_view head) {
  return std::any_of(head.begin(), head.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x08 || (byte >= 0x0e && byte < 0x1b) || (byte > 0x1b && byte < 0x20);
  });
}

/// Text of mostly Latin letters in UTF-16 or UTF-32 that begins without a mark: zero bytes at every other place, or at
/// three of four.
std::string_view wide_text(std::string_view head) {
  std::array<std::size_t, 4> zeros{};
  const std::size_t quads = head.size() / 4;
  for (std::size_t i = 0; i < 4 * quads; ++i) zeros[i % 4] += head[i] == '\0' ? 1 : 0;
  const auto filled = [&](std::size_t place) { return zeros[place] == 0; };
  const auto empty = [&](std::size_t place) { return zeros[place] == quads; };
  const auto mostly = [&](std::size_t place) { return zeros[place] > quads / 2; };
  if (quads < 2) return "";
  if ((filled(0) && empty(2) && empty(3)) || (empty(0) && empty(1) && filled(3))) return "text in UTF-32";
  if ((filled(0) && mostly(1) && filled(2) && mostly(3)) || (mostly(0) && filled(1) && mostly(2) && filled(3)))
    return "text in UTF-16";
  return "";
}

bool starts_with_tag(std::string_view text, std::string_view tag) {
  return text.size() >= tag.size() && std::equal(tag.begin(), tag.end(), text.begin(), [](char wanted, char c) {
           return wanted == std::tolower(static_cast<unsigned char>(c));
         });
}

/// Of text: what stands for another file, or is of a known language.
FileKind kind_of_text(std::string_view head) {
  if (head.starts_with("version https://git-lfs.github.com/spec/") || head.starts_with("version http://git-media.io/"))
    return {"a pointer of Git LFS in place of the file (git lfs pull fetches it)", false};
  if (head.starts_with("/annex/objects/"))
    return {"a pointer of git-annex in place of the file (git annex get fetches it)", false};
  const std::string_view text = head.substr(std::min(head.find_first_not_of(" \t\r\n"), head.size()));
  if (starts_with_tag(text, "<!doctype html") || starts_with_tag(text, "<html") || starts_with_tag(text, "<head"))
    return {"an HTML page"};
  if (starts_with_tag(text, "<?xml") || starts_with_tag(text, "<error>")) return {"an XML document"};
  if (text.starts_with('{') || text.starts_with('[')) return {"JSON"};
  return {text.empty() ? "empty" : ""};
}

}  // namespace

FileKind kind_of(std::string_view head) {
  for (const Magic& magic : binary_magics)
    if (has(head, magic)) return {magic.name, false};
  // Eight bytes of length, of which the upper ones are zero, and an object.
  if (head.size() > 8 && head[8] == '{' && head.substr(4, 4) == "\0\0\0\0"sv) return {"a safetensors file", false};
  const bool is_binary = has_control(head);
  for (const Magic& magic : word_magics)
    if (is_binary && has(head, magic)) return {magic.name, false};
  if (const std::string_view wide = wide_text(head); !wide.empty()) return {wide, false};
  if (head.find('\0') != std::string_view::npos) return {binary_data, false};
  if (head.starts_with(byte_order_mark)) head.remove_prefix(byte_order_mark.size());
  return kind_of_text(head);
}

FileKind kind_of_file(const std::filesystem::path& path) {
  std::error_code error;
  switch (std::filesystem::status(path, error).type()) {
    case std::filesystem::file_type::regular:
      return kind_of(head_of_file(path).value_or(""));
    case std::filesystem::file_type::directory:
      return {"a folder", false};
    case std::filesystem::file_type::fifo:
      return {"a pipe", false};
    case std::filesystem::file_type::character:
    case std::filesystem::file_type::block:
      return {"a device", false};
    case std::filesystem::file_type::socket:
      return {"a socket", false};
    default:
      return {};
  }
}

std::optional<std::string> head_of_file(const std::filesystem::path& path) {
  std::error_code error;
  if (std::filesystem::is_other(path, error)) return "";
  std::string head(kind_bytes, '\0');
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (file == nullptr) return std::nullopt;
  head.resize(std::fread(head.data(), 1, head.size(), file.get()));
  return head;
}

void refuse_other_kind(const std::string& where, std::string_view head, std::string_view expected) {
  const FileKind kind = kind_of(head.substr(0, kind_bytes));
  core::check(kind.name.empty() || kind.name == binary_data || kind.name == expected, "{}: is {}, expected {}", where,
              kind.name, expected);
}

}  // namespace limbeck::data
