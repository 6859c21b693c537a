// Cached rows as bytes: a block of rows, packed and compressed (docs/teacher_cache.md has the layout).
//
//     const std::string bytes = encode_rows(rows, contents, /*first=*/0, /*count=*/256);
//     CachedRows again = decode_rows(bytes, 256, contents);          // throws where the bytes are not of such rows
#pragma once

#include <span>
#include <string>

#include "data/teacher_cache/cached_rows.h"

namespace limbeck::data {

/// Rows [first, first + count).
std::string encode_rows(const CachedRows& rows, const CacheContents& contents, std::int64_t first, std::int64_t count);

/// `count` rows. Whatever the bytes are, ids are rising and below the vocabulary, and all numbers finite or, of a rest,
/// -infinity; else it throws, saying what is wrong without a name of the file.
CachedRows decode_rows(std::span<const std::byte> bytes, std::int64_t count, const CacheContents& contents);

}  // namespace limbeck::data
