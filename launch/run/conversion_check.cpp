#include "launch/run/conversion_check.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/nn/batch.h"
#include "core/nn/routing_log.h"
#include "core/nn/transformer.h"
#include "core/ops/add.h"
#include "core/ops/head_loss.h"
#include "data/files/ordered_work.h"
#include "data/models/families/family.h"
#include "data/models/gguf_blocks.h"
#include "data/models/gguf_model.h"
#include "data/models/gguf_names.h"

namespace limbeck::launch {
namespace {

using core::check;
using core::DType;
using core::Shape;
using core::Tensor;

/// All experts of a layer on one rank, though few of them are in memory at a time: the layer runs once for each part of
/// them, its last run is right.
class ExpertsInTurns : public nn::ExpertComm {
 public:
  explicit ExpertsInTurns(std::int64_t turns) : turns_(turns) {}
  void take(std::int64_t turn) { turn_ = turn; }

  std::int64_t size() const override { return turns_; }
  std::int64_t rank() const override { return turn_; }
  nn::ExchangePtr prepare(const Tensor& selection, std::int64_t num_experts) override {
    const std::int64_t local = num_experts / turns_, first = turn_ * local;
    std::vector<std::int32_t> chosen = core::host_values<std::int32_t>(selection);
    auto exchange = std::make_shared<nn::Exchange>();
    for (std::int32_t& e : chosen) {
      const bool is_here = e >= first && e < first + local;
      e = is_here ? static_cast<std::int32_t>(e - first) : -1;
      exchange->num_rows += is_here ? 1 : 0;
    }
    exchange->selection = Tensor::from<std::int32_t>(selection.memory(), selection.shape(), chosen);
    return exchange;
  }
  nn::RowsUnderWay start_dispatch(const nn::ExchangePtr&, const Tensor& x) override {
    return [x] { return x; };
  }
  nn::RowsUnderWay start_combine(const nn::ExchangePtr&, const Tensor& y) override {
    core::Tape off(core::Tape::Mode::Off);
    const Tensor exact = y.to(core::sum_dtype(y.dtype()));
    sum_ = turn_ == 0 ? exact : core::add(off, core::constant(sum_), core::constant(exact)).value;
    return [sum = sum_.to(y.dtype())] { return sum; };
  }

 private:
  std::int64_t turns_, turn_ = 0;
  Tensor sum_;  // of what the experts gave up to this turn
};

/// A model of which some tensors have some of their rows alone, and may have other names.
class SomeRows : public core::StateReader {
 public:
  struct Run {
    std::int64_t first, count;
  };
  /// `of`: the source's names by those here.
  SomeRows(const core::StateReader& source, std::map<std::string, std::string> of, std::vector<Run> runs)
      : source_(source), of_(std::move(of)), runs_(std::move(runs)), tensors_(source.tensors()) {
    std::int64_t rows = 0;
    for (const Run& run : runs_) rows += run.count;
    for (const auto& [name, theirs] : of_) {
      core::StateInfo info = source.tensors().at(theirs);
      info.shape[0] = rows;
      tensors_[name] = info;
    }
  }
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override {
    const auto of = of_.find(name);
    if (of == of_.end()) return source_.read(name, entry);
    check(entry.tensor.shape() == info.shape, "{}: {} is read whole alone", source(), name);
    std::vector<std::int64_t> offset(info.shape.extents().size(), 0);
    std::int64_t at = 0;
    for (const Run& run : runs_) {
      offset[0] = run.first;
      core::StateEntry part{source_.tensors().at(of->second).shape, offset, entry.tensor.rows(at, run.count), true};
      source_.read(of->second, part);
      at += run.count;
    }
  }

