// The bytes of an HDF5 file for plain_hdf5*.cpp: never read past their end, and never more of them than a file that
// refers to each of its structures once has.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace limbeck::data {

inline constexpr std::uint64_t undefined_address = UINT64_MAX;

/// What every part of the reader shares.
class PlainFile {
 public:
  PlainFile(std::string name, std::span<const std::byte> bytes)
      : name_(std::move(name)), bytes_(bytes), budget_(8 * static_cast<std::uint64_t>(bytes.size())) {}

  /// Messages name the group or dataset that is read.
  void enter(const std::string& path) { path_ = path.empty() ? "/" : path; }
  [[noreturn]] void fail(std::uint64_t at, std::string_view what) const {
    core::fail("{}: {} {} (at byte {})", name_, path_, what, at);
  }
  void check(bool is, std::uint64_t at, std::string_view what) const {
    if (!is) fail(at, what);
  }
  /// A structure's bytes.
  std::span<const std::byte> take(std::uint64_t at, std::uint64_t size) {
    check(at <= bytes_.size() && size <= bytes_.size() - at, at, "has a structure that does not lie in the file");
    check(size <= budget_, at, "has structures that are referred to again and again");
    budget_ -= size;
    return bytes_.subspan(at, size);
  }
  std::uint64_t size() const { return bytes_.size(); }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::string path_ = "/";
  std::span<const std::byte> bytes_;
  std::uint64_t budget_;  // bytes that may still be taken
};

/// Reads a structure from front to back.
class PlainCursor {
 public:
  PlainCursor(PlainFile& file, std::uint64_t at, std::uint64_t size)
      : file_(file), begin_(at), bytes_(file.take(at, size)) {}

  std::uint64_t at() const { return begin_ + position_; }
  std::uint64_t left() const { return bytes_.size() - position_; }
  /// An integer of 1 to 8 bytes.
  std::uint64_t number(std::size_t width) {
    std::uint64_t value = 0;
    const auto from = raw(width);
    std::memcpy(&value, from.data(), width);  // little endian, as the machine
    return value;
  }
  std::string_view raw(std::uint64_t count) {
    need(count <= left(), "has a structure that ends too early");
    const auto* from = reinterpret_cast<const char*>(bytes_.data() + position_);
    position_ += count;
    return {from, count};
  }
  void skip(std::uint64_t count) { raw(count); }
  /// A text that ends with a zero byte.
  std::string text() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data() + position_), left());
    const std::size_t end = rest.find('\0');
    need(end != std::string_view::npos && end <= 1024, "has a name that does not end");
    position_ += end + 1;
    return std::string(rest.substr(0, end));
  }
  void expect(std::string_view what, const char* message) { need(raw(what.size()) == what, message); }
  void need(bool is, std::string_view what) const { file_.check(is, at(), what); }

 private:
  PlainFile& file_;
  std::uint64_t begin_;
  std::span<const std::byte> bytes_;
  std::uint64_t position_ = 0;
};

}  // namespace limbeck::data
