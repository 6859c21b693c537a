// A folder like /sys/class/powercap.
//
//     const Powercap powercap;
//     powercap.zone("intel-rapl:0", "package-0", /*microjoules=*/100, /*range=*/1'000'000);
//     powercap.set("intel-rapl:0", 200);
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "tests/support/temporary_folder.h"

namespace limbeck::testing {

class Powercap {
 public:
  const std::filesystem::path& path() const { return folder_.path(); }
  void zone(const std::string& zone, const std::string& name, std::int64_t microjoules, std::int64_t range) const {
    std::filesystem::create_directories(path() / zone);
    write(zone + "/name", name + "\n");
    write(zone + "/max_energy_range_uj", std::to_string(range) + "\n");
    set(zone, microjoules);
  }
  void set(const std::string& zone, std::int64_t microjoules) const {
    write(zone + "/energy_uj", std::to_string(microjoules) + "\n");
  }
  void write(const std::string& file, const std::string& text) const { write_file(path() / file, text); }

 private:
  TemporaryFolder folder_;
};

}  // namespace limbeck::testing
