#include "launch/run/same_everywhere.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <sstream>

#include "core/exchanges_of.h"
#include "core/random.h"
#include "data/checkpoints/manifest.h"
#include "kernels/build_info.h"

namespace limbeck::launch {
namespace {

using core::DType;
using core::Tensor;

/// Without its indentation; empty at the end.
std::string next_line(std::istream& in) {
  std::string line;
  std::getline(in, line);
  return line.erase(0, line.find_first_not_of(' '));
}

/// The value of a line of text format, cut where it is long; "a section" of one that opens it.
std::string value_of(const std::string& line) {
  constexpr std::size_t most = 80;
  const std::size_t colon = line.find(": ");
  if (line.ends_with(" {")) return "a section";
  if (colon == std::string::npos) return "not given";
  const std::string value = line.substr(colon + 2);
  return value.size() > most ? value.substr(0, most) + "..." : value;
}

std::string name_of(const std::string& line) { return line.substr(0, std::min(line.find(": "), line.find(" {"))); }

/// Collective: that of one rank, on all. A sum to which the others add zeros.
std::string text_of_rank(core::Comm& world, int rank, const std::string& mine) {
  const auto memory = core::Memory::cpu(1);
  const bool is_mine = world.rank() == rank;
  const std::int64_t told = is_mine ? std::ssize(mine) : 0;
  Tensor length = Tensor::from<std::int64_t>(memory, {1}, std::span(&told, 1));
  world.all_reduce(length, core::Reduce::Sum);
  const auto size = static_cast<std::size_t>(core::host_values<std::int64_t>(length)[0]);
  std::vector<std::int64_t> words(size / sizeof(std::int64_t) + 1);
  if (is_mine) std::memcpy(words.data(), mine.data(), size);
  Tensor sum = Tensor::from<std::int64_t>(memory, {std::ssize(words)}, words);
  world.all_reduce(sum, core::Reduce::Sum);
  return {reinterpret_cast<const char*>(sum.host<std::int64_t>()), size};
}

}  // namespace

std::vector<std::string> gather_strings(core::Comm& world, const std::string& mine) {
  const auto memory = core::Memory::cpu(1);
  const auto size = static_cast<std::int64_t>(world.size());
  const core::ExchangesOf scope("a text of each rank");
  Tensor lengths = Tensor::zeros(memory, DType::I64, {size});
  lengths.mutable_host<std::int64_t>()[world.rank()] = static_cast<std::int64_t>(mine.size());
  world.all_reduce(lengths, core::Reduce::Sum);
  const std::vector<std::int64_t> n = core::host_values<std::int64_t>(lengths);
  const std::int64_t longest = std::max<std::int64_t>(1, *std::max_element(n.begin(), n.end()));

  Tensor padded = Tensor::zeros(memory, DType::U8, {longest});
  std::copy(mine.begin(), mine.end(), padded.mutable_host<std::uint8_t>());
  Tensor all = Tensor::zeros(memory, DType::U8, {longest * size});
  world.all_gather(padded, all);
  std::vector<std::string> result;
  const auto* bytes = reinterpret_cast<const char*>(all.host<std::uint8_t>());
  for (std::int64_t r = 0; r < size; ++r)
    result.emplace_back(bytes + r * longest, static_cast<std::size_t>(n[static_cast<std::size_t>(r)]));
  return result;
}

std::string first_difference(const std::string& first, const std::string& other, std::size_t rank) {
  std::istringstream first_lines(first), other_lines(other);
  std::string path, a, b;  // path: of the section that the lines are in, with a last dot
  do {
    if (a.ends_with(" {")) path += name_of(a) + ".";
    if (a == "}") path.erase(path.rfind('.', path.size() - 2) + 1);
    a = next_line(first_lines);
    b = next_line(other_lines);
  } while (a == b && !a.empty());
  if (name_of(a) == name_of(b))
    return fmt::format("{}{} is {} on rank {} and {} on rank 0", path, name_of(a), value_of(b), rank, value_of(a));
  const auto named = [&](const std::string& line) {
    if (line.empty()) return std::string("nothing");
    return line == "}" ? "the end of " + path.substr(0, path.size() - 1) : path + name_of(line);
  };
  return fmt::format("{} stands on rank {} where rank 0 has {}", named(b), rank, named(a));
}

void check_same_everywhere(core::Comm& world, const std::string& text) {
  const auto memory = core::Memory::cpu(1);
  const auto mine = static_cast<std::int64_t>(core::hash_name(text));
  Tensor hashes = Tensor::zeros(memory, DType::I64, {world.size()});
  const core::ExchangesOf scope("what has to be the same on all ranks");
  world.all_gather(Tensor::from<std::int64_t>(memory, {1}, std::span(&mine, 1)), hashes);
  const std::vector<std::int64_t> all = core::host_values<std::int64_t>(hashes);
  const auto other = std::find_if(all.begin(), all.end(), [&](auto h) { return h != all[0]; });
  if (other == all.end()) return;
  const auto rank = static_cast<int>(other - all.begin());  // whose text goes round, beside the first one's
  const std::string first = text_of_rank(world, 0, text), its = text_of_rank(world, rank, text);
  core::fail_usage("{}, expected the same on all ranks", first_difference(first, its, static_cast<std::size_t>(rank)));
}

std::string run_identity(const RunConfig& config, const std::string& command) {
  return fmt::format("limbeck: {}\nprogram: {:016x}\nkernels: {}\n{}{}", LIMBECK_VERSION,
                     data::hash_file("/proc/self/exe"), kernels::cpu_level(), command, to_textproto(config));
}

}  // namespace limbeck::launch
