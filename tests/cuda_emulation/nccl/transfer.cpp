#include "tests/cuda_emulation/nccl/transfer.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <type_traits>

#include "tests/cuda_emulation/nccl/links.h"
#include "tests/cuda_emulation/report.h"
#include "tests/cuda_emulation/runtime/machine.h"

namespace limbeck::emulation {

namespace {

const char* name_of(ncclRedOp_t reduce) {
  switch (reduce) {
    case ncclSum:
      return "sum";
    case ncclProd:
      return "product";
    case ncclMax:
      return "max";
    case ncclMin:
      return "min";
    default:
      return "average";
  }
}

bool is_reduction(const Transfer& t) { return t.kind.name.find("Reduce") != std::string_view::npos; }

void check_memory(const Transfer& t, const Participant& p, const MemoryRange& range) {
  if (range.bytes == 0) return;
  const Lock lock(machine().mutex);
  const int device = machine().device_of(range.begin);
  if (device < 0) fail("{}: {} is not memory of a GPU", t.text_of(p), range.begin);
  if (!machine().device(device).memory.is_allocated(range.begin, range.bytes))
    fail("{}: {} bytes from {}", t.text_of(p), range.bytes, machine().device(device).memory.describe(range.begin));
}

template <class T>
T reduced(ncclRedOp_t reduce, T a, T b) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(reduced(reduce, __bfloat162float(a), __bfloat162float(b)));
  } else {
    switch (reduce) {
      case ncclProd:
        return static_cast<T>(a * b);
      case ncclMax:
        return std::max(a, b);
      case ncclMin:
        return std::min(a, b);
      default:
        return static_cast<T>(a + b);
    }
  }
}

template <class T>
T divided(T x, std::size_t n) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(divided(__bfloat162float(x), n));
  else
    return static_cast<T>(x / static_cast<T>(n));
}

/// Values [begin, begin + count) of what each rank gives, over the ranks.
template <class T>
std::vector<T> reduction(const Transfer& t, std::size_t begin, std::size_t count) {
  const auto values = [&](const Participant& p) { return static_cast<const T*>(p.from) + begin; };
  std::vector<T> result(values(t.participants[0]), values(t.participants[0]) + count);
  for (std::size_t r = 1; r < t.participants.size(); ++r)
    for (std::size_t i = 0; i < count; ++i) result[i] = reduced(t.kind.reduce, result[i], values(t.participants[r])[i]);
  if (t.kind.reduce == ncclAvg)
    for (T& x : result) x = divided(x, t.participants.size());
  return result;
}

template <class T>
void reduce(const Transfer& t) {
  const std::size_t n = t.participants.size();
  const bool scattered = t.kind.name == "ncclReduceScatter";
  const std::vector<T> all = reduction<T>(t, 0, t.kind.count * (scattered ? n : 1));
  for (std::size_t r = 0; r < n; ++r)
    if (t.kind.root < 0 || t.kind.root == static_cast<int>(r))
      std::copy_n(all.data() + (scattered ? r * t.kind.count : 0), t.kind.count, static_cast<T*>(t.participants[r].to));
}

void reduce_any(const Transfer& t) {
  switch (t.kind.type) {
    case ncclInt8:
      return reduce<std::int8_t>(t);
    case ncclUint8:
      return reduce<std::uint8_t>(t);
    case ncclInt32:
      return reduce<std::int32_t>(t);
    case ncclUint32:
      return reduce<std::uint32_t>(t);
    case ncclInt64:
      return reduce<std::int64_t>(t);
    case ncclUint64:
      return reduce<std::uint64_t>(t);
    case ncclFloat32:
      return reduce<float>(t);
    case ncclFloat64:
      return reduce<double>(t);
    default:
      return reduce<__nv_bfloat16>(t);
  }
}

void gather(const Transfer& t, std::size_t bytes) {
  std::vector<std::byte> all;
  for (const Participant& p : t.participants)
    all.insert(all.end(), static_cast<const std::byte*>(p.from), static_cast<const std::byte*>(p.from) + bytes);
  for (const Participant& p : t.participants) std::memcpy(p.to, all.data(), all.size());
}

