#include "tests/scale/simulated_cluster.h"

#include <bit>

#include <fmt/format.h>
#include <xbt/log.h>

#include "core/error.h"

namespace limbeck::scale {

namespace s4u = simgrid::s4u;

namespace {

int payload = 0;  // SimGrid hands on an address

/// The models, pinned: fluid messages that share links max-min fairly (CM02), whose rates no window of TCP bounds, no
/// factor bends and no acknowledgement lowers.
void pin_models() {
  xbt_log_control_set("xbt_cfg.thresh:warning");  // which would say what is set
  for (const char* setting : {"network/model:CM02", "network/TCP-gamma:0", "network/crosstraffic:0",
                              "network/latency-factor:1", "network/bandwidth-factor:1", "network/weight-S:0",
                              "network/optim:Lazy", "cpu/model:Cas01", "surf/precision:1e-9", "contexts/stack-size:64"})
    s4u::Engine::set_config(setting);
}

/// Both ways of a device's port.
struct Port {
  s4u::Link *out, *in;
};

std::vector<Port> make_ports(s4u::NetZone* zone, const std::string& name, const launch::ClusterLink& link, int count) {
  std::vector<Port> ports;
  for (int device = 0; device < count; ++device) {
    const auto make = [&](const char* way) {
      return zone->create_link(fmt::format("{}_{}_{}", name, way, device), link.gb_s * 1e9)
          ->set_latency(link.latency_us * 1e-6 / 2)
          ->seal();
    };
    ports.push_back({make("out"), make("in")});
  }
  return ports;
}

}  // namespace

SimulatedCluster::SimulatedCluster(const launch::Cluster& cluster, int num_ranks)
    : engine_("scale_study"), ranks_a_node_(static_cast<int>(cluster.devices_a_node)) {
  if (num_ranks < ranks_a_node_ || num_ranks % ranks_a_node_ != 0 || !std::has_single_bit(unsigned(num_ranks)))
    core::fail_usage("{} ranks, expected a power of two that fills nodes of {}", num_ranks, ranks_a_node_);
  pin_models();
  devices_.resize(static_cast<std::size_t>(num_ranks));
  join_devices(cluster);
}

void SimulatedCluster::join_devices(const launch::Cluster& cluster) {
  s4u::NetZone* zone = s4u::create_full_zone("cluster");
  const int count = num_ranks();
  for (int rank = 0; rank < count; ++rank)
    devices_[rank] = zone->create_host(fmt::format("device_{}", rank), cluster.flops(core::DType::BF16))->seal();
  const std::vector<Port> inside = make_ports(zone, "inside", cluster.inside, count);
  const std::vector<Port> between = make_ports(zone, "between", cluster.between, count);
  for (int from = 0; from < count; ++from)
    for (int to = 0; to < count; ++to) {
      if (from == to) continue;
      const auto& ports = from / ranks_a_node_ == to / ranks_a_node_ ? inside : between;
      zone->add_route(devices_[from]->get_netpoint(), devices_[to]->get_netpoint(), nullptr, nullptr,
                      {s4u::LinkInRoute(ports[from].out), s4u::LinkInRoute(ports[to].in)}, /*symmetrical=*/false);
    }
  zone->seal();
}

void SimulatedCluster::start(int rank, const std::vector<const Channel*>& receives, const std::function<void()>& act) {
  const s4u::ActorPtr actor = s4u::Actor::create(fmt::format("rank_{}", rank), devices_[rank], act);
  for (const Channel* channel : receives)
    channel->boxes_[rank]->set_receiver(actor);  // messages go without being asked for
}

double SimulatedCluster::run() {
  engine_.run();
  return s4u::Engine::get_clock();
}

Channel::Channel(const std::string& name, const SimulatedCluster& machines) {
  for (int rank = 0; rank < machines.num_ranks(); ++rank)
    boxes_.push_back(s4u::Mailbox::by_name(fmt::format("{}_{}", name, rank)));
}

s4u::CommPtr Channel::send(int to, double bytes) const {
  return boxes_[to]->put_async(&payload, static_cast<std::uint64_t>(bytes));
}

void Channel::post(int to, double bytes) const {
  boxes_[to]->put_init(&payload, static_cast<std::uint64_t>(bytes))->detach();
}

void Channel::receive(int rank) const { boxes_[rank]->get<int>(); }

}  // namespace limbeck::scale
