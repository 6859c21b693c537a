#include "kernels/attention.h"

#include <numeric>

#include "tests/support/bf16_values.h"

namespace limbeck::kernels {
namespace {

using limbeck::testing::all_as, limbeck::testing::random_bf16;

/// Segments of odd lengths, of more than one tile of queries and of keys: one of five tokens; one that holds two
/// documents, whose first query is of a third that has no key; and one in which queries that see no key lie between
/// others, block by block.
struct Example {
  std::vector<std::int64_t> offsets{0, 5, 305, 433};
  std::vector<std::int32_t> position, document, key_document;
  AttentionProblem problem;
  std::int64_t tokens = offsets.back();

  Example(std::int64_t width, std::int64_t value_width, std::int64_t window = 0) {
    const auto token = [&](std::int64_t at, std::int32_t in) {
      position.push_back(static_cast<std::int32_t>(at));
      document.push_back(in);
    };
    for (std::int64_t i = 0; i < 5; ++i) token(i, 0);
    for (std::int64_t i = 0; i < 200; ++i) token(i, 0);
    for (std::int64_t i = 0; i < 100; ++i) token(i, 1);
    for (std::int64_t i = 0; i < 128; ++i) token(i, 0);
    key_document = document;
    document[5] = 7;
    for (std::int64_t i = 305 + 32; i < 305 + 64; ++i) document[i] = 8;
    problem = {.num_heads = 4,
               .num_kv_heads = 2,
               .width = width,
               .value_width = value_width,
               .scale = 0.4,
               .window = window,
               .num_segments = 3,
               .query_offsets = offsets.data(),
               .key_offsets = offsets.data(),
               .query_position = position.data(),
               .key_position = position.data(),
               .query_document = document.data(),
               .key_document = key_document.data()};
  }
  Example(const Example&) = delete;
};

/// A sum, and that of its terms' absolute values.
struct Sum {
  double value = 0, size = 0;
  void add(double term) {
    value += term;
    size += std::abs(term);
  }
};

/// By the definition, one score after the other. The backward's out is given: what the forward found.
struct Definition {
  std::vector<Sum> out, dq, dk, dv, dsinks;
  std::vector<double> logsumexp;

  Definition(const AttentionProblem& p, std::int64_t tokens, const std::vector<double>& q, const std::vector<double>& k,
             const std::vector<double>& v, const std::vector<double>& given_out, const std::vector<double>& dout,
             const std::vector<double>& sinks = {})
      : out(dout.size()),
        dq(q.size()),
        dk(k.size()),
        dv(v.size()),
        dsinks(sinks.size()),
        logsumexp(tokens * p.num_heads, -INFINITY) {
    for (std::int64_t n = 0; n < p.num_segments; ++n)
      for (std::int64_t i = p.query_offsets[n]; i < p.query_offsets[n + 1]; ++i)
        for (std::int64_t h = 0; h < p.num_heads; ++h) {
          const std::int64_t g = h * p.num_kv_heads / p.num_heads, d = p.width, e = p.value_width;
          const std::int64_t at = i * p.num_heads + h;
          std::vector<std::int64_t> keys;
          std::vector<double> weights;
          double total = sinks.empty() ? 0 : std::exp(sinks[h]);
          for (std::int64_t j = p.key_offsets[n]; j < p.key_offsets[n + 1]; ++j) {
            if (p.key_document[j] != p.query_document[i] || p.key_position[j] > p.query_position[i]) continue;
            if (p.window > 0 && p.key_position[j] <= p.query_position[i] - p.window) continue;
            double score = 0;
            for (std::int64_t c = 0; c < d; ++c) score += q[at * d + c] * k[(j * p.num_kv_heads + g) * d + c];
            keys.push_back(j * p.num_kv_heads + g);
            weights.push_back(std::exp(p.scale * score));
            total += weights.back();
          }
          if (total == 0) continue;
          logsumexp[at] = std::log(total);
          double delta = 0;
          for (std::int64_t c = 0; c < e; ++c) delta += given_out[at * e + c] * dout[at * e + c];
          if (!sinks.empty()) dsinks[h].add(-std::exp(sinks[h]) / total * delta);
          for (std::size_t m = 0; m < keys.size(); ++m) {
            const double weight = weights[m] / total;
            double dweight = -delta;
            for (std::int64_t c = 0; c < e; ++c) {
              out[at * e + c].add(weight * v[keys[m] * e + c]);
              dv[keys[m] * e + c].add(weight * dout[at * e + c]);
              dweight += dout[at * e + c] * v[keys[m] * e + c];
            }
            const double dscore = p.scale * weight * dweight;
            for (std::int64_t c = 0; c < d; ++c) {
              dq[at * d + c].add(dscore * k[keys[m] * d + c]);
              dk[keys[m] * d + c].add(dscore * q[at * d + c]);
            }
          }
        }
  }
};

struct Case {
  int threads;
  std::int64_t width, value_width;
  std::int64_t window = 0;
  bool has_sinks = false;
};
class AttentionKernel : public ::testing::TestWithParam<Case> {
 protected:
  template <class T>
  void check() const;
};

/// Each sum is right when its terms are: to `of_terms` of what they are, and to float32.
template <class T>
void expect_sums(const std::vector<T>& found, const std::vector<Sum>& expected, double of_terms, double before = 0) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double rounded = std::is_same_v<T, bf16> ? 0x1p-8 * std::abs(expected[i].value) : 0;
    ASSERT_NEAR(as<double>(found[i]), expected[i].value + before,
                rounded * 1.01 + of_terms * expected[i].size + 1e-5 * (1 + expected[i].size))
        << "element " << i;
  }
}

