// A frozen model whose weights lie in mapped files and are more than memory holds: layer by layer they are asked of the
// disk before they are needed, and given back behind it.
//
//     MappedLayers layers(*teacher);
//     if (layers.bytes() > available_memory()) layers.watch(pass);
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/nn/transformer.h"
#include "parallel/comm/file_waits.h"

namespace limbeck::launch {

class MappedLayers {
 public:
  /// Of the weights that the model has now; it must outlive this. `waits`: the rank's; null: nobody asks.
  explicit MappedLayers(nn::Transformer& model, parallel::FileWaits* waits = nullptr);
  /// That lie in mapped files.
  std::int64_t bytes() const { return bytes_; }
  /// The first two layers that the model has are asked for now; behind each layer its own pages go, and the next but
  /// one is asked for. Beside what the pass does with Pass::gives already. This must outlive the pass, in which the
  /// rank waits for the disk wherever it comes to pages that are not there.
  void watch(nn::Pass& pass) const;

 private:
  using Places = std::vector<std::span<const std::byte>>;
  void ask_for(std::size_t layer) const;

  std::vector<Places> layers_;
  std::int64_t bytes_ = 0;
  std::string file_;  // of the first
  parallel::FileWaits* waits_;
};

}  // namespace limbeck::launch
