#include "launch/plan/cluster.h"

#include <google/protobuf/text_format.h>

#include <set>
#include <sstream>

#include "core/error.h"
#include "data/files/atomic_file.h"
#include "data/files/mapped_file.h"
#include "kernels/cpu.h"
#include "kernels/cuda/cuda.h"  // what its kernels are like, without CUDA
#include "launch/config/config_text.h"
#include "launch/plan/cluster.pb.h"

namespace limbeck::launch {
namespace {

using core::fail_usage;

constexpr std::int64_t most_of_a_kind = 1'000'000;   // nodes, devices of each: their product and its bytes are numbers
constexpr double least_rate = 1e-6, greatest = 1e9;  // so that what is divided by a rate stays finite

/// Numbers of a cluster file, each named in messages.
class Numbers {
 public:
  explicit Numbers(std::string file) : file_(std::move(file)) {}

  template <class T>
  T within(const std::string& field, T value, T least, T most) const {
    if (!(value >= least && value <= most))
      fail_usage("{}: {} is {}, expected {} to {}", file_, field, value, least, most);
    return value;
  }
  std::int64_t count(const char* field, std::int64_t value) const {
    return within<std::int64_t>(field, value, 1, most_of_a_kind);
  }
  double rate(const std::string& field, double value) const { return within(field, value, least_rate, greatest); }
  double amount(const std::string& field, double value) const { return within(field, value, 0.0, greatest); }
  ClusterLink link(const std::string& field, const plan::Link& link) const {
    ClusterLink result{.gb_s = rate(field + ".gb_s", link.gb_s())};
    if (link.has_latency_us()) result.latency_us = amount(field + ".latency_us", link.latency_us());
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
  if (m.has_nodes()) c.nodes = numbers.count("nodes", m.nodes());
  if (m.has_devices_a_node()) c.devices_a_node = numbers.count("devices_a_node", m.devices_a_node());
  c.device = d.has_name() ? d.name() : "device";
  c.is_gpu = d.is_gpu();
  c.memory_gib = numbers.rate("device.memory_gib", d.memory_gib());
  c.float32_tflops = numbers.rate("device.float32_tflops", d.float32_tflops());
  if (d.has_bfloat16_tflops()) c.bfloat16_tflops = numbers.rate("device.bfloat16_tflops", d.bfloat16_tflops());
  c.memory_gb_s = numbers.rate("device.memory_gb_s", d.memory_gb_s());
  c.watts = numbers.amount("device.watts", d.watts());
  if (d.has_kernel_gb_s()) c.kernel_gb_s = numbers.rate("device.kernel_gb_s", d.kernel_gb_s());
  if (d.has_threads()) c.threads = numbers.count("device.threads", d.threads());
  if (c.devices_a_node > 1 || m.has_inside()) c.inside = numbers.link("inside", m.inside());
  if (c.nodes > 1 || m.has_between()) c.between = numbers.link("between", m.between());
  if (m.has_bus()) c.bus = numbers.link("bus", m.bus());
  c.watts_a_node = numbers.amount("watts_a_node", m.watts_a_node());
  if (m.has_watts_factor()) c.watts_factor = numbers.within("watts_factor", m.watts_factor(), 1.0, 1000.0);
  c.device_hour = numbers.amount("price.device_hour", m.price().device_hour());
  c.kwh = numbers.amount("price.kwh", m.price().kwh());
  if (m.price().has_currency()) c.currency = m.price().currency();
  return c;
}

namespace {

plan::Link message_of(const ClusterLink& link) {
  plan::Link message;
  message.set_gb_s(link.gb_s);
  message.set_latency_us(link.latency_us);
  return message;
}

/// Without what is 0 and so has no place in a file.
plan::Cluster message_of(const Cluster& c) {
  plan::Cluster m;
  if (!c.name.empty()) m.set_name(c.name);
  m.set_nodes(c.nodes);
  m.set_devices_a_node(c.devices_a_node);
  plan::Device& d = *m.mutable_device();
  if (!c.device.empty()) d.set_name(c.device);
  if (c.is_gpu) d.set_is_gpu(true);
  d.set_memory_gib(c.memory_gib);
  d.set_float32_tflops(c.float32_tflops);
  if (c.bfloat16_tflops > 0) d.set_bfloat16_tflops(c.bfloat16_tflops);
  d.set_memory_gb_s(c.memory_gb_s);
  if (c.kernel_gb_s > 0) d.set_kernel_gb_s(c.kernel_gb_s);
  if (c.threads > 0) d.set_threads(c.threads);
  if (c.watts > 0) d.set_watts(c.watts);
  if (c.inside.gb_s > 0) *m.mutable_inside() = message_of(c.inside);
  if (c.between.gb_s > 0) *m.mutable_between() = message_of(c.between);
  if (c.bus.gb_s > 0) *m.mutable_bus() = message_of(c.bus);
  if (c.watts_a_node > 0) m.set_watts_a_node(c.watts_a_node);
  if (c.watts_factor > 1) m.set_watts_factor(c.watts_factor);
  if (c.device_hour > 0) m.mutable_price()->set_device_hour(c.device_hour);
  if (c.kwh > 0) m.mutable_price()->set_kwh(c.kwh);
  if (m.has_price()) m.mutable_price()->set_currency(c.currency);
  return m;
}

}  // namespace

void save_cluster(const std::filesystem::path& path, const Cluster& cluster, const std::string& comment) {
  std::string text, commented;
  core::check(google::protobuf::TextFormat::PrintToString(message_of(cluster), &text), "{}: cannot be printed",
              path.string());
  std::istringstream lines(comment);
  for (std::string line; std::getline(lines, line);) commented += "# " + line + "\n";
  if (path.has_parent_path()) data::make_folder(path.parent_path());
  data::write_file_atomically(path, commented + text);
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
  return {.has_queue = is_gpu, .logits_bytes = is_gpu ? kernels::Cuda::logits_bytes : kernels::Cpu::logits_bytes};
}

double Cluster::watts_of(std::int64_t ranks) const {
  const std::int64_t on = (ranks + devices_a_node - 1) / devices_a_node;
  return watts_factor * (static_cast<double>(ranks) * watts + static_cast<double>(on) * watts_a_node);
}

}  // namespace limbeck::launch
