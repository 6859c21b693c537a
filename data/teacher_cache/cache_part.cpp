#include "data/teacher_cache/cache_part.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/hdf5_file.h"
#include "data/files/plain_hdf5.h"
#include "data/teacher_cache/row_codec.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;
namespace fs = std::filesystem;

namespace {

constexpr const char* documents_path = "/documents";
constexpr const char* lengths_path = "/num_positions";
constexpr const char* ends_path = "/block_ends";
constexpr const char* hashes_path = "/block_hashes";
constexpr const char* identity_path = "/identity";
constexpr const char* data_path = "/data";

std::int64_t as_signed(std::uint64_t value) { return std::bit_cast<std::int64_t>(value); }
std::uint64_t as_unsigned(std::int64_t value) { return std::bit_cast<std::uint64_t>(value); }

/// Of all that stands beside the blocks.
std::uint64_t index_hash(std::int64_t identity, const std::vector<std::int64_t>& documents,
                         const std::vector<std::int64_t>& lengths, const std::vector<std::int64_t>& ends,
                         const std::vector<std::int64_t>& hashes) {
  std::uint64_t h = XXH3_64bits(&identity, sizeof identity);
  for (const auto* column : {&documents, &lengths, &ends, &hashes})
    h = XXH3_64bits_withSeed(column->data(), column->size() * sizeof(std::int64_t), h);
  return h;
}

std::int64_t blocks_for(std::int64_t positions, std::int64_t rows_of_block) {
  return (positions + rows_of_block - 1) / rows_of_block;
}

}  // namespace

CachePartWriter::CachePartWriter(fs::path folder, std::string name, const CacheIdentity& identity)
    : folder_(std::move(folder)), name_(std::move(name)), identity_(identity) {}

void CachePartWriter::begin(const DocumentKey& document, std::int64_t positions) {
  check(left_ == 0, "{}: a document lacks {} of its rows", (folder_ / name_).string(), left_);
  documents_.push_back(as_signed(document.high));
  documents_.push_back(as_signed(document.low));
  lengths_.push_back(positions);
  positions_ += positions;
  left_ = positions;
  begin_block();
}

void CachePartWriter::begin_block() {
  block_.resize(std::min(identity_.contents.rows_of_block(), left_), identity_.contents);
  rows_of_block_ = 0;
}

void CachePartWriter::append(const CachedRows& rows) {
  check(rows.n <= left_, "{}: a document has {} rows more than it lacks, {}", (folder_ / name_).string(), rows.n,
        left_);
  for (std::int64_t first = 0; first < rows.n;) {
    const std::int64_t count = std::min(block_.n - rows_of_block_, rows.n - first);
    block_.copy(rows, first, count, rows_of_block_);
    first += count;
    rows_of_block_ += count;
    left_ -= count;
    if (rows_of_block_ < block_.n) return;
    blocks_.push_back(encode_rows(block_, identity_.contents, 0, block_.n));
    ends_.push_back((ends_.empty() ? 0 : ends_.back()) + std::ssize(blocks_.back()));
    hashes_.push_back(as_signed(XXH3_64bits(blocks_.back().data(), blocks_.back().size())));
    begin_block();
  }
}

void CachePartWriter::add(const DocumentKey& document, const CachedRows& rows) {
  begin(document, rows.n);
  append(rows);
}

CachePartInfo CachePartWriter::finish() {
  check(left_ == 0, "{}: a document lacks {} of its rows", (folder_ / name_).string(), left_);
  TemporaryFile temporary(folder_ / name_);
  const std::int64_t identity = as_signed(identity_hash(identity_));
  Hdf5File out = Hdf5File::create(temporary.name());
  out.set_attribute("/", "format_version", std::int64_t{CacheManifest::current_version});
  const auto write = [&](const char* path, DType dtype, const void* values, const Shape& shape) {
    out.create_dataset(path, dtype, shape);
    const std::vector<std::int64_t> start(shape.extents().size(), 0);
    if (shape.numel() > 0) out.write(path, dtype, values, start, shape);
  };
  write(identity_path, DType::I64, &identity, {1});
  write(documents_path, DType::I64, documents_.data(), {std::ssize(lengths_), 2});
  write(lengths_path, DType::I64, lengths_.data(), {std::ssize(lengths_)});
  write(ends_path, DType::I64, ends_.data(), {std::ssize(ends_)});
  write(hashes_path, DType::I64, hashes_.data(), {std::ssize(hashes_)});
  out.create_dataset(data_path, DType::U8, {ends_.empty() ? 0 : ends_.back()});
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const std::int64_t size = std::ssize(blocks_[b]);
    const std::int64_t at = ends_[b] - size;
    if (size > 0) out.write(data_path, DType::U8, blocks_[b].data(), {&at, 1}, {size});
  }
  out.close();
  CachePartInfo info;
  info.file = describe_file(folder_, temporary.name().filename().string());
  info.file.name = name_;
  info.index_hash = index_hash(identity, documents_, lengths_, ends_, hashes_);
  info.documents = std::ssize(lengths_);
  info.positions = positions_;
  temporary.keep();
  return info;
}

CachePart::CachePart(const fs::path& folder, const CachePartInfo& info, const CacheIdentity& identity)
    : path_(folder / info.file.name), identity_(identity) {
  const auto damage = check_file(folder, info.file, /*with_hash=*/false);
  check(!damage, "{}", damage.value_or(""));
  load();
  check(index_hash_ == info.index_hash, "{}: is corrupt: the hash of its index is {:016x}, expected {:016x}",
        path_.string(), index_hash_, info.index_hash);
}

CachePart::CachePart(fs::path path, const CacheIdentity& identity) : path_(std::move(path)), identity_(identity) {
  load();
}

