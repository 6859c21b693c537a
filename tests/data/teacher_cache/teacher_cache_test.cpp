// The files of a teacher cache: written by several, killed, taken up, added to, damaged, and made by someone who means
// harm.
#include "data/teacher_cache/teacher_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/error.h"
#include "data/files/hdf5_file.h"
#include "data/files/plain_hdf5.h"
#include "data/teacher_cache/cache_writing.h"
#include "tests/support/raw_hdf5.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::data {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using testing::read_file;
using testing::TemporaryFolder;
using testing::write_file;
namespace fs = std::filesystem;

constexpr int vocabulary = 50;

CacheIdentity identity() {
  return {.teacher = "00ff00ff00ff00ff",
          .teacher_source = "teacher.gguf",
          .tokenizer = 77,
          .tokenizer_tokens = vocabulary,
          .window = 16,
          .stride = 8,
          .contents = {
              .kept = 4, .temperatures = {1, 2}, .vocabulary = vocabulary, .hidden_layers = {3, 4}, .hidden_width = 5}};
}

/// A teacher whose logits depend on the tokens up to a place.
std::vector<float> logits_at(const std::vector<std::int32_t>& ids, std::int64_t position) {
  std::vector<float> logits(static_cast<std::size_t>(vocabulary));
  double state = 0;
  for (std::int64_t i = 0; i <= position; ++i) state = 0.7 * state + ids[static_cast<std::size_t>(i)];
  for (std::size_t v = 0; v < logits.size(); ++v)
    logits[v] = static_cast<float>(3 * std::sin(state + static_cast<double>(v * v)));
  return logits;
}

CachedRows rows_of(const std::vector<std::int32_t>& ids, const CacheContents& contents) {
  CachedRows rows;
  rows.resize(std::ssize(ids) - 1, contents);
  RowsMaker maker(contents);
  for (std::int64_t i = 0; i < rows.n; ++i)
    maker.make(logits_at(ids, i), ids[static_cast<std::size_t>(i + 1)], document_key(ids), i, rows, i);
  // Whole numbers below 256, which bfloat16 holds.
  for (std::size_t i = 0; i < rows.hidden.size(); ++i)
    rows.hidden[i] = static_cast<float>((ids[i / 10] * 7 + i * 3) % 256);
  return rows;
}

class TeacherCacheTest : public ::testing::Test {
 protected:
  /// Documents d of d * 7 % 23 tokens and an end, some of them alike, one of 700.
  std::shared_ptr<const TokenFile> text(const std::string& name, int first, int last) {
    const std::string prefix = (folder_ / name).string();
    TokenFileWriter writer(prefix, vocabulary);
    for (int d = first; d < last; ++d) {
      std::vector<std::int32_t> ids;
      const int length = d == 9 ? 700 : d * 7 % 23;
      for (int i = 0; i < length; ++i) ids.push_back((d % 11 * 5 + i * i) % (vocabulary - 1) + 1);
      if (d % 5 != 3) ids.push_back(0);  // one is without a token, some have one alone
      writer.add(ids);
    }
    writer.finish();
    return std::make_shared<TokenFile>(prefix);
  }
  CachePartInfo write(const CacheWork& work, const std::vector<std::shared_ptr<const TokenFile>>& texts) const {
    CachePartWriter writer(cache_, work.name, identity());
    for (const auto& [t, d] : work.documents) {
      const std::vector<std::int32_t> ids = texts[t]->read(d);
      writer.add(document_key(ids), rows_of(ids, identity().contents));
    }
    return writer.finish();
  }
  /// All that is missing.
  void fill(const std::vector<std::shared_ptr<const TokenFile>>& texts, std::int64_t positions_a_file) {
    begin_teacher_cache(cache_, identity());
    std::vector<CachePartInfo> infos;
    for (const CacheWork& work : cache_work(TeacherCache(cache_), {texts.begin(), texts.end()}, positions_a_file))
      infos.push_back(write(work, texts));
    finish_teacher_cache(cache_, infos, texts);
  }
  /// Each document of a text is there once, with the rows that a teacher gives.
  void expect_holds(const TokenFile& file) const {
    const TeacherCache cache(cache_);
    for (std::int64_t d = 0; d < file.num_documents(); ++d) {
      const std::vector<std::int32_t> ids = file.read(d);
      const auto place = cache.find(document_key(ids));
      ASSERT_EQ(place.has_value(), ids.size() > 1) << d;
      if (!place) continue;
      ASSERT_EQ(cache.num_positions(*place), std::ssize(ids) - 1);
      const CachedRows expected = rows_of(ids, identity().contents);
      const std::int64_t n = expected.n;
      for (const auto& [first, count] :
           std::vector<std::pair<std::int64_t, std::int64_t>>{{0, n}, {n / 3, n - n / 2}, {n - 1, 1}}) {
        const CachedRows rows = cache.read(*place, first, count);
        for (std::int64_t i = 0; i < count; ++i) {
          ASSERT_EQ(rows.likeliest[i], expected.likeliest[first + i]);
          ASSERT_NEAR(rows.target_loss[i], expected.target_loss[first + i], 0.0005);
          for (const std::size_t t : {0, 1}) {
            ASSERT_NEAR(rows.rest_at(t, i), expected.rest_at(t, first + i), 0.0005);
            std::vector<float> got(4), wanted(4);
            log_probabilities_at(rows, i, identity().contents, t, got);
            log_probabilities_at(expected, first + i, identity().contents, t, wanted);
            for (std::size_t j = 0; j < 4; ++j) ASSERT_NEAR(got[j], wanted[j], 0.02);
          }
          for (std::int64_t j = 0; j < 10; ++j)
            ASSERT_EQ(rows.hidden[i * 10 + j], expected.hidden[(first + i) * 10 + j]);
          for (std::int64_t j = 0; j < 4; ++j) ASSERT_EQ(rows.ids[i * 4 + j], expected.ids[(first + i) * 4 + j]);
        }
      }
    }
  }
  TemporaryFolder folder_;
  fs::path cache_ = folder_ / "cache";
};

