#include "kernels/spans.h"

#include <algorithm>

#include "kernels/cpu/parallel_for.h"
#include "kernels/span_row.h"

namespace limbeck::kernels {

template <class D>
void spans(const D& cpu, const double* each, const double* teacher_each, const std::int64_t* table, std::int64_t n,
           double ce, double* token_weights, std::int64_t tokens, double* of_spans) {
  std::fill(token_weights, token_weights + tokens, ce);
  parallel_for(cpu, n, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t* place = table + i * num_span_places;
      const double weight = span_row(place, each, teacher_each, of_spans + i * num_span_columns);
      double* of_span = token_weights + place[SpanFirst];
      std::fill(of_span, of_span + place[SpanTokens], ce + (1 - ce) * weight);
    }
  });
}

template void spans(const Cpu&, const double*, const double*, const std::int64_t*, std::int64_t, double, double*,
                    std::int64_t, double*);

}  // namespace limbeck::kernels
