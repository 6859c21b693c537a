#include "core/ops/made_form.h"

#include <algorithm>

namespace limbeck::core {

Storage::Made* find_made(const Tensor& weight, Form form) {
  std::vector<Storage::Made>& made = weight.storage()->made();
  const auto it = std::ranges::find_if(made, [&](const Storage::Made& m) {
    return m.kind == static_cast<int>(form) && m.byte_offset == weight.byte_offset() && m.shape == weight.shape();
  });
  return it == made.end() ? nullptr : &*it;
}

Storage::Made& made_of(const Tensor& weight, Form form) {
  Storage::Made* made = find_made(weight, form);
  if (made == nullptr)
    made = &weight.storage()->made().emplace_back(Storage::Made{
        .kind = static_cast<int>(form), .byte_offset = weight.byte_offset(), .shape = weight.shape(), .storage = {}});
  if (made->version != weight.version()) {
    made->storage = nullptr;
    made->wanted = 0;
    made->version = weight.version();
  }
  return *made;
}

void forget_made(const Tensor& weight) {
  std::erase_if(weight.storage()->made(), [&](const Storage::Made& made) {
    return made.kind != static_cast<int>(Form::Rounded) || made.version != weight.version();
  });
}

}  // namespace limbeck::core