/// As passes of a teacher give them, which end anywhere.
TEST_F(TeacherCacheTest, RowsMayComeInPieces) {
  fs::create_directories(cache_);
  const auto file = text("text", 0, 12);
  CachePartWriter whole(cache_, "part_00000.h5", identity()), pieces(cache_, "part_00001.h5", identity());
  for (std::int64_t d = 0; d < file->num_documents(); ++d) {
    const std::vector<std::int32_t> ids = file->read(d);
    if (ids.size() < 2) continue;
    const CachedRows rows = rows_of(ids, identity().contents);
    whole.add(document_key(ids), rows);
    pieces.begin(document_key(ids), rows.n);
    for (std::int64_t first = 0, count = 1; first < rows.n;
         first += count, count = std::min(3 * count, rows.n - first)) {
      CachedRows piece;
      piece.resize(count, identity().contents);
      piece.copy(rows, first, count, 0);
      pieces.append(piece);
    }
  }
  EXPECT_EQ(whole.num_positions(), pieces.num_positions());
  whole.finish();
  pieces.finish();
  EXPECT_EQ(read_file(cache_ / "part_00000.h5"), read_file(cache_ / "part_00001.h5"));

  CachePartWriter fewer(cache_, "part_00002.h5", identity());
  fewer.begin({1, 2}, 5);
  EXPECT_THAT(error_of([&] { fewer.finish(); }), HasSubstr("a document lacks 5 of its rows"));
}

TEST_F(TeacherCacheTest, HoldsEveryDocumentOfItsTextsOnce) {
  const auto web = text("web", 0, 40), books = text("books", 25, 70);
  fill({web}, 60);
  expect_holds(*web);
  const std::size_t documents = TeacherCache(cache_).num_documents();
  EXPECT_GT(TeacherCache(cache_).manifest().parts.size(), 3U);
  const CacheManifest before = TeacherCache(cache_).manifest();

  fill({web}, 60);  // nothing is missing
  EXPECT_EQ(TeacherCache(cache_).num_documents(), documents);
  ASSERT_EQ(TeacherCache(cache_).manifest().texts.size(), 1U);
  EXPECT_EQ(TeacherCache(cache_).manifest().texts[0].fingerprint, web->fingerprint());

  fill({web, books}, 200);  // those of books that web has too are not done again
  expect_holds(*web);
  expect_holds(*books);
  EXPECT_EQ(TeacherCache(cache_).manifest().texts.size(), 2U);
  std::set<DocumentKey> keys;
  std::int64_t positions = 0;
  for (const auto& file : {web, books})
    for (std::int64_t d = 0; d < file->num_documents(); ++d)
      if (const auto ids = file->read(d); ids.size() > 1 && keys.insert(document_key(ids)).second)
        positions += std::ssize(ids) - 1;
  EXPECT_EQ(TeacherCache(cache_).num_documents(), keys.size());
  EXPECT_EQ(TeacherCache(cache_).manifest().num_positions(), positions);
  for (std::size_t i = 0; i < before.parts.size(); ++i)
    EXPECT_EQ(TeacherCache(cache_).manifest().parts[i].file.hash, before.parts[i].file.hash);
  TeacherCache(cache_).check_whole();
}

