#include "core/device/recorded_work.h"

#include <exception>
#include <utility>
#include <variant>

#include "core/error.h"

namespace limbeck::core {
namespace {

kernels::RecordingPtr record(const Device& device, const std::function<void()>& queue) {
  return std::visit(
      [&](const auto& d) {
        kernels::begin_recording(d);
        try {
          queue();
        } catch (...) {
          try {
            kernels::end_recording(d);
          } catch (const std::exception&) {
            // What was thrown first says more.
          }
          throw;
        }
        return kernels::end_recording(d);
      },
      device);
}

/// Of work that was queued before: its checks have the numbers that the recorded ones have.
void read_checks(const MemoryPtr& memory) {
  if (!unread_checks(memory).empty()) NotesCopy(memory).check();
}

}  // namespace

RecordedWork::RecordedWork(MemoryPtr memory, const std::function<void()>& queue) : memory_(std::move(memory)) {
  read_checks(memory_);
  memory_->begin_setting_apart();
  try {
    recording_ = record(memory_->device(), queue);
    memory_->end_setting_apart();
    check_memory();
  } catch (...) {
    memory_->give_back_apart();
    throw;
  }
  checks_ = unread_checks(memory_);
  set_unread_checks(memory_, {});
}

RecordedWork::~RecordedWork() {
  recording_.reset();
  memory_->give_back_apart();
}

void RecordedWork::run() const {
  check_memory();
  read_checks(memory_);
  recording_->queue();
  set_unread_checks(memory_, checks_);
}

void RecordedWork::check_memory() const {
  check(memory_->keeps_what_is_used(), "recorded work: memory that it reads or writes has been freed");
}

}  // namespace limbeck::core
