// The first collectives of a mesh's groups, of each kind that steps use: what a fabric has to set up for them is done
// before the first step, and one that does not work shows at once, by an error that names the group.
//
//     if (!memory->is_host()) warm_up(mesh, memory);
#pragma once

#include "parallel/axes/mesh.h"

namespace limbeck::parallel {

/// Collective, over tensors in `memory`; waited for. Throws where a sum is wrong.
void warm_up(const Mesh& mesh, const core::MemoryPtr& memory);
/// Of a group over which rows go that no mesh's steps send there, likewise.
void warm_up_rows(WorldComm& group, const core::MemoryPtr& memory);

}  // namespace limbeck::parallel