void broadcast(const Transfer& t, std::size_t bytes) {
  const void* from = t.participants[static_cast<std::size_t>(t.kind.root)].from;
  for (const Participant& p : t.participants) std::memmove(p.to, from, bytes);
}

/// As a test wants it (emulation.h).
void spoil(const Transfer& t) {
  const char* name = spoiled_operations();
  if (name == nullptr || t.kind.name != name || (t.kind.type != ncclFloat32 && t.kind.type != ncclUint8)) return;
  for (const Participant& p : t.participants) {
    auto* values = static_cast<float*>(p.to);
    for (std::size_t i = 0; i < got_by(t, p).bytes / sizeof(float); ++i) values[i] *= 1.01F;
  }
}

}  // namespace

bool is_reduced(ncclDataType_t type) {
  return type != ncclFloat16 && type != ncclFloat8e4m3 && type != ncclFloat8e5m2 && type < ncclNumTypes;
}

std::size_t bytes_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
    case ncclFloat8e4m3:
    case ncclFloat8e5m2:
      return 1;
    case ncclFloat16:
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    default:
      return 8;
  }
}

std::string text_of(ncclDataType_t type) {
  static constexpr const char* names[] = {"int8",    "uint8",   "int32",   "uint32",   "int64",      "uint64",
                                          "float16", "float32", "float64", "bfloat16", "float8e4m3", "float8e5m2"};
  return type < ncclNumTypes ? names[type] : "?";
}

bool Transfer::all_arrived() const {
  return std::all_of(participants.begin(), participants.end(), [](const Participant& p) { return p.arrived; });
}

std::chrono::steady_clock::time_point Transfer::all_arrived_at() const {
  std::chrono::steady_clock::time_point last;
  for (const Participant& p : participants) last = std::max(last, p.arrived_at);
  return last;
}

std::string Transfer::text_of(const Participant& p) const {
  const std::string_view name = p.called;
  std::string text = fmt::format("{} of {} {}", name, kind.count, emulation::text_of(kind.type));
  if (name.find("Reduce") != std::string_view::npos) text += fmt::format(" ({})", name_of(kind.reduce));
  if (kind.root >= 0) text += fmt::format(" with root {}", kind.root);
  return text + fmt::format(" by rank {}", p.rank);
}

std::string Transfer::missing() const {
  std::string text;
  for (const Participant& p : participants)
    if (!p.arrived)
      text += fmt::format("{}rank {} {}", text.empty() ? "" : ", ", p.rank,
                          p.joined ? "has called it, but its stream has not come so far" : "has not come");
  return text;
}

MemoryRange given_by(const Transfer& t, const Participant& p) {
  const bool gives = is_reduction(t) || t.kind.root < 0 || t.kind.root == p.rank;
  if (p.from == nullptr || !gives) return {};
  const std::size_t parts = t.kind.name == "ncclReduceScatter" ? t.participants.size() : 1;
  return {p.from, t.kind.count * bytes_of(t.kind.type) * parts};
}

MemoryRange got_by(const Transfer& t, const Participant& p) {
  const bool gets = !is_reduction(t) || t.kind.root < 0 || t.kind.root == p.rank;
  if (p.to == nullptr || !gets) return {};
  const std::size_t parts = t.kind.name == "ncclAllGather" ? t.participants.size() : 1;
  return {p.to, t.kind.count * bytes_of(t.kind.type) * parts};
}

void perform(const Transfer& t) {
  if (t.kind.count == 0) return;
  for (const Participant& p : t.participants) {
    check_memory(t, p, given_by(t, p));
    check_memory(t, p, got_by(t, p));
  }
  const std::size_t bytes = t.kind.count * bytes_of(t.kind.type);
  if (is_reduction(t))
    reduce_any(t);
  else if (t.kind.name == "ncclAllGather")
    gather(t, bytes);
  else if (t.kind.name == "ncclBroadcast")
    broadcast(t, bytes);
  else
    std::memmove(t.participants[1].to, t.participants[0].from, bytes);
  spoil(t);
}

}  // namespace limbeck::emulation