  const core::StateReader& source_;
  std::map<std::string, std::string> of_;
  std::vector<Run> runs_;
  std::map<std::string, core::StateInfo> tensors_;
};

/// Of a run of a tensor's values: as they are, and as the file's dtype stores them.
struct Digest {
  std::uint64_t as_they_are = 0, stored = 0;
};
constexpr std::int64_t values_a_digest = std::int64_t{1} << 20U;  // whole blocks of every format

std::uint64_t hash_of(const std::vector<float>& values) {
  return XXH3_64bits(values.data(), values.size() * sizeof(float));
}

/// `offset` is what a file's values may be greater by (norms of Gemma), which rounds them. With `as_bytes` values are
/// told by the bytes that they have here: where they are of one dtype on both sides, and not rounded.
std::vector<Digest> digests_of(const Tensor& values, DType stored, double offset, bool as_bytes, int threads) {
  std::vector<Digest> digests;
  std::int64_t first = 0;
  data::OrderedWork<std::int64_t, Digest> runs;
  runs.read = [&]() -> std::optional<std::int64_t> {
    return first < values.numel() ? std::optional(std::exchange(first, first + values_a_digest)) : std::nullopt;
  };
  runs.work = [&](const std::int64_t begin) {
    const std::int64_t count = std::min(values_a_digest, values.numel() - begin);
    if (as_bytes) {
      const std::int64_t at = core::bytes_of(values.dtype(), begin), size = core::bytes_of(values.dtype(), count);
      const std::uint64_t hash = XXH3_64bits(values.host_raw() + at, static_cast<std::size_t>(size));
      return Digest{hash, hash};
    }
    std::vector<float> run(static_cast<std::size_t>(count));
    data::dequantize(values.dtype(), values.host_raw(), begin, count, run.data());
    if (offset != 0)
      for (float& x : run) x = x + static_cast<float>(offset) - static_cast<float>(offset);
    Digest digest{hash_of(run), 0};
    if (stored == DType::F32 || stored == values.dtype()) return Digest{digest.as_they_are, digest.as_they_are};
    std::vector<std::byte> bytes(static_cast<std::size_t>(core::bytes_of(stored, count)));
    data::quantize(stored, run, bytes.data());
    data::dequantize(stored, bytes.data(), 0, count, run.data());
    digest.stored = hash_of(run);
    return digest;
  };
  runs.write = [&](Digest&& digest) { digests.push_back(digest); };
  runs.most_cost = 2 * threads;
  runs.run(threads);
  return digests;
}

/// How far logits may be apart, of the largest, where values are rounded to a dtype.
double tolerance_of(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return 1e-4;
    case DType::BF16:
    case DType::F16:
    case DType::Q8_0:
      return 0.1;
    default:
      return 0.5;
  }
}

/// Both models side by side, a part at a time.
class Comparison {
 public:
  Comparison(const ModelSource& source, const ModelSource& written, const ConversionCheckOptions& options)
      : models_{&source, &written}, options_(options), memory_(core::Memory::cpu(options.threads)) {
    const bool has_further = source.config.num_predict_layers > 0 && holds_further(written);
    for (const auto& [name, info] : source.reader->tensors()) {
      if (!core::is_of_model(name) || (name == "head.weight" && written.config.tied_head)) continue;
      if (is_further(name) && !has_further) continue;
      const auto found = written.reader->tensors().find(name);
      check(found != written.reader->tensors().end() && found->second.shape == info.shape,
            "{}: has no tensor {} {} of {}", written.path.string(), name, info.shape, source.path.string());
    }
    const nn::ModelConfig& config = source.config;
    const std::int64_t tokens = std::min({options.num_tokens, config.max_positions, config.vocabulary});
    for (std::int64_t i = 0; i < tokens; ++i) picked_.push_back({(2 * i + 1) * config.vocabulary / (2 * tokens), 1});
    std::vector<std::int32_t> ids(picked_.size());
    std::iota(ids.begin(), ids.end(), 0);  // of the rows that were picked
    batch_ = nn::one_sequence(memory_, ids, 0);
  }

  ConversionCheck run() {
    const nn::ModelConfig& config = models_[0]->config;
    const std::int64_t steps = config.num_layers + 2;
    const auto progress = [&](std::int64_t done) {
      if (options_.progress) options_.progress(done, steps);
    };
    progress(0);
    if (!config.tied_head) compare_rows("embed.weight");
    on_both([&](int side) { embed(side); });
    for (std::int64_t layer = 0; layer < config.num_layers; ++layer) {
      progress(layer + 1);
      on_both([&](int side) { run_layer(side, layer); });
    }
    progress(config.num_layers + 1);
    finish();
    for (const auto& [name, _] : models_[1]->reader->tensors())
      if (is_further(name)) compare_rows(name);
    progress(steps);
    check(is_finite_, "{}: its logits are not finite", models_[1]->path.string());
    const double difference = largest_ > 0 ? difference_ / largest_ : difference_;
    const double allowed = is_exact_ ? tolerance_of(DType::F32) : tolerance_;
    check(difference <= allowed,
          "{}: its logits differ from those of {} by {:.2g} of the largest, expected at most {}: its numbers mean "
          "something else",
          models_[1]->path.string(), models_[0]->path.string(), difference, allowed);
    return {std::ssize(picked_), difference, is_exact_};
  }

