#include "parallel/axes/end_values.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "core/share.h"
#include "tests/support/thread_ranks.h"

namespace limbeck {
namespace {

using core::DType;
using core::Tensor;
using nn::End;

/// Of which each element is its place in the table, and `more`.
std::vector<float> values_of(const core::Shape& shape, float more) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < shape.numel(); ++i) values.push_back(static_cast<float>(i) + more);
  return values;
}

/// Tables over the ranks of dp3, which share no number of rows evenly, and one with fewer rows than there are ranks.
struct Tables {
  Tables(const parallel::Mesh& mesh, const core::MemoryPtr& memory) : list{&embed, &positions, &head, &norm} {
    const auto make = [&](core::Parameter& p, const char* name, const core::Shape& shape) {
      p.name = name;
      p.global_shape = shape;
      parallel::place(p, mesh, {});
      p.value = Tensor::from<float>(memory, shape, values_of(shape, 0));
      p.slot = std::make_shared<core::Slot>();
    };
    make(embed, "embed.weight", {11, 3});
    make(positions, "position_embed.weight", {2, 3});
    make(head, "head.weight", {10, 3});
    make(norm, "norm.weight", {4});
  }
  core::Parameter embed, positions, head, norm;
  core::ParameterList list;
};

TEST(EndValues, ComeByPiecesAndGoBehindTheLastUse) {
  testing::run_ranks(3, [](testing::RankWorld& world) {
    const auto memory = core::Memory::cpu(1);
    const parallel::Mesh mesh(world.comm, parallel::parse_layout("dp3"));
    const parallel::GradientGroups groups(mesh, {parallel::Sharded::Parameters});
    Tables tables(mesh, memory);
    // One element a rank, several, and all at once.
    for (const std::int64_t bytes_at_once : {1, 50, 1 << 20}) {
      parallel::EndValues ends(tables.list, groups, bytes_at_once);
      const auto expect = [&](core::Parameter& p, float more) {
        EXPECT_EQ(core::host_values<float>(p.value), values_of(p.global_shape, more)) << p.name << bytes_at_once;
      };
      const auto is_freed = [](const core::Parameter& p) { return p.value.storage()->is_empty(); };
      EXPECT_FALSE(ends.share(tables.norm).defined());
      for (core::Parameter* p : tables.list) ends.filled(*p);
      EXPECT_FALSE(is_freed(tables.norm));
      for (const core::Parameter* p : {&tables.embed, &tables.positions, &tables.head}) {
        const core::Slice own = core::share_of(p->global_shape, world.rank, 3);
        EXPECT_TRUE(is_freed(*p)) << p->name;
        ASSERT_EQ(ends.share(*p).numel(), own.count) << p->name;
        for (std::int64_t i = 0; i < own.count; ++i)
          EXPECT_EQ(ends.share(*p).data<float>()[i], static_cast<float>(own.first + i)) << p->name;
      }
      {
        const nn::WholeEnd whole(&ends, End::Embedding);
        expect(tables.embed, 0);
        {
          const nn::WholeEnd again(&ends, End::Embedding);
          expect(tables.positions, 0);
        }
        expect(tables.embed, 0);
        EXPECT_TRUE(is_freed(tables.head));
      }
      EXPECT_TRUE(is_freed(tables.embed));
      EXPECT_TRUE(is_freed(tables.positions));
      // What shares have become is what comes.
      Tensor share = ends.share(tables.head);
      for (std::int64_t i = 0; i < share.numel(); ++i) share.mutable_data<float>()[i] += 100;
      {
        const nn::WholeEnd whole(&ends, End::Head);
        expect(tables.head, 100);
        EXPECT_TRUE(is_freed(tables.embed));
      }
      EXPECT_TRUE(is_freed(tables.head));
      EXPECT_THROW(core::host_values<float>(tables.head.value), core::Error);
      for (core::Parameter* p : {&tables.embed, &tables.positions, &tables.head})
        p->value = Tensor::from<float>(memory, p->global_shape, values_of(p->global_shape, 0));
    }
  });
}

// Pieces are never more than what is asked for, beside the table itself.
TEST(EndValues, TakeLittleMoreThanTheTableThatComes) {
  testing::run_ranks(2, [](testing::RankWorld& world) {
    const auto memory = core::Memory::cpu(1);
    const parallel::Mesh mesh(world.comm, parallel::parse_layout("dp2"));
    const parallel::GradientGroups groups(mesh, {parallel::Sharded::Parameters});
    core::Parameter embed;
    embed.name = "embed.weight";
    embed.global_shape = {4096, 16};
    parallel::place(embed, mesh, {});
    embed.value = Tensor::zeros(memory, DType::F32, embed.global_shape);
    embed.slot = std::make_shared<core::Slot>();
    constexpr std::int64_t bytes_at_once = 16 << 10;
    parallel::EndValues ends({&embed}, groups, bytes_at_once);
    ends.part_from_values();
    const std::int64_t kept = memory->statistics().used_bytes;
    EXPECT_EQ(kept, embed.value.bytes() / 2);
    memory->reset_peak();
    const nn::WholeEnd whole(&ends, End::Embedding);
    EXPECT_LE(memory->statistics().peak_bytes - kept, embed.value.bytes() + 2 * (bytes_at_once + bytes_at_once / 2));
  });
}

}  // namespace
}  // namespace limbeck
