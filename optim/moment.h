// A moving average that an optimizer keeps of each element of a fragment, as it is or in 8 bits.
//
//     Moment mean(fragment, DType::F32, kernels::Block8Map::Signed, Moment::Form::Block8);
//     for (const Moment::Part& part : mean.parts())
//       kernels::block8_decode(device, map, part.blocks, part.length, values + part.offset);
//     mean.add_to(state, "exp_avg");       // in float32 in either form
#pragma once

#include <string>
#include <vector>

#include "core/state_dict.h"
#include "kernels/block8.h"
#include "optim/fragment.h"

namespace limbeck::optim {

class Moment {
 public:
  enum class Form : bool { Plain, Block8 };

  /// Zeros. Plain ones are of `dtype`; in Block8 form, blocks hold what `map` can. They are counted from the fragment's
  /// first element, and in a stack [E,...] from the first of each expert: a cut between experts changes nothing. They
  /// lie in fragment.memory_of_kept().
  Moment(const Fragment& fragment, core::DType dtype, Form form, kernels::Block8Map map = kernels::Block8Map::Signed);

  Form form() const { return form_; }
  /// Plain values [length].
  template <class T>
  T* data() {
    return values_.mutable_data<T>();
  }
  /// In Block8 form: what has blocks of its own, in order.
  struct Part {
    std::int64_t offset;  // elements, from the fragment's first
    std::int64_t length;
    kernels::Block8 blocks;
  };
  std::vector<Part> parts() const;
  /// Bytes that it takes.
  std::int64_t bytes() const { return values_.bytes() + (scales_.defined() ? scales_.bytes() : 0); }

  /// Adds "optimizer/<name>/<moment>", placed as the parameter is. What is kept in 8 bits is saved in float32, which
  /// load() encodes to the same codes again: the layout may change, and with it where blocks begin. Throws where the
  /// fragment is no box of the parameter.
  void add_to(core::StateDict& state, const std::string& moment) const;
  void load(const core::StateReader& reader, const std::string& moment);
  /// Tells f of all that it keeps, in Block8 form also of the scales.
  void for_each_kept(const KeptOf& f) const;

 private:
  core::Tensor decoded() const;
  std::string entry_name(const std::string& moment) const;

  Fragment fragment_;
  Form form_;
  kernels::Block8Map map_;
  std::int64_t num_parts_ = 1;
  std::int64_t part_length_;
  core::Tensor values_;  // of the fragment's shape; or codes
  core::Tensor scales_;  // of blocks of codes
};

}  // namespace limbeck::optim
