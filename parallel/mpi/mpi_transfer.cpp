#include "parallel/mpi/mpi_transfer.h"

#include <algorithm>
#include <cstring>

#include "core/slice.h"
#include "parallel/comm/reduce.h"

namespace limbeck::parallel {
namespace {

using core::check;

constexpr int tag_collective = 0;
constexpr int tag_message = 1;
constexpr std::int64_t largest_piece = std::int64_t{1} << 30;  // bytes: MPI counts are 32 bits wide

void copy(std::byte* to, const std::byte* from, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

}  // namespace

MpiTransfer::MpiTransfer(MpiGroup& group, Call call, std::int64_t sequence)
    : group_(group), call_(std::move(call)), sequence_(sequence) {}

bool MpiTransfer::is_small() const {
  return call_.signature.kind == CallKind::AllReduce &&
         call_.bytes() <= static_cast<std::int64_t>(sizeof(header_.numbers));
}

bool MpiTransfer::progress() {
  if (stage_ == Stage::Start) announce();
  if (stage_ == Stage::Announced) {
    if (!test() || !read_announcements()) return false;
    if (call_.signature.kind == CallKind::Barrier || is_small()) return true;
    start_data();
  }
  if (stage_ == Stage::Shared) return shared_->progress();
  if (stage_ == Stage::Scattering) {
    if (!test()) return false;
    finish_scatter();
  }
  return stage_ == Stage::Last && test();
}

void MpiTransfer::announce() {
  header_.signature = call_.signature;
  switch (call_.signature.kind) {
    case CallKind::Send:
      post_send(reinterpret_cast<const std::byte*>(&header_.signature), sizeof(CallSignature), call_.peer, tag_message);
      post_send(call_.in, call_.bytes(), call_.peer, tag_message);
      stage_ = Stage::Last;
      return;
    case CallKind::Receive:
      headers_.resize(1);
      post_receive(reinterpret_cast<std::byte*>(&headers_[0].signature), sizeof(CallSignature), call_.peer,
                   tag_message);
      break;
    default:
      if (is_small()) copy(header_.numbers.data(), call_.in, call_.bytes());
      headers_.resize(static_cast<std::size_t>(group_.size));
      requests_.emplace_back();
      check(MPI_Iallgather(&header_, sizeof(Header), MPI_BYTE, headers_.data(), sizeof(Header), MPI_BYTE, group_.comm,
                           &requests_.back()) == MPI_SUCCESS,
            "mpi: all_gather in group {} failed", group_.name);
  }
  stage_ = Stage::Announced;
}

bool MpiTransfer::read_announcements() {
  if (call_.signature.kind == CallKind::Receive) {
    check(matches(headers_[0].signature, call_.signature), "{}",
          mismatch(group_.name, sequence_, call_.peer, headers_[0].signature, group_.rank, call_.signature));
    return true;
  }
  for (int r = 1; r < group_.size; ++r) {
    const CallSignature& other = headers_[static_cast<std::size_t>(r)].signature;
    if (matches(headers_[0].signature, other)) continue;
    // All ranks see it here; one reports it and wakes the others.
    check(group_.rank != 0, "{}", mismatch(group_.name, sequence_, 0, headers_[0].signature, r, other));
    stage_ = Stage::Stuck;
    return false;
  }
  if (is_small()) {
    std::vector<const std::byte*> from;
    for (const Header& h : headers_) from.push_back(h.numbers.data());
    reduce(call_.signature.dtype, call_.signature.reduce, from, std::span(&call_.out, 1), call_.signature.count);
  }
  return true;
}

MpiTransfer::Part MpiTransfer::element_slice(int rank) const {
  const core::Slice slice = core::slice_of(call_.signature.count, rank, group_.size);
  return {core::bytes_of(call_.signature.dtype, slice.first), core::bytes_of(call_.signature.dtype, slice.count)};
}

void MpiTransfer::start_data() {
  const std::int64_t bytes = call_.bytes();
  stage_ = Stage::Last;
  switch (call_.signature.kind) {
    case CallKind::AllReduce:
      if (group_.segment && bytes >= shared_from_bytes) {
        shared_.emplace(*group_.segment, call_.signature.dtype, call_.signature.reduce, call_.out,
                        call_.signature.count);
        stage_ = Stage::Shared;
      } else {
        const std::int64_t mine = element_slice(group_.rank).bytes;
        scattered_.resize(static_cast<std::size_t>(mine * group_.size));
        exchange(
            call_.in, [&](int r) { return element_slice(r); }, scattered_.data(),
            [&](int r) {
              return Part{r * mine, mine};
            });
        stage_ = Stage::Scattering;
      }
      break;
    case CallKind::ReduceScatter:
      scattered_.resize(static_cast<std::size_t>(bytes * group_.size));
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
      post_receive(call_.out, bytes, call_.peer, tag_message);
      break;
    case CallKind::Send:
    case CallKind::Barrier:
      break;
  }
}

void MpiTransfer::finish_scatter() {
  const bool is_all = call_.signature.kind == CallKind::AllReduce;
  const Part mine = is_all ? element_slice(group_.rank) : Part{0, call_.bytes()};
  std::vector<const std::byte*> from;
  for (int r = 0; r < group_.size; ++r) from.push_back(scattered_.data() + r * mine.bytes);
  std::byte* to = call_.out + mine.first;
  reduce(call_.signature.dtype, call_.signature.reduce, from, std::span(&to, 1),
         mine.bytes / core::bytes_of(call_.signature.dtype, 1));
  if (is_all)
    exchange(
        call_.out, [&](int) { return mine; }, call_.out, [&](int r) { return element_slice(r); });
  stage_ = Stage::Last;
}

void MpiTransfer::exchange(const std::byte* from, const PartOf& sent, std::byte* to, const PartOf& received) {
  for (int r = 0; r < group_.size; ++r)
    if (r != group_.rank) post_receive(to + received(r).first, received(r).bytes, r, tag_collective);
  for (int r = 0; r < group_.size; ++r)
    if (r != group_.rank) post_send(from + sent(r).first, sent(r).bytes, r, tag_collective);
  const Part out = sent(group_.rank), in = received(group_.rank);
  check(out.bytes == in.bytes, "{} in group {}: rank {} sends {} bytes to itself, which expects {}",
        describe(call_.signature), group_.name, group_.rank, out.bytes, in.bytes);
  if (from + out.first != to + in.first) copy(to + in.first, from + out.first, in.bytes);
}

void MpiTransfer::post_receive(std::byte* to, std::int64_t bytes, int from, int tag) {
  do {
    const std::int64_t n = std::min(bytes, largest_piece);
    requests_.emplace_back();
    expected_.push_back({requests_.size() - 1, n, from});
    MPI_Irecv(to, static_cast<int>(n), MPI_BYTE, from, tag, group_.comm, &requests_.back());
    to += n;
    bytes -= n;
  } while (bytes > 0);
}

void MpiTransfer::post_send(const std::byte* from, std::int64_t bytes, int to, int tag) {
  do {
    const std::int64_t n = std::min(bytes, largest_piece);
    requests_.emplace_back();
    MPI_Isend(from, static_cast<int>(n), MPI_BYTE, to, tag, group_.comm, &requests_.back());
    from += n;
    bytes -= n;
  } while (bytes > 0);  // a message of no bytes is sent too, so that both sides can disagree about it
}

bool MpiTransfer::test() {
  int is_done = 0;
  statuses_.resize(requests_.size());
  const int result = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &is_done, statuses_.data());
  if (result == MPI_SUCCESS && is_done == 0) return false;
  for (const Expected& e : expected_) {
    int received = 0;
    const MPI_Status& status = statuses_[e.request];
    if (is_done != 0) MPI_Get_count(&status, MPI_BYTE, &received);
    check((result == MPI_SUCCESS || status.MPI_ERROR != MPI_ERR_TRUNCATE) && received <= e.bytes,
          "{} in group {}, operation {}: rank {} sends more than the {} bytes that rank {} expects",
          describe(call_.signature), group_.name, sequence_, e.from, e.bytes, group_.rank);
    check(result != MPI_SUCCESS || received == e.bytes,
          "{} in group {}, operation {}: rank {} sends {} bytes, rank {} expects {}", describe(call_.signature),
          group_.name, sequence_, e.from, received, group_.rank, e.bytes);
  }
  check(result == MPI_SUCCESS, "mpi: {} in group {} failed", describe(call_.signature), group_.name);
  requests_.clear();
  expected_.clear();
  return true;
}

}  // namespace limbeck::parallel
