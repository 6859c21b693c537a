#include "kernels/attention.h"

#include "tests/kernels/cuda/attention_layout.h"

namespace limbeck::kernels {
namespace {

using namespace limbeck::testing;

std::vector<Layout> layouts() {
  std::vector<Layout> all(4);
  all[0].add_segment(0, {1});
  all[1].add_segment(0, {33, 5});
  all[1].add_segment(0, {});
  all[1].add_segment(0, {70});
  all[2].add_segment(40, {3});  // a text that goes on behind what a cache holds
  all[2].add_segment(0, {64, 1, 2});
  for (const std::int64_t window : {1, 5, 33}) {
    all.push_back(all[1]);
    all.push_back(all[2]);
    for (std::size_t i = 0; i < 2; ++i) all[all.size() - 1 - i].window = window;
  }
  return all;  // and none at all
}

template <class T>
class CudaAttention : public ::testing::Test {};
using Types = ::testing::Types<float, double, bf16>;
TYPED_TEST_SUITE(CudaAttention, Types);

// Probabilities are rounded to bfloat16 on both, at other places of their sums.
template <class T>
constexpr double scale = std::is_same_v<T, bf16> ? 4e3 : 20;

TYPED_TEST(CudaAttention, IsThatOfTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  for (const Layout& layout : layouts())
    for (const Heads h : {Heads{1, 1, 8, 8}, Heads{6, 2, 16, 24}, Heads{2, 1, 72, 40}}) {
      const std::int64_t queries = layout.queries(), keys = layout.keys();
      SCOPED_TRACE(::testing::Message() << queries << " queries, " << keys << " keys, " << h.heads << " heads of "
                                        << h.width);
      AttentionProblem p = layout.problem(h);
      const auto q = random_values<T>(queries * h.heads * h.width, 1);
      const auto k = random_values<T>(keys * h.kv_heads * h.width, 2);
      const auto v = random_values<T>(keys * h.kv_heads * h.value_width, 3);
      const auto dout = random_values<T>(queries * h.heads * h.value_width, 4);
      std::vector<T> out(dout.size());
      std::vector<A> logsumexp(static_cast<std::size_t>(queries * h.heads));
      const auto sinks = random_values<A>(h.heads, 8, 3), dsinks = random_values<A>(h.heads, 9);
      auto dsinks_right = dsinks;
      const bool has_sinks = h.heads > 1;
      attention_forward(cpu(), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(),
                        has_sinks ? sinks.data() : nullptr);
      const auto dq = random_values<A>(std::ssize(q), 5), dk = random_values<A>(std::ssize(k), 6),
                 dv = random_values<A>(std::ssize(v), 7);  // they are added to
      auto dq_right = dq, dk_right = dk, dv_right = dv;
      attention_backward(cpu(), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), dout.data(),
                         dq_right.data(), dk_right.data(), dv_right.data());
      if (has_sinks)
        attention_sink_gradient(cpu(), p, sinks.data(), out.data(), logsumexp.data(), dout.data(), /*add=*/true,
                                dsinks_right.data());

      LayoutThere there(layout);
      p = there.problem(p);
      OnGpu<T> q_there(q), k_there(k), v_there(v), dout_there(dout), out_there(std::ssize(out)), out_right(out);
      OnGpu<A> lse_there(std::ssize(logsumexp)), lse_right(logsumexp), dq_there(dq), dk_there(dk), dv_there(dv);
      OnGpu<A> sinks_there(sinks), dsinks_there(dsinks);
      attention_forward(gpu(), p, q_there.data(), k_there.data(), v_there.data(), out_there.data(), lse_there.data(),
                        has_sinks ? sinks_there.data() : nullptr);
      if (has_sinks)
        attention_sink_gradient(gpu(), p, sinks_there.data(), out_right.data(), lse_right.data(), dout_there.data(),
                                /*add=*/true, dsinks_there.data());
      attention_backward(gpu(), p, q_there.data(), k_there.data(), v_there.data(), out_right.data(), lse_right.data(),
                         dout_there.data(), dq_there.data(), dk_there.data(), dv_there.data());
      expect_close(lse_there.values(), logsumexp, 20);
      expect_close(out_there.values(), out, scale<T>);
      expect_close(dq_there.values(), dq_right, scale<T>);
      expect_close(dk_there.values(), dk_right, scale<T>);
      expect_close(dv_there.values(), dv_right, scale<T>);
      expect_close(dsinks_there.values(), dsinks_right, 100);
    }
}

TYPED_TEST(CudaAttention, FindsKeysThroughPages) {
  using T = TypeParam;
  using A = Acc<T>;
  constexpr std::int64_t width = 8, num_keys = 100, page = attention_page;
  Layout layout;
  layout.window = 40;
  layout.add_segment(num_keys - 1, {1});
  AttentionProblem p = layout.problem({1, 1, width, width});
  const std::vector<std::int64_t> pages = {3, 1};
  const auto q = random_values<T>(width, 1);
  const auto k = random_values<T>(5 * page * width, 2), v = random_values<T>(5 * page * width, 3);
  p.key_pages = pages.data();
  std::vector<T> out(width);
  std::vector<A> logsumexp(1);
  attention_forward(cpu(), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data());
  LayoutThere there(layout);
  OnGpu<std::int64_t> pages_there(pages);
  p = there.problem(p);
  p.key_pages = pages_there.data();
  OnGpu<T> q_there(q), k_there(k), v_there(v), out_there(width);
  OnGpu<A> lse_there(std::int64_t{1});
  attention_forward(gpu(), p, q_there.data(), k_there.data(), v_there.data(), out_there.data(), lse_there.data());
  expect_close(out_there.values(), out, scale<T>);
  expect_close(lse_there.values(), logsumexp, 20);
}

TYPED_TEST(CudaAttention, MergesAsTheCpu) {
  using T = TypeParam;
  using A = Acc<T>;
  for (const auto& [rows, width] : {std::pair<std::int64_t, std::int64_t>{0, 8}, {1, 1}, {70, 40}, {9, 130}}) {
    const auto more = random_values<T>(rows * width, 1);
    auto out = random_values<A>(rows * width, 2), logsumexp = random_values<A>(rows, 3, 4),
         more_logsumexp = random_values<A>(rows, 4, 4);
    for (std::size_t i = 0; i < logsumexp.size(); i += 3) logsumexp[i] = -std::numeric_limits<A>::infinity();
    for (std::size_t i = 0; i < logsumexp.size(); i += 2) more_logsumexp[i] = -std::numeric_limits<A>::infinity();
    OnGpu<T> more_there(more);
    OnGpu<A> out_there(out), lse_there(logsumexp), more_lse_there(more_logsumexp);
    attention_merge(cpu(), more.data(), more_logsumexp.data(), out.data(), logsumexp.data(), rows, width);
    attention_merge(gpu(), more_there.data(), more_lse_there.data(), out_there.data(), lse_there.data(), rows, width);
    expect_close(out_there.values(), out, 5);
    expect_close(lse_there.values(), logsumexp, 5);
  }
}

// The keys' halves one after the other, with what was found of all of them: gradients that add up to those of all.
TYPED_TEST(CudaAttention, GradientsOfSomeKeysArePartsOfThoseOfAll) {
  using T = TypeParam;
  using A = Acc<T>;
  constexpr Heads h{2, 1, 16, 16};
  Layout layout;
  layout.add_segment(0, {150});
  AttentionProblem p = layout.problem(h);
  const std::int64_t n = 150, half = 70;
  const auto q = random_values<T>(n * 32, 1), k = random_values<T>(n * 16, 2), v = random_values<T>(n * 16, 3),
             dout = random_values<T>(n * 32, 4);
  std::vector<T> out(q.size());
  std::vector<A> lse(static_cast<std::size_t>(n * 2)), dq(q.size()), dk(k.size()), dv(v.size());
  attention_forward(cpu(), p, q.data(), k.data(), v.data(), out.data(), lse.data());
  attention_backward(cpu(), p, q.data(), k.data(), v.data(), out.data(), lse.data(), dout.data(), dq.data(), dk.data(),
                     dv.data());
  LayoutThere there(layout);
  OnGpu<T> q_there(q), k_there(k), v_there(v), dout_there(dout), out_there(out);
  OnGpu<A> lse_there(lse), dq_there(std::vector<A>(q.size())), dk_there(std::vector<A>(k.size())),
      dv_there(std::vector<A>(v.size()));
  for (const auto& [first, count] : {std::pair(half, n - half), std::pair(std::int64_t{0}, half)}) {
    OnGpu<std::int64_t> offsets(std::vector<std::int64_t>{0, count});
    AttentionProblem some = there.problem(p);
    some.num_keys = count;
    some.key_offsets = offsets.data();
    some.key_position += first;
    some.key_document += first;
    attention_backward(gpu(), some, q_there.data(), k_there.data() + first * 16, v_there.data() + first * 16,
                       out_there.data(), lse_there.data(), dout_there.data(), dq_there.data(),
                       dk_there.data() + first * 16, dv_there.data() + first * 16);
  }
  expect_close(dq_there.values(), dq, scale<T>);
  expect_close(dk_there.values(), dk, scale<T>);
  expect_close(dv_there.values(), dv, scale<T>);
}

}  // namespace
}  // namespace limbeck::kernels
