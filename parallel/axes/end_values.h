// The tables at a model's ends, dealt among sharers: whole only while somebody reads them. They come by pieces, so that
// a vocabulary's rows are not there twice.
//
//     EndValues ends(parameters, groups, bytes_at_once);
//     ends.part_from_values();
//     model.set_weights({.ends = &ends});
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/nn/layer_weights.h"
#include "parallel/axes/gradient_groups.h"

namespace limbeck::parallel {

/// Collective, as whoever reads them.
class EndValues final : public nn::EndWeights {
 public:
  /// Those of nn::end_of that are not frozen, of groups which must outlive it, but for what both ends of a pipeline
  /// have: one of them would wait for the other. About `bytes_at_once` travel together.
  EndValues(const core::ParameterList& parameters, const GradientGroups& groups, std::int64_t bytes_at_once);

  /// The values that are there are those to begin with; they are freed.
  void part_from_values();
  /// Likewise of one that has just been filled.
  void filled(core::Parameter& parameter) override;
  /// Where a share lies, [length]; undefined where the parameter is none of these.
  core::Tensor share(const core::Parameter& parameter) const;

  void bring(nn::End end) override;
  void free(nn::End end) override;

 private:
  struct Table {
    core::Parameter* parameter;
    std::shared_ptr<const std::string> name;  // for messages
    WorldComm* sharers;
    core::Tensor share;

    void part_from_value();
  };
  struct Tables {
    std::vector<Table> all;
    std::int64_t uses = 0;  // under way
  };
  /// Of each share the elements from one on, as far as it has them.
  struct Piece {
    std::int64_t first;
    core::Tensor sent, received;
    core::CommHandle handle;
  };
  Tables& at(nn::End end) { return ends_.at(static_cast<std::size_t>(end)); }
  void gather(const Table& table) const;
  static Piece start(const Table& table, std::int64_t first, std::int64_t count);
  static void take(const Table& table, Piece piece);

  std::int64_t bytes_at_once_;
  std::array<Tables, 2> ends_;  // by nn::End
};

}  // namespace limbeck::parallel
