#include "tests/cuda_emulation/nccl/communicator.h"

#include <algorithm>

#include "tests/cuda_emulation/nccl/links.h"
#include "tests/cuda_emulation/report.h"

namespace limbeck::emulation {

std::shared_ptr<Communicator> Communicator::of(const ncclUniqueId& id, int num_ranks) {
  static auto* all = new std::map<std::string, std::weak_ptr<Communicator>>;
  auto& known = (*all)[std::string(id.internal, sizeof id.internal)];
  auto communicator = known.lock();
  if (communicator == nullptr) known = communicator = std::make_shared<Communicator>(num_ranks);
  if (communicator->size() != num_ranks)
    fail("ncclCommInitRank with {} ranks, while another rank came with {}", num_ranks, communicator->size());
  return communicator;
}

ncclResult_t Communicator::join(int rank, int device) {
  int& mine = devices_[static_cast<std::size_t>(rank)];
  if (mine >= 0 || std::find(devices_.begin(), devices_.end(), device) != devices_.end()) has_failed_ = true;
  if (has_failed_) return ncclInvalidUsage;
  mine = device;
  return ncclSuccess;
}

bool Communicator::is_complete() const { return std::find(devices_.begin(), devices_.end(), -1) == devices_.end(); }

std::string Communicator::missing() const {
  std::string text;
  for (int r = 0; r < size(); ++r)
    if (device(r) < 0) text += fmt::format("{}rank {} has not come", text.empty() ? "" : ", ", r);
  return text;
}

Communicator::Part Communicator::next(Sequence& sequence, const TransferKind& kind,
                                      const std::vector<Participant>& participants, std::size_t place) {
  const std::uint64_t number = sequence.num_called[place]++;
  auto& open = sequence.open[number];
  if (open == nullptr) open = std::make_shared<Transfer>(Transfer{kind, participants, {}});
  const Part part{open, place};
  part.participant() = participants[place];
  part.participant().joined = true;
  auto& all = part.transfer->participants;
  if (part.transfer->kind != kind && mismatches_hang()) {
    const auto alone = std::make_shared<Transfer>(Transfer{kind, participants, {}});  // nobody else comes to it
    alone->participants[place].joined = true;
    return {alone, place};
  }
  if (part.transfer->kind != kind) {
    const auto other =
        std::find_if(all.begin(), all.end(), [&](const auto& p) { return p.joined && &p != &part.participant(); });
    fail("mismatch in operation {} of a communicator of {} ranks: {}, while {}", number, size(),
         Transfer{kind, {}, {}}.text_of(part.participant()), part.transfer->text_of(*other));
  }
  if (std::all_of(all.begin(), all.end(), [](const Participant& p) { return p.joined; })) sequence.open.erase(number);
  return part;
}

Communicator::Part Communicator::collective(int rank, const TransferKind& kind, const void* from, void* to) {
  std::vector<Participant> all(static_cast<std::size_t>(size()));
  for (int r = 0; r < size(); ++r) all[static_cast<std::size_t>(r)].rank = r;
  const auto place = static_cast<std::size_t>(rank);
  all[place] = {rank, kind.name, from, to};
  return next(collectives_, kind, all, place);
}

Communicator::Part Communicator::sent(int sender, int receiver, const TransferKind& kind, const void* from) {
  return next(messages_[{sender, receiver}], kind,
              {{sender, "ncclSend", from, nullptr}, {receiver, "ncclRecv", nullptr, nullptr}}, 0);
}

Communicator::Part Communicator::received(int sender, int receiver, const TransferKind& kind, void* to) {
  return next(messages_[{sender, receiver}], kind,
              {{sender, "ncclSend", nullptr, nullptr}, {receiver, "ncclRecv", nullptr, to}}, 1);
}

}  // namespace limbeck::emulation
