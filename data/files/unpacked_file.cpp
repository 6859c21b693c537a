#include "data/files/unpacked_file.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <new>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/system_error.h"
#include "data/files/file_kind.h"

namespace limbeck::data {

using core::check;
using core::check_system;
using core::fail;

class UnpackedFile::Source {
 public:
  virtual ~Source() = default;
  /// Some of the next bytes, 0 at the end. `position` is of the first, for messages.
  virtual std::size_t read(std::span<char> out, std::int64_t position) = 0;
  /// Whether bytes could be passed over without being read.
  virtual bool seek(std::int64_t /*to*/) { return false; }
  virtual std::int64_t packed_position() const = 0;
  virtual bool is_packed() const { return true; }
};

namespace {

constexpr unsigned buffer_bytes = 1U << 18U;
constexpr int window_log = 27;  // zstd's own default limit; a hostile file may ask for 2 GiB

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File open_file(const std::string& path) {
  File file(std::fopen(path.c_str(), "rbe"), std::fclose);
  check_system(file != nullptr, "{}: cannot be opened", path);
  return file;
}

class PlainSource : public UnpackedFile::Source {
 public:
  explicit PlainSource(const std::string& path) : path_(path), file_(open_file(path)) {}
  std::size_t read(std::span<char> out, std::int64_t position) override {
    const std::size_t got = std::fread(out.data(), 1, out.size(), file_.get());
    check_system(std::ferror(file_.get()) == 0, "{}: cannot be read after {} bytes of text", path_, position);
    return got;
  }
  bool seek(std::int64_t to) override { return ::fseeko(file_.get(), to, SEEK_SET) == 0; }
  std::int64_t packed_position() const override { return std::max<std::int64_t>(::ftello(file_.get()), 0); }
  bool is_packed() const override { return false; }

 private:
  std::string path_;
  File file_;
};

/// Members one after the other (RFC 1952), and zero bytes behind them as on tapes. (zlib's own gzread passes over
/// whatever follows the first member and is none.)
class GzipSource : public UnpackedFile::Source {
 public:
  explicit GzipSource(const std::string& path) : path_(path), file_(open_file(path)) {
    constexpr int gzip_window = MAX_WBITS + 16;
    check(inflateInit2(&stream_, gzip_window) == Z_OK, "{}: zlib has no memory for its state", path);
  }
  ~GzipSource() override { inflateEnd(&stream_); }
  std::size_t read(std::span<char> out, std::int64_t position) override {
    const auto most = static_cast<unsigned>(std::min<std::size_t>(out.size(), std::numeric_limits<int>::max()));
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = most;
    const auto refuse = [&](std::string_view why) {
      fail("{}: cannot be read after {} bytes of text: {}", path_, position + most - stream_.avail_out, why);
    };
    while (stream_.avail_out == most) {
      if (stream_.avail_in == 0) {
        stream_.next_in = buffer_.data();
        stream_.avail_in = static_cast<unsigned>(std::fread(buffer_.data(), 1, buffer_.size(), file_.get()));
        packed_position_ += stream_.avail_in;
        check_system(std::ferror(file_.get()) == 0, "{}: cannot be read after {} bytes of text", path_, position);
        if (stream_.avail_in == 0 && is_within_member_) refuse("unexpected end of file");
        if (stream_.avail_in == 0) return 0;
      }
      if (!is_within_member_ && *stream_.next_in == 0) {
        is_behind_members_ = true;
        ++stream_.next_in;
        --stream_.avail_in;
        continue;
      }
      if (is_behind_members_) refuse("bytes follow its zero bytes");
      is_within_member_ = true;
      const int status = inflate(&stream_, Z_NO_FLUSH);
      if (status == Z_MEM_ERROR) throw std::bad_alloc();
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) {
        const std::string_view why = stream_.msg != nullptr ? stream_.msg : "bad data";
        refuse(has_members_ && why == "incorrect header check" ? "what follows is no gzip member" : why);
      }
      if (status == Z_STREAM_END) {
        is_within_member_ = false;
        has_members_ = true;
        inflateReset(&stream_);
      }
    }
    return most - stream_.avail_out;
  }
  std::int64_t packed_position() const override { return packed_position_; }

