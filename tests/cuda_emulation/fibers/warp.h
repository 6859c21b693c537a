// What the lanes of a warp do together: shuffles, votes, sums of integers. All lanes of the mask come to the same
// place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace limbeck::emulation {

/// The lane's number in its warp.
unsigned current_lane();

/// Puts into `value` [bytes <= 16] that of the lane `source`, which takes part.
void shuffle(const char* what, const std::source_location& where, std::uint32_t mask, void* value, std::size_t bytes,
             unsigned source);

/// A bit for each lane that came with true.
std::uint32_t ballot(const char* what, const std::source_location& where, std::uint32_t mask, bool vote);

/// Puts into all[lane] what each lane of the mask brought; other lanes' are left.
void gather(const char* what, const std::source_location& where, std::uint32_t mask, std::uint64_t mine,
            std::uint64_t (&all)[32]);

/// Orders the lanes and does nothing else.
void warp_barrier(const std::source_location& where, std::uint32_t mask);

/// The number of the block's threads that came with true, and of all that came.
struct BlockVote {
  unsigned agreed, all;
};
BlockVote block_barrier(const char* what, const std::source_location& where, bool vote);

}  // namespace limbeck::emulation
