// What a machine takes while work goes on, where it says so: the counters of its processors' packages and of their
// memory (RAPL, which Linux shows under /sys/class/powercap and, since 5.10, to root alone) and those of its GPUs
// (NVML). They are of the whole machine, whoever else works on it.
//
//     EnergyMeter meter(/*with_gpus=*/false);
//     ... work ...
//     if (const auto joules = meter.take()) ...          // by meter.by(): "RAPL"
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace limbeck::launch {

/// $LIMBECK_POWERCAP, where containers have it elsewhere, or /sys/class/powercap.
std::filesystem::path powercap_folder();

class EnergyMeter {
 public:
  /// Packages and memory of the zones intel-rapl:N in `powercap`
  /// (https://docs.kernel.org/power/powercap/powercap.html), which AMD's processors have too, and `with_gpus` all of
  /// the machine's by that library. What cannot be read is left out; but where one package can be read, and another
  /// not, nothing is.
  explicit EnergyMeter(bool with_gpus, const std::filesystem::path& powercap = powercap_folder(),
                       const std::string& nvml = "libnvidia-ml.so.1");
  ~EnergyMeter();
  EnergyMeter(const EnergyMeter&) = delete;
  EnergyMeter& operator=(const EnergyMeter&) = delete;

  /// Joules since the last call, or since the beginning; nothing where nothing can be read, or not any more. A counter
  /// may begin anew once between two calls: of 65 kJ, a small one, after five minutes at 200 W.
  std::optional<double> take();
  /// "RAPL", "NVML", "RAPL and NVML"; empty where nothing can be read.
  std::string by() const;

 private:
  struct Counter {
    std::filesystem::path file;
    std::int64_t range = 0;  // microjoules, after which it begins anew
    std::int64_t last = 0;
  };
  class Gpus;

  std::vector<Counter> counters_;
  std::unique_ptr<Gpus> gpus_;  // null without
};

}  // namespace limbeck::launch
