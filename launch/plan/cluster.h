// What a run is planned on (launch/plan/cluster.proto has the fields).
//
//     const Cluster cluster = load_cluster("examples/clusters/h100_node.textproto");
//     cluster.link_of({0, 8}).gb_s;                      // ranks of two nodes
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "core/device/memory.h"
#include "core/dtype.h"

namespace limbeck::launch {

inline constexpr double joules_a_kwh = 3.6e6;

struct ClusterLink {
  double gb_s = 0;        // each way, of one device
  double latency_us = 5;  // of an exchange between two
};

struct Cluster {
  std::string name = {};
  std::int64_t nodes = 1;
  std::int64_t devices_a_node = 1;
  std::string device = {};
  bool is_gpu = false;
  double memory_gib = 0;
  double float32_tflops = 0;
  double bfloat16_tflops = 0;
  double memory_gb_s = 0;
  double kernel_gb_s = 0;    // of tensors, by kernels that are no products; 0: memory_gb_s
  std::int64_t threads = 0;  // of a rank, whose rates they are; 0: not known
  double watts = 0;          // 0: not known
  ClusterLink inside = {}, between = {};
  ClusterLink bus = {};  // of a GPU to its host's memory; of 0 GB/s: not known
  double watts_a_node = 0;
  double watts_factor = 1;
  double device_hour = 0;  // 0: not known
  double kwh = 0;
  std::string currency = "USD";

  std::int64_t num_devices() const { return nodes * devices_a_node; }
  /// Of ranks that lie node by node, the link that an exchange among these goes through at its slowest.
  const ClusterLink& link_of(std::span<const int> ranks) const;
  /// `bus`, or as of PCIe 4.0 of 16 lanes: 16 GT/s a lane, of 130 bits 128 of data (PCI Express Base Specification
  /// 4.0), 31.5 GB/s each way, of which four fifths are taken to be reached.
  ClusterLink host_bus() const { return bus.gb_s > 0 ? bus : ClusterLink{.gb_s = 25}; }
  /// FLOP/s of products. Throws a UsageError where the file does not say it.
  double flops(core::DType compute) const;
  /// Bytes/s of kernels that are no products, over tensors.
  double kernel_rate() const { return (kernel_gb_s > 0 ? kernel_gb_s : memory_gb_s) * 1e9; }
  double memory_bytes() const { return memory_gib * (1LL << 30); }
  bool holds(std::int64_t bytes) const { return static_cast<double>(bytes) <= memory_bytes(); }
  core::ImaginedDevice imagined() const;
  /// W of the machines that so many ranks are on, with what a site takes beside; 0: not known.
  double watts_of(std::int64_t ranks) const;
  /// By that power; 0 where a device's is not known.
  double joules_of(std::int64_t ranks, double seconds) const { return watts > 0 ? watts_of(ranks) * seconds : 0; }
  /// Of so many ranks' devices for so long, and of energy; 0: not known.
  double price_of(std::int64_t ranks, double seconds, double kwh_taken) const {
    return static_cast<double>(ranks) * seconds / 3600 * device_hour + kwh_taken * kwh;
  }
};

/// Throws a UsageError with the place of the first mistake, or that names the field which is missing or out of range.
Cluster load_cluster(const std::filesystem::path& path);

/// A file that load_cluster reads as the same, behind `comment`, which may have lines. Folders on the way are made.
void save_cluster(const std::filesystem::path& path, const Cluster& cluster, const std::string& comment);

}  // namespace limbeck::launch