 private:
  std::string path_;
  File file_;
  z_stream stream_{};
  std::vector<Bytef> buffer_ = std::vector<Bytef>(buffer_bytes);
  std::int64_t packed_position_ = 0;
  bool is_within_member_ = false;
  bool has_members_ = false;  // before
  bool is_behind_members_ = false;
};

class ZstdSource : public UnpackedFile::Source {
 public:
  explicit ZstdSource(const std::string& path)
      : path_(path), file_(open_file(path)), stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    check(stream_ != nullptr, "{}: zstd has no memory for its state", path);
    ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, window_log);
  }
  std::size_t read(std::span<char> out, std::int64_t position) override {
    ZSTD_outBuffer to = {out.data(), out.size(), 0};
    while (to.pos == 0) {
      if (from_.pos == from_.size) {
        from_ = {buffer_.data(), std::fread(buffer_.data(), 1, buffer_.size(), file_.get()), 0};
        packed_position_ += static_cast<std::int64_t>(from_.size);
        check_system(std::ferror(file_.get()) == 0, "{}: cannot be read after {} bytes of text", path_, position);
        // What is left in the decoder comes out without input.
        if (from_.size == 0 && !is_within_frame_) return 0;
      }
      const bool is_at_end = from_.size == 0;
      const std::size_t wanted = ZSTD_decompressStream(stream_.get(), &to, &from_);
      check(ZSTD_isError(wanted) == 0, "{}: cannot be read after {} bytes of text: {}", path_, position,
            ZSTD_getErrorName(wanted));
      is_within_frame_ = wanted != 0;
      check(!is_at_end || to.pos > 0 || !is_within_frame_, "{}: cannot be read after {} bytes of text: {}", path_,
            position, "unexpected end of file");
    }
    return to.pos;
  }
  std::int64_t packed_position() const override { return packed_position_; }

 private:
  std::string path_;
  File file_;
  std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> stream_;
  std::vector<char> buffer_ = std::vector<char>(buffer_bytes);
  ZSTD_inBuffer from_ = {nullptr, 0, 0};
  std::int64_t packed_position_ = 0;
  bool is_within_frame_ = false;
};

bool is_zstd(std::string_view head) {
  if (head.size() < 4) return false;
  std::uint32_t magic = 0;
  for (int byte = 3; byte >= 0; --byte) magic = magic << 8U | static_cast<unsigned char>(head[byte]);
  return magic == ZSTD_MAGICNUMBER || (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

}  // namespace

UnpackedFile::UnpackedFile(const std::string& path) : path_(path) {
  const std::string head = head_of_file(path).value_or("");
  if (is_zstd(head))
    source_ = std::make_unique<ZstdSource>(path);
  else if (head.starts_with("\x1f\x8b"))
    source_ = std::make_unique<GzipSource>(path);
  else
    source_ = std::make_unique<PlainSource>(path);
  head_.resize(kind_bytes);
  head_.resize(fill(head_));
  const FileKind kind = kind_of(head_);
  check(kind.is_text, "{}: {} {}, expected text in UTF-8, as it is or packed by gzip or zstd", path,
        source_->is_packed() ? "holds" : "is", kind.name);
  if (head_.starts_with(byte_order_mark)) mark_bytes_ = byte_order_mark.size();
  head_.erase(0, static_cast<std::size_t>(mark_bytes_));
}

UnpackedFile::~UnpackedFile() = default;

std::size_t UnpackedFile::fill(std::span<char> out) {
  std::size_t done = 0;
  while (done < out.size()) {
    const std::size_t got = source_->read(out.subspan(done), position_ + static_cast<std::int64_t>(done));
    if (got == 0) break;
    done += got;
  }
  return done;
}

std::size_t UnpackedFile::read(std::span<char> out) {
  const std::size_t known = head_.copy(out.data(), out.size());
  head_.erase(0, known);
  position_ += static_cast<std::int64_t>(known);
  const std::size_t more = fill(out.subspan(known));
  position_ += static_cast<std::int64_t>(more);
  return known + more;
}

void UnpackedFile::skip(std::int64_t bytes) {
  if (bytes > 0 && source_->seek(mark_bytes_ + position_ + bytes)) {
    head_.clear();
    position_ += bytes;
    return;
  }
  std::vector<char> buffer(buffer_bytes);
  while (bytes > 0) {
    const auto part = std::min<std::int64_t>(bytes, buffer_bytes);
    if (static_cast<std::int64_t>(read({buffer.data(), static_cast<std::size_t>(part)})) < part)
      fail("{}: ends after {} bytes of text, expected {} more", path_, position_, bytes);
    bytes -= part;
  }
}

std::int64_t UnpackedFile::packed_position() const { return source_->packed_position(); }

}  // namespace limbeck::data