template <class T>
void AttentionKernel::check() const {
  const auto [threads, width, value_width, window, has_sinks] = GetParam();
  const Example example(width, value_width, window);
  const AttentionProblem& p = example.problem;
  const std::int64_t tokens = example.tokens;
  const Cpu cpu = make_cpu(threads);
  const auto values = [](std::int64_t n, unsigned seed) { return all_as<T>(random_bf16(n, seed, 0.5F)); };
  const auto q = values(tokens * p.num_heads * p.width, 1), k = values(tokens * p.num_kv_heads * p.width, 2);
  const auto v = values(tokens * p.num_kv_heads * p.value_width, 3);
  const auto dout = values(tokens * p.num_heads * p.value_width, 4);
  std::vector<T> out(dout.size());
  std::vector<float> logsumexp(static_cast<std::size_t>(tokens * p.num_heads));
  // One that takes most of the weight, one that takes hardly any.
  const std::vector<float> sinks = has_sinks ? std::vector<float>{0, 1.5, 12, -20} : std::vector<float>();
  const float* const sinks_or_none = has_sinks ? sinks.data() : nullptr;
  attention_forward(cpu, p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), sinks_or_none);
  // The gradients are added to what there is.
  std::vector<float> dq(q.size(), 1), dk(k.size(), 1), dv(v.size(), 1);
  attention_backward(cpu, p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), dout.data(), dq.data(),
                     dk.data(), dv.data());

  const Definition expected(p, tokens, all_as<double>(q), all_as<double>(k), all_as<double>(v), all_as<double>(out),
                            all_as<double>(dout), all_as<double>(sinks));
  for (std::size_t i = 0; i < logsumexp.size(); ++i)
    if (std::isinf(expected.logsumexp[i]))
      EXPECT_EQ(logsumexp[i], -INFINITY);
    else
      ASSERT_NEAR(logsumexp[i], expected.logsumexp[i], 1e-5);
  // In bfloat16, probabilities and the gradients of scores are rounded, as factors, and the output.
  const double of_terms = std::is_same_v<T, bf16> ? 0x1p-8 : 0;
  expect_sums(out, expected.out, of_terms);
  expect_sums(dq, expected.dq, of_terms, 1);
  expect_sums(dk, expected.dk, of_terms, 1);
  expect_sums(dv, expected.dv, of_terms, 1);
  if (!has_sinks) return;
  for (const bool add : {false, true}) {
    std::vector<float> dsinks(sinks.size(), 1);
    attention_sink_gradient(cpu, p, sinks.data(), out.data(), logsumexp.data(), dout.data(), add, dsinks.data());
    expect_sums(dsinks, expected.dsinks, 0, add ? 1 : 0);
  }
}

