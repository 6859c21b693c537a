// What the mesh, the expert exchange and the gradient buckets must do on any world (see comm_cases.h). Each case runs
// every layout that its world can have.
#pragma once

#include <algorithm>
#include <deque>
#include <numeric>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "core/share.h"
#include "core/tape.h"
#include "parallel/axes/expert_comm.h"
#include "parallel/axes/gradient_sync.h"
#include "parallel/axes/shared_values.h"
#include "parallel/axes/warm_up.h"
#include "parallel/comm/engine.h"
#include "tests/parallel/axes/expert_moves_cases.h"
#include "tests/parallel/axes/moe_cases.h"
#include "tests/parallel/axes/replica_cases.h"
#include "tests/parallel/axes/tensor_cases.h"
#include "tests/parallel/comm/comm_cases.h"

namespace limbeck::testing {

using parallel::Mesh;
using parallel::parse_layout;

/// A WorldComm that a Mesh may hold, though the case only borrows it.
inline std::shared_ptr<WorldComm> borrow(WorldComm& world) { return {std::shared_ptr<void>(), &world}; }

inline std::vector<int> divisors(int n) {
  std::vector<int> result;
  for (int d = 1; d <= n; ++d)
    if (n % d == 0) result.push_back(d);
  return result;
}

/// Every layout without dp that a world can have, as text, with cp, tp, pp, ep and etp.
struct Cutting {
  int cp, tp, pp, ep, etp;
  std::string text() const { return fmt::format("cp{}tp{}pp{}ep{}etp{}", cp, tp, pp, ep, etp); }
};
inline std::vector<Cutting> cuttings(int num_ranks) {
  std::vector<Cutting> result;
  for (const int pp : divisors(num_ranks))
    for (const int replica : divisors(num_ranks / pp))
      for (const int tp : divisors(replica))
        for (const int experts : divisors(num_ranks / pp))
          for (const int etp : divisors(experts)) result.push_back({replica / tp, tp, pp, experts / etp, etp});
  return result;
}

inline void mesh_groups_case(WorldComm& world) {
  // Where a rank is, by the definition: in the order of ranks, pp, dp, cp, tp; and pp, edp, ep, etp.
  struct Place {
    int pp, dp, cp, tp, edp, ep, etp;
  };
  for (const Cutting& cut : cuttings(world.size())) {
    const Mesh mesh(borrow(world), parse_layout(cut.text()));
    std::vector<Place> places;
    const int dp = world.size() / (cut.pp * cut.cp * cut.tp), edp = world.size() / (cut.pp * cut.ep * cut.etp);
    for (int p = 0; p < cut.pp; ++p)
      for (int d = 0; d < dp; ++d)
        for (int c = 0; c < cut.cp; ++c)
          for (int t = 0; t < cut.tp; ++t) places.push_back({p, d, c, t, 0, 0, 0});
    std::size_t next = 0;
    for (int p = 0; p < cut.pp; ++p)
      for (int d = 0; d < edp; ++d)
        for (int e = 0; e < cut.ep; ++e)
          for (int t = 0; t < cut.etp; ++t, ++next) places[next].edp = d, places[next].ep = e, places[next].etp = t;
    const Place me = places[static_cast<std::size_t>(world.rank())];
    EXPECT_EQ(mesh.ep().size, cut.ep);
    EXPECT_EQ(mesh.ep().rank, me.ep);
    EXPECT_EQ(mesh.etp().size, cut.etp);
    EXPECT_EQ(mesh.etp().rank, me.etp);
    EXPECT_EQ(mesh.edp().name(), "edp");
    // A group's members, in its order: those that differ from this rank along its axes alone.
    const auto memory = Memory::cpu(1);
    const auto expect = [&](WorldComm& group, const char* name, const auto& is_member) {
      std::vector<std::int64_t> members;
      for (int r = 0; r < world.size(); ++r)
        if (is_member(places[static_cast<std::size_t>(r)])) members.push_back(r);
      const auto size = static_cast<std::int64_t>(members.size());
      ASSERT_EQ(group.size(), size) << name << " of " << cut.text();
      Tensor all = Tensor::empty(memory, DType::I64, {size});
      group.all_gather(Tensor::from<std::int64_t>(memory, {1}, std::vector<std::int64_t>{world.rank()}), all);
      const std::vector<std::int64_t> found(all.data<std::int64_t>(), all.data<std::int64_t>() + size);
      EXPECT_EQ(found, members) << name << " of " << cut.text();
    };
    expect(mesh.stage(), "stage", [&](const Place& p) { return p.pp == me.pp; });
    expect(mesh.pp(), "pp", [&](const Place& p) { return p.dp == me.dp && p.cp == me.cp && p.tp == me.tp; });
    expect(mesh.dp(), "dp", [&](const Place& p) { return p.pp == me.pp && p.cp == me.cp && p.tp == me.tp; });
    expect(mesh.cp(), "cp", [&](const Place& p) { return p.pp == me.pp && p.dp == me.dp && p.tp == me.tp; });
    expect(mesh.data(), "data", [&](const Place& p) { return p.pp == me.pp && p.tp == me.tp; });
    expect(mesh.tp(), "tp", [&](const Place& p) { return p.pp == me.pp && p.dp == me.dp && p.cp == me.cp; });
    expect(mesh.edp(), "edp", [&](const Place& p) { return p.pp == me.pp && p.ep == me.ep && p.etp == me.etp; });
    expect(mesh.experts(), "experts", [&](const Place& p) { return p.pp == me.pp && p.edp == me.edp; });
    expect(mesh.along("etp"), "etp", [&](const Place& p) { return p.pp == me.pp && p.edp == me.edp && p.ep == me.ep; });
  }
}

/// Tokens of a rank, and what they choose, in a pattern: 0 has no token at all, in 1 all choose the first experts.
struct TokenPattern {
  static constexpr std::int64_t choices = 3;
  std::int64_t num_experts;
  int number;
  std::int64_t tokens(int source) const { return number == 0 ? 0 : (source * 3 + number * 2) % 7; }
  std::int32_t chosen(int source, std::int64_t t, std::int64_t k) const {
    if (number == 1) return static_cast<std::int32_t>(k);
    const std::int64_t e = (source * 5 + t * 7 + k * (number + 2)) % num_experts;
    return (source + t + k) % 5 == 0 ? -1 : static_cast<std::int32_t>(e);
  }
};

/// Small integers, which every type holds, as do their sums.
inline Tensor small_numbers(const Shape& shape, const std::function<std::int64_t(std::int64_t, std::int64_t)>& of,
                            DType dtype) {
  Tensor x = Tensor::empty(Memory::cpu(1), DType::F64, shape);
  for (std::int64_t r = 0; r < shape[0]; ++r)
    for (std::int64_t c = 0; c < shape[1]; ++c)
      x.mutable_data<double>()[r * shape[1] + c] = static_cast<double>(of(r, c));
  return x.to(dtype);
}

template <class T>
void expert_exchange_case(WorldComm& world, std::int64_t E, int sharers, const parallel::ExpertNodes& nodes) {
  constexpr std::int64_t K = TokenPattern::choices, C = 3;
  const DType dtype = core::dtype_of<T>();
  const auto expert = parallel::make_expert_comm(borrow(world), sharers, nodes);
  const int me = world.rank();
  for (int number = 0; number < 6; ++number) {
    SCOPED_TRACE(fmt::format("{} experts, pattern {}", E, number));
    const TokenPattern pattern{E, number};
    // Of a token's choices the one `k`, among the experts of a rank; -1: none.
    const auto choice_at = [&](int rank, int source, std::int64_t t, std::int64_t k) {
      const std::int64_t e = pattern.chosen(source, t, k);
      const core::Slice there = core::slice_of(E, rank / sharers, world.size() / sharers);
      return e >= there.first && e < there.first + there.count ? static_cast<std::int32_t>(e - there.first) : -1;
    };
    const auto has_token = [&](int rank, int source, std::int64_t t) {
      bool has = false;
      for (std::int64_t k = 0; k < K; ++k) has = has || choice_at(rank, source, t, k) >= 0;
      return has;
    };
    const std::int64_t N = pattern.tokens(me);
    std::vector<std::int32_t> chosen;
    for (std::int64_t t = 0; t < N; ++t)
      for (std::int64_t k = 0; k < K; ++k) chosen.push_back(pattern.chosen(me, t, k));
    const auto exchange = expert->prepare(Tensor::from<std::int32_t>(Memory::cpu(1), {N, K}, chosen), E);

    // A token knows whose it is.
    const Tensor x = small_numbers(
        {N, C}, [&](auto t, auto c) { return c == 0   ? me
                                             : c == 1 ? t
                                                      : 3 * me + t; }, dtype);
    const Tensor here = expert->dispatch_rows(exchange, x).to(DType::F64);
    std::vector<std::pair<int, std::int64_t>> expected, found;
    for (int source = 0; source < world.size(); ++source)
      for (std::int64_t t = 0; t < pattern.tokens(source); ++t)
        if (has_token(me, source, t)) expected.emplace_back(source, t);
    const std::int64_t U = here.shape()[0];
    ASSERT_EQ(exchange->selection.shape(), (Shape{U, K}));
    std::int64_t num_rows = 0;
    for (std::int64_t u = 0; u < U; ++u) {
      const double* row = here.data<double>() + u * C;
      const auto source = static_cast<int>(row[0]);
      const auto t = static_cast<std::int64_t>(row[1]);
      found.emplace_back(source, t);
      EXPECT_EQ(row[2], 3 * row[0] + row[1]);
      for (std::int64_t k = 0; k < K; ++k) {
        EXPECT_EQ(exchange->selection.data<std::int32_t>()[u * K + k], choice_at(me, source, t, k));
        num_rows += choice_at(me, source, t, k) >= 0 ? 1 : 0;
      }
    }
    EXPECT_EQ(exchange->num_rows, num_rows);
    if (nodes.of.empty()) {
      EXPECT_EQ(found, expected);  // in their order
    } else {
      EXPECT_THAT(found, ::testing::UnorderedElementsAreArray(expected));
    }

    // What comes back is the sum over the ranks that have the token.
    const auto given = [](int rank, int source, std::int64_t t, std::int64_t c) {
      return 3 * (rank + 1) + source + t + c;
    };
    const Tensor y = small_numbers(
        {U, C},
        [&](auto u, auto c) {
          const auto& [source, t] = found[static_cast<std::size_t>(u)];
          return given(me, source, t, c);
        },
        dtype);
    const Tensor back = expert->combine_rows(exchange, y);
    EXPECT_EQ(back.dtype(), dtype);
    const Tensor sums = small_numbers(
        {N, C},
        [&](auto t, auto c) {
          std::int64_t sum = 0;
          for (int r = 0; r < world.size(); ++r) sum += has_token(r, me, t) ? given(r, me, t, c) : 0;
          return sum;
        },
        DType::F64);
    EXPECT_EQ(core::host_values<double>(back.to(DType::F64)), core::host_values<double>(sums));
    EXPECT_THROW(expert->dispatch_rows(exchange, Tensor::zeros(Memory::cpu(1), DType::F32, {N + 1, C})), core::Error);
  }
}

/// Flat, and on nodes of so many ranks, of which the last may have fewer; of experts that the ranks divide and do not,
/// and that are fewer than ranks.
template <class T>
void expert_exchanges_case(WorldComm& world) {
  for (const int sharers : divisors(world.size()))
    for (int a_node = 0; a_node <= world.size(); ++a_node) {
      SCOPED_TRACE(fmt::format("{} ranks an expert, {} a node", sharers, a_node));
      parallel::ExpertNodes nodes;
      if (a_node > 0) {
        for (int r = 0; r < world.size(); ++r) nodes.of.push_back(r / a_node);
        nodes.here = world.split(world.rank() / a_node, world.rank(), "experts inside");
      }
      for (const std::int64_t num_experts : {12, 7, 3}) expert_exchange_case<T>(world, num_experts, sharers, nodes);
    }
}

/// Parameters "dense0", "expert1", ... over a mesh, with slots; of one there are fewer experts than four ranks.
struct TestParameters {
  TestParameters(const Mesh& mesh, const MemoryPtr& memory) {
    const std::vector<std::pair<Shape, bool>> kinds{{{5}, false},     {{4, 3, 7}, true}, {{33, 2}, false},
                                                    {{1}, false},     {{3, 2, 2}, true}, {{40}, false},
                                                    {{4, 1, 9}, true}};
    for (const auto& [shape, is_expert] : kinds) {
      auto& p = storage.emplace_back();
      p.name = (is_expert ? "expert" : "dense") + std::to_string(list.size());
      p.global_shape = shape;
      parallel::place(p, mesh, {.is_expert = is_expert});
      Shape local = shape;
      if (is_expert) local[0] = core::slice_of(shape[0], mesh.ep().rank, mesh.ep().size).count;
      p.value = Tensor::zeros(memory, DType::F32, local);
      p.slot = std::make_shared<core::Slot>();
      list.push_back(&p);
    }
    auto& frozen = storage.emplace_back();
    frozen.name = "frozen";
    list.push_back(&frozen);
  }
  std::deque<core::Parameter> storage;
  core::ParameterList list;
};

inline void gradient_buckets_case(WorldComm& world) {
  for (const int ep : divisors(world.size())) {
    const auto memory = Memory::cpu(1);
    const Mesh mesh(borrow(world), parse_layout("ep" + std::to_string(ep)));
    TestParameters parameters(mesh, memory);
    // What is empty fills no bucket.
    const std::int64_t num_filled = std::ranges::count_if(
        parameters.list, [](const core::Parameter* p) { return !p->is_frozen() && p->value.numel() > 0; });
    for (const std::int64_t bucket_bytes : {1, 300, 1 << 20}) {
      parallel::GradientSync sync(parameters.list, mesh, memory, DType::F32, bucket_bytes);
      EXPECT_EQ(sync.statistics().num_buckets, bucket_bytes == 1 ? num_filled : bucket_bytes == 300 ? 3 : 2);
      for (int step = 0; step < 2; ++step) {
        const auto* before = parameters.list[0]->slot->grad.raw();
        sync.begin_step();
        for (std::size_t i = 7; i-- > 0;) {
          core::Parameter& p = *parameters.list[i];
          EXPECT_FALSE(p.slot->has_grad);
          if (i == 3 && step == 1) continue;  // never gets a gradient
          if (i == 2 && world.rank() == 1) {  // has none on this rank, but is final
          } else {
            p.slot->grad.copy_from(filled<float>(memory, p.value.shape(), world.rank() + 2 * static_cast<int>(i)));
            p.slot->has_grad = true;
          }
          sync.parameter_final(p);
        }
        sync.finish();
        EXPECT_EQ(parameters.list[0]->slot->grad.raw(), before);  // pinned
        EXPECT_TRUE(parameters.list[0]->slot->is_pinned());
        std::vector<std::int64_t> order(static_cast<std::size_t>(sync.statistics().num_buckets));
        std::iota(order.begin(), order.end(), 0);
        EXPECT_EQ(sync.statistics().start_order, order);
        if (bucket_bytes == 1) {  // long before backward ends
          EXPECT_EQ(sync.statistics().num_final_at_first_start, 1);
        }
        for (std::size_t i = 0; i < 7; ++i) {
          const core::Parameter& p = *parameters.list[i];
          ASSERT_TRUE(p.slot->has_grad);
          const bool is_expert = p.name[0] == 'e';
          for (std::int64_t k = 0; k < p.value.numel(); ++k) {
            double expected = 0;
            for (int r = 0; r < world.size(); ++r) {
              if (is_expert && r % ep != world.rank() % ep) continue;
              if ((i == 2 && r == 1) || (i == 3 && step == 1)) continue;
              expected += value_at(r + 2 * static_cast<int>(i), k);
            }
            EXPECT_EQ(p.slot->grad.data<float>()[k], static_cast<float>(expected)) << p.name << " " << k;
          }
        }
        EXPECT_THROW(sync.parameter_final(*parameters.list[0]), core::Error);  // twice
        EXPECT_THROW(sync.parameter_final(*parameters.list[7]), core::Error);  // frozen
      }
    }
  }
}

/// What of a parameter is dealt, within how many neighbours: each rank gets its share of the sums over all of two
/// passes; and of values its own share stays while the others' come.
inline void shares_case(WorldComm& world) {
  for (const int ep : divisors(world.size()))
    for (const int neighbours : divisors(world.size())) {
      if (neighbours % ep != 0 && ep % neighbours != 0) continue;
      SCOPED_TRACE("ep" + std::to_string(ep) + " within " + std::to_string(neighbours));
      const auto memory = Memory::cpu(1);
      const Mesh mesh(borrow(world), parse_layout("ep" + std::to_string(ep)));
      TestParameters parameters(mesh, memory);
      const core::ParameterList trained(parameters.list.begin(), parameters.list.end() - 1);
      parallel::GradientSync sync(trained, mesh, memory, DType::F32, 300, {parallel::Sharded::Gradients, neighbours});
      sync.begin_step();
      const std::int64_t used = memory->statistics().used_bytes;
      for (int pass = 0; pass < 2; ++pass) {
        if (pass > 0) sync.next_pass();
        for (std::size_t i = 7; i-- > 0;) {
          core::Parameter& p = *trained[i];
          if (i == 2 && world.rank() == 1) {  // has none on this rank, but is final
          } else {
            core::GradientTarget target = core::open_gradient(p.slot, p.value);
            EXPECT_EQ(target.beta, 0);
            target.tensor.copy_from(filled<float>(memory, p.value.shape(), world.rank() + 2 * static_cast<int>(i)));
          }
          sync.parameter_final(p);
        }
      }
      sync.finish();
      EXPECT_EQ(memory->statistics().used_bytes, used);  // shares alone stay
      parallel::SharedValues values(trained, sync.groups(), /*bytes_at_once=*/200);
      for (std::size_t i = 0; i < 7; ++i) {
        core::Parameter& p = *trained[i];
        const auto& group = sync.groups().of(p);
        EXPECT_EQ(group.sharers->size() * group.twins->size(), group.all->size());
        const core::Slice mine = core::share_of(p.value.shape(), group.sharers->rank(), group.sharers->size());
        ASSERT_TRUE(p.slot->has_grad);
        ASSERT_EQ(p.slot->grad.numel(), mine.count);
        for (std::int64_t k = 0; k < mine.count; ++k) {
          double expected = 0;
          for (int r = 0; r < world.size(); ++r) {
            if ((p.name[0] == 'e' && r % ep != world.rank() % ep) || (i == 2 && r == 1)) continue;
            expected += 2 * value_at(r + 2 * static_cast<int>(i), mine.first + k);
          }
          EXPECT_EQ(p.slot->grad.data<float>()[k], static_cast<float>(expected)) << p.name << " " << k;
        }
        // What this rank has stepped on; the rest is of the step before.
        for (std::int64_t k = 0; k < p.value.numel(); ++k) p.value.mutable_data<float>()[k] = -1;
        for (std::int64_t k = 0; k < mine.count; ++k)
          p.value.mutable_data<float>()[mine.first + k] =
              static_cast<float>(value_at(static_cast<int>(i), mine.first + k));
      }
      values.gather();
      for (std::size_t i = 0; i < 7; ++i)
        for (std::int64_t k = 0; k < trained[i]->value.numel(); ++k)
          EXPECT_EQ(trained[i]->value.data<float>()[k], static_cast<float>(value_at(static_cast<int>(i), k)))
              << trained[i]->name << " " << k;
    }
}

/// Ranks whose gradients become final in different orders start their buckets in the same one.
inline void bucket_order_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const Mesh mesh(borrow(world), parse_layout("dp" + std::to_string(world.size())));
  TestParameters parameters(mesh, memory);
  parallel::GradientSync sync(parameters.list, mesh, memory, DType::F32, 1);
  sync.begin_step();
  for (std::size_t i = 0; i < 7; ++i) {
    core::Parameter& p = *parameters.list[world.rank() % 2 == 0 ? i : 6 - i];
    p.slot->grad.copy_from(filled<float>(memory, p.value.shape(), world.rank()));
    p.slot->has_grad = true;
    sync.parameter_final(p);
  }
  sync.finish();
  EXPECT_EQ(sync.statistics().start_order, (std::vector<std::int64_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(sync.statistics().num_final_at_first_start, world.rank() % 2 == 0 ? 7 : 1);
  double expected = 0;
  for (int r = 0; r < world.size(); ++r) expected += value_at(r, 39);
  EXPECT_EQ(parameters.list[5]->slot->grad.data<float>()[39], static_cast<float>(expected));
}

/// Every group makes each kind of collective that steps use of it, and gradient buckets theirs, where the host cannot
/// read: of a memory that it can, there is nothing to set up.
inline void warm_up_case(WorldComm& world) {
  const auto memory = Memory::hidden_cpu(1);
  const auto calls = [&] { return world.engine().whereabouts().at.number; };
  const auto calls_of = [&](const auto& work) {
    const std::int64_t before = calls();
    work();
    return calls() - before;
  };
  const bool is_alone = world.size() == 1;
  const std::string size = std::to_string(world.size());
  const Mesh tensors(borrow(world), parse_layout("tp" + size)), experts(borrow(world), parse_layout("ep" + size)),
      sequences(borrow(world), parse_layout("cp" + size));
  EXPECT_EQ(calls_of([&] { parallel::warm_up(tensors, memory); }),
            is_alone ? 0 : 2 + 4);  // the world's; sums and parts of tp
  EXPECT_EQ(calls_of([&] { parallel::warm_up(experts, memory); }),
            is_alone ? 0 : 2 + 2 + 1);  // the world's, dp's; rows
  EXPECT_EQ(calls_of([&] { parallel::warm_up(sequences, memory); }),
            is_alone ? 0 : 2 + 2 + 5);  // the world's, the data's; sums, rows and parts of cp
  EXPECT_EQ(calls_of([&] { parallel::warm_up_rows(world, memory); }), is_alone ? 0 : 1);
  const Mesh data(borrow(world), parse_layout("dp" + size));
  const auto calls_of_buckets = [&](const MemoryPtr& where) {
    TestParameters parameters(data, where);
    return calls_of([&] { parallel::GradientSync(parameters.list, data, where, DType::F32, /*bucket_bytes=*/1); });
  };
  EXPECT_EQ(calls_of_buckets(memory) - calls_of_buckets(Memory::cpu(1)), is_alone ? 0 : 7);
}

/// Every element of every parameter is written by exactly one rank, however it is cut, and units stay whole.
inline void placement_case(WorldComm& world) {
  const auto memory = Memory::cpu(1);
  const std::vector<std::pair<Shape, core::Cut>> kinds{{{5}, {}},
                                                       {{5}, {.sees_share = true}},
                                                       {{7, 2}, {.dimension = 0}},
                                                       {{2, 9}, {.dimension = 1}},
                                                       {{3 * 4, 2}, {.dimension = 0, .unit = 4}},  // three heads
                                                       {{4, 3, 7}, {.dimension = 1, .is_expert = true}},
                                                       {{3, 1, 9}, {.dimension = 2, .is_expert = true}}};
  for (const Cutting& cutting : cuttings(world.size())) {
    const Mesh mesh(borrow(world), parse_layout(cutting.text()));
    for (const auto& [shape, cut] : kinds) {
      core::Parameter p;
      p.global_shape = shape;
      parallel::place(p, mesh, cut);
      Shape local = shape;
      for (const core::AxisPlacement& axis : p.placement)
        if (axis.role == core::AxisRole::Sharded) local[axis.dimension] = axis.length;
      p.value = Tensor::empty(memory, DType::F32, local);
      if (cut.dimension >= 0) {
        EXPECT_EQ(local[cut.dimension] % cut.unit, 0);
        EXPECT_EQ(p.offset()[static_cast<std::size_t>(cut.dimension)] % cut.unit, 0);
      }
      Tensor written = Tensor::zeros(memory, DType::I64, {shape.numel()});
      auto* w = written.mutable_data<std::int64_t>();
      if (p.first_replica) core::for_each_element(p, [&](std::int64_t, std::int64_t global) { w[global] += 1; });
      mesh.stage().all_reduce(written, Reduce::Sum);  // each stage has parameters of its own
      for (std::int64_t k = 0; k < written.numel(); ++k) EXPECT_EQ(w[k], 1) << cutting.text() << " " << shape.rank();
    }
  }
}

inline std::vector<CommCase> mesh_cases() {
  return {{"mesh_groups", mesh_groups_case},
          {"expert_exchange_float32", expert_exchanges_case<float>},
          {"expert_exchange_float64", expert_exchanges_case<double>},
          {"replicas", replicas_case},
          {"expert_moves", expert_moves_case},
          {"moe_chunks", moe_chunks_case},
          {"expert_exchange_bfloat16", expert_exchanges_case<kernels::bf16>},
          {"gather", gather_case},
          {"tensor_exchange", tensor_exchange_case},
          {"gather_again", gather_again_case},
          {"sum_share", sum_share_case},
          {"sums_under_way", sums_under_way_case},
          {"weights_beside_sums", weights_beside_sums_case},
          {"sums_in_chunks", sums_in_chunks_case},
          {"gathers_in_chunks", gathers_in_chunks_case},
          {"gradients_in_chunks", gradients_in_chunks_case},
          {"gradient_buckets", gradient_buckets_case},
          {"shares", shares_case},
          {"bucket_order", bucket_order_case},
          {"warm_up", warm_up_case},
          {"placement", placement_case}};
}

}  // namespace limbeck::testing
