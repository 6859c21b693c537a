#include "core/nn/adapters.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"

namespace limbeck::nn {

using core::Cut;
using core::DType;
using core::Shape;
using core::StateEntry;

namespace {

constexpr std::array blocks_with_adapters{".attention.", ".mamba.", ".mlp.", ".moe.shared.", ".moe.experts."};

/// The two last extents of a matrix, or of each of a stack's.
Shape with_last(const Shape& shape, std::int64_t rows, std::int64_t columns) {
  Shape result = shape;
  result[shape.rank() - 2] = rows;
  result[shape.rank() - 1] = columns;
  return result;
}

/// Of the factor that is whole where the other one is cut: each rank has a part of its gradient then, of its rows of
/// B's, or of its columns of A's.
Cut whole_beside(const Parameter& weight) {
  if (weight.is_stack) return {.is_expert = true};
  return {.sees_share = weight.cut.dimension >= 0 || weight.cut.sees_share};
}

/// Whether experts are cut within.
bool is_cut_within(const Parameter& weight) {
  return weight.is_stack && std::ranges::any_of(weight.placement, [&](const core::AxisPlacement& axis) {
           return axis.role == core::AxisRole::Sharded && axis.dimension > 0 &&
                  axis.length != weight.global_shape[axis.dimension];
         });
}

/// A pattern that is of no use.
[[noreturn]] void refuse_target(const core::ParameterList& all, const std::string& pattern, std::size_t place) {
  const auto is_named = [&](const Parameter* p) { return core::is_of_pattern(p->name, pattern); };
  const auto other = std::ranges::find_if(all, is_named);
  const auto fits = std::ranges::find_if(all, [](const Parameter* p) { return takes_adapter(*p); });
  const std::string expected =
      fits != all.end() ? (*fits)->name : std::string("a matrix of attention or of a feed-forward");
  if (other == all.end())
    core::fail_usage("adapters.targets[{}]: the pattern {} matches no parameter, expected one such as {}", place,
                     pattern, expected);
  core::fail_usage(
      "adapters.targets[{}]: {} has no adapter, expected matrices of attention, Mamba-2 and feed-forwards, such as {}",
      place, (*other)->name, expected);
}

/// The box of `rows` and `columns` of A or B of a matrix, or of each of some experts', in float64 on the host.
Tensor factor(const core::StateReader& adapters, const std::string& name, char which, const StateEntry& box,
              std::int64_t first_row, std::int64_t rows, std::int64_t first_column, std::int64_t columns) {
  const std::string stored = adapter_name(name, which);
  StateEntry entry{adapters.tensors().at(stored).shape, box.offset,
                   Tensor::empty(box.tensor.memory(), DType::F64, with_last(box.tensor.shape(), rows, columns))};
  const auto last = entry.offset.size() - 1;
  entry.offset[last - 1] = first_row;
  entry.offset[last] = first_column;
  adapters.read(stored, entry);
  return entry.tensor;
}

}  // namespace

bool takes_adapter(const Parameter& parameter) {
  return parameter.is_matrix() && std::ranges::any_of(blocks_with_adapters, [&](const char* block) {
           return parameter.name.find(block) != std::string::npos;
         });
}

std::string adapter_name(const std::string& parameter, char factor) {
  return fmt::format("adapters/{}/{}", parameter, factor);
}

Adapters::Adapters(Transformer& model, const AdapterOptions& options, DType dtype, core::PlacementRule place)
    : options_(options), parameters_({.memory = model.memory(), .dtype = dtype, .place = std::move(place)}) {
  core::check(options.rank > 0, "adapters: rank is {}, expected 1 or more", options.rank);
  const core::ParameterList all = model.parameters();
  std::vector<std::int64_t> counts(options.targets.size());  // of the matrices that each names, on all stages
  for (Parameter* p : all) {
    p->slot.reset();
    if (!takes_adapter(*p)) continue;
    bool is_target = false;
    for (std::size_t i = 0; i < options.targets.size(); ++i)
      if (core::is_of_pattern(p->name, options.targets[i])) ++counts[i], is_target = true;
    if (is_target) add(*p);
  }
  Tensor sums = Tensor::from<std::int64_t>(model.memory()->host(), {std::ssize(counts)}, counts);
  model.pipeline().sum(sums);
  counts = core::host_values<std::int64_t>(sums);
  for (std::size_t i = 0; i < options.targets.size(); ++i)
    if (counts[i] == 0) refuse_target(all, options.targets[i], i);
}

void Adapters::add(Parameter& weight) {
  if (is_cut_within(weight))
    core::fail_usage("adapters.targets: {} is cut within its experts (etp), expected whole experts there", weight.name);
  const Shape& shape = weight.global_shape;
  const std::int64_t out = shape[shape.rank() - 2], in = shape[shape.rank() - 1];
  // Experts are whole here, so both factors are.
  const Cut beside = whole_beside(weight), along = weight.is_stack ? beside : weight.cut;
  const bool is_by_columns = weight.cut.dimension == shape.rank() - 1;
  const auto factor = [&](char which, const Shape& of, bool is_cut) {
    return &parameters_.add(adapter_name(weight.name, which), of, is_cut ? along : beside);
  };
  weight.adapter = core::LowRank{factor('a', with_last(shape, options_.rank, in), is_by_columns),
                                 factor('b', with_last(shape, out, options_.rank), !is_by_columns), options_.scale()};
}

void Adapters::init_random(std::uint64_t seed) {
  for (Parameter* p : parameters()) {
    const auto in = static_cast<double>(p->global_shape[p->global_shape.rank() - 1]);
    if (p->name.ends_with("/a"))
      core::init_normal(*p, 1 / std::sqrt(3 * in), seed);
    else
      p->value.copy_from(Tensor::zeros(p->value.memory()->host(), p->value.dtype(), p->value.shape()));
  }
}

void Adapters::load(const core::StateReader& reader) {
  for (Parameter* p : parameters()) {
    StateEntry entry = p->entry(p->value);
    reader.read(p->name, entry);
  }
}

core::StateDict Adapters::state_dict() {
  core::StateDict state;
  for (const Parameter* p : parameters()) state.emplace(p->name, p->entry(p->value));
  return state;
}

MergedAdapters::MergedAdapters(std::shared_ptr<const core::StateReader> base,
                               std::shared_ptr<const core::StateReader> adapters, double scale)
    : base_(std::move(base)), adapters_(std::move(adapters)), scale_(scale) {
  for (const auto& [name, info] : base_->tensors())
    if (core::is_of_model(name)) tensors_[name] = {info.shape, has_adapter(name) ? DType::F32 : info.dtype};
}

bool MergedAdapters::has_adapter(const std::string& name) const {
  return adapters_->tensors().contains(adapter_name(name, 'a'));
}

std::optional<Tensor> MergedAdapters::lend_box(const std::string& name, const core::StateInfo&, const StateEntry& entry,
                                               const MemoryPtr& memory) const {
  return has_adapter(name) ? std::nullopt : base_->lend(name, entry, memory);
}

void MergedAdapters::fill(const std::string& name, const core::StateInfo&, StateEntry& entry) const {
  if (!has_adapter(name)) return base_->read(name, entry);
  const Shape& box = entry.tensor.shape();
  const auto last = static_cast<std::size_t>(box.rank() - 1);
  const std::int64_t rows = box[box.rank() - 2], columns = box[box.rank() - 1];
  const Shape& a_shape = adapters_->tensors().at(adapter_name(name, 'a')).shape;
  const std::int64_t rank = a_shape[a_shape.rank() - 2];
  const Tensor a = factor(*adapters_, name, 'a', entry, 0, rank, entry.offset[last], columns);
  const Tensor b = factor(*adapters_, name, 'b', entry, entry.offset[last - 1], rows, 0, rank);
  StateEntry sum{entry.global_shape, entry.offset, Tensor::empty(entry.tensor.memory(), DType::F64, box)};
  base_->read(name, sum);
  double* const w = sum.tensor.mutable_host<double>();
  const std::int64_t matrices = box.numel() / (rows * columns);
  for (std::int64_t row = 0; row < matrices * rows; ++row)
    for (std::int64_t k = 0; k < rank; ++k) {
      const double factor = scale_ * b.host<double>()[row * rank + k];
      const double* const from = a.host<double>() + (row / rows * rank + k) * columns;
      double* const to = w + row * columns;
      for (std::int64_t c = 0; c < columns; ++c) to[c] += factor * from[c];
    }
  entry.tensor.copy_from(sum.tensor.to(entry.tensor.dtype()));
}

}  // namespace limbeck::nn
