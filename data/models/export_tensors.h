// The tensors of a model on their way into files of another format: read, converted and written a few rows at a time,
// on several threads, in the files' order.
//
//     TensorFiles files(...);
//     export_tensors(model, tensors, files, {.threads = 2, .progress = show}, "out.gguf");
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/state_dict.h"
#include "data/models/tensor_files.h"

namespace limbeck::data {

struct ExportTensor {
  std::string stored = {};   // its name in the file
  std::string name = {};     // ours
  core::Shape shape = {};    // of ours, whole
  std::int64_t matrix = -1;  // of a stack [E,...] the one that is written; -1: all of it
  core::DType dtype = core::DType::F32;
  std::int64_t head_width = 0;     // above 0: rows of heads are interleaved in the file (gguf_names.h)
  double offset = 0;               // that the file's values are greater by
  std::vector<float> values = {};  // instead of a tensor of the model
  /// Where it is made of several of ours, or in another order, its values in float32, or of matrix [M,N] of [E,M,N];
  /// `shape` is the file's then.
  std::function<core::Tensor(const core::StateReader& model, std::int64_t matrix)> make = {};
  /// Likewise its bytes as the file has them.
  std::function<std::vector<std::byte>(const core::StateReader& model, std::int64_t matrix)> make_stored = {};

  std::int64_t bytes() const;
};

/// What all exports have in common.
struct ExportWork {
  std::string identity = {};  // of what is read: an interrupted export goes on with no other
  int threads = 1;
  TensorFiles::Notice notice = {};
  /// Bytes that are written, and of all; what it throws ends the export. After another exception than an Error the same
  /// export goes on where it was, after an Error nothing is left.
  std::function<void(std::int64_t done, std::int64_t all)> progress = {};
  /// Called with what is whole but has no name yet, a file or a folder; throws an Error where it is not as it should
  /// be.
  std::function<void(const std::filesystem::path& written)> verify = {};
};

/// Writes what `files` lacks of the tensors; `tensors` are all of its, in order. A tensor that the model keeps in the
/// dtype of the file is copied as it is. At most `values_at_once` values, or a row or a head, are read at once on a
/// thread. Throws, with `where` in front and the tensor's name in the file, for a value that the dtype cannot hold.
void export_tensors(const core::StateReader& model, std::span<const ExportTensor> tensors, TensorFiles& files,
                    const ExportWork& work, std::int64_t values_at_once, const std::string& where);

}  // namespace limbeck::data
