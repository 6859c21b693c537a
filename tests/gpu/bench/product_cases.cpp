// Products of activations and weights in bfloat16, of T tokens from width C to width F.
#include "kernels/matmul.h"
#include "tests/gpu/bench/cases.h"

namespace limbeck::bench {
namespace {

using kernels::bf16;
using kernels::Transpose;

}  // namespace

std::vector<Case> product_cases(Sizes sizes) {
  struct Shape {
    std::int64_t tokens, width, hidden;
  };
  std::vector<Case> all;
  for (const Shape& s : sizes == Sizes::Tiny ? std::vector<Shape>{{24, 64, 96}}
                                             : std::vector<Shape>{{8192, 4096, 4096}, {8192, 4096, 14336}}) {
    const auto add = [&](const char* name, const char* bytes, std::function<Work(Buffers)> prepare) {
      all.push_back({.kind = "product",
                     .name = name,
                     .of = {{"T", s.tokens}, {"C", s.width}, {"F", s.hidden}},
                     .bytes = bytes,
                     .flops = "2 T C F",
                     .prepare = std::move(prepare)});
    };
    add("product", "2 T C + 2 C F + 2 T F", [s](Buffers b) -> Work {
      auto *x = b.numbers<bf16>(s.tokens * s.width), *weight = b.numbers<bf16>(s.hidden * s.width);
      auto* y = b.zeros<bf16>(s.tokens * s.hidden);
      return [=] {
        kernels::matmul(b.cuda(), Transpose::No, Transpose::Yes, s.tokens, s.hidden, s.width, x, weight, 0.F, y);
      };
    });
    add("product, input gradient", "2 T C + 2 C F + 2 T F", [s](Buffers b) -> Work {
      auto *dy = b.numbers<bf16>(s.tokens * s.hidden), *weight = b.numbers<bf16>(s.hidden * s.width);
      auto* dx = b.zeros<bf16>(s.tokens * s.width);
      return [=] {
        kernels::matmul(b.cuda(), Transpose::No, Transpose::No, s.tokens, s.width, s.hidden, dy, weight, 0.F, dx);
      };
    });
    // To float32, as gradients are.
    add("product, weight gradient", "2 T C + 4 C F + 2 T F", [s](Buffers b) -> Work {
      auto *dy = b.numbers<bf16>(s.tokens * s.hidden), *x = b.numbers<bf16>(s.tokens * s.width);
      auto* dweight = b.zeros<float>(s.hidden * s.width);
      return [=] {
        kernels::matmul(b.cuda(), Transpose::Yes, Transpose::No, s.hidden, s.width, s.tokens, dy, x, 0.F, dweight);
      };
    });
  }
  return all;
}

}  // namespace limbeck::bench
