#include "parallel/mpi/mpi_transfer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/slice.h"
#include "parallel/comm/reduce.h"

namespace limbeck::parallel {
namespace {

using core::check;

void copy(std::byte* to, const std::byte* from, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

}  // namespace

void MpiHeard::note(int rank, const MpiNote& note, CallName name) {
  name.signature = note.signature;
  const std::scoped_lock lock(mutex_);
  last_[static_cast<std::size_t>(rank)] = {note.step, note.number, std::move(name)};
}

Sign MpiHeard::of(int rank) const {
  const std::scoped_lock lock(mutex_);
  const auto& [step, number, name] = last_[static_cast<std::size_t>(rank)];
  if (number == 0) return {};
  return {step, number, describe(name)};
}

MpiTransfer::MpiTransfer(MpiWire& wire, std::shared_ptr<MpiGroup> group, Call call, std::int64_t sequence)
    : wire_(wire), group_(std::move(group)), call_(std::move(call)), sequence_(sequence) {}

bool MpiTransfer::is_small() const {
  return call_.signature.kind == CallKind::AllReduce && call_.bytes() <= small_bytes;
}

bool MpiTransfer::progress() {
  if (stage_ == Stage::Start) announce();
  if (stage_ == Stage::Announced) {
    if (!test() || !read_announcements()) return false;
    if (call_.signature.kind == CallKind::Barrier || is_small()) return true;
    if (is_for_segment() && !group_->segment)
      offer_segment();
    else
      start_data();
  }
  if (stage_ == Stage::Offered) {
    if (!test()) return false;
    join_segment();
  }
  if (stage_ == Stage::Joined) {
    if (!test()) return false;
    agree_on_segment();
    start_data();
  }
  if (stage_ == Stage::Shared) return shared_->progress();
  if (stage_ == Stage::Scattering) {
    if (!test()) return false;
    finish_scatter();
  }
  return stage_ == Stage::Last && test();
}

std::vector<Missing> MpiTransfer::waits_for() const {
  std::vector<bool> is_missing(static_cast<std::size_t>(group_->size()), false);
  {
    const std::scoped_lock lock(mutex_);
    for (const Posted& p : posted_)
      if (!p.is_done) is_missing[static_cast<std::size_t>(p.peer)] = true;
    if (shared_)
      for (const int r : shared_->behind()) is_missing[static_cast<std::size_t>(r)] = true;
  }
  std::vector<Missing> missing;
  for (int r = 0; r < group_->size(); ++r)
    if (is_missing[static_cast<std::size_t>(r)])
      missing.push_back({group_->in_world(r), wire_.heard.of(group_->in_world(r))});
  return missing;
}

void MpiTransfer::announce() {
  header_.note = {call_.signature, call_.step, ++wire_.num_announced};
  const auto* note = reinterpret_cast<const std::byte*>(&header_.note);
  stage_ = Stage::Announced;
  switch (call_.signature.kind) {
    case CallKind::Send:
      post_send(note, sizeof(MpiNote), call_.peer);
      post_send(call_.in, call_.bytes(), call_.peer);
      stage_ = Stage::Last;
      return;
    case CallKind::Receive:
      headers_.resize(1);
      post_receive(reinterpret_cast<std::byte*>(&headers_[0].note), sizeof(MpiNote), call_.peer);
      return;
    default:
      if (is_small()) copy(header_.numbers.data(), call_.in, call_.bytes());
      if (tells_rows())
        for (std::size_t r = 0; r + 1 < call_.send_offset.size(); ++r) {
          const std::int64_t bytes = call_.send_offset[r + 1] - call_.send_offset[r];
          std::memcpy(header_.numbers.data() + r * sizeof(bytes), &bytes, sizeof(bytes));
        }
      tell_all(header_, headers_);
  }
}

/// Every rank's, in rank order, once test() is true.
template <class T>
void MpiTransfer::tell_all(const T& mine, std::vector<T>& all) {
  all.resize(static_cast<std::size_t>(group_->size()));
  all[static_cast<std::size_t>(group_->rank)] = mine;
  for (int r = 0; r < group_->size(); ++r)
    if (r != group_->rank) post_receive(reinterpret_cast<std::byte*>(&all[static_cast<std::size_t>(r)]), sizeof(T), r);
  for (int r = 0; r < group_->size(); ++r)
    if (r != group_->rank) post_send(reinterpret_cast<const std::byte*>(&mine), sizeof(T), r);
}

bool MpiTransfer::read_announcements() {
  if (call_.signature.kind == CallKind::Receive) {
    const CallSignature& sent = headers_[0].note.signature;
    check(matches(sent, call_.signature), "{}",
          mismatch(group_->name, sequence_, group_->in_world(call_.peer), sent, group_->in_world(group_->rank),
                   call_.signature));
    return true;
  }
  const CallSignature& first = headers_[0].note.signature;
  for (int r = 1; r < group_->size(); ++r) {
    const CallSignature& other = headers_[static_cast<std::size_t>(r)].note.signature;
    if (matches(first, other)) continue;
    // All ranks see it here; one reports it and wakes the others.
    check(group_->rank != 0, "{}",
          mismatch(group_->name, sequence_, group_->in_world(0), first, group_->in_world(r), other));
    stage_ = Stage::Stuck;
    return false;
  }
  if (is_small()) {
    std::vector<const std::byte*> from;
    for (const Header& h : headers_) from.push_back(h.numbers.data());
    reduce(call_.signature.dtype, call_.signature.reduce, from, std::span(&call_.out, 1), call_.signature.count);
  }
  check_told();
  return true;
}

/// Whether all_to_all_v says how many bytes go to whom before they do: the ranks of a node agree by that on the way.
bool MpiTransfer::tells_rows() const {
  return call_.signature.kind == CallKind::AllToAllV && group_->may_share &&
         group_->size() * static_cast<std::int64_t>(sizeof(std::int64_t)) <= small_bytes;
}

std::int64_t MpiTransfer::told_bytes(int from, int to) const {
  std::int64_t bytes = 0;
  std::memcpy(&bytes, headers_[static_cast<std::size_t>(from)].numbers.data() + to * sizeof(bytes), sizeof(bytes));
  return bytes;
}

void MpiTransfer::check_told() const {
  if (!tells_rows()) return;
  for (int r = 0; r < group_->size(); ++r) {
    const auto i = static_cast<std::size_t>(r);
    check_length(r, told_bytes(r, group_->rank), call_.receive_offset[i + 1] - call_.receive_offset[i]);
  }
}

std::int64_t MpiTransfer::whole_bytes() const {
  switch (call_.signature.kind) {
    case CallKind::AllReduce:
      return call_.bytes();
    case CallKind::AllGather:
    case CallKind::ReduceScatter:
      return group_->size() * call_.bytes();
    case CallKind::AllToAllV: {
      std::int64_t most = 0;
      for (int from = 0; tells_rows() && from < group_->size(); ++from) {
        std::int64_t sent = 0;
        for (int to = 0; to < group_->size(); ++to) sent += told_bytes(from, to);
        most = std::max(most, sent);
      }
      return most;
    }
    case CallKind::Send:
    case CallKind::Receive:
    case CallKind::Barrier:
      return 0;
  }
  return 0;
}

/// Once the ranks have told each other what they call; the same on all of them.
bool MpiTransfer::is_for_segment() const { return group_->may_share && whole_bytes() >= shared_from_bytes; }

bool MpiTransfer::goes_through_memory() const { return is_for_segment() && (is_sum() || !group_->reads_directly); }

void MpiTransfer::offer_segment() {
  group_->segment = std::make_unique<SharedSegment>(group_->rank, group_->size());
  tell_all(group_->segment->offer(), offers_);
  stage_ = Stage::Offered;
}

/// Maps what the others offered, and tells them whether it could.
void MpiTransfer::join_segment() {
  joined_ = {group_->segment->join(offers_), group_->reads_directly && group_->segment->can_read(offers_)};
  tell_all(joined_, all_joined_);
  stage_ = Stage::Joined;
}

/// The ranks share the segment if all of them could map it.
void MpiTransfer::agree_on_segment() {
  const auto all = [&](bool Joined::*what) {
    return std::all_of(all_joined_.begin(), all_joined_.end(), std::mem_fn(what));
  };
  group_->reads_directly = all(&Joined::can_read);
  if (all(&Joined::has_mapped)) return;
  group_->segment.reset();
  group_->may_share = false;
  if (group_->rank == 0 && wire_.warn)
    std::exchange(wire_.warn, nullptr)(fmt::format(
        "group {}: its ranks cannot share memory on this machine, large sums go by messages", group_->name));
}

Part MpiTransfer::element_slice(int rank) const {
  const core::Slice slice = core::slice_of(call_.signature.count, rank, group_->size());
  return {core::bytes_of(call_.signature.dtype, slice.first), core::bytes_of(call_.signature.dtype, slice.count)};
}

void MpiTransfer::start_data() {
  stage_ = Stage::Last;
  if (call_.signature.kind == CallKind::Receive) return post_receive(call_.out, call_.bytes(), call_.peer);
  if (goes_through_memory()) {
    const std::scoped_lock lock(mutex_);
    shared_ = start_shared();
    stage_ = Stage::Shared;
    return;
  }
  if (is_sum()) {
    const bool is_all = call_.signature.kind == CallKind::AllReduce;
    const std::int64_t mine = is_all ? element_slice(group_->rank).bytes : call_.bytes();
    scattered_.resize(static_cast<std::size_t>(mine * group_->size()));
    stage_ = Stage::Scattering;
  }
  exchange(parts());
}

std::unique_ptr<SharedTransfer> MpiTransfer::start_shared() {
  const CallSignature& of = call_.signature;
  SharedSegment& segment = *group_->segment;
  if (of.kind == CallKind::AllReduce)
    return std::make_unique<SharedReduction>(segment, of.dtype, of.reduce, call_.out, of.count);
  ExchangedParts exchanged = parts();
  if (of.kind == CallKind::ReduceScatter) {
    exchanged.to = call_.out;
    return std::make_unique<SharedReduceScatter>(segment, std::move(exchanged), of.dtype);
  }
  std::int64_t longest = of.kind == CallKind::AllToAllV ? 0 : call_.bytes();
  for (int from = 0; tells_rows() && from < group_->size(); ++from)
    for (int to = 0; to < group_->size(); ++to) longest = std::max(longest, told_bytes(from, to));
  return std::make_unique<SharedExchange>(segment, std::move(exchanged), longest);
}

/// One that moves numbers first and adds them up then.
bool MpiTransfer::is_sum() const {
  return call_.signature.kind == CallKind::AllReduce || call_.signature.kind == CallKind::ReduceScatter;
}

template <class F>
std::vector<Part> MpiTransfer::by_rank(const F& part) const {
  std::vector<Part> all;
  for (int r = 0; r < group_->size(); ++r) all.push_back(part(r));
  return all;
}

/// What goes from rank to rank first; of a sum to where every rank's numbers are gathered.
ExchangedParts MpiTransfer::parts() {
  const std::int64_t bytes = call_.bytes();
  std::byte* gathered = scattered_.data();
  const auto equal = [&](std::int64_t length) { return by_rank([&](int r) { return Part{r * length, length}; }); };
  const auto between = [&](const std::vector<std::int64_t>& offset) {
    return by_rank([&](int r) {
      const auto i = static_cast<std::size_t>(r);
      return Part{offset[i], offset[i + 1] - offset[i]};
    });
  };
  switch (call_.signature.kind) {
    case CallKind::AllReduce:
      return {call_.in, gathered, by_rank([&](int r) { return element_slice(r); }),
              equal(element_slice(group_->rank).bytes)};
    case CallKind::ReduceScatter:
      return {call_.in, gathered, equal(bytes), equal(bytes)};
    case CallKind::AllGather:
      return {call_.in, call_.out, by_rank([&](int) { return Part{0, bytes}; }), equal(bytes), true};
    case CallKind::AllToAllV:
      return {call_.in, call_.out, between(call_.send_offset), between(call_.receive_offset)};
    case CallKind::Send:
    case CallKind::Receive:
    case CallKind::Barrier:
      break;
  }
  return {};
}

void MpiTransfer::finish_scatter() {
  const bool is_all = call_.signature.kind == CallKind::AllReduce;
  const Part mine = is_all ? element_slice(group_->rank) : Part{0, call_.bytes()};
  std::vector<const std::byte*> from;
  for (int r = 0; r < group_->size(); ++r) from.push_back(scattered_.data() + r * mine.bytes);
  std::byte* to = call_.out + mine.first;
  reduce(call_.signature.dtype, call_.signature.reduce, from, std::span(&to, 1),
         mine.bytes / core::bytes_of(call_.signature.dtype, 1));
  if (is_all)
    exchange(
        {call_.out, call_.out, by_rank([&](int) { return mine; }), by_rank([&](int r) { return element_slice(r); })});
  stage_ = Stage::Last;
}

void MpiTransfer::exchange(const ExchangedParts& parts) {
  for (int r = 0; r < group_->size(); ++r) {
    const Part& p = parts.received[static_cast<std::size_t>(r)];
    if (r != group_->rank) post_receive(parts.to + p.first, p.bytes, r);
  }
  for (int r = 0; r < group_->size(); ++r) {
    const Part& p = parts.sent[static_cast<std::size_t>(r)];
    if (r != group_->rank) post_send(parts.from + p.first, p.bytes, r);
  }
  const auto me = static_cast<std::size_t>(group_->rank);
  const Part out = parts.sent[me], in = parts.received[me];
  check(out.bytes == in.bytes, "{} in group {}: rank {} sends {} bytes to itself, which expects {}",
        describe(call_.signature), group_->name, group_->rank, out.bytes, in.bytes);
  if (parts.from + out.first != parts.to + in.first) copy(parts.to + in.first, parts.from + out.first, in.bytes);
}

/// Collectives and messages between two ranks follow each other in order, each on its own.
int MpiTransfer::tag() const {
  const bool is_message = call_.signature.kind == CallKind::Send || call_.signature.kind == CallKind::Receive;
  return 2 * group_->id + (is_message ? 1 : 0);
}

void MpiTransfer::post(MPI_Request request, int peer, std::int64_t expected) {
  requests_.push_back(request);
  const std::scoped_lock lock(mutex_);
  posted_.push_back({peer, expected});
}

void MpiTransfer::post_receive(std::byte* to, std::int64_t bytes, int from) {
  do {
    const std::int64_t n = std::min(bytes, wire_.largest_piece);
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Irecv(to, static_cast<int>(n), MPI_BYTE, group_->in_world(from), tag(), wire_.comm, &request);
    post(request, from, n);
    to += n;
    bytes -= n;
  } while (bytes > 0);
}

void MpiTransfer::post_send(const std::byte* from, std::int64_t bytes, int to) {
  do {
    const std::int64_t n = std::min(bytes, wire_.largest_piece);
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(from, static_cast<int>(n), MPI_BYTE, group_->in_world(to), tag(), wire_.comm, &request);
    post(request, to, -1);
    from += n;
    bytes -= n;
  } while (bytes > 0);  // a message of no bytes is sent too, so that both sides can disagree about it
}

/// True once all that was posted is done.
bool MpiTransfer::test() {
  const std::size_t n = requests_.size();
  done_.resize(n);
  statuses_.resize(n);
  int num_done = 0;
  const int result = MPI_Testsome(static_cast<int>(n), requests_.data(), &num_done, done_.data(), statuses_.data());
  if (num_done == 0 && result == MPI_SUCCESS) return false;
  const std::scoped_lock lock(mutex_);
  for (int i = 0; i < std::max(num_done, 0); ++i) {  // MPI_UNDEFINED: nothing is left
    Posted& p = posted_[static_cast<std::size_t>(done_[static_cast<std::size_t>(i)])];
    check_received(p, statuses_[static_cast<std::size_t>(i)], result);
    p.is_done = true;
    if (stage_ == Stage::Announced && p.expected >= 0)
      wire_.heard.note(group_->in_world(p.peer), header_of(p.peer).note,
                       {call_.signature, call_.subject, {group_, &group_->name}});
  }
  check(result == MPI_SUCCESS, "mpi: {} in group {} failed", describe(call_.signature), group_->name);
  if (!std::all_of(posted_.begin(), posted_.end(), [](const Posted& p) { return p.is_done; })) return false;
  requests_.clear();
  posted_.clear();
  return true;
}

void MpiTransfer::check_received(const Posted& posted, const MPI_Status& status, int result) const {
  if (posted.expected < 0) return;
  int received = 0;
  MPI_Get_count(&status, MPI_BYTE, &received);
  const bool is_cut = result != MPI_SUCCESS && status.MPI_ERROR == MPI_ERR_TRUNCATE;
  check(!is_cut && received <= posted.expected, "{} sends more than the {} bytes that rank {} expects",
        place(posted.peer), posted.expected, group_->in_world(group_->rank));
  if (result == MPI_SUCCESS) check_length(posted.peer, received, posted.expected);
}

void MpiTransfer::check_length(int from, std::int64_t sent, std::int64_t expected) const {
  check(sent == expected, "{} sends {} bytes, rank {} expects {}", place(from), sent, group_->in_world(group_->rank),
        expected);
}

/// "all_gather of 8 float32 in group tp, operation 3: rank 1".
std::string MpiTransfer::place(int peer) const {
  return fmt::format("{} in group {}, operation {}: rank {}", describe(call_.signature), group_->name, sequence_,
                     group_->in_world(peer));
}

}  // namespace limbeck::parallel
