#include "tests/support/packed_files.h"

#include <zlib.h>
#include <zstd.h>

#include <memory>
#include <stdexcept>

#include "tests/support/temporary_folder.h"

namespace limbeck::testing {

void write_gzip(const std::filesystem::path& path, const std::string& text) {
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
}

std::string zstd_frame(const std::string& text) {
  const std::unique_ptr<ZSTD_CCtx, std::size_t (*)(ZSTD_CCtx*)> context(ZSTD_createCCtx(), ZSTD_freeCCtx);
  ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1);
  std::string packed(ZSTD_compressBound(text.size()) + 64, '\0');
  ZSTD_outBuffer to = {packed.data(), packed.size(), 0};
  ZSTD_inBuffer from = {text.data(), text.size(), 0};
  ZSTD_compressStream2(context.get(), &to, &from, ZSTD_e_continue);
  if (ZSTD_compressStream2(context.get(), &to, &from, ZSTD_e_end) != 0) throw std::runtime_error("zstd_frame: no room");
  packed.resize(to.pos);
  return packed;
}

void write_zstd(const std::filesystem::path& path, const std::string& text) { write_file(path, zstd_frame(text)); }

}  // namespace limbeck::testing
