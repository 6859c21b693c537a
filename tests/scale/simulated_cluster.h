// A cluster (launch/plan/cluster.proto) as SimGrid simulates it: an actor or several on each rank's device, and what
// they send each other.
//
//     SimulatedCluster machines(launch::load_cluster("examples/clusters/h100_cluster.textproto"), 64);
//     Channel channel("rows", machines);
//     for (int rank = 0; rank < 64; ++rank)
//       machines.start(rank, {&channel}, [&, rank] { channel.post(rank ^ 1, 1e6); channel.receive(rank); });
//     const double seconds = machines.run();
//
// Ranks lie node by node. A device has a port inside its node and one between nodes, of which each way is a link that
// its messages share evenly; nothing lies between the ports. A message takes the latency of its kind of port and then
// its bytes by the share. One cluster a process, for SimGrid has one engine.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <simgrid/s4u.hpp>

#include "launch/plan/cluster.h"

namespace limbeck::scale {

class Channel;

class SimulatedCluster {
 public:
  /// As many nodes of the cluster as the ranks need, whatever their number there. Throws a UsageError where num_ranks
  /// is no power of two or fills no whole nodes.
  SimulatedCluster(const launch::Cluster& cluster, int num_ranks);

  int num_ranks() const { return static_cast<int>(devices_.size()); }
  int ranks_a_node() const { return ranks_a_node_; }
  int num_nodes() const { return num_ranks() / ranks_a_node_; }

  /// Has an actor on the rank's device, which alone receives what the channels have for the rank.
  void start(int rank, const std::vector<const Channel*>& receives, const std::function<void()>& act);
  /// Until all actors have ended; seconds.
  double run();

 private:
  void join_devices(const launch::Cluster& cluster);

  simgrid::s4u::Engine engine_;
  int ranks_a_node_;
  std::vector<simgrid::s4u::Host*> devices_;
};

/// Messages of one kind. Those for a rank are told apart by nothing but the order in which they come.
class Channel {
 public:
  Channel(const std::string& name, const SimulatedCluster& machines);

  /// On its way at once; what is given back can be waited for until the message is there.
  simgrid::s4u::CommPtr send(int to, double bytes) const;
  /// The same for who does not ask when it is there.
  void post(int to, double bytes) const;
  /// Blocks until one message more has come for the rank whose actor this is.
  void receive(int rank) const;

 private:
  friend class SimulatedCluster;
  std::vector<simgrid::s4u::Mailbox*> boxes_;  // by receiver
};

/// As long as the device takes for so many operations.
inline void compute(double flops) { simgrid::s4u::this_actor::execute(flops); }

}  // namespace limbeck::scale
