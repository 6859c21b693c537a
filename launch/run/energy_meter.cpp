#include "launch/run/energy_meter.h"

#include <dlfcn.h>

#include <cstdlib>
#include <fstream>

#include "launch/run/number_file.h"

namespace limbeck::launch {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::vector<fs::path> folders_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator at(folder, error); !error && at != fs::directory_iterator(); at.increment(error))
    if (std::error_code none; fs::is_directory(at->path(), none)) found.push_back(at->path());
  return found;
}

/// Of a package the memory beside it is a zone within; its cores and its graphics count in the package.
/// (intel-rapl-mmio has the same packages once more, psys all of a machine.)
std::vector<fs::path> zones_in(const fs::path& powercap) {
  std::vector<fs::path> zones;
  for (const fs::path& zone : folders_in(powercap)) {
    const std::string name = zone.filename().string();
    if (!name.starts_with("intel-rapl:") || name.find(':', 11) != std::string::npos) continue;  // a zone within another
    if (!first_line(zone / "name").starts_with("package")) continue;
    zones.push_back(zone);
    for (const fs::path& inner : folders_in(zone))
      if (first_line(inner / "name") == "dram") zones.push_back(inner);
  }
  return zones;
}

}  // namespace

/// Functions of NVIDIA's library, which comes with its driver (docs.nvidia.com/deploy/nvml-api): 0 is success.
class EnergyMeter::Gpus {
 public:
  /// Null where the library is not there, or one of the GPUs does not say what it takes (before Volta).
  static std::unique_ptr<Gpus> open(const std::string& library) {
    std::unique_ptr<Gpus> gpus(new Gpus(library));
    return gpus->find() ? std::move(gpus) : nullptr;
  }
  ~Gpus() {
    if (shutdown_ != nullptr) shutdown_();
    if (library_ != nullptr) dlclose(library_);
  }
  Gpus(const Gpus&) = delete;
  Gpus& operator=(const Gpus&) = delete;

  /// Millijoules since the driver was loaded, of all of them.
  std::optional<std::int64_t> read() const {
    std::int64_t sum = 0;
    for (void* device : devices_) {
      unsigned long long value = 0;
      if (energy_(device, &value) != 0) return std::nullopt;
      sum += static_cast<std::int64_t>(value);
    }
    return sum;
  }
  std::int64_t last = 0;

 private:
  explicit Gpus(const std::string& library) : library_(dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL)) {}

  template <class F>
  bool load(F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(library_, name));
    return function != nullptr;
  }
  bool find() {
    int (*init)() = nullptr;
    int (*count)(unsigned*) = nullptr;
    int (*device_of)(unsigned, void**) = nullptr;
    if (library_ == nullptr || !load(init, "nvmlInit_v2") || init() != 0) return false;
    if (!load(shutdown_, "nvmlShutdown") || !load(count, "nvmlDeviceGetCount_v2") ||
        !load(device_of, "nvmlDeviceGetHandleByIndex_v2") || !load(energy_, "nvmlDeviceGetTotalEnergyConsumption"))
      return false;
    unsigned devices = 0;
    if (count(&devices) != 0 || devices == 0) return false;
    for (unsigned i = 0; i < devices; ++i)
      if (device_of(i, &devices_.emplace_back()) != 0) return false;
    const auto now = read();
    last = now.value_or(0);
    return now.has_value();
  }

  void* library_ = nullptr;
  int (*shutdown_)() = nullptr;
  int (*energy_)(void*, unsigned long long*) = nullptr;
  std::vector<void*> devices_;
};

fs::path powercap_folder() {
  const char* given = std::getenv("LIMBECK_POWERCAP");
  return given != nullptr && *given != '\0' ? given : "/sys/class/powercap";
}

EnergyMeter::EnergyMeter(bool with_gpus, const fs::path& powercap, const std::string& nvml) {
  for (const fs::path& zone : zones_in(powercap)) {
    const auto now = number_in(zone / "energy_uj"), range = number_in(zone / "max_energy_range_uj");
    if (!now || !range) {
      counters_.clear();
      break;
    }
    counters_.push_back({zone / "energy_uj", *range, *now});
  }
  if (with_gpus) gpus_ = Gpus::open(nvml);
}

EnergyMeter::~EnergyMeter() = default;

std::optional<double> EnergyMeter::take() {
  if (by().empty()) return std::nullopt;
  std::int64_t microjoules = 0;
  for (Counter& counter : counters_) {
    const auto now = number_in(counter.file);
    if (!now) {
      counters_.clear();
      gpus_.reset();
      return std::nullopt;
    }
    microjoules += *now - counter.last + (*now < counter.last ? counter.range : 0);
    counter.last = *now;
  }
  double joules = 1e-6 * static_cast<double>(microjoules);
  if (gpus_) {
    const auto now = gpus_->read();
    if (!now) {
      counters_.clear();
      gpus_.reset();
      return std::nullopt;
    }
    joules += 1e-3 * static_cast<double>(*now - gpus_->last);
    gpus_->last = *now;
  }
  return joules;
}

std::string EnergyMeter::by() const {
  if (counters_.empty()) return gpus_ ? "NVML" : "";
  return gpus_ ? "RAPL and NVML" : "RAPL";
}

}  // namespace limbeck::launch