TEST_P(AttentionKernel, OfFloat32IsTheDefinition) { check<float>(); }
TEST_P(AttentionKernel, OfBfloat16IsTheDefinitionWithRoundedFactors) { check<bf16>(); }

INSTANTIATE_TEST_SUITE_P(ThreadsAndWidths, AttentionKernel,
                         ::testing::Values(Case{1, 7, 5}, Case{3, 7, 5}, Case{1, 64, 96}, Case{3, 40, 33}));
// Windows beside the blocks of 32 and the tiles of 64 keys and 128 queries, and one that holds all.
INSTANTIATE_TEST_SUITE_P(Windows, AttentionKernel,
                         ::testing::Values(Case{1, 7, 5, 1}, Case{3, 7, 5, 2}, Case{1, 7, 5, 31}, Case{3, 7, 5, 32},
                                           Case{1, 7, 5, 33}, Case{1, 64, 96, 65}, Case{3, 40, 33, 77},
                                           Case{1, 7, 5, 129}, Case{1, 7, 5, 190}, Case{1, 7, 5, 1LL << 40}));

INSTANTIATE_TEST_SUITE_P(Sinks, AttentionKernel,
                         ::testing::Values(Case{1, 7, 5, 0, true}, Case{3, 64, 96, 0, true},
                                           Case{2, 40, 33, 50, true}));

// What lies wholly before a window does not matter, not even behind a factor of 0: nothing is computed of it.
TEST(Attention, KeysBeforeAWindowAreLeftOut) {
  constexpr std::int64_t tokens = 300, width = 32, window = 40;
  const std::vector<std::int64_t> offsets = {0, tokens};
  std::vector<std::int32_t> position(tokens), document(tokens, 0);
  std::iota(position.begin(), position.end(), 0);
  const AttentionProblem p{.num_heads = 1,
                           .num_kv_heads = 1,
                           .width = width,
                           .value_width = width,
                           .scale = 0.4,
                           .window = window,
                           .num_segments = 1,
                           .query_offsets = offsets.data(),
                           .key_offsets = offsets.data(),
                           .query_position = position.data(),
                           .key_position = position.data(),
                           .query_document = document.data(),
                           .key_document = document.data()};
  const auto check = [&]<class T>(T) {
    using Rows = std::pair<std::int64_t, std::int64_t>;  // [first,end)
    const auto values = [](unsigned seed, const Rows& of_nan) {
      auto x = all_as<T>(random_bf16(tokens * width, seed, 0.5F));
      std::fill(x.begin() + of_nan.first * width, x.begin() + of_nan.second * width, as<T>(NAN));
      return x;
    };
    const auto nans = [](const std::vector<double>& x, std::int64_t first, std::int64_t end) {
      return std::count_if(x.begin() + first * width, x.begin() + end * width,
                           [](double value) { return std::isnan(value); });
    };
    const auto run = [&](const Rows& keys, const Rows& queries, auto&& see) {
      const auto q = values(1, queries), k = values(2, keys), v = values(3, keys), dout = values(4, queries);
      std::vector<T> out(q.size());
      std::vector<Acc<T>> logsumexp(tokens), dq(q.size()), dk(q.size()), dv(q.size());
      attention_forward(make_cpu(2), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data());
      attention_backward(make_cpu(2), p, q.data(), k.data(), v.data(), out.data(), logsumexp.data(), dout.data(),
                         dq.data(), dk.data(), dv.data());
      see(out, dq, dk, dv);
    };
    // Blocks of 32 queries and of 32 keys.
    run({64, 128}, {0, 0}, [&](const auto& out, const auto& dq, const auto&, const auto&) {
      for (const auto& x : {all_as<double>(out), all_as<double>(dq)}) {
        EXPECT_EQ(nans(x, 0, 64), 0);
        EXPECT_EQ(nans(x, 64, 128 + window - 1), (64 + window - 1) * width);
        EXPECT_EQ(nans(x, 192, tokens), 0);
      }
    });
    run({0, 0}, {192, 256}, [&](const auto&, const auto&, const auto& dk, const auto& dv) {
      for (const auto& x : {all_as<double>(dk), all_as<double>(dv)}) {
        EXPECT_EQ(nans(x, 0, 128), 0);
        EXPECT_EQ(nans(x, 192 - window + 1, 256), (64 + window - 1) * width);
        EXPECT_EQ(nans(x, 256, tokens), 0);
      }
    });
  };
  check(0.F);
  check(0.0);
  check(bf16());
}

