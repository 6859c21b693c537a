#include "launch/plan/cluster.h"

#include <google/protobuf/text_format.h>

#include <cmath>
#include <limits>
#include <set>

#include "core/error.h"
#include "data/files/mapped_file.h"
#include "launch/config/config_text.h"
#include "launch/plan/cluster.pb.h"

namespace limbeck::launch {
namespace {

using core::fail_usage;

/// Numbers of a cluster file, each named in messages.
class Numbers {
 public:
  explicit Numbers(std::string file) : file_(std::move(file)) {}

  double at_least(const char* field, double value, double least) const {
    if (!(value >= least) || !std::isfinite(value))
      fail_usage("{}: {} is {}, expected {} or more", file_, field, value, least);
    return value;
  }
  double above_zero(const char* field, double value) const {
    if (!(value > 0) || !std::isfinite(value))
      fail_usage("{}: {} is {}, expected a number above 0", file_, field, value);
    return value;
  }
  ClusterLink link(const char* field, const plan::Link& link) const {
    ClusterLink result{.gb_s = above_zero(fmt::format("{}.gb_s", field).c_str(), link.gb_s())};
    if (link.has_latency_us())
      result.latency_us = at_least(fmt::format("{}.latency_us", field).c_str(), link.latency_us(), 0);
    return result;
  }

 private:
  std::string file_;
};

plan::Cluster parsed(const std::string& text, const std::string& file) {
  plan::Cluster message;
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  if (!parser.ParseFromString(text, &message))
    fail_usage("{}:{}:{}: {}", file, error.line + 1, error.column + 1, in_our_words(error));
  return message;
}

}  // namespace

Cluster load_cluster(const std::filesystem::path& path) {
  const plan::Cluster m = parsed(std::string(data::MappedFile(path.string()).text()), path.string());
  const Numbers numbers(path.string());
  const plan::Device& d = m.device();
  Cluster c;
  c.name = m.has_name() ? m.name() : path.stem().string();
  if (m.has_nodes()) c.nodes = std::llround(numbers.at_least("nodes", static_cast<double>(m.nodes()), 1));
  if (m.has_devices_a_node())
    c.devices_a_node = std::llround(numbers.at_least("devices_a_node", static_cast<double>(m.devices_a_node()), 1));
  c.device = d.has_name() ? d.name() : "device";
  c.is_gpu = d.is_gpu();
  c.memory_gib = numbers.above_zero("device.memory_gib", d.memory_gib());
  c.float32_tflops = numbers.above_zero("device.float32_tflops", d.float32_tflops());
  c.bfloat16_tflops = numbers.at_least("device.bfloat16_tflops", d.bfloat16_tflops(), 0);
  c.memory_gb_s = numbers.above_zero("device.memory_gb_s", d.memory_gb_s());
  c.watts = numbers.at_least("device.watts", d.watts(), 0);
  if (c.devices_a_node > 1 || m.has_inside()) c.inside = numbers.link("inside", m.inside());
  if (c.nodes > 1 || m.has_between()) c.between = numbers.link("between", m.between());
  c.watts_a_node = numbers.at_least("watts_a_node", m.watts_a_node(), 0);
  if (m.has_watts_factor()) c.watts_factor = numbers.at_least("watts_factor", m.watts_factor(), 1);
  c.device_hour = numbers.at_least("price.device_hour", m.price().device_hour(), 0);
  c.kwh = numbers.at_least("price.kwh", m.price().kwh(), 0);
  if (m.price().has_currency()) c.currency = m.price().currency();
  return c;
}

const ClusterLink& Cluster::link_of(std::span<const int> ranks) const {
  std::set<std::int64_t> on;
  for (const int rank : ranks) on.insert(rank / devices_a_node);
  return on.size() > 1 ? between : inside;
}

double Cluster::flops(core::DType compute) const {
  if (compute != core::DType::BF16) return float32_tflops * 1e12 / (compute == core::DType::F64 ? 2 : 1);
  if (bfloat16_tflops == 0)
    fail_usage("{}: device.bfloat16_tflops is not given, expected it for a run that computes in bfloat16", name);
  return bfloat16_tflops * 1e12;
}

core::ImaginedDevice Cluster::imagined() const {
  constexpr std::int64_t logits_bytes_of_a_gpu = std::int64_t{512} << 20;  // kernels/cuda/cuda.h
  return {.has_queue = is_gpu, .logits_bytes = is_gpu ? logits_bytes_of_a_gpu : 0};
}

double Cluster::watts_of(std::int64_t ranks) const {
  const std::int64_t on = (ranks + devices_a_node - 1) / devices_a_node;
  return watts_factor * (static_cast<double>(ranks) * watts + static_cast<double>(on) * watts_a_node);
}

}  // namespace limbeck::launch
