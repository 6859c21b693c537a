#include "kernels/sorted_rows.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/stable_sort.cuh"
#include "kernels/sorted_row.h"

namespace limbeck::kernels {
namespace {

// A block to a row, which it sorts in memory of its own: by eight bits after the other of the keys, from the lowest on,
// each time as kernels/cuda/stable_sort.cuh does a tile.

constexpr int digit_bits = 8, num_digits = 1 << digit_bits;
constexpr unsigned most_threads = 1024;

/// What a warp's share of a digit has come to.
struct Digits {
  std::int32_t next[most_threads / warp_size][num_digits];
};

/// f(i, digit, lanes) of the warp's share of the records, 32 at a time in their order; `lanes`: those of the same
/// digit.
template <class T, class F>
__device__ void for_share(const SortRecord<T>* from, std::int64_t n, int shift, F f) {
  const int warps = static_cast<int>(blockDim.x / warp_size), warp = static_cast<int>(threadIdx.x / warp_size);
  const std::int64_t pieces = (n + warp_size - 1) / warp_size;
  const std::int64_t end = pieces * (warp + 1) / warps;
  for (std::int64_t piece = pieces * warp / warps; piece < end; ++piece) {
    const std::int64_t i = piece * warp_size + threadIdx.x % warp_size;
    const int digit = i < n ? static_cast<int>(from[i].key >> shift & (num_digits - 1)) : num_digits;
    f(i, digit, lanes_with(digit, digit_bits + 1));
  }
}

/// next[warp][digit] becomes how many records come before the warp's first of the digit.
__device__ inline void add_up(Digits& digits) {
  __syncthreads();
  if (threadIdx.x < warp_size) {
    constexpr int each = num_digits / static_cast<int>(warp_size);
    const int warps = static_cast<int>(blockDim.x / warp_size), first = static_cast<int>(threadIdx.x) * each;
    std::int32_t own = 0;
    for (int digit = first; digit < first + each; ++digit)
      for (int w = 0; w < warps; ++w) own += digits.next[w][digit];
    std::int32_t up_to = own;
    for (unsigned distance = 1; distance < warp_size; distance *= 2) {
      const std::int32_t before = __shfl_up_sync(full_warp, up_to, distance);
      if (threadIdx.x >= distance) up_to += before;
    }
    std::int32_t start = up_to - own;
    for (int digit = first; digit < first + each; ++digit)
      for (int w = 0; w < warps; ++w) {
        const std::int32_t count = digits.next[w][digit];
        digits.next[w][digit] = start;
        start += count;
      }
  }
  __syncthreads();
}

template <class T>
__device__ void sort_by_digit(const SortRecord<T>* from, SortRecord<T>* to, std::int64_t n, int shift, Digits& digits) {
  const unsigned before = (1U << threadIdx.x % warp_size) - 1;  // the lanes before this one
  std::int32_t* next = digits.next[threadIdx.x / warp_size];
  for (int digit = static_cast<int>(threadIdx.x % warp_size); digit < num_digits; digit += warp_size) next[digit] = 0;
  __syncwarp();
  for_share(from, n, shift, [=](std::int64_t, int digit, unsigned lanes) {
    if (digit < num_digits && (lanes & before) == 0) next[digit] += __popc(lanes);
    __syncwarp();
  });
  add_up(digits);
  for_share(from, n, shift, [=](std::int64_t i, int digit, unsigned lanes) {
    const std::int32_t first = digit < num_digits ? next[digit] : 0;
    __syncwarp();
    if (digit < num_digits && (lanes & before) == 0) next[digit] = first + __popc(lanes);
    __syncwarp();
    if (i < n) to[first + __popc(lanes & before)] = from[i];
  });
  __syncthreads();
}

/// A row's logits, sorted.
template <class T>
struct Side {
  const SortRecord<T>* records;
  std::int64_t n;
  T greatest;
  double inverse;  // of the sum of exponentials

  __device__ double probability(std::int64_t i) const {
    return i < n ? static_cast<double>(std::exp(value_of<T>(records[i].key) - greatest)) * inverse : 0;
  }
};

template <class T>
__device__ Side<T> sort_side(const T* logits, std::int64_t n, SortRecord<T>* records, SortRecord<T>* others,
                             Digits& digits) {
  for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x)
    records[c] = {sort_key(logits[c]), static_cast<std::int32_t>(c)};
  __syncthreads();
  for (int shift = 0; shift < static_cast<int>(8 * sizeof(T)); shift += 2 * digit_bits) {
    sort_by_digit(records, others, n, shift, digits);
    sort_by_digit(others, records, n, shift + digit_bits, digits);
  }
  const T greatest = n > 0 ? value_of<T>(records[0].key) : T{0};
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x)
    sum += static_cast<double>(std::exp(value_of<T>(records[i].key) - greatest));
  return {records, n, greatest, 1 / block_sum(sum)};
}

