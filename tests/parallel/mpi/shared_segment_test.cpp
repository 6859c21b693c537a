#include "parallel/mpi/shared_segment.h"

#include <gtest/gtest.h>

#include <vector>

namespace limbeck::parallel {
namespace {

TEST(SharedSegment, RefusesWhatIsNoPartOfIt) {
  SharedSegment mine(0, 2), other(1, 2);
  SharedSegment::Offer gone = other.offer();
  {
    const SharedSegment ended(1, 2);
    gone = ended.offer();
  }
  EXPECT_FALSE(mine.join(std::vector{mine.offer(), SharedSegment::Offer{}}));
  EXPECT_FALSE(mine.join(std::vector{mine.offer(), gone}));
  SharedSegment::Offer wrong = other.offer();
  ++wrong.inode;
  EXPECT_FALSE(mine.join(std::vector{mine.offer(), wrong}));
  EXPECT_TRUE(mine.join(std::vector{mine.offer(), other.offer()}));
  EXPECT_TRUE(mine.can_read(std::vector{mine.offer(), other.offer()}));  // of this very process
  SharedSegment::Offer nowhere = other.offer();
  nowhere.address = 0;
  EXPECT_FALSE(mine.can_read(std::vector{mine.offer(), nowhere}));
}

}  // namespace
}  // namespace limbeck::parallel