 private:
  template <class F>
  void on_both(F&& f) {
    expected_.clear();
    for (const int side : {0, 1}) f(side);
  }

  bool is_gguf() const { return dynamic_cast<const data::GgufModel*>(models_[1]->reader.get()) != nullptr; }

  /// What comes back of a GGUF file, which has the decays themselves.
  Tensor through_decays(const Tensor& values) const {
    Tensor rounded = Tensor::empty(memory_, DType::F32, values.shape());
    auto* all = rounded.mutable_host<float>();
    data::dequantize(values.dtype(), values.host_raw(), 0, values.numel(), all);
    std::transform(all, all + values.numel(), all, [](float x) { return data::decay_of_gguf(data::gguf_decay(x)); });
    return rounded;
  }

  /// In the order in which what was written has them, as far as blocks of values go.
  Tensor as_stored(const std::string& name, const Tensor& values) const {
    const auto* file = dynamic_cast<const data::GgufModel*>(models_[1]->reader.get());
    const std::int64_t heads = file == nullptr ? 0 : file->transposed_heads(name);
    if (heads == 0) return values;
    const std::int64_t rows = values.shape()[0] / heads, columns = values.shape()[1];
    const std::int64_t size = core::info(values.dtype()).block_bytes;
    Tensor turned = Tensor::empty(memory_, values.dtype(), {heads * columns, rows});
    const std::byte* from = values.host_raw();
    std::byte* to = turned.mutable_host_raw();
    for (std::int64_t head = 0; head < heads; ++head)
      for (std::int64_t i = 0; i < rows; ++i)
        for (std::int64_t j = 0; j < columns; ++j, from += size)
          std::memcpy(to + ((head * columns + j) * rows + i) * size, from, static_cast<std::size_t>(size));
    return turned;
  }

  /// The first side's values are noted, those of the second held against them.
  void compare(int side, const std::string& name, std::int64_t part, const Tensor& values) {
    const DType dtype = models_[1]->reader->tensors().at(name).dtype;
    const bool is_norm = values.shape().rank() == 1 && name.ends_with("norm.weight");
    const double offset = is_norm ? models_[0]->config.norm_offset : 0;
    const bool is_decay = name.ends_with(".mamba.A_log") && is_gguf();
    const Tensor stored = is_decay && side == 0 ? through_decays(values) : as_stored(name, values);
    const bool as_bytes = are_alike_ && offset == 0 && !is_decay && (dtype == DType::F32 || dtype == values.dtype());
    if (side == 0) {
      expected_[{name, part}] = digests_of(stored, dtype, offset, as_bytes, options_.threads);
      return;
    }
    const std::vector<Digest>& expected = expected_.at({name, part});
    const std::vector<Digest> found = digests_of(stored, DType::F32, offset, as_bytes, options_.threads);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const bool is_same = found[i].as_they_are == expected[i].as_they_are;
      check(is_same || found[i].as_they_are == expected[i].stored,
            "{}: values of {} are not those of {}, neither as they are nor rounded to {} ({} to {} of part {})",
            models_[1]->path.string(), name, models_[0]->path.string(), dtype,
            static_cast<std::int64_t>(i) * values_a_digest,
            std::min(values.numel(), (static_cast<std::int64_t>(i) + 1) * values_a_digest), part);
      if (is_same) continue;
      is_exact_ = false;
      tolerance_ = std::max(tolerance_, tolerance_of(dtype));
    }
  }

  /// Whether a format, and the family that a model was written as, has such layers.
  static bool holds_further(const ModelSource& written) {
    const auto family = [&](data::BeyondFormat format) -> const data::Family& {
      return data::family_for(written.config, "conversion", format);
    };
    return written.kind == ModelKind::Checkpoint ||
           (written.kind == ModelKind::HuggingFace && family(data::beyond).traits.predicts) ||
           (written.kind == ModelKind::Gguf && family(data::beyond_gguf).gguf_predicts);
  }

  /// Whether a tensor is of a layer that predicts further tokens, which no logits here are of.
  static bool is_further(const std::string& name) { return name.starts_with("predict."); }

