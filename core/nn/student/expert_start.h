// Starting a student from a teacher with experts: with fewer of them, or with dense feed-forwards in their place.
//
//     const ExpertGroups groups = experts_to_keep(use, 4, by_routed_norm(use));     // of one layer
//     FewerExperts pruned(teacher_reader, config, {groups, ...} /*a layer*/, 2);
//     DenseFromExperts dense(teacher_reader, config, mixtures_of(use, 2) /*a layer*/);
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/nn/model_config.h"
#include "core/nn/student/expert_measures.h"
#include "core/state_dict.h"

namespace limbeck::nn {

/// A number times an expert of the source.
struct ExpertShare {
  std::int64_t expert = 0;
  double share = 1;
};
/// An expert of the result: the sum of shares of the source's. The first gives it its row of the router.
using ExpertGroup = std::vector<ExpertShare>;

/// The `keep` experts of greatest score, by index; ties keep the lower one.
std::vector<std::int64_t> best_experts(std::span<const double> scores, std::int64_t keep);
/// Those as they are.
std::vector<ExpertGroup> pruned_experts(std::span<const double> scores, std::int64_t keep);
/// M-SMoE's groups (Li et al. 2023, arXiv 2310.01334): the `keep` experts of greatest load lead, each of the others
/// goes to the leader most like it (ExpertUse::similarity; ties to the lower one), and a group is its mean by load,
/// which is its leader where nothing was routed to any.
std::vector<ExpertGroup> merged_experts(const ExpertUse& use, std::int64_t keep);

/// The architecture with so many experts, of which at most `experts_per_token` are a token's (0: the source's), and
/// without layers that predict. Throws a UsageError where there are no experts, or these are of groups.
ModelConfig fewer_experts_config(const ModelConfig& config, std::int64_t keep, std::int64_t experts_per_token,
                                 const std::string& where);

/// The source with its experts regrouped, layer by layer. Exact where weights are renormalised, or scores sigmoids, and
/// what was dropped was no token's; or where what was merged was alike and chosen by none but its leader.
class FewerExperts final : public core::StateReader {
 public:
  /// `groups` has those of each layer, equally many; none for a dense one.
  FewerExperts(const core::StateReader& source, std::vector<std::vector<ExpertGroup>> groups);
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  const core::StateReader& source_;
  std::vector<std::vector<ExpertGroup>> groups_;
  std::map<std::string, core::StateInfo> tensors_;
};

/// What stands side by side in a dense feed-forward: experts, whose outputs are times their shares.
struct DenseMixture {
  std::vector<ExpertShare> experts;
  double shared = 1;  // of the shared experts' output, which come first, where there are some
};

/// The `keep` experts of greatest weight, in the source's order, whose shares are their parts of the mean weight of a
/// token's experts together. With equal experts this is exact. (Of "knowledge gathering", Xue et al. 2022, arXiv
/// 2201.10890, section 3.2, this is the top-K one, with what the experts' weights were in place of a second network.)
DenseMixture dense_mixture(const ExpertUse& use, std::int64_t keep, bool has_shared_gate);

/// The architecture with dense feed-forwards of shared and `keep` experts side by side, and without layers that
/// predict. Throws a UsageError where there are no experts, they have biases, or dense layers are of another width.
ModelConfig dense_from_experts_config(const ModelConfig& config, std::int64_t keep, const std::string& where);

/// The source with each mixture dense. Exact where every token's experts are all that is kept, with one weight each.
class DenseFromExperts final : public core::StateReader {
 public:
  /// `mixtures` has one of each layer, of equally many experts; of a dense layer none.
  DenseFromExperts(const core::StateReader& source, const ModelConfig& config, std::vector<DenseMixture> mixtures);
  std::string source() const override { return source_.source(); }
  const std::map<std::string, core::StateInfo>& tensors() const override { return tensors_; }

 private:
  void fill(const std::string& name, const core::StateInfo& info, core::StateEntry& entry) const override;

  const core::StateReader& source_;
  ModelConfig config_;
  std::vector<DenseMixture> mixtures_;
  std::map<std::string, core::StateInfo> tensors_;
};

}  // namespace limbeck::nn
