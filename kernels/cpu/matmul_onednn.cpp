// The float product by oneDNN, which chooses its instructions at run time. dnnl_sgemm is near the processor's peak for
// A B and A^T B; for A B^T a prepared matmul primitive is 8 to 40 % faster (measured on AVX-512 at 256 rows of width
// 576 and at the vocabulary product; tests/bench/matmul_bench.cpp). Primitives are kept for row counts that recur:
// multiples of 64. Experts get any number of rows, so their products are dnnl_sgemm's.
#include <omp.h>
#include <oneapi/dnnl/dnnl.hpp>

#include <array>
#include <map>
#include <new>
#include <stdexcept>
#include <string>

#include "kernels/cpu/cpu_cache.h"
#include "kernels/cpu/gemm.h"

namespace limbeck::kernels {
namespace {

/// oneDNN takes as many threads as OpenMP would give the caller.
class ThreadCount {
 public:
  explicit ThreadCount(int threads) : before_(omp_get_max_threads()) {
    if (threads != before_) omp_set_num_threads(threads);
  }
  ~ThreadCount() {
    if (omp_get_max_threads() != before_) omp_set_num_threads(before_);
  }
  ThreadCount(const ThreadCount&) = delete;
  ThreadCount& operator=(const ThreadCount&) = delete;

 private:
  int before_;
};

/// The description of a product: oneDNN 2 takes it by way of an operation's descriptor, a type that oneDNN 3 has not.
template <class Matmul>
auto describe(const dnnl::engine& engine, const dnnl::memory::desc& a, const dnnl::memory::desc& b,
              const dnnl::memory::desc& c, const dnnl::primitive_attr& attributes) {
  using Description = typename Matmul::primitive_desc;
  if constexpr (requires { typename Matmul::desc; })
    return Description(typename Matmul::desc(a, b, c), attributes, engine);
  else
    return Description(engine, a, b, c, attributes);
}

/// Prepared products by extents, and their scratchpads.
class Products {
 public:
  void run(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b, float beta, float* c) {
    const Key key{m, n, k, beta != 0};
    auto it = products_.find(key);
    if (it == products_.end()) {
      if (products_.size() >= max_products) products_.clear();
      it = products_.emplace(key, Product(engine_, m, n, k, beta != 0)).first;
    }
    it->second.run(stream_, a, b, c);
  }

 private:
  using Key = std::array<std::int64_t, 4>;
  static constexpr std::size_t max_products = 128;

  class Product {
   public:
    Product(const dnnl::engine& engine, std::int64_t m, std::int64_t n, std::int64_t k, bool add) {
      const auto f32 = dnnl::memory::data_type::f32;
      const dnnl::memory::desc a({m, k}, f32, dnnl::memory::dims{k, 1});
      const dnnl::memory::desc b({k, n}, f32, dnnl::memory::dims{1, k});
      const dnnl::memory::desc c({m, n}, f32, dnnl::memory::dims{n, 1});
      dnnl::primitive_attr attributes;
      attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      if (add) {
        dnnl::post_ops sum;
        sum.append_sum(1.F);
        attributes.set_post_ops(sum);
      }
      const auto description = describe<dnnl::matmul>(engine, a, b, c, attributes);
      product_ = dnnl::matmul(description);
      a_ = dnnl::memory(a, engine, nullptr);
      b_ = dnnl::memory(b, engine, nullptr);
      c_ = dnnl::memory(c, engine, nullptr);
      scratchpad_ = dnnl::memory(description.scratchpad_desc(), engine);
    }
    void run(dnnl::stream& stream, const float* a, const float* b, float* c) {
      a_.set_data_handle(const_cast<float*>(a));
      b_.set_data_handle(const_cast<float*>(b));
      c_.set_data_handle(c);
      product_.execute(
          stream, {{DNNL_ARG_SRC, a_}, {DNNL_ARG_WEIGHTS, b_}, {DNNL_ARG_DST, c_}, {DNNL_ARG_SCRATCHPAD, scratchpad_}});
      stream.wait();
    }

   private:
    dnnl::matmul product_;
    dnnl::memory a_, b_, c_, scratchpad_;
  };

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<Key, Product> products_;
};

}  // namespace

void gemm(const Cpu& cpu, Transpose transpose_a, Transpose transpose_b, std::int64_t m, std::int64_t n, std::int64_t k,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (std::int64_t i = 0; i < m; ++i)
      for (std::int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == 0 ? 0.F : beta * c[i * ldc + j];
    return;
  }
  const ThreadCount threads(cpu.threads);
  const auto letter = [](Transpose t) { return t == Transpose::Yes ? 'T' : 'N'; };
  const auto status = dnnl_sgemm(letter(transpose_a), letter(transpose_b), m, n, k, 1.F, a, lda, b, ldb, beta, c, ldc);
  if (status == dnnl_out_of_memory) throw std::bad_alloc();
  if (status != dnnl_success)
    throw std::runtime_error("matmul: oneDNN refused a product of " + std::to_string(m) + "x" + std::to_string(n) +
                             "x" + std::to_string(k) + " with status " + std::to_string(status));
}

bool prepared_product(const Cpu& cpu, std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                      float beta, float* c) {
  if (m == 0 || m % 64 != 0 || n < 64 || k < 64 || (beta != 0 && beta != 1)) return false;
  const ThreadCount threads(cpu.threads);  // a product is made and run with the same number
  try {
    if (!cpu.cache->products) cpu.cache->products = std::make_shared<Products>();
    static_cast<Products*>(cpu.cache->products.get())->run(m, n, k, a, b, beta, c);
  } catch (const dnnl::error& error) {
    if (error.status == dnnl_out_of_memory) throw std::bad_alloc();
    throw;
  }
  return true;
}

}  // namespace limbeck::kernels
