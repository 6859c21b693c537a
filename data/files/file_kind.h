// What a file is by its first bytes, whatever its name says: for the message where it is not what was expected.
//
//     const FileKind kind = kind_of_file("book.txt");              // {"an xz archive", false}
//     if (!kind.is_text) fail("book.txt: is {}, expected text in UTF-8", kind.name);
//     refuse_other_kind("x.gguf", first_bytes, "a GGUF file");     // "x.gguf: is an HTML page, expected a GGUF file"
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace limbeck::data {

/// U+FEFF in UTF-8, with which some editors begin a file. It is no text.
inline constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";

/// The first bytes that are looked at.
inline constexpr std::size_t kind_bytes = 1024;

struct FileKind {
  std::string_view name;  // "an xz archive"; empty where the bytes say nothing in particular
  bool is_text = true;    // may be read as text in UTF-8
};

/// By the first kind_bytes of a file, or all where it has fewer. Names packed files, archives, tables, models, images,
/// texts that are not UTF-8, pointers of large-file stores, pages in HTML or XML, JSON; of other files with zero bytes
/// it says that they are binary.
FileKind kind_of(std::string_view head);
/// The same of a file, and "a folder", "a pipe", "a device" or "a socket" of what is none; nothing in particular where
/// it cannot be read.
FileKind kind_of_file(const std::filesystem::path& path);

/// The first kind_bytes of a file, or all where it has fewer; none where it cannot be read. A pipe, whose writer an
/// open would wait for, and other things that are no files have no bytes.
std::optional<std::string> head_of_file(const std::filesystem::path& path);

/// Throws "WHERE: is an HTML page, expected a GGUF file" where the first bytes tell of another kind than `expected`.
/// For the error path of readers: a good file may begin as another kind does.
void refuse_other_kind(const std::string& where, std::string_view head, std::string_view expected);

}  // namespace limbeck::data
