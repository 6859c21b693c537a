#include "launch/commands/version.h"

#include <fmt/format.h>
#include <google/protobuf/stubs/common.h>
#include <mpi.h>

#include <array>
#include <fstream>

#include "data/files/hdf5_version.h"
#include "kernels/build_info.h"
#include "launch/run/devices.h"

namespace limbeck::launch {

namespace {

/// The first of MPI's lines, up to a comma: "Open MPI v4.1.4".
std::string mpi_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  MPI_Get_library_version(text.data(), &length);
  const std::string whole(text.data());
  return whole.substr(0, whole.find_first_of(",\n"));
}

}  // namespace

std::string processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown";
}

std::string version_text() {
  std::string text = fmt::format("limbeck {}\n", LIMBECK_VERSION);
  const auto line = [&text](const char* what, const std::string& value) {
    text += fmt::format("{:<16}{}\n", what, value);
  };
  line("build", LIMBECK_BUILD_TYPE);
  line("compiler", LIMBECK_COMPILER);
  line("devices", device_names());
  line("processor", fmt::format("{}, kernels for {}", processor(), kernels::cpu_level()));
  line("products", fmt::format("{}; of bfloat16 by {}", kernels::matrix_product(), kernels::bf16_product()));
  line("MPI", mpi_version());
  line("HDF5", data::hdf5_version());
  line("protobuf", google::protobuf::internal::VersionString(GOOGLE_PROTOBUF_VERSION));
  text.pop_back();
  return text;
}

}  // namespace limbeck::launch