// A writer that is killed leaves whole files that no manifest lists, and halves under temporary names.
TEST_F(TeacherCacheTest, WhatAKilledWriterLeftIsTakenUp) {
  const auto web = text("web", 0, 40);
  for (std::size_t done : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
    fs::remove_all(cache_);
    fs::create_directories(cache_);
    begin_teacher_cache(cache_, identity());
    const std::vector<CacheWork> works = cache_work(TeacherCache(cache_), {web}, 60);
    std::int64_t documents = 0, positions = 0;
    for (std::size_t i = 0; i < done; ++i) {
      const CachePartInfo info = write(works[2 * i], {web});  // of two ranks one was killed sooner
      documents += info.documents;
      positions += info.positions;
    }
    write_file(cache_ / (works[1].name + ".tmp"), read_file(cache_ / works[0].name).substr(0, 700));
    const CacheLeftovers left = begin_teacher_cache(cache_, identity());
    EXPECT_EQ(left.documents, documents);
    EXPECT_EQ(left.positions, positions);
    EXPECT_FALSE(fs::exists(cache_ / (works[1].name + ".tmp")));
    EXPECT_EQ(TeacherCache(cache_).num_documents(), static_cast<std::size_t>(documents));
    EXPECT_TRUE(TeacherCache(cache_).manifest().texts.empty());
    fill({web}, 100);
    expect_holds(*web);
  }
  // A file that was left is damaged, or of another cache: it is named.
  const CacheManifest manifest = TeacherCache(cache_).manifest();
  const std::string name = manifest.parts[1].file.name;
  CacheManifest shorter = manifest;
  shorter.parts.erase(shorter.parts.begin() + 1);
  const std::string whole = read_file(cache_ / name);
  std::string damaged = whole;
  const PlainHdf5 hdf5(cache_ / name, /*with_bytes=*/true);
  char& of_block = damaged.at(static_cast<std::size_t>(hdf5.datasets().at("/data").first_byte));
  of_block = static_cast<char>(of_block ^ 4);
  write_file(cache_ / name, damaged);
  write_cache_manifest(cache_, shorter);
  EXPECT_THAT(error_of([&] { begin_teacher_cache(cache_, identity()); }), HasSubstr(name + ": block"));
  CacheIdentity other = identity();
  other.teacher = "1";
  CachePartWriter(cache_, name, other).finish();
  EXPECT_THAT(error_of([&] { begin_teacher_cache(cache_, identity()); }),
              HasSubstr(name + ": is of another teacher cache"));
}

// Three writers at once write a share each, one of them in two starts; whoever closes the cache takes all in, and does
// what none has done.
TEST_F(TeacherCacheTest, SharesOfSeveralWritersAreOneCache) {
  const auto web = text("web", 0, 40);
  std::vector<std::unique_ptr<CacheLock>> locks;
  std::set<std::string> names;
  const auto works_of = [&](std::int64_t index) {
    join_teacher_cache(cache_, identity());
    return of_share(cache_work(TeacherCache(cache_), {web}, 60), cache_, {index, 3});
  };
  for (const std::int64_t index : {0, 1, 2}) {
    locks.push_back(std::make_unique<CacheLock>(cache_, CacheShare{index, 3}));
    const std::vector<CacheWork> works = works_of(index);
    ASSERT_GE(works.size(), 2U);
    for (const CacheWork& work : works) EXPECT_TRUE(names.insert(work.name).second) << work.name;
    for (std::size_t i = 0; i < (index == 1 ? 1 : works.size()); ++i) write(works[i], {web});
  }
  EXPECT_TRUE(TeacherCache(cache_).manifest().parts.empty());
  EXPECT_TRUE(works_of(0).empty());
  const std::vector<CacheWork> rest = works_of(1);
  ASSERT_FALSE(rest.empty());
  if (rest.size() > 1) write(rest[0], {web});  // the others of it are left to whoever closes
  EXPECT_THAT(error_of([&] { CacheLock(cache_, CacheShare{2, 3}); }), HasSubstr("another process writes share 2/3"));
  EXPECT_THAT(error_of([&] { CacheLock lock(cache_); }), HasSubstr("another process writes to this teacher cache"));
  CacheIdentity other = identity();
  other.teacher = "1";
  EXPECT_THAT(error_of([&] { join_teacher_cache(cache_, other); }), HasSubstr("is of another teacher"));
  locks.clear();
  const CacheLock lock(cache_);
  EXPECT_THAT(error_of([&] {
                CacheLock(cache_, CacheShare{0, 3});
              }),
              HasSubstr("another process writes to this teacher cache"));
  fill({web}, 60);
  expect_holds(*web);
  const TeacherCache filled(cache_);
  std::int64_t documents = 0;
  for (const CachePartInfo& part : filled.manifest().parts) documents += part.documents;
  EXPECT_EQ(static_cast<std::size_t>(documents), filled.num_documents());
  EXPECT_TRUE(names.contains(filled.manifest().parts[0].file.name));
}

