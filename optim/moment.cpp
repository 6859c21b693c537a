#include "optim/moment.h"

#include <fmt/format.h>

namespace limbeck::optim {

using core::DType;
using core::Tensor;

Moment::Moment(const Fragment& fragment, DType dtype, Form form, kernels::Block8Map map)
    : fragment_(fragment), form_(form), map_(map) {
  const core::Shape shape = fragment.shape();
  const core::MemoryPtr& memory = fragment.memory_of_kept();
  values_ = Tensor::zeros(memory, form == Form::Block8 ? DType::U8 : dtype, shape);
  if (shape.rank() == 3) num_parts_ = shape[0];
  part_length_ = shape.rank() == 3 ? shape[1] * shape[2] : fragment.length;
  if (form == Form::Block8)
    scales_ = Tensor::zeros(memory, DType::F32, {num_parts_ * kernels::block8_count(part_length_)});
}

std::vector<Moment::Part> Moment::parts() const {
  Tensor codes = values_, scales = scales_;  // the same storage
  std::vector<Part> parts;
  for (std::int64_t i = 0; i < num_parts_; ++i)
    parts.push_back({i * part_length_,
                     part_length_,
                     {codes.mutable_data<std::uint8_t>() + i * part_length_,
                      scales.mutable_data<float>() + i * kernels::block8_count(part_length_)}});
  return parts;
}

std::string Moment::entry_name(const std::string& moment) const {
  return fmt::format("optimizer/{}/{}", fragment_.parameter->name, moment);
}

Tensor Moment::decoded() const {
  Tensor wide = Tensor::empty(fragment_.parameter->value.memory(), DType::F32, values_.shape());
  core::on_device(wide, [&](const auto& device) {
    for (const Part& part : parts())
      kernels::block8_decode(device, map_, part.blocks, part.length, wide.mutable_data<float>() + part.offset);
  });
  return wide;
}

void Moment::add_to(core::StateDict& state, const std::string& moment) const {
  core::StateEntry entry = fragment_.entry(values_);
  if (form_ == Form::Block8) {
    entry.tensor = core::outline(values_, DType::F32);
    entry.make = [this] { return decoded(); };
  } else if (fragment_.is_offloaded()) {
    entry.make = [this] {
      fragment_.wait_for_kernels();
      return values_;
    };
  }
  state[entry_name(moment)] = std::move(entry);
}

void Moment::for_each_kept(const KeptOf& f) const {
  const core::Shape& whole = fragment_.parameter->value.shape();
  f(fragment_, values_, whole);
  if (form_ == Form::Block8)
    f(fragment_, scales_, {whole.rank() == 3 ? whole[0] : 1, kernels::block8_count(part_length_), 1});
}

void Moment::load(const core::StateReader& reader, const std::string& moment) {
  core::StateEntry entry = fragment_.entry(values_);
  if (form_ == Form::Block8)
    entry.tensor = Tensor::empty(fragment_.parameter->value.memory(), DType::F32, values_.shape());
  else
    fragment_.wait_for_kernels();
  reader.read(entry_name(moment), entry);
  if (form_ == Form::Plain) return;
  core::on_device(entry.tensor, [&](const auto& device) {
    for (const Part& part : parts())
      kernels::block8_encode(device, map_, entry.tensor.data<float>() + part.offset, part.length, part.blocks);
  });
}

}  // namespace limbeck::optim
