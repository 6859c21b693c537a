// The hash of a token file that is kept for later runs, in PREFIX.xxh3 beside it: a copy whose bytes have changed or
// are missing is told from a whole one. Token files from elsewhere have none.
//
//     write_token_hash("cache/1f00");                                   // after the writer's finish()
//     if (const auto damage = find_token_damage("cache/1f00")) log(*damage);   // "cache/1f00.bin: is corrupt: ..."
#pragma once

#include <optional>
#include <string>

namespace limbeck::data {

/// Of PREFIX.bin, PREFIX.idx and, where there is one, PREFIX.mask as they are.
void write_token_hash(const std::string& prefix);

/// What is wrong with them, in one line that names the file; nothing where all are as they were. Reads them.
std::optional<std::string> find_token_damage(const std::string& prefix);

}  // namespace limbeck::data
