// Kernels of a GPU as cases of a benchmark: what each has to move and to compute, and how it is run.
//
//     for (const Case& one : all_cases(Sizes::Whole)) {
//       const Work work = one.prepare(Buffers(memory));          // makes what it reads and writes
//       work();                                                  // queues it
//     }
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/tensor.h"
#include "kernels/cuda/cuda.h"
#include "tests/gpu/bench/formula.h"

namespace limbeck::bench {

enum class Sizes : bool { Whole, Tiny };  // Tiny: to see that it runs

using Work = std::function<void()>;

/// What a case reads and writes on the GPU, for as long as there is a copy of this.
class Buffers {
 public:
  explicit Buffers(core::MemoryPtr memory) : memory_(std::move(memory)) {}

  const core::MemoryPtr& memory() const { return memory_; }
  const kernels::Cuda& cuda() const { return std::get<kernels::Cuda>(memory_->device()); }

  /// Normally distributed. T is float or bf16.
  template <class T>
  T* numbers(std::int64_t n) {
    return keep<T>(numbers_of(core::dtype_of<T>(), {n}));
  }
  core::Tensor numbers_of(core::DType dtype, const core::Shape& shape, double deviation = 1) const;
  template <class T>
  T* zeros(std::int64_t n) {
    return keep<T>(core::Tensor::zeros(memory_, core::dtype_of<T>(), {n}));
  }
  /// value(i) for i < n.
  template <class T, class F>
  T* counted(std::int64_t n, const F& value) {
    return keep<T>(counted_of<T>(n, value));
  }
  template <class T, class F>
  core::Tensor counted_of(std::int64_t n, const F& value) const {
    std::vector<T> values(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) values[static_cast<std::size_t>(i)] = static_cast<T>(value(i));
    return core::Tensor::from<T>(memory_, {n}, values);
  }

 private:
  template <class T>
  T* keep(core::Tensor tensor) {
    kept_->push_back(std::move(tensor));
    return kept_->back().mutable_data<T>();
  }

  core::MemoryPtr memory_;
  std::shared_ptr<std::vector<core::Tensor>> kept_ = std::make_shared<std::vector<core::Tensor>>();
};

struct Case {
  std::string kind;  // what it is held against: memory, product, grouped, attention, head; small: nothing
  std::string name;
  Letters of;
  std::string bytes, flops;  // formulas: each input read once, each result written once
  std::function<Work(Buffers)> prepare;
  std::vector<std::int64_t> rows = {};  // of grouped products, by expert
};

std::vector<Case> memory_cases(Sizes sizes);
std::vector<Case> routing_cases(Sizes sizes);
std::vector<Case> product_cases(Sizes sizes);
std::vector<Case> grouped_cases(Sizes sizes);
std::vector<Case> attention_cases(Sizes sizes);
std::vector<Case> head_cases(Sizes sizes);

/// All of them.
std::vector<Case> all_cases(Sizes sizes);

}  // namespace limbeck::bench
