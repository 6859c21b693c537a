// How fast a checkpoint is written, beside as many bytes that are written and brought to the disk by themselves
// (1 MiB at once, then fsync, as dd with conv=fsync does): by turns, so that both meet the same disk.
//
//     build/release/bin/bench_checkpoint FOLDER [GIB] [ROUNDS]
//
// A line of JSON: medians in GiB/s, and the ratio of each round's two times, its median. The checkpoint has the shape
// of a large model's: layers of matrices, norms, two moments of each, in float32. All of it is written from a few
// tensors, so that it takes little memory; FOLDER is left as it was.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/system_error.h"
#include "data/checkpoints/checkpoint.h"
#include "data/files/atomic_file.h"
#include "data/files/output_file.h"

namespace {

using namespace limbeck;
using core::StateDict;
using core::StateEntry;
using core::Tensor;
namespace fs = std::filesystem;

double seconds_of(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// About so many bytes: layers of four matrices [4096,4096] and two norms.
StateDict state_of(std::int64_t bytes) {
  const auto memory = core::Memory::cpu(1);
  const Tensor matrix = Tensor::empty(memory, core::DType::F32, {4096, 4096}),
               norm = Tensor::empty(memory, core::DType::F32, {4096});
  for (Tensor values : {matrix, norm})
    for (std::int64_t i = 0; i < values.numel(); ++i)
      values.mutable_host<float>()[i] = static_cast<float>(i * 7919 % 10007) - 5003;
  StateDict state;
  std::int64_t taken = 0;
  for (int layer = 0; taken < bytes; ++layer)
    for (const auto& [name, values] : {std::pair("attention.q", matrix),
                                       {"attention.out", matrix},
                                       {"mlp.up", matrix},
                                       {"mlp.down", matrix},
                                       {"attention_norm", norm},
                                       {"mlp_norm", norm}})
      for (const char* part : {"", "/exp_avg", "/exp_avg_sq"}) {
        if (taken >= bytes) break;
        state[fmt::format("{}layers.{}.{}.weight{}", *part == '\0' ? "" : "optimizer/", layer, name, part)] =
            StateEntry::whole(values);
        taken += values.bytes();
      }
  return state;
}

void write_raw(const fs::path& path, std::int64_t bytes, const Tensor& from) {
  data::OutputFile file(path);
  constexpr std::int64_t piece = std::int64_t{1} << 20U;
  for (std::int64_t at = 0; at < bytes; at += piece)
    file.write(from.host_raw() + at % from.bytes(), static_cast<std::size_t>(std::min(piece, bytes - at)));
  file.sync();
  file.close();
}

void write_checkpoint(const fs::path& folder, const StateDict& state) {
  const fs::path temporary = data::begin_checkpoint(folder, 1);
  const std::vector<data::RankFileInfo> infos = {data::write_rank_file(temporary, 0, 1, state)};
  data::finish_checkpoint(temporary, infos, "{}");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "bench_checkpoint FOLDER [GIB] [ROUNDS]\n");
    return 2;
  }
  const fs::path folder = fs::path(argv[1]) / fmt::format("bench_checkpoint.{}", ::getpid());
  const double gib = argc > 2 ? std::atof(argv[2]) : 2;
  const int rounds = argc > 3 ? std::atoi(argv[3]) : 3;
  const auto bytes = static_cast<std::int64_t>(gib * (1 << 30));
  const StateDict state = state_of(bytes);
  const Tensor& matrix = state.at("layers.0.mlp.up.weight").tensor;
  std::vector<double> raw, saved, ratios;
  for (int i = 0; i < rounds; ++i) {
    fs::create_directories(folder);
    raw.push_back(seconds_of([&] { write_raw(folder / "raw", bytes, matrix); }));
    fs::remove(folder / "raw");
    ::sync();
    saved.push_back(seconds_of([&] { write_checkpoint(folder, state); }));
    fs::remove_all(folder);
    ::sync();
    ratios.push_back(raw.back() / saved.back());
    fmt::print(stderr, "round {}: raw {:.2f} s, checkpoint {:.2f} s, {:.2f} of its rate\n", i + 1, raw.back(),
               saved.back(), ratios.back());
  }
  fmt::print(
      "{{\"gib\": {}, \"rounds\": {}, \"raw_gib_s\": {:.3f}, \"checkpoint_gib_s\": {:.3f}, \"ratio\": {:.3f}}}\n", gib,
      rounds, gib / median(raw), gib / median(saved), median(ratios));
  return 0;
}
