#include "core/device/index_check.h"

#include <utility>

#include "kernels/index_check.h"

namespace limbeck::core {

using kernels::NotedIndex;

/// Of a memory that the host cannot read.
struct IndexNotes {
  void* noted = nullptr;               // a NotedIndex in that memory, which frees it with its segments
  std::vector<IndexMessage> messages;  // of the checks since it was read, by number
};

namespace {

constexpr std::int64_t words = 3;
static_assert(sizeof(NotedIndex) == words * sizeof(std::int64_t));
constexpr std::size_t most_unread = 1 << 16;

/// The NotedIndex, [3] int64, for as long as the memory lives.
Tensor noted_of(const MemoryPtr& memory, const IndexNotes& notes) {
  const auto storage = std::make_shared<Storage>(memory, sizeof(NotedIndex), notes.noted, memory);
  return {storage, 0, DType::I64, {words}};
}

void forget(const MemoryPtr& memory, const IndexNotes& notes) {
  const NotedIndex none;
  const std::int64_t values[words] = {none.check, none.position, none.value};
  noted_of(memory, notes).copy_from(Tensor::from<std::int64_t>(memory->host(), {words}, values));
}

IndexNotes& notes_of(const MemoryPtr& memory) {
  std::shared_ptr<IndexNotes>& notes = memory->index_notes();
  if (!notes) {
    notes = std::make_shared<IndexNotes>();
    notes->noted = memory->allocate(sizeof(NotedIndex));
    forget(memory, *notes);
  }
  return *notes;
}

template <class F>
void with_indices(const Tensor& index, F&& f) {
  if (index.dtype() == DType::I64)
    f(index.data<std::int64_t>());
  else
    f(index.data<std::int32_t>());
}

}  // namespace

void check_indices(const Tensor& index, std::int64_t first, std::int64_t limit, IndexMessage message) {
  if (index.memory()->is_imagined()) return;
  if (index.memory()->is_host()) {
    with_indices(index, [&](const auto* values) {
      const std::int64_t bad = kernels::first_outside(values, index.numel(), first, limit);
      if (bad >= 0) throw Error(message(bad, values[bad]));
    });
    return;
  }
  IndexNotes& notes = notes_of(index.memory());
  if (notes.messages.size() >= most_unread) NotesCopy(index.memory()).check();  // nobody has read them
  on_device(index, [&](const auto& device) {
    with_indices(index, [&](const auto* values) {
      kernels::note_outside(device, values, index.numel(), first, limit, std::ssize(notes.messages),
                            static_cast<NotedIndex*>(notes.noted));
    });
  });
  notes.messages.push_back(std::move(message));
}

std::vector<IndexMessage> unread_checks(const MemoryPtr& memory) {
  return memory->is_host() ? std::vector<IndexMessage>() : notes_of(memory).messages;
}

void set_unread_checks(const MemoryPtr& memory, std::vector<IndexMessage> messages) {
  if (!memory->is_host()) notes_of(memory).messages = std::move(messages);
}

NotesCopy::NotesCopy(const MemoryPtr& memory) : memory_(memory) {
  if (memory->is_host() || memory->is_imagined()) return;
  IndexNotes& notes = notes_of(memory);
  noted_.emplace(noted_of(memory, notes));
  messages_ = std::exchange(notes.messages, {});
}

void NotesCopy::check() {
  if (!noted_) return;
  const std::span<const std::int64_t> noted = noted_->get<std::int64_t>();
  if (noted[0] < 0) return;
  forget(memory_, notes_of(memory_));
  throw Error(messages_.at(static_cast<std::size_t>(noted[0]))(noted[1], noted[2]));
}

}  // namespace limbeck::core