template <class T, class G>
__device__ void paired_row(const LogitsRows<T>& part, std::int64_t i, const Side<T>& own, const Side<T>& theirs,
                           double ce, double weight, G* d, double* of_row) {
  double distance = 0, pull = 0;
  for (std::int64_t k = threadIdx.x; k < own.n || k < theirs.n; k += blockDim.x) {
    const double q = own.probability(k), p = theirs.probability(k), slope = slope_of_distance(q, p);
    distance += slope * (q - p);
    pull += q * slope;
  }
  distance = block_sum(distance);
  pull = block_sum(pull);
  if (threadIdx.x == 0) of_row[SortedDistance] = distance;
  if (d == nullptr) return;
  for (std::int64_t k = threadIdx.x; k < own.n; k += blockDim.x) {
    const std::int64_t c = own.records[k].column - part.offset;
    if (c < 0 || c >= part.num_valid) continue;
    const double q = own.probability(k), slope = slope_of_distance(q, theirs.probability(k));
    double value = ce * q + (1 - ce) * q * (slope - pull);
    if (c == part.targets[i] - part.offset) value -= ce;
    d[c] = as<G>(static_cast<T>(weight * value));
  }
}

template <class T, class G>
__device__ void unpaired_row(const LogitsRows<T>& part, std::int64_t i, double weight, double student_max, double sum,
                             G* d) {
  const T* x = part.student + i * part.columns;
  const T greatest = static_cast<T>(student_max), factor = static_cast<T>(weight / sum),
          of_target = static_cast<T>(weight);
  const std::int64_t target = part.targets[i] - part.offset;
  for (std::int64_t c = threadIdx.x; c < part.num_valid; c += blockDim.x) {
    T value = factor * std::exp(x[c] - greatest);
    if (c == target) value -= of_target;
    d[c] = as<G>(value);
  }
}

/// Records of a block: of the student, of the teacher, and as many again as either has.
template <class T>
__host__ __device__ std::int64_t records_of_block(const SortedRows<T>& rows) {
  const std::int64_t own = rows.student.num_valid, theirs = rows.teacher.num_valid;
  return own + theirs + (own > theirs ? own : theirs);
}

template <class T, class G>
__global__ void __launch_bounds__(most_threads, 1)
    sorted_gradient_kernel(SortedRows<T> rows, double ce, const double* student_max, const double* sums,
                           TokenWeight weight, G* dlogits, double* of_rows, SortRecord<T>* room) {
  __shared__ Digits digits;
  const LogitsRows<T>& part = rows.part;
  SortRecord<T>* own = room + blockIdx.x * records_of_block(rows);
  SortRecord<T>* theirs = own + rows.student.num_valid;
  SortRecord<T>* others = theirs + rows.teacher.num_valid;
  for (std::int64_t i = blockIdx.x; i < part.n; i += gridDim.x) {
    G* d = dlogits != nullptr ? dlogits + i * part.columns : nullptr;
    double* of_row = of_rows + i * num_sorted_columns;
    const bool is_skipped = part.targets[i] < 0, is_paired = !is_skipped && rows.pair_of[i] >= 0;
    if (threadIdx.x == 0) {
      of_row[SortedPairs] = is_paired ? 1 : 0;
      of_row[SortedDistance] = 0;
    }
    if (is_paired) {
      const Side<T> student =
          sort_side(rows.student.logits + i * rows.student.columns, rows.student.num_valid, own, others, digits);
      const Side<T> teacher =
          sort_side(rows.teacher.logits + (rows.pair_of[i] - rows.first_pair) * rows.teacher.columns,
                    rows.teacher.num_valid, theirs, others, digits);
      paired_row(part, i, student, teacher, ce, weight.get(i), d, of_row);
      __syncthreads();  // the next row is sorted there
    } else if (!is_skipped && d != nullptr)
      unpaired_row(part, i, ce * weight.get(i), student_max[i], sums[i * num_logits_sums + StudentSum], d);
    if (d != nullptr)
      for (std::int64_t c = (is_skipped ? 0 : part.num_valid) + threadIdx.x; c < part.columns; c += blockDim.x)
        d[c] = G{};
  }
}

/// So many that the memory of all of them stays within bounds.
dim3 blocks_of(const Cuda& cuda, std::int64_t n) {
  return dim3(static_cast<unsigned>(std::min<std::int64_t>(n, cuda.state->num_multiprocessors)));
}

}  // namespace

template <class D, class T>
std::int64_t sorting_room(const D& cuda, const SortedRows<T>& rows) {
  return blocks_of(cuda, rows.part.n).x * records_of_block(rows) * std::int64_t{sizeof(SortRecord<T>)};
}

template <class D, class T, class G>
void sorted_gradient(const D& cuda, const SortedRows<T>& rows, double ce, const double* student_max, const double* sums,
                     TokenWeight weight, G* dlogits, double* of_rows, std::byte* room) {
  if (rows.part.n == 0) return;
  const std::int64_t longest = std::max(rows.student.num_valid, rows.teacher.num_valid);
  gpu::launch(cuda, sorted_gradient_kernel<T, G>, blocks_of(cuda, rows.part.n), threads_for_row(longest, most_threads),
              0, rows, ce, student_max, sums, weight, dlogits, of_rows, reinterpret_cast<SortRecord<T>*>(room));
}

#define LIMBECK_INSTANTIATE(T) template std::int64_t sorting_room(const Cuda&, const SortedRows<T>&);
LIMBECK_INSTANTIATE(float)
LIMBECK_INSTANTIATE(double)

#define LIMBECK_INSTANTIATE_GRADIENT(T, G)                                                                            \
  template void sorted_gradient(const Cuda&, const SortedRows<T>&, double, const double*, const double*, TokenWeight, \
                                G*, double*, std::byte*);
LIMBECK_INSTANTIATE_GRADIENT(float, float)
LIMBECK_INSTANTIATE_GRADIENT(double, double)
LIMBECK_INSTANTIATE_GRADIENT(float, bf16)

}  // namespace limbeck::kernels
