#include "kernels/attention.h"

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::expect_rounded, limbeck::testing::random_bf16;

/// Two segments of odd lengths, of more than one tile of queries and of keys; the second holds two documents, and its
/// first query is of a third that has no key.
struct Example {
  std::vector<std::int64_t> offsets{0, 5, 205};
  std::vector<std::int32_t> position, document, key_document;
  AttentionProblem problem;
  std::int64_t tokens = 205;

  Example() {
    for (std::int32_t i = 0; i < tokens; ++i) {
      const std::int32_t of_segment = i < 5 ? i : i - 5;
      position.push_back(of_segment < 150 ? of_segment : of_segment - 150);
      document.push_back(of_segment < 150 ? 0 : 1);
    }
    key_document = document;
    document[5] = 7;
    problem = {.num_heads = 4,
               .num_kv_heads = 2,
               .width = 7,
               .value_width = 5,
               .scale = 0.4,
               .num_segments = 2,
               .query_offsets = offsets.data(),
               .key_offsets = offsets.data(),
               .query_position = position.data(),
               .key_position = position.data(),
               .query_document = document.data(),
               .key_document = key_document.data()};
  }
  Example(const Example&) = delete;
};

class AttentionKernel : public ::testing::TestWithParam<int> {};

TEST_P(AttentionKernel, OfBfloat16IsThatOfDoubleRoundedOnce) {
  const Example example;
  const AttentionProblem& p = example.problem;
  const std::int64_t tokens = example.tokens;
  const Cpu cpu = make_cpu(GetParam()), one = make_cpu(1);
  const auto q = random_bf16(tokens * p.num_heads * p.width, 1);
  const auto k = random_bf16(tokens * p.num_kv_heads * p.width, 2);
  const auto v = random_bf16(tokens * p.num_kv_heads * p.value_width, 3);
  const auto dout = random_bf16(tokens * p.num_heads * p.value_width, 4);
  const auto q64 = all_as<double>(q), k64 = all_as<double>(k), v64 = all_as<double>(v), dout64 = all_as<double>(dout);

  std::vector<bf16> out(dout.size());
  std::vector<float> logsumexp(static_cast<std::size_t>(tokens * p.num_heads));
  std::vector<double> out64(dout.size()), logsumexp64(logsumexp.size());
  attention_forward(cpu, p, q.data(), k.data(), v.data(), out.data(), logsumexp.data());
  attention_forward(one, p, q64.data(), k64.data(), v64.data(), out64.data(), logsumexp64.data());
  constexpr double slack = 1e-5;  // float32: products of 7 and sums of 150 values about 1
  expect_rounded(out, out64, slack);
  for (std::int64_t h = 0; h < p.num_heads; ++h) {
    const auto unseeing = static_cast<std::size_t>(5 * p.num_heads + h);
    EXPECT_EQ(logsumexp[unseeing], -INFINITY);
    logsumexp64[unseeing] = logsumexp[unseeing] = 0;  // the rest is compared; no score of this query is seen
  }
  expect_rounded(logsumexp, logsumexp64, slack);

  // What the backward reads is the rounded result.
  const auto rounded = all_as<double>(out);
  std::vector<float> dq(q.size(), 1), dk(k.size(), 1), dv(v.size(), 1);
  std::vector<double> dq64(q.size(), 1), dk64(k.size(), 1), dv64(v.size(), 1);
  attention_backward(cpu, p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), dout.data(), dq.data(),
                     dk.data(), dv.data());
  attention_backward(one, p, q64.data(), k64.data(), v64.data(), rounded.data(), logsumexp64.data(), dout64.data(),
                     dq64.data(), dk64.data(), dv64.data());
  expect_rounded(dq, dq64, 10 * slack);
  expect_rounded(dk, dk64, 10 * slack);
  expect_rounded(dv, dv64, 10 * slack);
}

INSTANTIATE_TEST_SUITE_P(Threads, AttentionKernel, ::testing::Values(1, 3));

}  // namespace
}  // namespace limbeck::kernels
