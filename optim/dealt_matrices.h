// Matrices that are dealt by row among ranks, of which something is wanted that takes all of a matrix: each is brought
// to one of the ranks, its owner, and its rows are taken back, so that no two ranks do the same.
//
//     DealtMatrices dealt(ranks, fragments);
//     dealt.begin(memory, DType::F32);
//     dealt.rows_of(i);                             // [length]: this rank's of each fragment, to be written
//     dealt.change([&](std::size_t i, Tensor& matrix) { orthogonalise(matrix); });
//     dealt.rows_of(i);                             // changed
#pragma once

#include <functional>
#include <vector>

#include "core/slice.h"
#include "optim/fragment.h"

namespace limbeck::optim {

class DealtMatrices {
 public:
  /// Whether the parameter's matrices are dealt by row among so many ranks, and not by matrix.
  static bool is_dealt(const core::Parameter& parameter, int num_ranks);

  /// Of parameters [rows,cols] or [E,rows,cols] that `ranks` share, listed alike on each. Owners are chosen so that
  /// all have about as much to multiply, given that rank r has `loads[r]` anyway (in cost_of's units); by global
  /// shapes alone, so that those who hold other parts of a matrix have the same.
  DealtMatrices(core::Comm& ranks, std::vector<Fragment> fragments, std::vector<double> loads);

  void begin(const core::MemoryPtr& memory, core::DType dtype);
  core::Tensor rows_of(std::size_t i) const;
  /// Collective. `f` is called for each matrix that this rank owns, in one order on all ranks, with its fragment's
  /// index and the local value's part of it [rows,cols].
  void change(const std::function<void(std::size_t i, core::Tensor& matrix)>& f);
  /// Frees the rows.
  void end() { rows_ = {}; }

  /// Of the products with a matrix: its longer side times the square of the shorter.
  static double cost_of(const core::Parameter& parameter);

 private:
  struct Matrix {
    std::size_t fragment;
    std::int64_t number;  // of the local stack
    int owner = 0;
  };
  /// Elements of rank r's share of the fragment that lie in the matrix; from its first element.
  core::Slice part_of(const Matrix& matrix, int r) const;
  core::Shape shape_of(const Matrix& matrix) const;

  core::Comm& ranks_;
  std::vector<Fragment> fragments_;
  std::vector<Matrix> matrices_;               // by owner
  std::vector<std::int64_t> first_;            // of each fragment, in rows_
  std::vector<std::int64_t> sent_, received_;  // elements to each owner, and from each rank to this one
  core::Tensor rows_;
  std::shared_ptr<const std::string> name_;  // of their parameters, for messages
};

}  // namespace limbeck::optim
