#include "kernels/cuda/packed_attention.h"

#include <numeric>

#include "tests/kernels/cuda/on_gpu.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

/// Documents one behind the other, as one segment, on the host and on the GPU.
struct Documents {
  std::vector<std::int64_t> runs = {0}, segment = {0};
  std::vector<std::int32_t> position, document;

  explicit Documents(const std::vector<std::int64_t>& lengths) {
    for (std::size_t d = 0; d < lengths.size(); ++d) {
      for (std::int64_t i = 0; i < lengths[d]; ++i) position.push_back(static_cast<std::int32_t>(i));
      document.resize(position.size(), static_cast<std::int32_t>(d));
      runs.push_back(std::ssize(position));
    }
    segment.push_back(std::ssize(position));
  }
};

AttentionProblem problem_of(const std::int64_t* segment, const std::int32_t* position, const std::int32_t* document) {
  return {.num_heads = 4,
          .num_kv_heads = 2,
          .width = 16,
          .value_width = 32,
          .scale = 0.25,
          .num_segments = 1,
          .query_offsets = segment,
          .key_offsets = segment,
          .query_position = position,
          .key_position = position,
          .query_document = document,
          .key_document = document};
}

constexpr double tolerance = 4e3;
// The library rounds once more than the twin, gradients before they are added: by 1 of 512.
constexpr double of_gradients = 1e4;

TEST(CudaPackedAttention, IsThatOfTheCpu) {
  int taken = 0;
  for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{9}, {3, 17, 1, 8}, {3, 17, 1, 8, 1}}) {
    const Documents d(lengths);
    const AttentionProblem here = problem_of(d.segment.data(), d.position.data(), d.document.data());
    const auto tokens = std::ssize(d.position);
    const auto q = random_values<bf16>(tokens * 4 * 16, 1), k = random_values<bf16>(tokens * 2 * 16, 2),
               v = random_values<bf16>(tokens * 2 * 32, 3), dout = random_values<bf16>(tokens * 4 * 32, 4);
    std::vector<bf16> out(dout.size());
    std::vector<float> logsumexp(static_cast<std::size_t>(tokens * 4));
    attention_forward(cpu(), here, q.data(), k.data(), v.data(), out.data(), logsumexp.data());
    const auto dq = random_values<float>(std::ssize(q), 5), dk = random_values<float>(std::ssize(k), 6),
               dv = random_values<float>(std::ssize(v), 7);  // they are added to
    auto dq_right = dq, dk_right = dk, dv_right = dv;
    attention_backward(cpu(), here, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), dout.data(),
                       dq_right.data(), dk_right.data(), dv_right.data());

    OnGpu<std::int64_t> runs(d.runs), segment(d.segment);
    OnGpu<std::int32_t> position(d.position), document(d.document);
    AttentionProblem there = problem_of(segment.data(), position.data(), document.data());
    there.num_runs = std::ssize(lengths);
    there.longest_run = *std::max_element(lengths.begin(), lengths.end());
    there.num_queries = there.num_keys = tokens;
    there.run_offsets = runs.data();
    OnGpu<bf16> q_there(q), k_there(k), v_there(v), dout_there(dout), out_there(std::ssize(out)), out_right(out);
    OnGpu<float> lse_there(std::ssize(logsumexp)), lse_right(logsumexp), dq_there(dq), dk_there(dk), dv_there(dv);
    if (!packed_attention_forward(gpu(), there, q_there.data(), k_there.data(), v_there.data(), out_there.data(),
                                  lse_there.data()))
      continue;
    ++taken;
    expect_close(lse_there.values(), logsumexp, 20);
    expect_close(out_there.values(), out, tolerance);
    if (!packed_attention_backward(gpu(), there, q_there.data(), k_there.data(), v_there.data(), out_right.data(),
                                   lse_right.data(), dout_there.data(), dq_there.data(), dk_there.data(),
                                   dv_there.data()))
      continue;
    OnGpu<float> dq_again(dq), dk_again(dk), dv_again(dv);
    packed_attention_backward(gpu(), there, q_there.data(), k_there.data(), v_there.data(), out_right.data(),
                              lse_right.data(), dout_there.data(), dq_again.data(), dk_again.data(), dv_again.data());
    EXPECT_EQ(dq_again.values(), dq_there.values());
    EXPECT_EQ(dk_again.values(), dk_there.values());
    EXPECT_EQ(dv_again.values(), dv_there.values());
    expect_close(dq_there.values(), dq_right, of_gradients);
    expect_close(dk_there.values(), dk_right, of_gradients);
    expect_close(dv_there.values(), dv_right, of_gradients);

    there.window = 2;  // which no graph is asked for
    EXPECT_FALSE(packed_attention_forward(gpu(), there, q_there.data(), k_there.data(), v_there.data(),
                                          out_there.data(), lse_there.data()));
    EXPECT_FALSE(packed_attention_backward(gpu(), there, q_there.data(), k_there.data(), v_there.data(),
                                           out_right.data(), lse_right.data(), dout_there.data(), dq_there.data(),
                                           dk_there.data(), dv_there.data()));
  }
  if (taken == 0) GTEST_SKIP() << "no library takes this attention here";
}

}  // namespace
}  // namespace limbeck::kernels
