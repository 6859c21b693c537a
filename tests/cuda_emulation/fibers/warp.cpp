#include "tests/cuda_emulation/fibers/warp.h"

#include <array>
#include <cstring>

#include "tests/cuda_emulation/fibers/block.h"
#include "tests/cuda_emulation/report.h"

namespace limbeck::emulation {

namespace {

using Lanes = std::array<void*, 32>;

struct ShuffleLane {
  const char* what;
  void* value;
  std::size_t bytes;
  unsigned source;
};

void combine_shuffle(const Lanes& lanes) {
  std::array<std::array<std::byte, 16>, 32> values;
  for (unsigned l = 0; l < 32; ++l)
    if (const auto* lane = static_cast<const ShuffleLane*>(lanes[l]); lane != nullptr)
      std::memcpy(values[l].data(), lane->value, lane->bytes);
  for (unsigned l = 0; l < 32; ++l) {
    const auto* lane = static_cast<const ShuffleLane*>(lanes[l]);
    if (lane == nullptr) continue;
    if (lane->source >= 32 || lanes[lane->source] == nullptr)
      fail("{}: lane {} asks lane {}, which takes no part", lane->what, l, lane->source);
    std::memcpy(lane->value, values[lane->source].data(), lane->bytes);
  }
}

struct BallotLane {
  bool vote;
  std::uint32_t result;
};

void combine_ballot(const Lanes& lanes) {
  std::uint32_t votes = 0;
  for (unsigned l = 0; l < 32; ++l)
    if (lanes[l] != nullptr && static_cast<const BallotLane*>(lanes[l])->vote) votes |= 1U << l;
  for (void* lane : lanes)
    if (lane != nullptr) static_cast<BallotLane*>(lane)->result = votes;
}

struct GatherLane {
  std::uint64_t mine;
  std::uint64_t* all;
};

void combine_gather(const Lanes& lanes) {
  for (void* to : lanes)
    for (unsigned l = 0; l < 32; ++l)
      if (to != nullptr && lanes[l] != nullptr)
        static_cast<GatherLane*>(to)->all[l] = static_cast<const GatherLane*>(lanes[l])->mine;
}

void combine_nothing(const Lanes&) {}

}  // namespace

unsigned current_lane() { return Block::running()->current_lane(); }

void shuffle(const char* what, const std::source_location& where, std::uint32_t mask, void* value, std::size_t bytes,
             unsigned source) {
  ShuffleLane lane{what, value, bytes, source};
  Block::running()->collective(what, where, mask, &lane, combine_shuffle);
}

std::uint32_t ballot(const char* what, const std::source_location& where, std::uint32_t mask, bool vote) {
  BallotLane lane{vote, 0};
  Block::running()->collective(what, where, mask, &lane, combine_ballot);
  return lane.result;
}

void gather(const char* what, const std::source_location& where, std::uint32_t mask, std::uint64_t mine,
            std::uint64_t (&all)[32]) {
  GatherLane lane{mine, all};
  Block::running()->collective(what, where, mask, &lane, combine_gather);
}

void warp_barrier(const std::source_location& where, std::uint32_t mask) {
  char nothing = 0;
  Block::running()->collective("__syncwarp", where, mask, &nothing, combine_nothing);
}

BlockVote block_barrier(const char* what, const std::source_location& where, bool vote) {
  const Block::Vote result = Block::running()->barrier(what, where, vote);
  return {result.agreed, result.all};
}

}  // namespace limbeck::emulation