  /// What no part of the model is made of whole.
  void compare_rows(const std::string& name) {
    const Shape shape = models_[0]->reader->tensors().at(name).shape;
    const std::int64_t at_once = rows_at_once(shape.numel() / shape[0]);
    for (std::int64_t first = 0; first < shape[0]; first += at_once) {
      Shape box = shape;
      box[0] = std::min(at_once, shape[0] - first);
      std::vector<std::int64_t> offset(box.extents().size(), 0);
      offset[0] = first;
      on_both([&](int side) {
        core::StateEntry rows{shape, offset, Tensor::empty(memory_, DType::F32, box), true};
        models_[side]->reader->read(name, rows);
        compare(side, name, first, rows.tensor);
      });
    }
  }

  /// A file may have a head that is the embedding once more as that alone.
  std::string head_of(int side) const { return models_[side]->config.tied_head ? "embed.weight" : own_head(); }
  const char* own_head() const { return models_[0]->config.reward_head ? "reward.weight" : "head.weight"; }

  /// Rows whose float32 values take a quarter of what may be in memory at once.
  std::int64_t rows_at_once(std::int64_t columns) const {
    return std::max<std::int64_t>(1, options_.bytes_at_once / 16 / columns);
  }

  nn::ModelOptions part_of_model() const { return {.memory = memory_, .frozen = true}; }

  /// What is large by rows, or by matrices of a stack, on all threads.
  void read_on_threads(const core::StateReader& reader, const std::string& name, core::StateEntry& entry) const {
    const Shape& shape = entry.tensor.shape();
    if (entry.tensor.numel() < values_a_digest) return reader.read(name, entry);
    const DType dtype = entry.tensor.dtype();
    std::byte* const values = entry.tensor.mutable_host_raw();
    const auto owner = std::make_shared<const Tensor>(entry.tensor);
    const std::int64_t of_row = shape.numel() / shape[0];
    const std::int64_t at_once = std::max<std::int64_t>(1, values_a_digest / of_row);
    std::int64_t next = 0;
    data::OrderedWork<std::int64_t, bool> parts;
    parts.read = [&]() -> std::optional<std::int64_t> {
      return next < shape[0] ? std::optional(std::exchange(next, next + at_once)) : std::nullopt;
    };
    parts.work = [&](const std::int64_t first) {
      Shape box = shape;
      box[0] = std::min(at_once, shape[0] - first);
      std::vector<std::int64_t> offset = entry.offset;
      offset[0] += first;
      const auto place = std::make_shared<core::Storage>(memory_, core::bytes_of(dtype, box.numel()),
                                                         values + core::bytes_of(dtype, first * of_row), owner);
      core::StateEntry part{entry.global_shape, offset, Tensor(place, 0, dtype, box), true};
      reader.read(name, part);
      return true;
    };
    parts.write = [](bool&&) {};
    parts.most_cost = 2 * options_.threads;
    parts.run(options_.threads);
  }

  Tensor forward(const nn::Transformer& part, const Tensor* input) {
    core::Tape off(core::Tape::Mode::Off);
    nn::Pass pass = part.pass(batch_);
    pass.routing = &routing_;  // the second side takes the experts that the first one took
    if (input == nullptr) return part.forward(off, pass).hidden.value;
    const core::Var in{*input, nullptr};
    return part.forward(off, pass, &in).hidden.value;
  }

  void embed(int side) {
    nn::ModelConfig config = models_[side]->config;
    const SomeRows rows(*models_[side]->reader, {{"embed.weight", "embed.weight"}}, picked_);
    config.vocabulary = std::ssize(picked_);
    nn::ModelOptions options = part_of_model();
    options.chunks.emplace(1);
    options.with_head = false;
    nn::Transformer part(config, options);
    part.load(rows);
    for (const core::Parameter* p : part.parameters())
      if (p->name != "embed.weight") compare(side, p->name, 0, p->value);
    stream_[side] = forward(part, nullptr);
  }

