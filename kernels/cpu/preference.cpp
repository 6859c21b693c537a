#include "kernels/preference.h"

#include <array>

#include "kernels/cpu/parallel_for.h"
#include "kernels/distillation.h"

namespace limbeck::kernels {

template <class D>
void preference(const D& cpu, const double* each, const std::int32_t* document, const std::int64_t* offsets,
                std::int64_t n, double beta, double* token_weights, double* of_pairs) {
  parallel_for(cpu, n, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::array<double, 2> reward{};
      for (std::int64_t t = offsets[i]; t < offsets[i + 1]; ++t) {
        const double* token = each + t * num_loss_columns;
        if (document[t] < 2)
          reward[static_cast<std::size_t>(document[t])] += beta * (token[LossTeacherCe] - token[LossCe]);
      }
      const double weight = preference_row(reward[0], reward[1], beta, of_pairs + i * num_preference_columns);
      for (std::int64_t t = offsets[i]; t < offsets[i + 1]; ++t)
        token_weights[t] = document[t] == 0 ? weight : document[t] == 1 ? -weight : 0;
    }
  });
}

template void preference(const Cpu&, const double*, const std::int32_t*, const std::int64_t*, std::int64_t, double,
                         double*, double*);

}  // namespace limbeck::kernels
