// The hosts that mpirun is told of by its options, and how one that is lost is left out: mpirun starts a daemon on each
// of them, however few ranks it is asked for, and does nothing where one does not answer.
//
//     HostList hosts({"--hostfile", "hosts", "--map-by", "slot:PE=8"});
//     if (hosts.leave_out("node3")) options = hosts.options(run.ranks());     // --hostfile run/ranks/hosts_0
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace limbeck::launch {

/// "node3" is "node3.cluster" too, which is not "node3.other".
bool is_same_host(std::string_view a, std::string_view b);

class HostList {
 public:
  /// Of mpirun's options: --host and --hostfile under each of their names, "--host a" and "--host=a"; several are one
  /// list. A hostfile that cannot be read names nobody; mpirun says it.
  explicit HostList(std::vector<std::string> options);

  /// Ranks that there is room for, where it is said of each host; nothing where it is not, or no host is named.
  std::optional<int> slots() const;
  /// Hosts that ssh is needed for: those that are named (of --host, where it is there, which takes some of a hostfile)
  /// but this machine, by its name `here` or as localhost.
  int num_far(std::string_view here) const;
  /// Ranks that there is room for without a host; nothing where it cannot be left out. `ranks_on` has the ranks of each
  /// host by the name that it gives itself: as many as the others had, or the slots that are said of them where that is
  /// more. Where such a name is none of the list's (which has addresses), or these are not all `ranks` that there
  /// were, it is the slots alone, or where they are not said one rank less.
  std::optional<int> room_without(std::string_view host, const std::map<std::string, int>& ranks_on, int ranks) const;
  /// False, with nothing changed, where it is not named, or nobody else is, or a rankfile names it too.
  bool leave_out(std::string_view host);
  /// Whether options() writes a file.
  bool writes_file() const;
  /// mpirun's options without who was left out, and without those that name nobody any more: a hostfile that is shorter
  /// now is written to `folder`, which throws where it cannot be.
  std::vector<std::string> options(const std::filesystem::path& folder) const;

 private:
  struct Entry {
    std::string text;  // a line, or what stands between commas
    std::string name;  // "": none
    std::optional<int> slots;
  };
  struct List {
    std::size_t word = 0;     // of the options
    std::string prefix = {};  // of that word: "--host=", or "" where the option is the word before
    bool is_file = false;
    std::vector<Entry> entries = {};
    bool is_shorter = false;
    bool is_empty() const;
  };
  static Entry entry_of(std::string text, bool is_line);
  /// Those that count: of --host where it is there, else of hostfiles.
  std::vector<Entry> chosen() const;
  bool has(std::string_view host) const;

  std::vector<std::string> options_;
  std::vector<List> lists_;
  bool has_rankfile_ = false;
};

}  // namespace limbeck::launch
