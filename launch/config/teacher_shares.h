// Who teaches which text, as teacher.teaches, weight and others say.
//
//     double second_in_first_source = teacher_shares(config)[0][1];
#pragma once

#include <string>
#include <vector>

#include "launch/config/config.h"

namespace limbeck::launch {

/// What each teacher's probabilities are times in the text of each source, [source][teacher], the first teacher first:
/// its weight over those of all that teach the source; 0 where it does not.
std::vector<std::vector<double>> teacher_shares(const RunConfig& config);

/// What is wrong with who teaches what, and the field that says so; the field is empty where nothing is.
struct TeacherFault {
  std::string field = {}, says = {};
};
TeacherFault teacher_fault(const RunConfig& config);

}  // namespace limbeck::launch
