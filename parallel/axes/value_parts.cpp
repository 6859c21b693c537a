#include "parallel/axes/value_parts.h"

#include <array>
#include <utility>

#include "core/exchanges_of.h"
#include "parallel/axes/packed_shares.h"

namespace limbeck::parallel {

using core::Parameter;
using core::Slice;
using core::Tensor;

ValuePart::ValuePart(core::ParameterList parameters, WorldComm& sharers, Shares shares)
    : parameters_(std::move(parameters)),
      name_(core::name_of_many(parameters_.front()->name, parameters_.size())),
      sharers_(&sharers),
      longest_(longest_shares(parameters_, {}, sharers.size())),
      shares_(parameters_.size()) {
  if (shares == Shares::InValues) return;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& value = parameters_[i]->value;
    const Slice own = core::share_of(value.shape(), sharers.rank(), sharers.size());
    shares_[i] = Tensor::empty(value.memory(), value.dtype(), {own.count});
  }
}

void ValuePart::part_from_values() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor& value = parameters_[i]->value;
    if (value.storage()->is_empty()) continue;
    const Slice share = core::share_of(value.shape(), sharers_->rank(), sharers_->size());
    shares_[i].copy_from(value.reshape({value.numel()}).rows(share.first, share.count));
  }
  free_values();
}

void ValuePart::free_values() {
  for (const Parameter* p : parameters_) p->value.storage()->release();
}

void ValuePart::start() {
  const core::MemoryPtr& memory = parameters_.front()->value.memory();
  sent_ = Tensor::empty(memory, core::DType::U8, {longest_});
  received_ = Tensor::empty(memory, core::DType::U8, {sharers_->size(), longest_});
  core::on_device(sent_, [&](const auto& device) {
    for_each_share(parameters_, {}, sharers_->rank(), sharers_->size(),
                   [&](std::size_t i, const Slice& share, std::int64_t at) {
                     const Tensor& value = parameters_[i]->value;
                     const std::int64_t first = core::bytes_of(value.dtype(), share.first);
                     kernels::copy_bytes(device, shares_[i].defined() ? shares_[i].raw() : value.raw() + first,
                                         sent_.mutable_raw() + at, core::bytes_of(value.dtype(), share.count));
                   });
  });
  const core::ExchangesOf scope("values of", name_);
  handle_ = sharers_->all_gather_async(sent_, received_);
}

void ValuePart::finish() {
  handle_.wait();
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (const Tensor& value = parameters_[i]->value; shares_[i].defined() && value.bytes() > 0)
      value.storage()->refill();
  core::on_device(received_, [&](const auto& device) {
    for (int r = 0; r < sharers_->size(); ++r)
      for_each_share(parameters_, {}, r, sharers_->size(), [&](std::size_t i, const Slice& share, std::int64_t at) {
        Tensor& value = parameters_[i]->value;
        const bool is_apart = shares_[i].defined();
        if (!is_apart && r == sharers_->rank()) return;
        auto* to = static_cast<std::byte*>(is_apart ? value.storage()->refill() : value.storage()->mutable_data());
        kernels::copy_bytes(device, received_.raw() + r * longest_ + at,
                            to + value.byte_offset() + core::bytes_of(value.dtype(), share.first),
                            core::bytes_of(value.dtype(), share.count));
      });
  });
  sent_ = {};
  received_ = {};
}

std::vector<ValuePart> make_value_parts(const core::ParameterList& parameters, const GradientGroups& groups,
                                        std::int64_t bytes, ValuePart::Shares shares) {
  struct Open {
    core::ParameterList parameters;
    std::int64_t bytes = 0;
  };
  std::array<Open, GradientGroups::count> open;
  std::vector<ValuePart> parts;
  const auto close = [&](std::size_t index) {
    parts.emplace_back(std::exchange(open[index], {}).parameters, *groups[index].sharers, shares);
  };
  for (Parameter* p : parameters) {
    const std::size_t index = groups.index_of(*p);
    if (p->is_frozen() || groups[index].sharers->size() == 1) continue;
    open[index].parameters.push_back(p);
    open[index].bytes += p->value.bytes();
    if (open[index].bytes >= bytes) close(index);
  }
  for (std::size_t index = 0; index < open.size(); ++index)
    if (!open[index].parameters.empty()) close(index);
  return parts;
}

}  // namespace limbeck::parallel
