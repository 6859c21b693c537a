#include "kernels/spans.h"

#include "gpu.h"
#include "kernels/cuda/grid.h"
#include "kernels/span_row.h"

namespace limbeck::kernels {
namespace {

__global__ void usual_weights_kernel(double ce, double* token_weights, std::int64_t tokens) {
  for (std::int64_t t = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; t < tokens;
       t += std::int64_t{gridDim.x} * blockDim.x)
    token_weights[t] = ce;
}

/// A thread to a span, which is a few tokens.
__global__ void spans_kernel(const double* each, const double* teacher_each, const std::int64_t* table, std::int64_t n,
                             double ce, double* token_weights, double* of_spans) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n;
       i += std::int64_t{gridDim.x} * blockDim.x) {
    const std::int64_t* place = table + i * num_span_places;
    const double weight = span_row(place, each, teacher_each, of_spans + i * num_span_columns);
    for (std::int64_t t = place[SpanFirst]; t < place[SpanFirst] + place[SpanTokens]; ++t)
      token_weights[t] = ce + (1 - ce) * weight;
  }
}

}  // namespace

template <class D>
void spans(const D& cuda, const double* each, const double* teacher_each, const std::int64_t* table, std::int64_t n,
           double ce, double* token_weights, std::int64_t tokens, double* of_spans) {
  if (tokens > 0)
    gpu::launch(cuda, usual_weights_kernel, blocks_for(cuda, ceil_div(tokens, usual_threads)), dim3(usual_threads), 0,
                ce, token_weights, tokens);
  if (n > 0)
    gpu::launch(cuda, spans_kernel, blocks_for(cuda, ceil_div(n, usual_threads)), dim3(usual_threads), 0, each,
                teacher_each, table, n, ce, token_weights, of_spans);
}

template void spans(const Cuda&, const double*, const double*, const std::int64_t*, std::int64_t, double, double*,
                    std::int64_t, double*);

}  // namespace limbeck::kernels