/// The bits of the gradients depend on no number of threads: more of them than cores, and than there are tasks.
class AttentionThreads : public ::testing::TestWithParam<std::int64_t> {};
TEST_P(AttentionThreads, BitsDependOnNoNumberOfThem) {
  const Example example(16, 16, GetParam());
  const AttentionProblem& p = example.problem;
  const auto q = random_bf16(example.tokens * p.num_heads * 16, 1), k = random_bf16(example.tokens * 2 * 16, 2);
  const auto run = [&](int threads) {
    const Cpu cpu = make_cpu(threads);
    std::vector<bf16> out(q.size());
    std::vector<float> logsumexp(static_cast<std::size_t>(example.tokens * p.num_heads));
    std::vector<float> dq(q.size()), dk(k.size()), dv(k.size());
    const std::vector<float> sinks = {0, 1, 2, 3};
    attention_forward(cpu, p, q.data(), k.data(), k.data(), out.data(), logsumexp.data(), sinks.data());
    attention_backward(cpu, p, q.data(), k.data(), k.data(), out.data(), logsumexp.data(), q.data(), dq.data(),
                       dk.data(), dv.data());
    std::vector<float> dsinks(sinks.size());
    attention_sink_gradient(cpu, p, sinks.data(), out.data(), logsumexp.data(), q.data(), /*add=*/false, dsinks.data());
    dq.insert(dq.end(), dsinks.begin(), dsinks.end());
    dq.insert(dq.end(), dk.begin(), dk.end());
    dq.insert(dq.end(), dv.begin(), dv.end());
    return dq;
  };
  const auto alone = run(1);
  for (const int threads : {2, 16}) EXPECT_EQ(run(threads), alone);
}
INSTANTIATE_TEST_SUITE_P(Windows, AttentionThreads, ::testing::Values(0, 3, 50, 150));

