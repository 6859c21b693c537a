// Values that are sent together: of parameters of one group of sharers, each rank's shares to all of them.
//
//     ValuePart part(parameters, *group.sharers, ValuePart::Shares::InValues);
//     part.start();
//     ...
//     part.finish();           // the values are whole
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/axes/gradient_groups.h"

namespace limbeck::parallel {

class ValuePart {
 public:
  /// Shares lie in the values, or have memory of their own.
  enum class Shares : bool { InValues, Apart };
  ValuePart(core::ParameterList parameters, WorldComm& sharers, Shares shares);

  /// Shares that lie apart become what they are in those of the values that are there, which are freed; they come back
  /// with finish(), without a change of version.
  void part_from_values();
  /// Of the parameter that counts so here, [length]; undefined where it lies in the value.
  const core::Tensor& share(std::size_t index) const { return shares_.at(index); }
  const core::ParameterList& parameters() const { return parameters_; }

  /// Collective, as finish.
  void start();
  void finish();
  void free_values();

 private:
  core::ParameterList parameters_;
  std::shared_ptr<const std::string> name_;  // of them, for messages
  WorldComm* sharers_;
  std::int64_t longest_;              // bytes that a rank sends, the same from each
  std::vector<core::Tensor> shares_;  // by parameter
  core::Tensor sent_, received_;      // under way
  core::CommHandle handle_;
};

/// Parts of about so many bytes, in order, of what has more sharers than one.
std::vector<ValuePart> make_value_parts(const core::ParameterList& parameters, const GradientGroups& groups,
                                        std::int64_t bytes, ValuePart::Shares shares);

}  // namespace limbeck::parallel