TEST_F(TeacherCacheTest, AnotherTeacherTokenizerOrContentIsRefusedByName) {
  fill({text("web", 0, 10)}, 60);
  const auto error = [&](const std::function<void(CacheIdentity&)>& change) {
    CacheIdentity wanted = identity();
    change(wanted);
    return error_of([&] { begin_teacher_cache(cache_, wanted); });
  };
  EXPECT_EQ(error([](CacheIdentity& id) { id.teacher_source = "moved.gguf"; }), "");
  EXPECT_THAT(error([](CacheIdentity& id) { id.teacher = "1234"; }),
              HasSubstr("is of another teacher: teacher.gguf of"));
  EXPECT_THAT(error([](CacheIdentity& id) { id.tokenizer = 78; }), HasSubstr("is of another tokenizer"));
  EXPECT_THAT(error([](CacheIdentity& id) { id.contents.kept = 5; }),
              HasSubstr("keeps something else: TOP_K 4, quantised at temperatures 1, 2, of 50 tokens, 5 channels of "
                        "layers 3, 4, expected TOP_K 5"));
  EXPECT_THAT(error([](CacheIdentity& id) { id.window = 32; }), HasSubstr("of other windows: of 16 tokens, every 8"));
  fs::create_directories(folder_ / "notes");
  write_file(folder_ / "notes/diary.txt", "dear");
  EXPECT_THAT(error_of([&] { begin_teacher_cache(folder_ / "notes", identity()); }), HasSubstr("holds diary.txt"));
  EXPECT_THAT(error_of([&] { TeacherCache(folder_ / "nowhere"); }), HasSubstr("cache.json"));
  const CacheLock lock(cache_);
  EXPECT_THAT(error_of([&] { CacheLock again(cache_); }), HasSubstr("another process writes"));
}

/// All that a reader takes of a cache, as text; or the error.
std::string all_of(const fs::path& folder, const TokenFile& file) {
  try {
    const TeacherCache cache(folder);
    std::string all;
    for (std::int64_t d = 0; d < file.num_documents(); ++d) {
      const std::vector<std::int32_t> ids = file.read(d);
      const auto place = cache.find(document_key(ids));
      if (!place) {
        all += "none ";
        continue;
      }
      const CachedRows rows = cache.read(*place, 0, cache.num_positions(*place));
      for (const auto* column : {&rows.log_p, &rows.target_loss, &rows.rest})
        all.append(reinterpret_cast<const char*>(column->data()), column->size() * 4);
      for (const auto* column : {&rows.ids, &rows.likeliest})
        all.append(reinterpret_cast<const char*>(column->data()), column->size() * 4);
    }
    return all;
  } catch (const core::Error& error) {
    return std::string("error: ") + error.what();
  }
}

// Each byte of each file: what is read is what was written, or an error that names the file. Bytes that nothing is made
// of (padding, times of nothing) are found where the whole file is hashed.
TEST_F(TeacherCacheTest, AFlippedBitIsFound) {
  const auto web = text("web", 0, 7);
  fill({web}, 1000);
  const std::string expected = all_of(cache_, *web);
  ASSERT_FALSE(expected.starts_with("error"));
  const std::string name = TeacherCache(cache_).manifest().parts.at(0).file.name;
  const std::string bytes = read_file(cache_ / name);
  std::size_t found = 0, flipped = 0;
  for (std::size_t at = 0; at < bytes.size(); at += at < std::size_t{4096} ? 7 : 101) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
    write_file(cache_ / name, damaged);
    const std::string read = all_of(cache_, *web);
    ++flipped;
    if (read != expected) {
      ++found;
      ASSERT_TRUE(read.starts_with("error: ") && read.find(name) != std::string::npos)
          << at << ": " << read.substr(0, 200);
    }
    ASSERT_THAT(error_of([&] {
                  const TeacherCache cache(cache_);
                  cache.check_whole();
                }),
                HasSubstr(name));
  }
  EXPECT_GT(found, flipped / 20);
  write_file(cache_ / name, bytes);
  const std::string manifest = read_file(cache_ / cache_manifest_name);
  for (std::size_t at = 0; at < manifest.size(); at += 3) {
    std::string damaged = manifest;
    damaged[at] = static_cast<char>(damaged[at] ^ 1);
    write_file(cache_ / cache_manifest_name, damaged);
    const std::string read = all_of(cache_, *web);
    ASSERT_TRUE(read == expected || read.find(cache_manifest_name) != std::string::npos)
        << at << ": " << read.substr(0, 99);
  }
}

