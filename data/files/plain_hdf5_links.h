// The links of a group that has many: a fractal heap that holds them and a version 2 B-tree that finds them.
#pragma once

#include <functional>

#include "data/files/plain_hdf5_bytes.h"

namespace limbeck::data {

/// Calls each(address, size) for every link message of the heap at `heap` that the tree at `tree` lists.
void for_each_dense_link(PlainFile& file, std::uint64_t heap, std::uint64_t tree,
                         const std::function<void(std::uint64_t at, std::uint64_t size)>& each);

}  // namespace limbeck::data
