// What goes on between tokens and their experts, which memory bounds: T tokens of width C, K of E experts each.
#include "kernels/permute.h"
#include "kernels/softmax.h"
#include "kernels/topk.h"
#include "tests/gpu/bench/cases.h"

namespace limbeck::bench {
namespace {

using kernels::bf16;

struct Routing {
  std::int64_t tokens, experts, selected, width;
  std::int64_t rows() const { return tokens * selected; }
};

/// Every token's own `selected` experts, all alike often.
std::int32_t* spread(Buffers& b, const Routing& r) {
  return b.counted<std::int32_t>(r.rows(),
                                 [&](std::int64_t i) { return (i / r.selected * 37 + i % r.selected) % r.experts; });
}

struct Sorted {
  std::int32_t *row_of, *source;
};

Sorted sort(Buffers& b, const Routing& r) {
  const Sorted sorted{b.zeros<std::int32_t>(r.rows()), b.zeros<std::int32_t>(r.rows())};
  auto* counts = b.zeros<std::int64_t>(r.experts);
  kernels::sort_by_expert(b.cuda(), spread(b, r), r.tokens, r.selected, r.experts, counts, sorted.row_of,
                          sorted.source);
  return sorted;
}

Work softmax(Buffers b, const Routing& r) {
  auto *x = b.numbers<float>(r.tokens * r.experts), *y = b.zeros<float>(r.tokens * r.experts);
  return [=] { kernels::softmax(b.cuda(), x, y, r.tokens, r.experts); };
}

Work topk(Buffers b, const Routing& r) {
  auto* x = b.numbers<float>(r.tokens * r.experts);
  auto* selection = b.zeros<std::int32_t>(r.rows());
  return [=] { kernels::topk(b.cuda(), x, selection, r.tokens, r.experts, r.selected); };
}

Work sort_by_expert(Buffers b, const Routing& r) {
  auto *selection = spread(b, r), *row_of = b.zeros<std::int32_t>(r.rows()), *source = b.zeros<std::int32_t>(r.rows());
  auto* counts = b.zeros<std::int64_t>(r.experts);
  return [=] { kernels::sort_by_expert(b.cuda(), selection, r.tokens, r.selected, r.experts, counts, row_of, source); };
}

Work permute(Buffers b, const Routing& r) {
  const Sorted sorted = sort(b, r);
  auto *x = b.numbers<bf16>(r.tokens * r.width), *y = b.zeros<bf16>(r.rows() * r.width);
  return [=] { kernels::permute_rows(b.cuda(), x, sorted.source, y, r.rows(), r.selected, r.width); };
}

Work unpermute(Buffers b, const Routing& r) {
  const Sorted sorted = sort(b, r);
  auto *rows = b.numbers<bf16>(r.rows() * r.width), *y = b.zeros<bf16>(r.tokens * r.width);
  auto* weights = b.numbers<float>(r.rows());
  return [=] { kernels::unpermute_rows(b.cuda(), rows, sorted.row_of, weights, y, r.tokens, r.selected, r.width); };
}

Work unpermute_gradient(Buffers b, const Routing& r) {
  const Sorted sorted = sort(b, r);
  auto *rows = b.numbers<bf16>(r.rows() * r.width), *dy = b.numbers<bf16>(r.tokens * r.width);
  auto* drows = b.zeros<bf16>(r.rows() * r.width);
  auto *weights = b.numbers<float>(r.rows()), *dweights = b.zeros<float>(r.rows());
  return [=] {
    kernels::unpermute_gradient(b.cuda(), rows, sorted.source, weights, dy, drows, dweights, r.rows(), r.tokens,
                                r.selected, r.width);
  };
}

}  // namespace

std::vector<Case> routing_cases(Sizes sizes) {
  const bool tiny = sizes == Sizes::Tiny;
  const Routing r = tiny ? Routing{20, 8, 2, 64} : Routing{16384, 128, 8, 2048};
  const Routing many = tiny ? r : Routing{131072, 128, 8, 0};  // that launches do not count
  const Letters router = {{"T", many.tokens}, {"E", r.experts}};
  const Letters chosen = {{"T", many.tokens}, {"E", r.experts}, {"K", r.selected}};
  const Letters sorted = {{"T", r.tokens}, {"E", r.experts}, {"K", r.selected}};
  const Letters moved = {{"T", r.tokens}, {"K", r.selected}, {"C", r.width}};
  struct Row {
    const char *kind, *name;
    const Letters& of;
    const char* bytes;
    const Routing& routing;
    Work (*prepare)(Buffers, const Routing&);
  };
  std::vector<Case> all;
  for (const Row& row :
       {Row{"memory", "router's softmax", router, "8 T E", many, softmax},
        Row{"memory", "top K", chosen, "4 T E + 4 T K", many, topk},
        Row{"small", "sort by expert", sorted, "12 T K", r, sort_by_expert},
        Row{"memory", "permute, bfloat16", moved, "2 T C + 2 T K C", r, permute},
        Row{"memory", "unpermute, bfloat16", moved, "2 T C + 2 T K C", r, unpermute},
        Row{"memory", "unpermute gradient, bfloat16", moved, "2 T C + 4 T K C", r, unpermute_gradient}})
    all.push_back({.kind = row.kind,
                   .name = row.name,
                   .of = row.of,
                   .bytes = row.bytes,
                   .flops = "",
                   .prepare = [routing = row.routing, prepare = row.prepare](Buffers b) {
                     return prepare(std::move(b), routing);
                   }});
  return all;
}

}  // namespace limbeck::bench
