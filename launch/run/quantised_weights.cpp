#include "launch/run/quantised_weights.h"

#include <algorithm>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "data/files/ordered_work.h"
#include "data/models/gguf_blocks.h"
#include "data/models/gguf_choice.h"

namespace limbeck::launch {
namespace {

using core::DType;

std::string master_name(const std::string& name) { return fmt::format("optimizer/{}/master", name); }

/// To the values that blocks of the dtype hold, as they are written and read.
void round_to(DType dtype, std::span<float> values, int threads) {
  constexpr std::int64_t most_at_once = 16384;  // a multiple of all blocks
  const std::int64_t count = std::ssize(values);
  std::int64_t next = 0;
  data::OrderedWork<std::span<float>, bool> parts;
  parts.most_cost = 2 * threads;
  parts.read = [&]() -> std::optional<std::span<float>> {
    if (next == count) return std::nullopt;
    const std::int64_t first = std::exchange(next, std::min(count, next + most_at_once));
    return values.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(next - first));
  };
  parts.work = [&](std::span<float> part) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(core::bytes_of(dtype, std::ssize(part))));
    data::quantize(dtype, part, bytes.data());
    data::dequantize(dtype, bytes.data(), 0, std::ssize(part), part.data());
    return true;
  };
  parts.write = [](bool) {};
  parts.run(threads);
}

/// Throws unless this rank's part of the rows is of whole blocks.
void check_whole_blocks(const core::Parameter& p, DType dtype) {
  const std::int64_t block = core::info(dtype).block_elements;
  const int last = p.global_shape.rank() - 1;
  for (const core::AxisPlacement& axis : p.placement)
    if (axis.role == core::AxisRole::Sharded && axis.dimension == last &&
        (axis.offset % block != 0 || axis.length % block != 0))
      core::fail_usage(
          "precision.quantised_weights: {} is cut over {} within blocks of {} ({} of {} columns are on a rank), "
          "expected whole "
          "blocks of {} there",
          p.name, axis.axis, dtype, axis.length, p.global_shape[last], block);
}

}  // namespace

QuantisedName name_of(QuantisedWeights weights) {
  switch (weights) {
    case QuantisedWeights::Q8_0:
      return {"Q8_0", DType::Q8_0};
    case QuantisedWeights::Q6_K:
      return {"Q6_K", DType::Q6_K};
    case QuantisedWeights::Q5_K_M:
      return {"Q5_K_M", DType::Q5_K};
    case QuantisedWeights::Q4_K_M:
      return {"Q4_K_M", DType::Q4_K};
    case QuantisedWeights::Q4_0:
      return {"Q4_0", DType::Q4_0};
    case QuantisedWeights::None:
      break;
  }
  core::fail("quantised weights: none have no name");
}

std::string quantised_fingerprint(const std::string& fingerprint, QuantisedWeights weights) {
  return fmt::format("{:016x}", core::hash_name(fingerprint + " " + name_of(weights).name, core::hash_seed));
}

void quantise_in_passes(nn::Transformer& model, QuantisedWeights weights, int threads) {
  const auto kept = data::gguf_kept(model.config(), name_of(weights).dtype, "precision.quantised_weights");
  for (core::Parameter* parameter : model.parameters()) {
    const auto found = kept.find(parameter->name);
    if (found == kept.end() || found->second.dtype == DType::F32) continue;
    const DType dtype = found->second.dtype;
    core::Parameter& p = *parameter;
    if (p.is_frozen())
      core::fail_usage(
          "precision.quantised_weights: {} is frozen (optimizer.groups), expected all matrices to be trained", p.name);
    if (found->second.is_transposed)
      core::fail_usage("precision.quantised_weights: {} is transposed in a GGUF file, whose blocks are no rows here",
                       p.name);
    check_whole_blocks(p, dtype);
    p.rounding = [dtype, threads](std::span<float> values) { round_to(dtype, values, threads); };
  }
}

MasterReader::MasterReader(const core::StateReader& checkpoint) : checkpoint_(checkpoint) {
  for (const auto& [name, info] : checkpoint.tensors()) {
    if (!core::is_of_model(name)) continue;
    const auto master = checkpoint.tensors().find(master_name(name));
    tensors_[name] = master == checkpoint.tensors().end() ? info : master->second;
  }
}

void MasterReader::fill(const std::string& name, const core::StateInfo&, core::StateEntry& entry) const {
  const std::string master = master_name(name);
  checkpoint_.read(checkpoint_.tensors().contains(master) ? master : name, entry);
}

}  // namespace limbeck::launch
