#include "tests/support/family_reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <utility>

#include "core/ops/head_loss.h"
#include "launch/run/step.h"

namespace limbeck::testing {

using core::DType;
using core::Tensor;

namespace {

double largest(const std::vector<double>& values) {
  double result = 0;
  for (const double x : values) result = std::max(result, std::abs(x));
  return result;
}

}  // namespace

std::filesystem::path made_folder(const std::filesystem::path& golden, std::int64_t seed) {
  static std::mutex mutex;
  static std::map<std::pair<std::filesystem::path, std::int64_t>, std::unique_ptr<TemporaryFolder>> all;
  const std::lock_guard lock(mutex);
  std::unique_ptr<TemporaryFolder>& made = all[{golden, seed}];
  if (made == nullptr) {
    made = std::make_unique<TemporaryFolder>();
    write_made_model(golden, made->path(), static_cast<std::uint64_t>(seed));
  }
  return made->path();
}

FamilyReference::FamilyReference(const std::string& family, std::string group)
    : golden_(golden_folder() / "families" / family),
      file_(data::Hdf5File::open((golden_ / "reference.h5").string())),
      group_(std::move(group)),
      folder_(golden_) {
  if (std::filesystem::exists(golden_ / "weights.txt")) folder_ = made_folder(golden_, seed());
}

std::filesystem::path family_folder(const std::string& family) { return FamilyReference(family).folder(); }

void expect_near(const std::vector<double>& values, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(values.size(), expected.size());
  const double allowed = tolerance * largest(expected);
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], expected[i], allowed) << i;
}

std::vector<double> logits_of(const core::StateReader& source, const nn::ModelConfig& config,
                              const data::TokenBatch& samples, DType dtype, bool as_kept) {
  const auto memory = core::Memory::cpu(2);
  nn::Transformer model(config, {.memory = memory, .dtype = dtype, .frozen = true, .as_kept = as_kept});
  model.load(source);
  core::Tape off(core::Tape::Mode::Off);
  const nn::Batch batch = launch::make_batch(memory, samples, 0, samples.num_sequences);
  const Tensor hidden = model.forward(off, model.pass(batch)).hidden.value;
  return values_of(core::logits_of(hidden, model.head().value, model.head_bias().value));
}

data::TokenBatch document_of(const std::vector<std::int32_t>& tokens) {
  data::TokenBatch samples{1, std::ssize(tokens), tokens, std::vector<std::int32_t>(tokens.size(), -1), {}, {}};
  for (std::size_t i = 0; i < tokens.size(); ++i) samples.positions.push_back(static_cast<std::int32_t>(i));
  samples.documents.resize(tokens.size());
  return samples;
}

std::vector<float> stored_values(const data::SafetensorsFile& file, const std::string& name, bool transposed) {
  const data::SafetensorsEntry& entry = file.tensors().at(name);
  std::vector<float> values(static_cast<std::size_t>(entry.shape.numel()));
  data::SafetensorsFile::read(entry, 0, entry.shape.numel(), DType::F32, reinterpret_cast<std::byte*>(values.data()));
  if (!transposed) return values;
  std::vector<float> turned;
  for (std::int64_t c = 0; c < entry.shape[1]; ++c)
    for (std::int64_t r = 0; r < entry.shape[0]; ++r)
      turned.push_back(values[static_cast<std::size_t>(r * entry.shape[1] + c)]);
  return turned;
}

}  // namespace limbeck::testing
