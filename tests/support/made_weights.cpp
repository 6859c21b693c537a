#include "tests/support/made_weights.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/dtype.h"
#include "core/error.h"
#include "core/random.h"
#include "tests/support/temporary_folder.h"

namespace limbeck::testing {

namespace fs = std::filesystem;

namespace {

/// splitmix64 (Steele, Lea and Flood 2014).
std::uint64_t mixed(std::uint64_t z) {
  z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31U);
}

class Bits {
 public:
  Bits(const std::string& name, std::uint64_t seed) : start_(mixed(core::hash_name(name) ^ seed)) {}
  std::uint64_t of(std::uint64_t index) const { return mixed(start_ + (index + 1) * 0x9e3779b97f4a7c15ULL); }

 private:
  std::uint64_t start_;
};

}  // namespace

std::vector<ListedTensor> read_weight_list(const fs::path& file) {
  std::vector<ListedTensor> list;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    const std::size_t open = line.find(" ["), close = line.find(']');
    core::check(open != std::string::npos && close != std::string::npos, "{}: {}", file.string(), line);
    std::istringstream numbers(line.substr(close + 1));
    ListedTensor tensor{line.substr(0, open), {}, 0, 0};
    numbers >> tensor.mean >> tensor.deviation;
    core::check(!numbers.fail(), "{}: {}", file.string(), line);
    tensor.shape =
        core::Shape(nlohmann::json::parse(line.substr(open + 1, close - open)).get<std::vector<std::int64_t>>());
    list.push_back(tensor);
  }
  core::check(!list.empty(), "{}: lists no tensor", file.string());
  return list;
}

std::vector<float> made_values(const ListedTensor& tensor, std::uint64_t seed) {
  const Bits bits(tensor.name, seed);
  const double step = tensor.deviation / (65536 / std::sqrt(3.0));
  std::vector<float> values;
  for (std::int64_t i = 0; i < tensor.shape.numel(); ++i) {
    const std::uint64_t word = bits.of(static_cast<std::uint64_t>(i));
    std::int64_t sum = -2 * 65535;
    for (const unsigned shift : {0U, 16U, 32U, 48U}) sum += static_cast<std::int64_t>(word >> shift & 0xffffU);
    values.push_back(static_cast<float>(core::bf16(static_cast<float>(tensor.mean + static_cast<double>(sum) * step))));
  }
  return values;
}

void write_made_model(const fs::path& folder, const fs::path& target, std::uint64_t seed) {
  nlohmann::ordered_json head = {{"__metadata__", {{"format", "pt"}}}};
  std::string bytes;
  for (const ListedTensor& tensor : read_weight_list(folder / "weights.txt")) {
    const std::vector<float> values = made_values(tensor, seed);
    const auto extents = tensor.shape.extents();
    const std::size_t end = bytes.size() + values.size() * sizeof(float);
    head[tensor.name] = {{"dtype", "F32"},
                         {"shape", std::vector<std::int64_t>(extents.begin(), extents.end())},
                         {"data_offsets", {bytes.size(), end}}};
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  }
  std::string text = head.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t size = text.size();
  write_file(target / "model.safetensors",
             std::string(reinterpret_cast<const char*>(&size), sizeof size) + text + bytes);
  for (const char* config : {"config.json", "config_v4.json"})
    if (fs::exists(folder / config)) fs::copy_file(folder / config, target / config);
}

std::array<double, 4> projections(const std::string& name, std::span<const double> values) {
  const Bits bits(name, 0);
  std::array<double, 4> sums{};
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint64_t word = bits.of(i);
    for (std::size_t p = 0; p < sums.size(); ++p) sums[p] += (word >> p & 1U) != 0 ? -values[i] : values[i];
  }
  return sums;
}

}  // namespace limbeck::testing
