#include "data/files/unpacked_file.h"

#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
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

/// Plain files too: zlib passes on what is not gzip.
class GzipSource : public UnpackedFile::Source {
 public:
  explicit GzipSource(const std::string& path) : path_(path), file_(gzopen(path.c_str(), "rbe"), gzclose_r) {
    check_system(file_ != nullptr, "{}: cannot be opened", path);
    gzbuffer(file_.get(), buffer_bytes);
  }
  std::size_t read(std::span<char> out, std::int64_t position) override {
    const auto most = std::min<std::size_t>(out.size(), std::numeric_limits<int>::max());
    errno = 0;
    const int got = gzread(file_.get(), out.data(), static_cast<unsigned>(most));
    int status = Z_OK;
    const char* message = gzerror(file_.get(), &status);
    const std::int64_t read = position + std::max(got, 0);
    check_system(status != Z_ERRNO, "{}: cannot be read after {} bytes of text", path_, read);
    check(got >= 0 && (status == Z_OK || status == Z_STREAM_END), "{}: cannot be read after {} bytes of text: {}",
          path_, read, message);
    return static_cast<std::size_t>(got);
  }
  bool seek(std::int64_t to) override { return gzdirect(file_.get()) == 1 && gzseek(file_.get(), to, SEEK_SET) == to; }
  std::int64_t packed_position() const override { return std::max<std::int64_t>(gzoffset(file_.get()), 0); }
  bool is_packed() const override { return gzdirect(file_.get()) == 0; }

 private:
  std::string path_;
  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
};

class ZstdSource : public UnpackedFile::Source {
 public:
  explicit ZstdSource(const std::string& path)
      : path_(path),
        file_(std::fopen(path.c_str(), "rbe"), std::fclose),
        stream_(ZSTD_createDStream(), ZSTD_freeDStream) {
    check_system(file_ != nullptr, "{}: cannot be opened", path);
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
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> stream_;
  std::vector<char> buffer_ = std::vector<char>(buffer_bytes);
  ZSTD_inBuffer from_ = {nullptr, 0, 0};
  std::int64_t packed_position_ = 0;
  bool is_within_frame_ = false;
};

bool is_zstd(const std::string& path) {
  std::array<unsigned char, 4> head{};
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (file == nullptr || std::fread(head.data(), 1, head.size(), file.get()) != head.size()) return false;
  const auto magic = static_cast<std::uint32_t>(head[0]) | static_cast<std::uint32_t>(head[1]) << 8U |
                     static_cast<std::uint32_t>(head[2]) << 16U | static_cast<std::uint32_t>(head[3]) << 24U;
  return magic == ZSTD_MAGICNUMBER || (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

}  // namespace

UnpackedFile::UnpackedFile(const std::string& path) : path_(path) {
  if (is_zstd(path))
    source_ = std::make_unique<ZstdSource>(path);
  else
    source_ = std::make_unique<GzipSource>(path);
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
