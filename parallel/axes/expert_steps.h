// One step of tokens' ways to their experts: rows go from each rank of a group to some of its ranks, to each at most
// once; and the transpose, in which what comes back of a row is summed.
//
//     ExpertStep step(group, wanted, memory);                    // agrees with the group's other ranks
//     Tensor there = step.start(x)();                            // [num_rows,...] -> [num_received,...]
//     Tensor sums = step.start_back(there)();                    // [num_received,...] -> [num_rows,...]
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/communicators.h"
#include "core/exchanges_of.h"

namespace limbeck::parallel {

/// What tokens choose, [tokens][choices]: a global expert, -1: none.
struct ExpertChoices {
  std::int64_t num_tokens = 0;
  std::int64_t a_token = 0;
  std::vector<std::int32_t> experts = {};
};

class ExpertStep {
 public:
  /// Row by row to the ranks that `ranks_of_expert` names for its choices (any may be named twice). Collective: what
  /// comes here has told its choices afterwards, by source rank, then in its order there.
  ExpertStep(std::shared_ptr<core::Comm> group, const ExpertChoices& choices,
             const std::vector<std::vector<int>>& ranks_of_expert, const core::MemoryPtr& memory);
  /// Of so many rows, where the numbers are known beforehand; its rows have no values.
  ExpertStep(std::shared_ptr<core::Comm> group, std::int64_t num_rows, std::vector<std::int64_t> send_rows,
             std::vector<std::int64_t> receive_rows, std::int64_t choices, const core::MemoryPtr& memory);

  nn::RowsUnderWay start(const core::Tensor& x) const;
  nn::RowsUnderWay start_back(const core::Tensor& y) const;
  std::int64_t num_received() const { return num_received_; }
  /// Of the rows that come here; without experts where they are not known. Once: they are not kept.
  ExpertChoices take_choices_here() { return std::exchange(choices_here_, {}); }

 private:
  void exchange_numbers();
  void exchange_choices(const ExpertChoices& choices, const std::vector<std::int32_t>& source);

  std::shared_ptr<core::Comm> group_;
  core::Subject of_ = core::ExchangesOf::now();  // the layer's, which the backward does not know
  std::int64_t num_rows_;
  std::vector<std::int64_t> send_rows_, receive_rows_;  // one a rank
  std::int64_t num_sent_ = 0, num_received_ = 0;
  core::Tensor source_;  // [num_sent] int32: the row of each that is sent
  core::Tensor copies_;  // [num_rows, most of one] int32: where a row is among those; -1: nowhere
  ExpertChoices choices_here_;
};

}  // namespace limbeck::parallel