  void run_layer(int side, std::int64_t layer) {
    const nn::ModelConfig& config = models_[side]->config;
    const core::StateReader& reader = *models_[side]->reader;
    nn::ModelOptions options = part_of_model();
    options.chunks = {core::Slice{layer, 1}};
    options.with_embedding = options.with_head = false;
    const std::string prefix = fmt::format("layers.{}.", layer);
    options.dtype = dtype_of(reader, prefix);
    are_alike_ = dtype_of(*models_[1 - side]->reader, prefix) == options.dtype;
    const std::int64_t turns = turns_of(config, layer, options.dtype);
    const auto experts = std::make_shared<ExpertsInTurns>(turns);
    options.comms = nn::single_communicators();
    options.comms.expert = experts;
    options.place = [&](core::Parameter& p, const core::Cut& cut) {
      const std::int64_t count = p.global_shape[0] / turns;
      if (cut.is_expert) p.placement.push_back({"turn", core::AxisRole::Sharded, 0, 0, count});
    };
    nn::Transformer part(config, options);
    Tensor out;
    for (std::int64_t turn = 0; turn < turns; ++turn) {
      experts->take(turn);
      for (core::Parameter* p : part.parameters()) {
        if (turn > 0 && p->placement.empty()) continue;
        if (!p->placement.empty()) p->placement[0].offset = turn * p->placement[0].length;
        core::StateEntry entry = p->entry(p->value);
        read_on_threads(reader, p->name, entry);
        compare(side, p->name, turn, p->value);
      }
      out = forward(part, &stream_[side]);
    }
    stream_[side] = out;
    are_alike_ = true;
  }

  /// The last norm and the head, rows by rows.
  void finish() {
    const Shape table = models_[0]->reader->tensors().at(head_of(0)).shape;
    for (std::int64_t first = 0; first < table[0]; first += rows_at_once(table[1])) {
      const std::int64_t count = std::min(rows_at_once(table[1]), table[0] - first);
      std::array<std::vector<float>, 2> logits;
      on_both([&](int side) {
        nn::ModelConfig config = models_[side]->config;
        std::map<std::string, std::string> of = {{own_head(), head_of(side)}};
        if (config.head_bias) of["head.bias"] = "head.bias";
        const SomeRows rows(*models_[side]->reader, of, {{first, count}});
        config.tied_head = false;
        config.vocabulary = count;
        nn::ModelOptions options = part_of_model();
        options.chunks.emplace(1);
        options.with_embedding = false;
        nn::Transformer part(config, options);
        part.load(rows);
        for (const core::Parameter* p : part.parameters())
          compare(side, p->name == "head.weight" ? head_of(1) : p->name, first, p->value);
        const core::Var head = config.reward_head ? part.reward_head() : part.head();
        logits[side] = core::host_values<float>(
            core::logits_of(forward(part, &stream_[side]), head.value, part.head_bias().value));
      });
      for (std::size_t i = 0; i < logits[0].size(); ++i) {
        is_finite_ = is_finite_ && std::isfinite(logits[0][i]) && std::isfinite(logits[1][i]);
        largest_ = std::max(largest_, std::abs(static_cast<double>(logits[0][i])));
        difference_ = std::max(difference_, std::abs(static_cast<double>(logits[0][i]) - logits[1][i]));
      }
    }
  }

  /// bfloat16 where the source keeps all matrices of these names so, for half the memory.
  static DType dtype_of(const core::StateReader& reader, const std::string& prefix) {
    for (auto at = reader.tensors().lower_bound(prefix); at != reader.tensors().end() && at->first.starts_with(prefix);
         ++at)
      if (at->second.shape.rank() > 1 && at->second.dtype != DType::BF16) return DType::F32;
    return DType::BF16;
  }

  std::int64_t turns_of(const nn::ModelConfig& config, std::int64_t layer, DType dtype) const {
    if (!config.is_moe_layer(layer)) return 1;
    const std::int64_t experts = config.moe.num_experts;
    const std::int64_t expert_bytes = core::bytes_of(dtype, 3 * config.moe.expert_width * config.width);
    const std::int64_t at_once = std::max<std::int64_t>(1, options_.bytes_at_once / expert_bytes);
    std::int64_t turns = 1;
    while (experts % turns != 0 || experts / turns > at_once) ++turns;
    return turns;
  }

  std::array<const ModelSource*, 2> models_;
  const ConversionCheckOptions& options_;
  core::MemoryPtr memory_;
  std::vector<SomeRows::Run> picked_;  // rows of the tokens
  nn::Batch batch_;
  nn::RoutingLog routing_;
  std::array<Tensor, 2> stream_;
  std::map<std::pair<std::string, std::int64_t>, std::vector<Digest>> expected_;
  bool are_alike_ = true;  // what is read of both is of one dtype
  bool is_exact_ = true, is_finite_ = true;
  double largest_ = 0, difference_ = 0, tolerance_ = 0;
};

}  // namespace

ConversionCheck check_conversion(const ModelSource& source, const ModelSource& written,
                                 const ConversionCheckOptions& options) {
  return Comparison(source, written, options).run();
}

}  // namespace limbeck::launch