TEST_F(TeacherCacheTest, FilesThatWereMadeForThePurposeAreRefused) {
  const auto web = text("web", 0, 7);
  fill({web}, 1000);
  const CacheManifest good = TeacherCache(cache_).manifest();
  const std::string name = good.parts.at(0).file.name;
  const std::string bytes = read_file(cache_ / name);
  // Whoever makes a file makes its hashes too.
  const auto error_with = [&](const std::function<void(std::vector<std::int64_t>&)>& change, const char* dataset) {
    write_file(cache_ / name, bytes);
    {
      const testing::RawId file = H5Fopen((cache_ / name).c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
      const testing::RawId data = H5Dopen2(file, dataset, H5P_DEFAULT);
      const testing::RawId space = H5Dget_space(data);
      std::vector<std::int64_t> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
      H5Dread(data, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
      change(values);
      H5Dwrite(data, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
    }
    return error_of([&] { CachePart::examine(cache_, name, identity()); });
  };
  EXPECT_EQ(error_with([](auto&) {}, "/num_positions"), "");
  EXPECT_THAT(error_with([](auto& v) { v[0] = -1; }, "/num_positions"), HasSubstr("a document of -1 positions"));
  EXPECT_THAT(error_with([](auto& v) { v[0] = INT64_MAX; }, "/num_positions"), HasSubstr("positions"));
  EXPECT_THAT(error_with([](auto& v) { v[0] += 300; }, "/num_positions"), HasSubstr("blocks"));
  EXPECT_THAT(error_with([](auto& v) { v.back() += 1; }, "/block_ends"), HasSubstr("a block ends at byte"));
  EXPECT_THAT(error_with([](auto& v) { v[1] = -5; }, "/block_ends"), HasSubstr("a block ends at byte"));
  EXPECT_THAT(error_with([](auto& v) { v[1] = 3; }, "/block_hashes"), HasSubstr("block 1 of"));
  EXPECT_THAT(error_with([](auto& v) { v[0] = 3; }, "/identity"), HasSubstr("is of another teacher cache"));

  // A file that is elsewhere, or none at all.
  write_file(folder_ / "elsewhere.h5", bytes);
  fs::remove(cache_ / name);
  fs::create_symlink(folder_ / "elsewhere.h5", cache_ / name);
  EXPECT_THAT(error_of([&] { TeacherCache cache(cache_); }), HasSubstr("is no regular file"));
  fs::remove(cache_ / name);
  EXPECT_THAT(error_of([&] { TeacherCache cache(cache_); }), HasSubstr(name + ": is missing"));
  write_file(cache_ / name, bytes.substr(0, 300));
  EXPECT_THAT(error_of([&] { TeacherCache cache(cache_); }), HasSubstr(name + ": is truncated"));
  Hdf5File other = Hdf5File::create(cache_ / name);
  other.close();
  EXPECT_THAT(error_of([&] { CachePart::examine(cache_, name, identity()); }), HasSubstr("has no /identity"));
  write_file(cache_ / name, bytes);

  // A document that is there twice.
  CacheManifest twice = good;
  write_file(cache_ / "part_00009.h5", bytes);
  twice.parts.push_back(good.parts[0]);
  twice.parts.back().file.name = "part_00009.h5";
  write_cache_manifest(cache_, twice);
  EXPECT_THAT(error_of([&] { TeacherCache cache(cache_); }), HasSubstr("and again in part_00009.h5"));
  CacheManifest outside = good;
  outside.parts[0].file.name = "part_/../../x.h5";
  write_cache_manifest(cache_, outside);
  EXPECT_THAT(error_of([&] { TeacherCache cache(cache_); }), HasSubstr("expected part_NUMBER.h5"));
}

}  // namespace
}  // namespace limbeck::data
