#include "parallel/comm/file_waits.h"

#include <utility>

namespace limbeck::parallel {

std::string FileWaits::now() const {
  const std::scoped_lock lock(mutex_);
  return scopes_.empty() ? "" : scopes_.back()->words_();
}

bool FileWaits::becomes_long(std::chrono::steady_clock::duration lasting) {
  const std::scoped_lock lock(mutex_);
  if (scopes_.empty() || std::chrono::steady_clock::now() - scopes_.back()->since_ < lasting) return false;
  return !std::exchange(scopes_.back()->is_told_, true);
}

FileWait::FileWait(FileWaits* waits, std::function<std::string()> words) : waits_(waits), words_(std::move(words)) {
  if (waits_ == nullptr) return;
  const std::scoped_lock lock(waits_->mutex_);
  waits_->scopes_.push_back(this);
}

FileWait::~FileWait() {
  if (waits_ == nullptr) return;
  const std::scoped_lock lock(waits_->mutex_);
  std::erase(waits_->scopes_, this);
}

}  // namespace limbeck::parallel
