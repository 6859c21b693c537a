// A tensor: a shape and a dtype over counted storage. Every tensor is contiguous, row by row; a view is a range of
// leading rows or another shape of the same elements. Kernels that need another order copy, and say so.
//
//     Tensor x = Tensor::zeros(memory, DType::F32, {4, 768});
//     float* p = x.mutable_data<float>();      // raises the storage's version; for kernels alone
//     Tensor row = x.rows(2, 1);               // [1,768], the same storage
//     HostCopy copy(x);                        // on its way to the host
//     copy.get<float>()[0];                    // waits for it
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <variant>
#include <vector>

#include "core/device/memory.h"
#include "core/dtype.h"
#include "core/shape.h"
#include "kernels/copy.h"

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

  /// Whether the memory is another owner's.
  bool is_lent() const { return owner_ != nullptr; }
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
  /// The same for the host to read and write: they throw where it cannot.
  template <class T>
  const T* host() const {
    check_host();
    return data<T>();
  }
  template <class T>
  T* mutable_host() {
    check_host();
    return mutable_data<T>();
  }
  const std::byte* host_raw() const {
    check_host();
    return raw();
  }
  std::byte* mutable_host_raw() {
    check_host();
    return mutable_raw();
  }

  /// The same elements under another shape.
  Tensor reshape(const Shape& shape) const;
  /// Rows [first, first+count) of the first dimension.
  Tensor rows(std::int64_t first, std::int64_t count) const;
  Tensor clone() const;
  /// Of the same dtype and number of elements, in the same memory, in its host memory, or the other way round.
  void copy_from(const Tensor& source);
  void fill_zero();
  Tensor to(DType dtype) const;  // a copy, converted among float32, float64, bfloat16
  /// This tensor where it lies in that memory, else a copy there.
  Tensor in(const MemoryPtr& memory) const;

 private:
  void upload(const void* host);  // as many bytes as it has
  void check_host() const;
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

/// Calls f with the device tag that the tensor's kernels are overloaded on. What it runs is kernels alone: memory is
/// taken, and other ranks are asked, outside of it, for in an imagined memory only what gives a value is called.
template <class F>
decltype(auto) on_device(const Tensor& t, F&& f) {
  if constexpr (std::is_void_v<decltype(std::visit(std::forward<F>(f), t.device()))>)
    if (t.memory()->is_imagined()) return;
  return std::visit(std::forward<F>(f), t.device());
}

/// A tensor's values on their way to the host.
class HostCopy {
 public:
  explicit HostCopy(const Tensor& t);
  /// Waits for them. The first time is counted in Memory::host_reads: a device's queue runs empty meanwhile.
  template <class T>
  std::span<const T> get() {
    const Tensor& values = arrived();
    return {values.host<T>(), static_cast<std::size_t>(values.numel())};
  }

 private:
  struct Transfer;
  const Tensor& arrived();

  std::shared_ptr<Transfer> transfer_;
};

/// A tensor's values on the host, at once.
template <class T>
std::vector<T> host_values(const Tensor& t) {
  HostCopy copy(t);
  const std::span<const T> values = copy.get<T>();
  return {values.begin(), values.end()};
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
  t.upload(values.data());
  return t;
}

}  // namespace limbeck::core
