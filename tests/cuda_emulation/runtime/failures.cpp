#include <cuda_runtime.h>

#include <exception>

#include "tests/cuda_emulation/emulation.h"

namespace limbeck::emulation {

namespace {

bool gives_back(const std::string& name) {
  return name.find("Free") != std::string::npos || name.find("Destroy") != std::string::npos;
}

bool throws(const std::function<void()>& run) {
  try {
    run();
  } catch (const std::exception&) {
    return true;
  }
  return false;
}

}  // namespace

std::vector<std::string> unreported_failures(const std::function<void()>& run) {
  const std::uint64_t before = num_calls();
  run();
  const std::uint64_t calls = num_calls() - before;
  std::vector<std::string> unreported;
  for (std::uint64_t i = 0; i < calls; ++i) {
    fail_call_after(i);
    if (!throws(run) && !gives_back(failed_call())) unreported.push_back(failed_call());
    cudaGetLastError();
  }
  return unreported;
}

}  // namespace limbeck::emulation
