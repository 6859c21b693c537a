// A rank's memory on one device: a caching allocator. Blocks that are given back are kept, split and merged; after the
// first steps of a training run the system is asked for nothing.
//
// What lies in a GPU's memory the host cannot read: tensors are brought to memory->host() and back (tensor.h).
//
//     auto memory = Memory::cpu(/*threads=*/2);
//     Tensor x = Tensor::empty(memory, DType::F32, {4, 768});
//     memory->statistics().system_allocations;
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "device_set.h"

namespace limbeck::core {

using kernels::Device;

struct IndexNotes;

struct MemoryStatistics {
  std::int64_t system_allocations = 0;  // times the system was asked for memory
  std::int64_t system_bytes = 0;        // held from the system
  std::int64_t used_bytes = 0;          // in tensors now
  std::int64_t peak_bytes = 0;          // most ever in tensors
};

/// What a memory that holds nothing stands for.
struct ImaginedDevice {
  bool has_queue = false;         // as a GPU has
  std::int64_t logits_bytes = 0;  // as the device's tag says
};

class Memory : public std::enable_shared_from_this<Memory> {
 public:
  /// The device's own; `threads` are those of host().
  explicit Memory(Device device, int threads = 1);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  static std::shared_ptr<Memory> cpu(int threads);
  /// The CPU's, but not for the host to read, as if it were a GPU's: for tests.
  static std::shared_ptr<Memory> hidden_cpu(int threads);
  /// Of sizes alone: its addresses are nobody's, no kernel runs on what lies there (on_device, tensor.h), and whoever
  /// reads it has zeros. So work that is run in it counts what it would take.
  static std::shared_ptr<Memory> imagined(const ImaginedDevice& device);

  const Device& device() const { return device_; }
  /// Whether the host may read and write what lies in it.
  bool is_host() const { return is_host_; }
  bool is_imagined() const { return imagined_.has_value(); }
  /// Whether kernels wait in a queue while the host goes on.
  bool has_queue() const { return imagined_ ? imagined_->has_queue : !is_host_; }
  /// What a chunk of tokens may have of logits at once, however few tokens it has.
  std::int64_t logits_bytes() const;
  /// Where the host reads and writes what goes to this memory or comes from it: this one, if it can.
  std::shared_ptr<Memory> host();
  void* allocate(std::int64_t bytes);
  void deallocate(void* block) noexcept;
  MemoryStatistics statistics() const;
  void reset_peak();
  /// To tensors, in all.
  std::int64_t given_bytes() const;

  /// Sets memory apart for work that is done again at the same addresses (recorded_work.h): what is free now, and what
  /// is allocated until end_setting_apart(), is given to nobody else from then on until give_back_apart(). One at a
  /// time.
  void begin_setting_apart();
  void end_setting_apart();
  void give_back_apart();
  /// Until end_setting_apart(), of memory that is not set apart: the work uses it.
  bool notes_uses() const { return part_ == Part::Apart; }
  void note_use(const void* block);
  /// Whether nothing has been freed whose use was noted.
  bool keeps_what_is_used() const;

  /// For whoever keeps it (index_check.h).
  std::shared_ptr<IndexNotes>& index_notes() { return index_notes_; }

  /// Times that the host has waited for values of this memory (HostCopy, tensor.h); from any thread.
  std::atomic<std::int64_t> host_reads = 0;

 private:
  enum class Part : std::uint8_t { Common, Apart };
  struct Block {
    std::int64_t bytes = 0;
    bool used = false;
    std::int64_t segment = 0;
    Part part = Part::Common;
    bool is_noted = false;  // of the common part, used by what memory is set apart for
  };
  using Blocks = std::map<char*, Block>;
  std::set<std::pair<std::int64_t, char*>>& free_of(Part part) { return free_[static_cast<std::size_t>(part)]; }
  void insert_free(Blocks::iterator at) { free_of(at->second.part).insert({at->second.bytes, at->first}); }
  void erase_free(Blocks::iterator at) { free_of(at->second.part).erase({at->second.bytes, at->first}); }
  void free_and_merge(Blocks::iterator at);
  void move_free(Part from, Part to);

  void* allocate_segment(std::int64_t bytes) const;
  void free_segment(void* segment, std::int64_t bytes) const;

  Device device_;
  std::optional<Device> pinned_for_;  // of host memory: the device that copies from it
  int threads_;
  bool is_host_;
  std::shared_ptr<IndexNotes> index_notes_;
  std::shared_ptr<Memory> host_;  // where this one is none; made when it is first asked for
  mutable std::mutex mutex_;      // the communication thread frees tensors too
  Blocks blocks_;
  std::array<std::set<std::pair<std::int64_t, char*>>, 2> free_;  // by Part
  Part part_ = Part::Common;                                      // that is allocated from
  bool is_set_apart_ = false;
  bool keeps_what_is_used_ = true;
  std::vector<std::pair<char*, std::int64_t>> segments_;
  MemoryStatistics statistics_;
  std::int64_t given_bytes_ = 0;
  std::optional<ImaginedDevice> imagined_;
};

using MemoryPtr = std::shared_ptr<Memory>;

}  // namespace limbeck::core
