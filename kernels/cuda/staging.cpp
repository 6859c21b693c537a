#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "kernels/cuda/cuda_state.h"

namespace limbeck::kernels {

Staging::~Staging() {
  if (owner_.is_given_up) return;
  for (const Piece& piece : pieces_) {
    if (piece.is_free != nullptr) cudaEventDestroy(piece.is_free);
    if (piece.memory != nullptr) cudaFreeHost(piece.memory);
  }
}

Staging::Piece& Staging::next() {
  Piece& piece = pieces_[turn_++ % pieces_.size()];
  if (piece.memory == nullptr) {
    check_cuda(cudaHostAlloc(&piece.memory, piece_bytes, cudaHostAllocDefault));
    check_cuda(cudaEventCreateWithFlags(&piece.is_free, cudaEventDisableTiming));
  } else {
    owner_.wait_for(piece.is_free);
  }
  return piece;
}

void Staging::upload(const void* host, void* to, std::size_t bytes) {
  for (std::size_t done = 0; done < bytes; done += piece_bytes) {
    const std::size_t count = std::min(bytes - done, piece_bytes);
    Piece& piece = next();
    std::memcpy(piece.memory, static_cast<const std::byte*>(host) + done, count);
    check_cuda(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, piece.memory, count, cudaMemcpyHostToDevice,
                               owner_.stream));
    check_cuda(cudaEventRecord(piece.is_free, owner_.stream));
  }
}

}  // namespace limbeck::kernels
