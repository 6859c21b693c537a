#include "core/nn/host_layers.h"

#include <memory>
#include <variant>

namespace limbeck::nn {

using core::Tensor;

HostLayers::HostLayers(const core::ParameterList& parameters, const core::MemoryPtr& memory) {
  for (core::Parameter* p : parameters) {
    const std::optional<std::int64_t> layer = layer_of(*p);
    if (!layer || p->value.memory() == memory) continue;
    const auto at = static_cast<std::size_t>(*layer);
    if (at >= layers_.size()) layers_.resize(at + 1);
    const Tensor there = p->value.storage()->is_lent() ? p->value.clone() : p->value;
    bytes_ += there.bytes();
    p->value = Tensor(std::make_shared<core::Storage>(memory, there.bytes(), nullptr, nullptr), 0, there.dtype(),
                      there.shape());
    layers_[at].push_back({p->value, there});
  }
  if (!memory->is_imagined())
    copies_ = std::visit([](const auto& device) { return kernels::make_copy_queue(device); }, memory->device());
  begin(layers_.size(), Stand::Freed);
}

// Its memory may have been that of kernels which are still queued.
void HostLayers::start(std::size_t layer) {
  if (under_way_) free(*under_way_);  // nobody ran it: two at once are all there is room for
  under_way_ = layer;
  for (const Value& value : layers_[layer]) value.here.storage()->refill();
  if (!copies_) return;
  copies_->follow_device();
  for (const Value& value : layers_[layer])
    copies_->upload(value.there.raw(), value.here.storage()->refill(), value.there.bytes());
}

void HostLayers::finish(std::size_t) {
  under_way_.reset();
  if (copies_) copies_->hold_device();
}

void HostLayers::let_go(std::size_t layer) {
  for (const Value& value : layers_[layer]) value.here.storage()->release();
}

}  // namespace limbeck::nn
