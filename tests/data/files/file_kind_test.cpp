// The first bytes were written by other programs: Python's lzma, bz2, zipfile, tarfile and numpy; Parquet, Arrow, Avro
// and ORC begin as their specifications say; a pointer is as git-lfs writes it.
#include "data/files/file_kind.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/text/json_lines.h"
#include "data/text/text_source.h"
#include "tests/support/packed_files.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using namespace std::string_literals;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_file;

const std::string pointer =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

std::string tar() {
  std::string bytes(512, '\0');
  bytes.replace(0, 5, "a.txt");
  bytes.replace(257, 8,
                "ustar\0"
                "00"s);
  return bytes;
}

struct Named {
  std::string bytes;
  const char* name;
};

TEST(FileKind, IsToldByTheFirstBytes) {
  for (const Named& file : std::vector<Named>{
           {"\x1f\x8b\x08\0"s, "gzip"},
           {"\x28\xb5\x2f\xfd$"s, "zstd"},
           {"\xfd\x37\x7a\x58\x5a\x00\x00\x04\xe6\xd6\xb4\x46"s, "xz"},
           {"\x5d\x00\x00\x80\x00\xff\xff\xff\xff\xff\xff\xff\xff"s, "lzma"},
           {"\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\x11\x13\x8f\x36\x00\x00\x1d\xd1"s, "bzip2"},
           {"\x50\x4b\x03\x04\x14\x00\x00\x00\x08\x00"s, "zip"},
           {"7z\xbc\xaf\x27\x1c\0\x04"s, "7z"},
           {tar(), "tar"},
           {"\x93NUMPY\x01\x00v\x00{'descr': "s, "NumPy"},
           {"PAR1\x15\x04\x15\x20"s, "Parquet"},
           {"ARROW1\0\0\xff\xff\xff\xff"s, "Arrow"},
           {"Obj\x01\x04\x14"s, "Avro"},
           {"ORC\x11\x00\x00\x0a\x06"s, "ORC"},
           {"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"s, "PDF"},
           {"\x80\x02}q\x00"s, "pickle"},
           {"\x89HDF\r\n\x1a\n\0"s, "HDF5"},
           {"GGUF\x03\0\0\0"s, "GGUF"},
           {"\x40\0\0\0\0\0\0\0{\"__metadata__\""s, "safetensors"},
           {"\xff\xfe"
            "a\0b\0"s,
            "UTF-16"},
           {"\xfe\xff\0a\0b"s, "UTF-16"},
           {"\xff\xfe\0\0a\0\0\0"s, "UTF-32"},
           {"\0\0\xfe\xff\0\0\0a"s, "UTF-32"},
           {"t\0h\0e\0 \0d\0r\0o\0p\0"s, "UTF-16"},
           {"\0t\0h\0e\0 \0d\0r\0o\0p"s, "UTF-16"},
           {"t\0\0\0h\0\0\0e\0\0\0"s, "UTF-32"},
           {"a\0b"s, "binary data"},
           {pointer, "Git LFS"},
       }) {
    const FileKind kind = kind_of(file.bytes);
    EXPECT_THAT(std::string(kind.name), HasSubstr(file.name));
    EXPECT_FALSE(kind.is_text) << file.name;
  }
}

TEST(FileKind, TextStaysText) {
  for (const Named& file : std::vector<Named>{
           {"", "empty"},
           {"\xef\xbb\xbf \n", "empty"},
           {"\xef\xbb\xbf<!DOCTYPE HTML>\n", "an HTML page"},
           {"\n<html lang=\"en\">", "an HTML page"},
           {"<?xml version=\"1.0\"?><Error/>", "an XML document"},
           {"{\"error\": \"not found\"}", "JSON"},
           {"the still drips", ""},
           // Words that other files begin with, and bytes that are no UTF-8, are text all the same.
           {"PAR1 is a magic word", ""},
           {"GGUF is a format", ""},
           {"ORC, said Gandalf", ""},
           {"BZh is one too", ""},
           {"\xe9t\xe9 in Latin-1", ""},
           {"Passphrase\x1b[0m", ""},
       }) {
    const FileKind kind = kind_of(file.bytes);
    EXPECT_EQ(kind.name, file.name);
    EXPECT_TRUE(kind.is_text) << file.name;
  }
}

TEST(FileKind, WhatIsNoTextIsRefusedAsText) {
  const TemporaryFolder folder;
  const std::string path = folder / "a.txt";
  write_file(path, "\xfd\x37\x7a\x58\x5a\x00\x00\x04"s);
  EXPECT_EQ(error_of([&] { read_document(path); }),
            path + ": is an xz file, expected text in UTF-8, as it is or packed by gzip or zstd");
  // Within a file that Limbeck unpacks too.
  const std::string packed = folder / "a.tar.gz";
  testing::write_gzip(packed, tar());
  EXPECT_THAT(error_of([&] { read_document(packed); }), HasSubstr(packed + ": holds a tar archive, expected text"));
  testing::write_zstd(packed, tar());
  EXPECT_THAT(error_of([&] { read_document(packed); }), HasSubstr(packed + ": holds a tar archive, expected text"));
  write_file(path, pointer);
  EXPECT_THAT(error_of([&] { read_document(path); }), HasSubstr("is a pointer of Git LFS in place of the file"));
  EXPECT_THAT(error_of([&] { LineReader(path, {}, 1 << 20); }), HasSubstr("is a pointer of Git LFS"));
}

TEST(FileKind, AByteOrderMarkIsNoText) {
  const TemporaryFolder folder;
  const std::string mark(byte_order_mark);
  const std::string path = folder / "a.txt";
  for (const std::string& text : {"abc"s, ""s, std::string(3000, 'x')}) {
    write_file(path, mark + text);
    EXPECT_EQ(read_document(path), text);
    EXPECT_EQ(read_text_file(path, 1 << 20), text);
    testing::write_gzip(path, mark + text);
    EXPECT_EQ(read_document(path), text);
  }
  write_file(path, "a" + mark);  // elsewhere it is a character
  EXPECT_EQ(read_document(path), "a" + mark);
  // Places count from behind the mark, also where a reader goes on in the middle.
  write_file(path, mark + "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
  LineReader whole(path, {}, 1 << 20);
  EXPECT_EQ(whole.next().text, "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
  LineReader rest(path, {.offset = 16, .line = 1}, 1 << 20);
  EXPECT_EQ(rest.next().text, "{\"text\": \"two\"}\n");
}

TEST(FileKind, APageInPlaceOfJsonLinesIsNamed) {
  EXPECT_THAT(error_of([] { JsonField("text").text_of("<!DOCTYPE html><html>", "web.jsonl", 1); }),
              HasSubstr("web.jsonl:1: is an HTML page, expected JSON"));
}

}  // namespace
}  // namespace limbeck::data
