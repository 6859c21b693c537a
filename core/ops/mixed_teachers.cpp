#include "core/ops/mixed_teachers.h"

#include <algorithm>
#include <utility>

#include "kernels/mixed_rows.h"

namespace limbeck::core {

MixedTeachers::MixedTeachers(std::vector<TeacherOutput> teachers, Tensor targets, nn::TensorComm& vocabulary,
                             const Options& options)
    : teachers_(std::move(teachers)), targets_(std::move(targets)), vocabulary_(vocabulary), options_(options) {
  check(!teachers_.empty(), "mixed teachers: there are none");
  const std::int64_t tokens = targets_.numel(), columns = teachers_.front().head.shape()[0];
  const DType dtype = sum_dtype(teachers_.front().hidden.dtype());
  for (const TeacherOutput& teacher : teachers_) {
    check(teacher.shares.defined() && teacher.shares.dtype() == DType::F64 && teacher.shares.shape() == Shape{tokens},
          "mixed teachers: shares have another dtype or shape, expected float64 [{}]", tokens);
    check(teacher.hidden.shape()[0] == tokens && teacher.head.shape()[0] == columns &&
              sum_dtype(teacher.hidden.dtype()) == dtype,
          "mixed teachers: one has hidden states {} {} and a head {}, expected {} rows and logits {} of {} columns",
          teacher.hidden.dtype(), teacher.hidden.shape(), teacher.head.shape(), tokens, dtype, columns);
  }
}

Tensor MixedTeachers::logits(std::int64_t first, std::int64_t count) {
  const std::int64_t columns = teachers_.front().head.shape()[0];
  const MemoryPtr& memory = targets_.memory();
  const DType dtype = sum_dtype(teachers_.front().hidden.dtype());
  if (!buffer_.defined() || buffer_.shape()[0] < count) buffer_ = Tensor::empty(memory, dtype, {count, columns});
  Tensor mixed = buffer_.rows(0, count);
  Tensor maxima = Tensor::empty(memory, DType::F64, {count}), indices = empty_like(maxima);
  Tensor sums = Tensor::empty(memory, DType::F64, {count, kernels::num_logits_sums});
  const std::int64_t all_valid = options_.valid_vocabulary - options_.vocabulary_offset;
  bool is_first = true;
  for (const TeacherOutput& teacher : teachers_) {
    const Tensor z = logits_of(teacher.hidden.rows(first, count), teacher.head, teacher.bias);
    dispatch_float("mixed teachers", dtype, [&]<class T>() {
      const kernels::LogitsRows<T> rows{
          .n = count,
          .columns = columns,
          .num_valid = options_.valid_vocabulary < 0 ? columns : std::clamp<std::int64_t>(all_valid, 0, columns),
          .student = z.data<T>(),
          .targets = targets_.data<std::int32_t>() + first,
          .offset = options_.vocabulary_offset,
          .temperature = options_.temperature};
      on_device(mixed, [&](const auto& device) {
        kernels::logits_maxima(device, rows, rows.student, maxima.mutable_data<double>(),
                               indices.mutable_data<double>());
      });
      if (vocabulary_.size() > 1) vocabulary_.max(maxima);
      on_device(mixed, [&](const auto& device) {
        kernels::logits_sums(device, rows, maxima.data<double>(), maxima.data<double>(), sums.mutable_data<double>());
      });
      vocabulary_.sum(sums);
      on_device(mixed, [&](const auto& device) {
        kernels::mix_rows(device, rows, maxima.data<double>(), sums.data<double>(),
                          teacher.shares.data<double>() + first, is_first, mixed.mutable_data<T>());
      });
    });
    is_first = false;
  }
  return mixed;
}

std::unique_ptr<TargetSource> target_source(std::vector<TeacherOutput> teachers, const Tensor& targets,
                                            nn::TensorComm& vocabulary, const MixedTeachers::Options& options) {
  if (teachers.size() == 1)
    return std::make_unique<OnlineTeacher>(teachers[0].hidden, teachers[0].head, teachers[0].bias);
  return std::make_unique<MixedTeachers>(std::move(teachers), targets, vocabulary, options);
}

}  // namespace limbeck::core
