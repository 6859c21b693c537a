// A tensor: a shape and a dtype over counted storage. Every tensor is contiguous, row by row; a view is a range of
// leading rows or another shape of the same elements. Kernels that need another order copy, and say so.
//
//     Tensor x = Tensor::zeros(memory, DType::F32, {4, 768});
//     float* p = x.mutable_data<float>();      // raises the storage's version
//     Tensor row = x.rows(2, 1);               // [1,768], the same storage
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <variant>
#include <vector>

#include "core/device/memory.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace limbeck::core {

/// Bytes on a device. It may be emptied and refilled under the same handle (a sharded parameter is gathered before use
/// and freed after, though a tape still refers to it). The version counts writes, so that a saved tensor that was
/// written afterwards is an error and a cache made from it knows that it is stale.
class Storage {
 public:
  /// Something that was made of contents of the storage and serves until they are written: which, by number and place.
  struct Made {
    int kind = 0;
    std::int64_t byte_offset = 0;
    Shape shape;
    std::uint64_t version = 0;         // of the contents that it is made of
    std::int64_t wanted = 0;           // so many times of that version
    std::shared_ptr<Storage> storage;  // none yet: it was not worth it
  };

  Storage(MemoryPtr memory, std::int64_t bytes);
  /// Memory of another owner, e.g. a mapped file; `owner` keeps it alive.
  Storage(MemoryPtr memory, std::int64_t bytes, void* data, std::shared_ptr<const void> owner);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  const void* data() const;
  void* mutable_data();
  std::int64_t bytes() const { return bytes_; }
  std::uint64_t version() const { return version_; }
  const MemoryPtr& memory() const { return memory_; }
  /// For whoever makes and keeps it (core/ops/packed_weight.h).
  std::vector<Made>& made() { return made_; }

  bool is_empty() const { return data_ == nullptr && bytes_ > 0; }
  /// Gives the memory back. Reads fail until refill().
  void release();
  /// Takes memory again and returns it, to be filled with the contents it had: the version does not change.
  void* refill();

 private:
  MemoryPtr memory_;
  std::int64_t bytes_;
  void* data_ = nullptr;
  std::shared_ptr<const void> owner_;
  std::uint64_t version_ = 0;
  std::vector<Made> made_;
};

class Tensor {
 public:
  Tensor() = default;  // undefined
  Tensor(std::shared_ptr<Storage> storage, std::int64_t byte_offset, DType dtype, Shape shape)
      : storage_(std::move(storage)), byte_offset_(byte_offset), dtype_(dtype), shape_(shape) {}

  /// Uninitialised.
  static Tensor empty(const MemoryPtr& memory, DType dtype, const Shape& shape);
  static Tensor zeros(const MemoryPtr& memory, DType dtype, const Shape& shape);
  template <class T>
  static Tensor from(const MemoryPtr& memory, const Shape& shape, std::span<const T> values);

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  std::int64_t numel() const { return shape_.numel(); }
  std::int64_t bytes() const { return bytes_of(dtype_, numel()); }
  const MemoryPtr& memory() const { return storage_->memory(); }
  const Device& device() const { return memory()->device(); }
  const std::shared_ptr<Storage>& storage() const { return storage_; }
  std::int64_t byte_offset() const { return byte_offset_; }
  std::uint64_t version() const { return storage_->version(); }
  /// True if no other tensor refers to the storage.
  bool is_sole_owner() const { return storage_.use_count() == 1; }

  template <class T>
  const T* data() const {
    return static_cast<const T*>(checked_data(dtype_of<T>()));
  }
  template <class T>
  T* mutable_data() {
    return static_cast<T*>(checked_mutable_data(dtype_of<T>()));
  }
  const std::byte* raw() const { return static_cast<const std::byte*>(storage_->data()) + byte_offset_; }
  std::byte* mutable_raw() { return static_cast<std::byte*>(storage_->mutable_data()) + byte_offset_; }

  /// The same elements under another shape.
  Tensor reshape(const Shape& shape) const;
  /// Rows [first, first+count) of the first dimension.
  Tensor rows(std::int64_t first, std::int64_t count) const;
  Tensor clone() const;
  void copy_from(const Tensor& source);  // same dtype and number of elements
  void fill_zero();
  Tensor to(DType dtype) const;  // a copy, converted among float32, float64, bfloat16

 private:
  const void* checked_data(DType expected) const;
  void* checked_mutable_data(DType expected);

  std::shared_ptr<Storage> storage_;
  std::int64_t byte_offset_ = 0;
  DType dtype_ = DType::F32;
  Shape shape_;
};

inline Tensor empty_like(const Tensor& t) { return Tensor::empty(t.memory(), t.dtype(), t.shape()); }
inline Tensor zeros_like(const Tensor& t) { return Tensor::zeros(t.memory(), t.dtype(), t.shape()); }
/// Memory and shape of t, its dtype or another, without its elements: what a backward step keeps of a value that it
/// does not read.
inline Tensor outline(const Tensor& t, DType dtype) {
  return {std::make_shared<Storage>(t.memory(), bytes_of(dtype, t.numel()), nullptr, nullptr), 0, dtype, t.shape()};
}
inline Tensor outline(const Tensor& t) { return outline(t, t.dtype()); }

/// Calls f with the device tag that the tensor's kernels are overloaded on.
template <class F>
decltype(auto) on_device(const Tensor& t, F&& f) {
  return std::visit(std::forward<F>(f), t.device());
}

/// A tensor's values on the host. On a device with a queue this waits for it: the reads are counted.
template <class T>
std::vector<T> host_values(const Tensor& t) {
  ++t.memory()->host_reads;
  const T* p = t.data<T>();
  return std::vector<T>(p, p + t.numel());
}
/// The value of a tensor of one element on the host, as host_values.
double host_value(const Tensor& t);

/// A tensor that a backward step will read: reading it after the storage was written throws.
class Saved {
 public:
  Saved() = default;
  Saved(Tensor tensor) : tensor_(std::move(tensor)), version_(tensor_.defined() ? tensor_.version() : 0) {}  // NOLINT
  const Tensor& get() const {
    check(!tensor_.defined() || tensor_.version() == version_,
          "tape: a saved tensor {} was written after it was saved (version {}, now {})", tensor_.shape(), version_,
          tensor_.defined() ? tensor_.version() : 0);
    return tensor_;
  }

 private:
  Tensor tensor_;
  std::uint64_t version_ = 0;
};

template <class T>
Tensor Tensor::from(const MemoryPtr& memory, const Shape& shape, std::span<const T> values) {
  check(shape.numel() == static_cast<std::int64_t>(values.size()), "tensor: {} values, expected {} for shape {}",
        values.size(), shape.numel(), shape);
  Tensor t = empty(memory, dtype_of<T>(), shape);
  std::copy(values.begin(), values.end(), t.mutable_data<T>());
  return t;
}

}  // namespace limbeck::core
