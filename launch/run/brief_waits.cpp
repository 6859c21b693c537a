#include "launch/run/brief_waits.h"

#include <sys/auxv.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <string_view>
#include <vector>

namespace limbeck::launch {

namespace {

// Rounds of the processor's pause: more than what lies between two parallel regions of a step or of a token, so that
// threads seldom sleep where they have the machine to themselves (1 to 2 % slower than libgomp's 300000), and far
// less than the time for which the system lets another program have a core.
std::array brief = std::to_array("GOMP_SPINCOUNT=10000");

bool is_a_choice(std::string_view variable) {
  return variable.starts_with("GOMP_SPINCOUNT=") || variable.starts_with("OMP_WAIT_POLICY=");
}

}  // namespace

void wait_briefly(int /*num_arguments*/, char** arguments, char** environment) {
  std::vector<char*> variables;
  for (char** variable = environment; *variable != nullptr; ++variable) {
    if (is_a_choice(*variable)) return;
    variables.push_back(*variable);
  }
  variables.insert(variables.end(), {brief.data(), nullptr});
  std::array<char, PATH_MAX> program{};
  const bool is_known = ::readlink("/proc/self/exe", program.data(), program.size() - 1) > 0;
  const bool is_by_loader = ::getauxval(AT_BASE) == 0;  // `ld.so limbeck ...`: the program there is ld.so
  if (is_known && !is_by_loader) ::execve(program.data(), arguments, variables.data());
}

}  // namespace limbeck::launch
