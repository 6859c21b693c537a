// How many tasks of a Slurm step are on which of its nodes, as srun tells each task.
//
//     tasks_on_node("4(x2),3", 2)      // 3: of SLURM_STEP_TASKS_PER_NODE and SLURM_NODEID
#pragma once

#include <string_view>

namespace limbeck::launch {

/// "4(x2),3": four on the first two nodes, three on the third; `node` from 0. 0 where that does not say it.
int tasks_on_node(std::string_view tasks_per_node, int node);

}  // namespace limbeck::launch