/// Texts of which a cache holds keys in pages: one with many queries, one with a single one, whose keys fill no page.
TEST(Attention, ReadsKeysFromTheirPages) {
  constexpr std::int64_t width = 24, keys = 5 * attention_page, of_first = 150, of_second = 70;
  const std::vector<std::int64_t> pages = {6, 1, 4, 3, 0};
  // Behind each text, the room in its last page.
  const std::vector<std::int64_t> key_offsets = {0, of_first, 3 * attention_page, 3 * attention_page + of_second, keys};
  const std::vector<std::int64_t> query_offsets = {0, 40, 40, 41, 41};
  std::vector<std::int32_t> query_position, key_position(keys), documents(keys, 0);
  for (std::int64_t i = 0; i < keys; ++i)
    key_position[i] = static_cast<std::int32_t>(i < key_offsets[2] ? i : i - key_offsets[2]);
  for (std::int64_t i = 0; i < 40; ++i) query_position.push_back(static_cast<std::int32_t>(of_first - 40 + i));
  query_position.push_back(of_second - 1);
  AttentionProblem problem{.num_heads = 4,
                           .num_kv_heads = 2,
                           .width = width,
                           .value_width = width,
                           .scale = 0.4,
                           .num_segments = 4,
                           .query_offsets = query_offsets.data(),
                           .key_offsets = key_offsets.data(),
                           .query_position = query_position.data(),
                           .key_position = key_position.data(),
                           .query_document = documents.data(),
                           .key_document = documents.data()};
  const auto check = [&]<class T>(T) {
    const auto q = all_as<T>(random_bf16(41 * 4 * width, 1)), k = all_as<T>(random_bf16(keys * 2 * width, 2));
    const auto v = all_as<T>(random_bf16(keys * 2 * width, 3));
    const auto in_pages = [&](const std::vector<T>& rows) {
      constexpr std::int64_t of_page = attention_page * 2 * width;
      std::vector<T> result(7 * of_page, as<T>(NAN));
      for (std::size_t i = 0; i < pages.size(); ++i)
        std::copy_n(rows.data() + static_cast<std::int64_t>(i) * of_page, of_page, result.data() + pages[i] * of_page);
      return result;
    };
    const auto run = [&](const std::int64_t* key_pages, const std::vector<T>& all_k, const std::vector<T>& all_v,
                         const std::vector<Acc<T>>& sinks) {
      problem.key_pages = key_pages;
      std::vector<T> out(q.size());
      std::vector<Acc<T>> logsumexp(41 * 4);
      attention_forward(make_cpu(2), problem, q.data(), all_k.data(), all_v.data(), out.data(), logsumexp.data(),
                        sinks.empty() ? nullptr : sinks.data());
      return all_as<double>(out);
    };
    for (const std::int64_t window : {0, 1, 30, 65, 1000}) {
      for (const std::vector<Acc<T>>& sinks : {std::vector<Acc<T>>(), std::vector<Acc<T>>{0, 1, 12, -20}}) {
        problem.window = window;
        const std::vector<double> found = run(pages.data(), in_pages(k), in_pages(v), sinks);
        EXPECT_EQ(found, run(nullptr, k, v, sinks));
        const std::vector<double> zeros(q.size());
        const Definition right(problem, 41, all_as<double>(q), all_as<double>(k), all_as<double>(v), zeros, zeros,
                               all_as<double>(sinks));
        expect_sums(found, right.out, std::is_same_v<T, bf16> ? 0x1p-7 : 0);
      }
    }
  };
  check(0.F);
  check(0.0);
  check(bf16());
}

// e^logsumexp is the weight of a set of keys; a set that a query does not see has none.
TEST(AttentionMerge, IsTheMeanOfBothWeightedByTheirSums) {
  const auto check = []<class T>(T /*type*/) {
    using A = Acc<T>;
    constexpr std::int64_t rows = 5, width = 37;
    const A none = -std::numeric_limits<A>::infinity();
    const std::vector<T> more = all_as<T>(random_bf16(rows * width, 1));
    const std::vector<A> more_logsumexp = {0, 3, none, 2, none}, before = {0, -2, 700, none, none};
    std::vector<A> out = all_as<A>(random_bf16(rows * width, 2)), logsumexp = before;
    std::fill(out.end() - width, out.end(), A(0));
    std::vector<double> right;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t row = i / width;
      const double weight = row == 0 ? 0.5 : row == 1 ? 1 / (1 + std::exp(-5.)) : row == 3 ? 1 : 0;
      right.push_back((1 - weight) * out[i] + weight * as<double>(more[i]));
    }
    attention_merge(make_cpu(2), more.data(), more_logsumexp.data(), out.data(), logsumexp.data(), rows, width);
    const double tolerance = std::is_same_v<A, double> ? 1e-14 : 1e-6;
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_NEAR(out[i], right[i], tolerance) << i;
    const std::vector<double> sums = {std::log(2.), 3 + std::log1p(std::exp(-5.)), 700, 2};
    for (std::size_t row = 0; row < sums.size(); ++row) EXPECT_NEAR(logsumexp[row], sums[row], tolerance) << row;
    EXPECT_EQ(logsumexp[4], none);
  };
  check(0.F);
  check(0.0);
  check(bf16());
}

}  // namespace
}  // namespace limbeck::kernels
