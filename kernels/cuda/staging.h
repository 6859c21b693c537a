// Page-locked host memory in pieces that are used in turns: what the host gives is copied there and goes on to the
// device while the host goes on.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

namespace limbeck::kernels {

struct CudaState;

class Staging {
 public:
  static constexpr std::size_t piece_bytes = std::size_t{4} << 20;

  /// Of the stream of `owner`, whose member it is.
  explicit Staging(const CudaState& owner) : owner_(owner) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Queued on the stream; `host` has been read when it returns.
  void upload(const void* host, void* to, std::size_t bytes);

 private:
  struct Piece {
    void* memory = nullptr;         // [piece_bytes], made when it is first used
    cudaEvent_t is_free = nullptr;  // recorded behind its last copy
  };
  Piece& next();

  const CudaState& owner_;
  std::array<Piece, 4> pieces_ = {};
  std::size_t turn_ = 0;
};

}  // namespace limbeck::kernels
