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

void MpiHeard::note(int rank, const MpiNote& note, std::shared_ptr<const MpiGroup> group) {
  const std::scoped_lock lock(mutex_);
  last_[static_cast<std::size_t>(rank)] = {note, std::move(group)};
}

Sign MpiHeard::of(int rank) const {
  const std::scoped_lock lock(mutex_);
  const auto& [note, group] = last_[static_cast<std::size_t>(rank)];
  if (!group) return {};
  return {note.step, note.number, fmt::format("{} in group {}", describe(note.signature), group->name)};
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
    if (stage_ == Stage::Announced) start_data();
  }
  if (stage_ == Stage::Sharing) {
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
      offers_segment_ = call_.signature.kind == CallKind::AllReduce && call_.bytes() >= shared_from_bytes &&
                        group_->may_share && !group_->segment;
      if (offers_segment_) offer_segment();
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
  if (offers_segment_) join_segment();
  return true;
}

void MpiTransfer::offer_segment() {
  group_->segment = std::make_unique<SharedSegment>(group_->rank, group_->size());
  copy(header_.numbers.data(), reinterpret_cast<const std::byte*>(&group_->segment->offer()),
       sizeof(SharedSegment::Offer));
}

/// Maps what the others offered, and tells them whether it could.
void MpiTransfer::join_segment() {
  std::vector<SharedSegment::Offer> offers(headers_.size());
  for (std::size_t r = 0; r < offers.size(); ++r)
    std::memcpy(&offers[r], headers_[r].numbers.data(), sizeof(SharedSegment::Offer));
  has_joined_ = group_->segment->join(offers) ? 1 : 0;
  tell_all(has_joined_, all_have_joined_);
  stage_ = Stage::Sharing;
}

/// The ranks share the segment if all of them could map it.
void MpiTransfer::agree_on_segment() {
  if (std::find(all_have_joined_.begin(), all_have_joined_.end(), 0) == all_have_joined_.end()) return;
  group_->segment.reset();
  group_->may_share = false;
  if (group_->rank == 0 && wire_.warn)
    std::exchange(wire_.warn, nullptr)(fmt::format(
        "group {}: its ranks cannot share memory on this machine, large sums go by messages", group_->name));
}

MpiTransfer::Part MpiTransfer::element_slice(int rank) const {
  const core::Slice slice = core::slice_of(call_.signature.count, rank, group_->size());
  return {core::bytes_of(call_.signature.dtype, slice.first), core::bytes_of(call_.signature.dtype, slice.count)};
}

void MpiTransfer::start_data() {
  const std::int64_t bytes = call_.bytes();
  stage_ = Stage::Last;
  switch (call_.signature.kind) {
    case CallKind::AllReduce:
      if (group_->segment && bytes >= shared_from_bytes) {
        const std::scoped_lock lock(mutex_);
        shared_.emplace(*group_->segment, call_.signature.dtype, call_.signature.reduce, call_.out,
                        call_.signature.count);
        stage_ = Stage::Shared;
      } else {
        const std::int64_t mine = element_slice(group_->rank).bytes;
        scattered_.resize(static_cast<std::size_t>(mine * group_->size()));
        exchange(
            call_.in, [&](int r) { return element_slice(r); }, scattered_.data(),
            [&](int r) {
              return Part{r * mine, mine};
            });
        stage_ = Stage::Scattering;
      }
      break;
    case CallKind::ReduceScatter:
      scattered_.resize(static_cast<std::size_t>(bytes * group_->size()));
      exchange(
          call_.in,
          [&](int r) {
            return Part{r * bytes, bytes};
          },
          scattered_.data(),
          [&](int r) {
            return Part{r * bytes, bytes};
          });
      stage_ = Stage::Scattering;
      break;
    case CallKind::AllGather:
      exchange(
          call_.in,
          [&](int) {
            return Part{0, bytes};
          },
          call_.out,
          [&](int r) {
            return Part{r * bytes, bytes};
          });
      break;
    case CallKind::AllToAllV: {
      const auto part = [](const std::vector<std::int64_t>& offset, int r) {
        const auto i = static_cast<std::size_t>(r);
        return Part{offset[i], offset[i + 1] - offset[i]};
      };
      exchange(
          call_.in, [&](int r) { return part(call_.send_offset, r); }, call_.out,
          [&](int r) { return part(call_.receive_offset, r); });
      break;
    }
    case CallKind::Receive:
      post_receive(call_.out, bytes, call_.peer);
      break;
    case CallKind::Send:
    case CallKind::Barrier:
      break;
  }
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
        call_.out, [&](int) { return mine; }, call_.out, [&](int r) { return element_slice(r); });
  stage_ = Stage::Last;
}

void MpiTransfer::exchange(const std::byte* from, const PartOf& sent, std::byte* to, const PartOf& received) {
  for (int r = 0; r < group_->size(); ++r)
    if (r != group_->rank) post_receive(to + received(r).first, received(r).bytes, r);
  for (int r = 0; r < group_->size(); ++r)
    if (r != group_->rank) post_send(from + sent(r).first, sent(r).bytes, r);
  const Part out = sent(group_->rank), in = received(group_->rank);
  check(out.bytes == in.bytes, "{} in group {}: rank {} sends {} bytes to itself, which expects {}",
        describe(call_.signature), group_->name, group_->rank, out.bytes, in.bytes);
  if (from + out.first != to + in.first) copy(to + in.first, from + out.first, in.bytes);
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
      wire_.heard.note(group_->in_world(p.peer), header_of(p.peer).note, group_);
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
  const auto place = [&] {
    return fmt::format("{} in group {}, operation {}: rank {}", describe(call_.signature), group_->name, sequence_,
                       group_->in_world(posted.peer));
  };
  const int me = group_->in_world(group_->rank);
  const bool is_cut = result != MPI_SUCCESS && status.MPI_ERROR == MPI_ERR_TRUNCATE;
  check(!is_cut && received <= posted.expected, "{} sends more than the {} bytes that rank {} expects", place(),
        posted.expected, me);
  check(result != MPI_SUCCESS || received == posted.expected, "{} sends {} bytes, rank {} expects {}", place(),
        received, me, posted.expected);
}

}  // namespace limbeck::parallel
