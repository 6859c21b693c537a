#include "core/tensor.h"

#include <exception>

#include "kernels/convert.h"

namespace limbeck::core {

Storage::Storage(MemoryPtr memory, std::int64_t bytes) : memory_(std::move(memory)), bytes_(bytes) {
  data_ = memory_->allocate(bytes_);
}

Storage::Storage(MemoryPtr memory, std::int64_t bytes, void* data, std::shared_ptr<const void> owner)
    : memory_(std::move(memory)), bytes_(bytes), data_(data), owner_(std::move(owner)) {}

Storage::~Storage() { release(); }

const void* Storage::data() const {
  check(!is_empty(), "storage: {} bytes were read while emptied", bytes_);
  if (memory_->notes_uses()) memory_->note_use(data_);
  return data_;
}

void* Storage::mutable_data() {
  check(!is_empty(), "storage: {} bytes were written while emptied", bytes_);
  ++version_;
  if (memory_->notes_uses()) memory_->note_use(data_);
  return data_;
}

void Storage::release() {
  if (data_ != nullptr && owner_ == nullptr) memory_->deallocate(data_);
  owner_.reset();
  data_ = nullptr;
  made_.clear();
}

void* Storage::refill() {
  if (data_ == nullptr) data_ = memory_->allocate(bytes_);
  return data_;
}

Tensor Tensor::empty(const MemoryPtr& memory, DType dtype, const Shape& shape) {
  return {std::make_shared<Storage>(memory, bytes_of(dtype, shape.numel())), 0, dtype, shape};
}

Tensor Tensor::zeros(const MemoryPtr& memory, DType dtype, const Shape& shape) {
  Tensor t = empty(memory, dtype, shape);
  t.fill_zero();
  return t;
}

Tensor Tensor::reshape(const Shape& shape) const {
  check(shape.numel() == numel(), "reshape: {} has {} elements, {} has {}", shape, shape.numel(), shape_, numel());
  return {storage_, byte_offset_, dtype_, shape};
}

Tensor Tensor::rows(std::int64_t first, std::int64_t count) const {
  check(shape_.rank() > 0 && first >= 0 && count >= 0 && first + count <= shape_[0],
        "rows: {} rows from row {} of a tensor {}", count, first, shape_);
  Shape shape = shape_;
  shape[0] = count;
  return {storage_, byte_offset_ + bytes_of(dtype_, first * shape_.row_size()), dtype_, shape};
}

Tensor Tensor::clone() const {
  Tensor copy = empty(memory(), dtype_, shape_);
  copy.copy_from(*this);
  return copy;
}

void Tensor::copy_from(const Tensor& source) {
  check(source.dtype_ == dtype_ && source.numel() == numel(), "copy: from {} {} to {} {}", source.dtype_, source.shape_,
        dtype_, shape_);
  if (numel() == 0) return;
  if (memory()->is_host() == source.memory()->is_host()) {
    on_device(*this, [&](const auto& device) { kernels::copy_bytes(device, source.raw(), mutable_raw(), bytes()); });
  } else if (source.memory()->is_host()) {
    upload(source.raw());
  } else if (source.memory()->is_imagined()) {
    fill_zero();
  } else {
    ++source.memory()->host_reads;
    on_device(source, [&](const auto& device) {
      if (const auto done = kernels::download(device, source.raw(), mutable_raw(), bytes())) done->wait();
    });
  }
}

void Tensor::upload(const void* host) {
  if (numel() > 0) on_device(*this, [&](const auto& device) { kernels::upload(device, host, mutable_raw(), bytes()); });
}

void Tensor::fill_zero() {
  if (numel() > 0) on_device(*this, [&](const auto& device) { kernels::clear_bytes(device, mutable_raw(), bytes()); });
}

Tensor Tensor::in(const MemoryPtr& memory) const {
  if (memory == this->memory()) return *this;
  Tensor copy = empty(memory, dtype_, shape_);
  copy.copy_from(*this);
  return copy;
}

Tensor Tensor::to(DType dtype) const {
  if (dtype == dtype_) return clone();
  Tensor result = empty(memory(), dtype, shape_);
  const auto with_float = [](DType d, auto f) {
    if (d == DType::F32)
      f.template operator()<float>();
    else if (d == DType::F64)
      f.template operator()<double>();
    else if (d == DType::BF16)
      f.template operator()<bf16>();
    else
      fail("tensor: {} cannot be converted, expected float32, float64 or bfloat16", d);
  };
  with_float(dtype_, [&]<class From>() {
    with_float(dtype, [&]<class To>() {
      on_device(*this, [&](const auto& device) {
        kernels::convert(device, data<From>(), result.mutable_data<To>(), numel());
      });
    });
  });
  return result;
}

const void* Tensor::checked_data(DType expected) const {
  check(defined() && dtype_ == expected, "tensor: {} {} was read as {}", defined() ? name_of(dtype_) : "undefined",
        shape_, expected);
  return raw();
}

void* Tensor::checked_mutable_data(DType expected) {
  check(defined() && dtype_ == expected, "tensor: {} {} was written as {}", defined() ? name_of(dtype_) : "undefined",
        shape_, expected);
  return mutable_raw();
}

void Tensor::check_host() const {
  check(memory()->is_host(), "tensor: {} {} lies where the host cannot read it", dtype_, shape_);
}

struct HostCopy::Transfer {
  MemoryPtr from;
  Tensor copy;
  kernels::EventPtr arrives = nullptr;
  bool is_there = false;

  /// The copy's memory is not another's before the device has written to it.
  ~Transfer() {
    try {
      if (arrives && !is_there) arrives->wait();
    } catch (const std::exception&) {
      // The device has failed, which its next use tells.
    }
  }
};

HostCopy::HostCopy(const Tensor& t)
    : transfer_(
          std::make_shared<Transfer>(Transfer{t.memory(), Tensor::empty(t.memory()->host(), t.dtype(), t.shape())})) {
  if (t.memory()->is_imagined()) transfer_->copy.fill_zero();
  if (t.numel() > 0)
    on_device(t, [&](const auto& device) {
      transfer_->arrives = kernels::download(device, t.raw(), transfer_->copy.mutable_host_raw(), t.bytes());
    });
}

const Tensor& HostCopy::arrived() {
  Transfer& transfer = *transfer_;
  if (!transfer.is_there) {
    if (transfer.arrives) transfer.arrives->wait();
    ++transfer.from->host_reads;
    transfer.is_there = true;
  }
  return transfer.copy;
}

double host_value(const Tensor& t) {
  check(t.numel() == 1, "host_value: tensor has shape {}, expected one element", t.shape());
  return t.dtype() == DType::F64 ? host_values<double>(t)[0] : static_cast<double>(host_values<float>(t)[0]);
}

}  // namespace limbeck::core
