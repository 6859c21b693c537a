// Layouts near one that a world, or a model, cannot have: what an error offers in its place.
//
//     nearest_layouts(parse_layout("dp2tp2"), 8);                                            // "dp4tp2, dp2tp4"
//     nearest_layouts(parse_layout("pp2tp4"), 8, [](const Layout& l) { return l.tp <= 2; });  // "tp2pp2"
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

/// Of each view of the ranks (mesh.h) the product of its axes but dp or edp, of which a world has a multiple.
std::int64_t attention_ranks(const Layout& layout);
std::int64_t expert_ranks(const Layout& layout);
/// Whether a world of so many ranks can have this layout; world_fault says why not.
bool fits(const Layout& layout, int num_ranks);

/// The layouts that a world of so many ranks can have, that `takes`, where it is given, takes too, and that differ from
/// this one in the size of one axis that it names, by as little as possible; where there are none, a few that differ in
/// two, and dp alone.
std::string nearest_layouts(const Layout& layout, int num_ranks,
                            const std::function<bool(const Layout&)>& takes = nullptr);

}  // namespace limbeck::parallel