CachePartInfo CachePart::examine(const fs::path& folder, const std::string& name, const CacheIdentity& identity) {
  CachePartInfo info{.file = describe_file(folder, name)};
  const auto damage = check_file(folder, info.file, /*with_hash=*/false);  // that it is no link
  check(!damage, "{}", damage.value_or(""));
  const CachePart part(folder / name, identity);
  part.check_blocks();
  info.index_hash = part.index_hash_;
  info.documents = std::ssize(part.documents_);
  for (const std::int64_t length : part.lengths_) info.positions += length;
  return info;
}

void CachePart::load() {
  const std::string where = path_.string();
  const PlainHdf5 hdf5(path_, /*with_bytes=*/true);
  file_ = std::make_unique<RandomAccessFile>(path_);
  const auto find = [&](const char* path, DType dtype, std::int64_t rank) -> const PlainDataset& {
    const auto found = hdf5.datasets().find(path);
    check(found != hdf5.datasets().end(), "{}: has no {}", where, path);
    const PlainDataset& dataset = found->second;
    check(dataset.info.dtype == dtype && dataset.info.shape.rank() == rank && !dataset.is_virtual &&
              (dataset.first_byte >= 0 || dataset.info.shape.numel() == 0),
          "{}: {} is {} {}, expected {} of {} dimensions, in this file", where, path, dataset.info.dtype,
          dataset.info.shape, dtype, rank);
    return dataset;
  };
  const auto numbers = [&](const char* path, std::int64_t rank = 1) {
    const PlainDataset& dataset = find(path, DType::I64, rank);
    std::vector<std::int64_t> values(static_cast<std::size_t>(dataset.info.shape.numel()));
    if (!values.empty()) file_->read(dataset.first_byte, std::as_writable_bytes(std::span(values)));
    return values;
  };
  const std::vector<std::int64_t> identity = numbers(identity_path), keys = numbers(documents_path, 2);
  check(identity.size() == 1 && as_unsigned(identity[0]) == identity_hash(identity_), "{}: is of another teacher cache",
        where);
  lengths_ = numbers(lengths_path);
  ends_ = numbers(ends_path);
  hashes_ = numbers(hashes_path);
  index_hash_ = index_hash(identity[0], keys, lengths_, ends_, hashes_);
  check(keys.size() == 2 * lengths_.size(), "{}: {} documents have {} lengths", where, keys.size() / 2,
        lengths_.size());
  for (std::size_t d = 0; d < lengths_.size(); ++d)
    documents_.push_back({as_unsigned(keys[2 * d]), as_unsigned(keys[2 * d + 1])});
  std::int64_t blocks = 0;
  for (const std::int64_t length : lengths_) {
    check(length >= 1 && length < INT32_MAX, "{}: a document of {} positions", where, length);
    first_block_.push_back(blocks);
    blocks += blocks_for(length, identity_.contents.rows_of_block());
  }
  check(blocks == std::ssize(ends_) && ends_.size() == hashes_.size(), "{}: has {} blocks and {} hashes, expected {}",
        where, ends_.size(), hashes_.size(), blocks);
  const PlainDataset& data = find(data_path, DType::U8, 1);
  data_at_ = data.first_byte;
  std::int64_t before = 0;
  for (const std::int64_t end : ends_) {
    check(end >= before && end <= data.info.shape.numel(), "{}: a block ends at byte {} of {}, behind one at {}", where,
          end, data.info.shape.numel(), before);
    before = end;
  }
  check(before == data.info.shape.numel(), "{}: its blocks end at byte {} of {}", where, before,
        data.info.shape.numel());
}

std::string CachePart::block(std::size_t number) const {
  const std::int64_t begin = number == 0 ? 0 : ends_[number - 1];
  std::string bytes(static_cast<std::size_t>(ends_[number] - begin), '\0');
  if (!bytes.empty()) file_->read(data_at_ + begin, std::as_writable_bytes(std::span(bytes)));
  const std::uint64_t hash = XXH3_64bits(bytes.data(), bytes.size());
  check(hash == as_unsigned(hashes_[number]), "{}: block {} of {} is corrupt: its hash is {:016x}, expected {:016x}",
        path_.string(), number, ends_.size(), hash, as_unsigned(hashes_[number]));
  return bytes;
}

CachedRows CachePart::rows_of_block(std::size_t document, std::int64_t block) const {
  const std::int64_t of_block = identity_.contents.rows_of_block();
  const auto number = static_cast<std::size_t>(first_block_[document] + block);
  const std::string bytes = this->block(number);
  try {
    return decode_rows(std::as_bytes(std::span(bytes)), std::min(of_block, lengths_[document] - block * of_block),
                       identity_.contents);
  } catch (const core::Error& error) {
    core::fail("{}: block {} {}", path_.string(), number, error.what());
  }
}

void CachePart::check_blocks() const {
  for (std::size_t b = 0; b < ends_.size(); ++b) block(b);
}

CachedRows CachePart::read(std::size_t document, std::int64_t first, std::int64_t count) const {
  check(document < lengths_.size() && first >= 0 && count >= 0 && first + count <= lengths_[document],
        "{}: positions {} to {} of document {} were asked for", path_.string(), first, first + count, document);
  const std::int64_t of_block = identity_.contents.rows_of_block();
  CachedRows rows;
  rows.resize(count, identity_.contents);
  for (std::int64_t at = first; at < first + count;) {
    const std::int64_t block = at / of_block;
    const CachedRows from = rows_of_block(document, block);
    const std::int64_t skipped = at - block * of_block, taken = std::min(from.n - skipped, first + count - at);
    rows.copy(from, skipped, taken, at - first);
    at += taken;
  }
  return rows;
}

}  // namespace limbeck::data
