#include "optim/newton_schulz.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/muon.h"
#include "kernels/sums.h"

namespace limbeck::optim {
namespace {

using core::Tensor;
using kernels::matmul;
using kernels::Transpose;

constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
constexpr int num_steps = 5;

/// Of the smaller side m of x: [m,m], twice, and the next x.
struct Room {
  explicit Room(const Tensor& x) : next(core::empty_like(x)) {
    const std::int64_t m = std::min(x.shape()[0], x.shape()[1]);
    gram = Tensor::empty(x.memory(), x.dtype(), {m, m});
    polynomial = core::empty_like(gram);
  }
  Tensor gram, polynomial, next;
};

template <class T>
void iterate(const auto& device, Tensor& x, Room& room) {
  const std::int64_t rows = x.shape()[0], columns = x.shape()[1];
  const bool is_tall = rows > columns;
  const std::int64_t m = std::min(rows, columns);
  auto& [gram, polynomial, next] = room;
  for (int step = 0; step < num_steps; ++step) {
    const T* v = x.data<T>();
    if (is_tall)
      matmul(device, Transpose::Yes, Transpose::No, m, m, rows, v, v, T(0), gram.mutable_data<T>());
    else
      matmul(device, Transpose::No, Transpose::Yes, m, m, columns, v, v, T(0), gram.mutable_data<T>());
    const T* g = gram.data<T>();
    T* p = polynomial.mutable_data<T>();
    polynomial.copy_from(gram);
    matmul(device, Transpose::No, Transpose::No, m, m, m, g, g, static_cast<T>(b / c), p);
    kernels::scale(device, p, static_cast<T>(c), p, m * m);
    next.copy_from(x);
    T* to = next.mutable_data<T>();
    if (is_tall)
      matmul(device, Transpose::No, Transpose::No, rows, m, m, v, p, static_cast<T>(a), to);
    else
      matmul(device, Transpose::No, Transpose::No, m, columns, m, p, v, static_cast<T>(a), to);
    x.copy_from(next);
  }
}

}  // namespace

void orthogonalise(Tensor& x) {
  core::check(x.shape().rank() == 2, "newton_schulz: the tensor has shape {}, expected [rows,cols]", x.shape());
  if (x.numel() == 0) return;
  Tensor squares = Tensor::zeros(x.memory(), core::DType::F64, {1});
  Room room(x);
  core::dispatch_float("newton_schulz", x.dtype(), [&]<class T>() {
    core::on_device(x, [&](const auto& device) {
      kernels::sum_of_squares(device, x.data<T>(), x.numel(), squares.mutable_data<double>());
      kernels::normalise(device, squares.data<double>(), 1e-7, x.mutable_data<T>(), x.numel());
      iterate<T>(device, x, room);
    });
  });
}

}  // namespace limbeck::optim
