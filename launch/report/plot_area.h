// The drawing of a figure, in units that are pixels of the page where it is 400 wide.
#pragma once

namespace limbeck::launch::area {

inline constexpr int full_width = 400;
inline constexpr int full_height = 236;
inline constexpr int left = 46;
inline constexpr int top = 8;
inline constexpr int width = 344;
inline constexpr int height = 190;

}  // namespace limbeck::launch::area
