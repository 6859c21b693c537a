// What a rank owns: its memory, its place in the mesh, its communicators. Nothing of it is global, so N ranks can be N
// threads of one process.
#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/communicators.h"
#include "core/device/memory.h"
#include "core/nn/cut_batch.h"
#include "core/nn/transformer.h"
#include "launch/config/config.h"
#include "parallel/axes/mesh.h"
#include "parallel/comm/world.h"

namespace limbeck::launch {

class TeacherRanks;

class Rank {
 public:
  /// Collective over `world`: cuts it as `layout` says ("ep2"). With `sequence_parallel`, the ranks of a tensor group
  /// divide the tokens of sharded models among them. `memory`: where its models lie, if not in a CPU's of so many
  /// threads; on a GPU the groups make their first collectives here (warm_up.h).
  Rank(std::shared_ptr<parallel::WorldComm> world, const std::string& layout, int threads,
       bool sequence_parallel = false, core::MemoryPtr memory = nullptr,
       parallel::ExpertExchange exchange = parallel::ExpertExchange::Auto);
  /// Collective over the ranks of `other`: this one of them with its memory, in a mesh of another layout with groups of
  /// its own, for a frozen model.
  Rank(const Rank& other, const std::string& layout, parallel::ExpertExchange exchange);

  core::Comm& world() const { return *world_; }
  const parallel::Mesh& mesh() const { return *mesh_; }
  const nn::Communicators& comms() const { return comms_; }
  nn::PipelineComm& pipeline() const { return *pipeline_; }
  const core::MemoryPtr& memory() const { return memory_; }
  /// For what the host alone reads and writes.
  core::MemoryPtr host_memory() const { return memory_->host(); }
  /// Why what lies on GPUs goes to other ranks by way of the host's memory, which is slower; "" where it does not.
  const std::string& why_by_way_of_the_host() const { return why_by_way_of_the_host_; }
  bool is_first() const { return world_->rank() == 0; }
  /// The way to the teacher's ranks, where this is one of the student's and the teacher has some; else null.
  const TeacherRanks* teacher_ranks() const { return teacher_ranks_; }
  void reach_teacher(const TeacherRanks& ranks) { teacher_ranks_ = &ranks; }
  /// This rank in the mesh of a teacher that the same ranks cut by another layout; null: there is none such.
  Rank* teacher_side() const { return teacher_side_; }
  void set_teacher_side(Rank& side) { teacher_side_ = &side; }
  /// Of the whole run.
  int num_processes() const;
  /// Among the ranks whose data come first: the tensor group of the first rank.
  bool has_first_data() const { return mesh_->data().rank() == 0; }
  /// Of a pipeline, where hidden states become losses. Without one that is every rank.
  bool is_last_stage() const { return pipeline_->rank() + 1 == pipeline_->size(); }
  /// Which tokens of its sequences a rank takes, where a step, or what is measured in a run, cuts them (cp).
  nn::ContextPlace context_place() const { return {comms_.context->rank(), comms_.context->size()}; }

  /// Options of a model that is cut over the mesh.
  nn::ModelOptions sharded(core::DType dtype) const;
  /// Options of a frozen model that every tensor group holds whole, cut over its ranks, and that exchanges nothing
  /// else.
  nn::ModelOptions frozen_copy(core::DType dtype) const;
  /// The same in float32, but for matrices that its source lends as it keeps them (StateReader::lend).
  nn::ModelOptions frozen_as_kept() const;
  /// Of one whose experts are cut over the mesh too: its passes are collective, as a sharded model's.
  nn::ModelOptions frozen_shard(core::DType dtype) const;

 private:
  core::MemoryPtr memory_;
  std::shared_ptr<parallel::WorldComm> world_;
  std::unique_ptr<parallel::Mesh> mesh_;
  nn::Communicators comms_;
  std::shared_ptr<nn::PipelineComm> pipeline_;
  bool sequence_parallel_;
  const TeacherRanks* teacher_ranks_ = nullptr;
  Rank* teacher_side_ = nullptr;
  std::string why_by_way_of_the_host_;
};

parallel::ExpertExchange expert_exchange_of(const ParallelConfig& config);

/// Runs f with the world that the launcher started (a world of one without it). Throws where the ranks' programs,
/// configs or `command` (the options that are none of the config's: "steps: 20\n", a line each) differ. The other ranks
/// hear what f throws, in its own words; it is thrown on.
void with_world(const RunConfig& config, const std::string& command,
                const std::function<void(const std::shared_ptr<parallel::WorldComm>&)>& f);

/// The same on a rank of that world, which is cut as the config says, or along `axis` where it names no layout.
void in_world(const RunConfig& config, const std::string& command, const std::function<void(Rank&)>& f,
              const char* axis = "dp");

/// The same where the teacher may have ranks of its own: f runs on the student's, `serve` on those, until f is done. With
/// parallel.teacher_layout alone f runs on all, each of which has a teacher_side().
void in_world(const RunConfig& config, const std::string& command, const std::function<void(Rank&)>& f,
              const std::function<void(Rank&, const TeacherRanks&)>& serve);

/// The same in a world that is there, such as one of threads, with nothing compared. Collective over `world`. `thread`:
/// which of this process's ranks it is, where they are threads; it takes a GPU by that (devices.h).
void in_world(const std::shared_ptr<parallel::WorldComm>& world, const RunConfig& config,
              const std::function<void(Rank&)>& f, const std::function<void(Rank&, const TeacherRanks&)>& serve,
              int thread = 0);

/// Collective: a string of every rank, in rank order, on every rank.
std::vector<std::string> gather_strings(Rank& rank, const std::string& mine);

/// Collective: whether any rank was asked to stop (stop_flag.h); stop_if_asked throws Stopped then, on every rank. The
/// `numbers`, if there are some, become the greatest of any rank's on the same way.
bool stop_is_agreed(Rank& rank, std::initializer_list<std::span<std::int64_t>> numbers = {});
void stop_if_asked(Rank& rank);

/// Collective: every rank does `work`, some perhaps much longer than others, which hear meanwhile that somebody is at
/// it: parallel.deadline_s does not count, unless a rank stops altogether. It may not use the world. What it throws on
/// one rank is that rank's own, as anywhere.
void while_others_hear(Rank& rank, const std::function<void()>& work);

/// The same, but what it throws on the first rank that fails, every rank throws: all are where they were before it.
void on_every_rank(Rank& rank, const std::function<void()>& work);

/// Collective: the first rank does `work` while the others hear from it. What it throws, every rank throws. A signal
/// that asks any of them to stop (stop_flag.h) is one to the first rank meanwhile.
void on_first_rank(Rank& rank, const std::function<void()>& work);

}  // namespace limbeck::launch
