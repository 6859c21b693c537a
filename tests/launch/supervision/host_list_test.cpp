#include "launch/supervision/host_list.h"

#include <gmock/gmock.h>

#include "tests/support/temporary_folder.h"

namespace limbeck::launch {
namespace {

using ::testing::ElementsAre;
using Words = std::vector<std::string>;

class HostLists : public ::testing::Test {
 protected:
  /// Of a hostfile of this text.
  HostList list(const std::string& text) const {
    limbeck::testing::write_file(folder_ / "hosts", text);
    return HostList({"--map-by", "slot:PE=8", "--hostfile", (folder_ / "hosts").string(), "-x", "PATH"});
  }
  limbeck::testing::TemporaryFolder folder_;
};

TEST_F(HostLists, AHostOfTheCommandLineIsLeftOut) {
  HostList hosts({"--host", "a:2,b:3,c", "--bind-to", "none"});
  EXPECT_EQ(hosts.slots(), 6);
  EXPECT_FALSE(hosts.leave_out("d"));
  EXPECT_THAT(hosts.options(folder_.path()), ElementsAre("--host", "a:2,b:3,c", "--bind-to", "none"));
  EXPECT_TRUE(hosts.leave_out("b"));
  EXPECT_EQ(hosts.slots(), 3);
  EXPECT_THAT(hosts.options(folder_.path()), ElementsAre("--host", "a:2,c", "--bind-to", "none"));
  EXPECT_TRUE(hosts.leave_out("a"));
  EXPECT_FALSE(hosts.leave_out("c"));  // the last
  EXPECT_THAT(hosts.options(folder_.path()), ElementsAre("--host", "c", "--bind-to", "none"));
  for (const char* option : {"-H", "-host"}) {
    HostList other({option, "a,b,a"});
    EXPECT_TRUE(other.leave_out("a"));
    EXPECT_THAT(other.options(folder_.path()), ElementsAre(option, "b"));
  }
}

TEST_F(HostLists, AHostfileIsWrittenAnewWithoutIt) {
  HostList hosts =
      list("# the rack\nn1.cluster slots=4\n\nuser@n2 slots=2 max_slots=8 # old\n  n3\tslots=1\nn2 slots=2");
  EXPECT_EQ(hosts.slots(), 9);
  EXPECT_TRUE(hosts.leave_out("n2.cluster"));
  EXPECT_EQ(hosts.slots(), 5);
  const Words options = hosts.options(folder_.path());
  ASSERT_EQ(options.size(), 6U);
  EXPECT_EQ(options[3], (folder_ / "hosts_0").string());
  EXPECT_EQ(limbeck::testing::read_file(options[3]), "# the rack\nn1.cluster slots=4\n\n  n3\tslots=1\n");
  EXPECT_TRUE(hosts.leave_out("n1"));
  EXPECT_EQ(limbeck::testing::read_file(hosts.options(folder_.path())[3]), "# the rack\n\n  n3\tslots=1\n");
  EXPECT_FALSE(hosts.leave_out("n3"));
}

TEST_F(HostLists, RoomIsKnownWhereEachHostSaysIts) {
  EXPECT_EQ(list("a slots=2\nb slots=3\n").slots(), 5);
  for (const char* text : {"a slots=2\nb\n", "a slots=many\n", "a slots=2\n^b\n", "+n1 slots=2\n", "", "# none\n"})
    EXPECT_FALSE(list(text).slots()) << text;
  EXPECT_FALSE(HostList({"--bind-to", "none"}).slots());
  EXPECT_FALSE(HostList({"--host", "a:*"}).slots());
  // Of a hostfile's hosts --host takes some.
  list("a slots=2\nb slots=3\n");
  EXPECT_EQ(HostList({"--hostfile", (folder_ / "hosts").string(), "--host", "b:3"}).slots(), 3);
}

TEST_F(HostLists, SeveralOptionsAreOneList) {
  HostList hosts({"--host", "n1:4", "--bind-to", "none", "--host=n2:4,n3:2"});
  EXPECT_EQ(hosts.slots(), 10);
  EXPECT_EQ(hosts.num_far("head"), 3);
  EXPECT_TRUE(hosts.leave_out("n1"));
  EXPECT_THAT(hosts.options(folder_.path()), ElementsAre("--bind-to", "none", "--host=n2:4,n3:2"));
  EXPECT_TRUE(hosts.leave_out("n3"));
  EXPECT_THAT(hosts.options(folder_.path()), ElementsAre("--bind-to", "none", "--host=n2:4"));
  EXPECT_FALSE(hosts.leave_out("n2"));
  HostList other({"--host=n1", "-H", "n2"});
  EXPECT_TRUE(other.leave_out("n1"));
  EXPECT_THAT(other.options(folder_.path()), ElementsAre("-H", "n2"));
  list("n1 slots=4\nn2 slots=4\n");
  HostList file({"--hostfile=" + (folder_ / "hosts").string()});
  EXPECT_TRUE(file.leave_out("n1"));
  EXPECT_THAT(file.options(folder_.path()), ElementsAre("--hostfile=" + (folder_ / "hosts_0").string()));
  EXPECT_EQ(limbeck::testing::read_file(folder_ / "hosts_0"), "n2 slots=4\n");
}

TEST_F(HostLists, SshIsNeededForAllButThisMachine) {
  const HostList hosts({"--host", "n1:4,user@n2:4,n3,n3,localhost"});
  EXPECT_EQ(hosts.num_far("head"), 3);
  EXPECT_EQ(hosts.num_far("n1.cluster"), 2);
  EXPECT_EQ(hosts.num_far(""), 3);
  EXPECT_EQ(HostList({"--bind-to", "none"}).num_far("n1"), 0);
  EXPECT_EQ(list("# none\nn1 slots=4\nn2 slots=4\n").num_far("n1"), 1);
}

TEST_F(HostLists, RoomIsThatOfRanksOnTheHostsThatStay) {
  using Ranks = std::map<std::string, int>;
  const HostList two = list("n1\nn2\n");
  EXPECT_EQ(two.room_without("n2", Ranks{{"n1.cluster", 3}, {"n2.cluster", 5}}, 8), 3);
  EXPECT_FALSE(two.room_without("n3", Ranks{{"n1", 3}, {"n2", 5}}, 8));
  // Not all have given signs.
  EXPECT_EQ(two.room_without("n2", Ranks{{"n1", 3}, {"n2", 4}}, 8), 7);
  EXPECT_EQ(two.room_without("n2", Ranks{}, 8), 7);
  const HostList slots({"--host", "n1:4,n2:4"});
  EXPECT_EQ(slots.room_without("n2", Ranks{{"n1", 1}, {"n2", 1}}, 2), 4);
  EXPECT_EQ(slots.room_without("n2", Ranks{{"n1", 6}, {"n2", 6}}, 12), 6);  // --oversubscribe
  // Hosts give themselves names, and the list has addresses: whose ranks they were is not known.
  const HostList addresses({"--host", "10.0.0.1:4,10.0.0.2:4"});
  EXPECT_EQ(addresses.room_without("10.0.0.2", Ranks{{"n1", 4}, {"n2", 4}}, 8), 4);
}

TEST_F(HostLists, AFileIsWrittenWhereAHostfileIsShorter) {
  HostList files = list("n1\nn2\n"), words({"--host", "n1,n2"});
  EXPECT_FALSE(files.writes_file());
  EXPECT_TRUE(files.leave_out("n2"));
  EXPECT_TRUE(files.writes_file());
  EXPECT_TRUE(words.leave_out("n2"));
  EXPECT_FALSE(words.writes_file());
}

TEST_F(HostLists, OfARankfileNobodyIsLeftOut) {
  EXPECT_TRUE(HostList({"--host", "n1,n2", "--wd", "rankfiles", "-x", "rf", "--map-by", "slot"}).leave_out("n1"));
  EXPECT_TRUE(HostList({"--host", "n1,n2", "--output-filename=rankfile"}).leave_out("n1"));
  for (const Words& words : {Words{"--rankfile", "r"}, Words{"-rf", "r"}, Words{"--map-by", "rankfile:file=r"},
                             Words{"--map-by=rankfile:file=r"}, Words{"--mca", "rmaps_rank_file_path", "r"}}) {
    Words options = {"--host", "n1,n2"};
    options.insert(options.end(), words.begin(), words.end());
    EXPECT_FALSE(HostList(options).leave_out("n1")) << words[0];
  }
}

TEST_F(HostLists, WhatCannotBeReadNamesNobody) {
  HostList hosts({"--hostfile", (folder_ / "none").string()});
  EXPECT_FALSE(hosts.leave_out("a"));
  EXPECT_EQ(hosts.options(folder_.path()).size(), 2U);
  EXPECT_FALSE(HostList({"--hostfile"}).leave_out("a"));
}

TEST(Hosts, AreTheSameByNameAndNotByPartsOfAddresses) {
  EXPECT_TRUE(is_same_host("n1", "n1.cluster"));
  EXPECT_TRUE(is_same_host("n1.cluster", "n1"));
  EXPECT_FALSE(is_same_host("gpu1.lab-a.org", "gpu1.lab-b.org"));
  EXPECT_TRUE(is_same_host("10.0.0.1", "10.0.0.1"));
  EXPECT_FALSE(is_same_host("10.0.0.1", "10.0.0.2"));
  EXPECT_FALSE(is_same_host("n1", "n10"));
  EXPECT_FALSE(is_same_host("fe80::1", "fe80::2"));
}

}  // namespace
}  // namespace limbeck::launch
