#include "data/teacher_cache/row_codec.h"

#include <zstd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "kernels/bf16.h"

namespace limbeck::data {

using core::check;

static_assert(std::endian::native == std::endian::little);

namespace {

constexpr float none = -std::numeric_limits<float>::infinity();
constexpr std::uint16_t no_nats = 65535;  // of a rest: nothing is left over
constexpr double nats_steps = 1024;       // of 16 bits a nat
constexpr int rice_bits = 5, compression = 3;
constexpr int most_codes = 255;

/// 0 or more nats in 16 bits; `most` at most.
std::uint16_t to_nats(double value, std::uint16_t most) {
  return static_cast<std::uint16_t>(std::clamp(std::round(value * nats_steps), 0.0, static_cast<double>(most)));
}
float from_nats(std::uint16_t code) { return static_cast<float>(code / nats_steps); }

class BitWriter {
 public:
  /// The low `bits` of value, up to 32.
  void put(std::uint64_t value, int bits) {
    held_ |= value << num_held_;
    num_held_ += bits;
    while (num_held_ >= 8) {
      bytes_.push_back(static_cast<char>(held_ & 0xffU));
      held_ >>= 8U;
      num_held_ -= 8;
    }
  }
  void unary(std::uint64_t zeros) {
    for (; zeros >= 32; zeros -= 32) put(0, 32);
    put(std::uint64_t{1} << zeros, static_cast<int>(zeros) + 1);
  }
  std::string take() {
    if (num_held_ > 0) bytes_.push_back(static_cast<char>(held_ & 0xffU));
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
  std::uint64_t held_ = 0;
  int num_held_ = 0;
};

class BitReader {
 public:
  explicit BitReader(std::string_view bytes) : bytes_(bytes) {}
  std::uint64_t get(int bits) {
    fill(bits);
    check(num_held_ >= bits, "ends within a row");
    const std::uint64_t value = held_ & ((std::uint64_t{1} << static_cast<unsigned>(bits)) - 1);
    held_ >>= static_cast<unsigned>(bits);
    num_held_ -= bits;
    return value;
  }
  std::uint64_t unary() {
    std::uint64_t zeros = 0;
    for (;;) {
      fill(48);
      check(num_held_ > 0, "ends within a row");
      const int run = std::min(held_ == 0 ? num_held_ : std::countr_zero(held_), num_held_);
      zeros += static_cast<std::uint64_t>(run);
      const bool ends = run < num_held_;
      held_ >>= static_cast<unsigned>(run);
      num_held_ -= run;
      if (!ends) continue;
      held_ >>= 1U;
      --num_held_;
      return zeros;
    }
  }
  bool is_at_end() const { return position_ == bytes_.size() && num_held_ < 8 && held_ == 0; }

 private:
  void fill(int bits) {
    while (num_held_ < bits && position_ < bytes_.size()) {
      held_ |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes_[position_++]))
               << static_cast<unsigned>(num_held_);
      num_held_ += 8;
    }
  }
  std::string_view bytes_;
  std::size_t position_ = 0;
  std::uint64_t held_ = 0;
  int num_held_ = 0;
};

int bits_below(std::int64_t n) { return static_cast<int>(std::bit_width(static_cast<std::uint64_t>(n - 1))); }

/// The parameter with which the gaps of rising ids take the fewest bits (Rice's code).
int rice_parameter(std::span<const std::int32_t> ids) {
  int best = 0;
  std::uint64_t best_bits = UINT64_MAX;
  for (int r = 0; r <= 24; ++r) {
    std::uint64_t bits = ids.size() * static_cast<std::uint64_t>(r + 1);
    std::int64_t before = -1;
    for (const std::int32_t id : ids) {
      bits += static_cast<std::uint64_t>(id - before - 1) >> static_cast<unsigned>(r);
      before = id;
    }
    if (bits < best_bits) best_bits = bits, best = r;
  }
  return best;
}

void put_ids(BitWriter& out, std::span<const std::int32_t> ids) {
  const int r = rice_parameter(ids);
  out.put(static_cast<std::uint64_t>(r), rice_bits);
  std::int64_t before = -1;
  for (const std::int32_t id : ids) {
    const auto gap = static_cast<std::uint64_t>(id - before - 1);
    out.unary(gap >> static_cast<unsigned>(r));
    if (r > 0) out.put(gap & ((std::uint64_t{1} << static_cast<unsigned>(r)) - 1), r);
    before = id;
  }
}

void get_ids(BitReader& in, std::span<std::int32_t> ids, std::int64_t vocabulary) {
  const int r = static_cast<int>(in.get(rice_bits));
  std::int64_t before = -1;
  for (std::int32_t& id : ids) {
    const std::uint64_t high = in.unary();
    check(high <= static_cast<std::uint64_t>(vocabulary), "has a token outside the vocabulary of {}", vocabulary);
    const std::uint64_t gap = (high << static_cast<unsigned>(r)) + (r > 0 ? in.get(r) : 0);
    check(gap < static_cast<std::uint64_t>(vocabulary - before - 1), "has a token outside the vocabulary of {}",
          vocabulary);
    before += static_cast<std::int64_t>(gap) + 1;
    id = static_cast<std::int32_t>(before);
  }
}

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);  // NOLINT: its bytes
}

/// Takes values off the front.
class Columns {
 public:
  explicit Columns(std::string_view bytes) : rest_(bytes) {}
  template <class T>
  T take() {
    T value{};
    std::memcpy(&value, raw(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view raw(std::size_t count) {
    check(count <= rest_.size(), "ends within its columns");
    const std::string_view front = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return front;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

std::size_t used_of(const CachedRows& rows, std::int64_t row) {
  const auto begin = rows.ids.begin() + row * rows.width, end = begin + rows.width;
  return static_cast<std::size_t>(std::find(begin, end, -1) - begin);
}

std::string compressed(const std::string& bytes) {
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  const std::size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), compression);
  check(ZSTD_isError(size) == 0, "teacher cache: a block was not compressed: {}", ZSTD_getErrorName(size));
  out.resize(size);
  return out;
}

/// Bytes that so many rows take before they are compressed, at most.
std::size_t most_bytes(std::int64_t count, const CacheContents& contents) {
  const auto entries = static_cast<std::size_t>(count * contents.width());
  return 64 + static_cast<std::size_t>(count) * (64 + 8 * contents.temperatures.size()) + 4 * entries +
         4 * static_cast<std::size_t>(count * contents.hidden_size()) +
         // ids: Rice's code with the best parameter is below 25 bits and a vocabulary's share; counts: 33 bits
         entries * 8 + static_cast<std::size_t>(contents.vocabulary) / 4;
}

void encode_draws(BitWriter& bits, const CachedRows& rows, const CacheContents& contents, std::int64_t row) {
  const std::size_t used = used_of(rows, row);
  bits.put(used, 17);
  put_ids(bits, {rows.ids.data() + row * rows.width, used});
  for (std::size_t j = 0; j < used; ++j) {  // Elias' gamma
    const auto count = static_cast<std::uint64_t>(
        std::lround(static_cast<double>(rows.log_p[row * rows.width + j]) * static_cast<double>(contents.kept)));
    const int length = static_cast<int>(std::bit_width(count)) - 1;
    bits.unary(static_cast<std::uint64_t>(length));
    if (length > 0) bits.put(count & ((std::uint64_t{1} << static_cast<unsigned>(length)) - 1), length);
  }
}

void decode_draws(BitReader& bits, CachedRows& rows, const CacheContents& contents, std::int64_t row) {
  const std::uint64_t used = bits.get(17);
  check(used >= 1 && used <= static_cast<std::uint64_t>(rows.width), "has {} different draws, expected 1 to {}", used,
        rows.width);
  get_ids(bits, {rows.ids.data() + row * rows.width, used}, contents.vocabulary);
  std::uint64_t draws = 0;
  for (std::size_t j = 0; j < used; ++j) {
    const std::uint64_t length = bits.unary();
    check(length <= 16, "has a token that was drawn more often than all");
    const std::uint64_t count = (std::uint64_t{1} << length) + (length > 0 ? bits.get(static_cast<int>(length)) : 0);
    draws += count;
    rows.log_p[row * rows.width + j] = static_cast<float>(count) / static_cast<float>(contents.kept);
  }
  check(draws == static_cast<std::uint64_t>(contents.kept), "has {} draws, expected {}", draws, contents.kept);
}

/// bfloat16: first the upper bytes of all, which are alike, then the lower ones.
void put_hidden(std::string& bytes, std::span<const float> values, bool quantised) {
  for (const float value : values)
    check(std::isfinite(value) && std::isfinite(static_cast<float>(kernels::bf16(value))),
          "teacher cache: a hidden state is {}", value);
  if (!quantised) {
    for (const float value : values) append(bytes, value);
    return;
  }
  for (const unsigned shift : {8U, 0U})
    for (const float value : values)
      bytes.push_back(static_cast<char>(static_cast<unsigned char>(kernels::bf16(value).bits >> shift & 0xffU)));
}

void take_hidden(Columns& columns, std::span<float> values, bool quantised) {
  if (quantised) {
    const std::string_view upper = columns.raw(values.size()), lower = columns.raw(values.size());
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(std::bit_cast<kernels::bf16>(static_cast<std::uint16_t>(
          static_cast<unsigned char>(upper[i]) << 8U | static_cast<unsigned char>(lower[i]))));
  } else {
    const std::string_view bytes = columns.raw(values.size_bytes());
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  }
  for (const float value : values) check(std::isfinite(value), "has a hidden state of {}", value);
}

}  // namespace

std::string encode_rows(const CachedRows& rows, const CacheContents& contents, std::int64_t first, std::int64_t count) {
  std::string bytes;
  const bool draws = contents.kind == CacheKind::Sampled;
  const auto number = [&](float value, std::uint16_t most) {
    contents.quantised ? append(bytes, to_nats(value, most)) : append(bytes, value);
  };
  for (std::int64_t i = first; i < first + count; ++i) number(rows.target_loss[i], no_nats);
  for (std::size_t t = 0; t < contents.temperatures.size(); ++t)
    for (std::int64_t i = first; i < first + count; ++i) {
      const float rest = rows.rest_at(t, i);
      if (draws)
        number(rest, no_nats);
      else if (!contents.quantised)
        append(bytes, rest);
      else
        append(bytes, rest == none ? no_nats : to_nats(-static_cast<double>(rest), no_nats - 1));
    }
  put_hidden(bytes,
             std::span(rows.hidden)
                 .subspan(static_cast<std::size_t>(first * rows.hidden_size),
                          static_cast<std::size_t>(count * rows.hidden_size)),
             contents.quantised);
  BitWriter bits;
  std::string codes;
  for (std::int64_t i = first; i < first + count; ++i) {
    bits.put(static_cast<std::uint64_t>(rows.likeliest[i]), bits_below(contents.vocabulary));
    if (draws) {
      encode_draws(bits, rows, contents, i);
      continue;
    }
    const std::span<const std::int32_t> ids(rows.ids.data() + i * rows.width, static_cast<std::size_t>(rows.width));
    if (rows.width < contents.vocabulary) put_ids(bits, ids);
    const std::span<const float> log_p(rows.log_p.data() + i * rows.width, ids.size());
    if (!contents.quantised) {
      for (const float value : log_p) append(codes, value);
      continue;
    }
    const auto [least, greatest] = std::minmax_element(log_p.begin(), log_p.end());
    const std::uint16_t range = to_nats(static_cast<double>(*greatest) - *least, no_nats);
    append(bytes, range);
    const double steps = range == 0 ? 0 : most_codes / (range / nats_steps);
    for (const float value : log_p)
      codes.push_back(static_cast<char>(static_cast<unsigned char>(
          std::clamp(std::round((static_cast<double>(*greatest) - value) * steps), 0.0, double{most_codes}))));
  }
  return compressed(bytes + codes + bits.take());
}

CachedRows decode_rows(std::span<const std::byte> bytes, std::int64_t count, const CacheContents& contents) {
  const std::size_t most = most_bytes(count, contents);
  const unsigned long long claimed = ZSTD_getFrameContentSize(bytes.data(), bytes.size());
  check(claimed != ZSTD_CONTENTSIZE_ERROR && claimed != ZSTD_CONTENTSIZE_UNKNOWN && claimed <= most,
        "is no block of {} rows", count);
  std::string unpacked(static_cast<std::size_t>(claimed), '\0');
  const std::size_t size = ZSTD_decompress(unpacked.data(), unpacked.size(), bytes.data(), bytes.size());
  check(ZSTD_isError(size) == 0 && size == unpacked.size(), "cannot be unpacked: {}",
        ZSTD_isError(size) != 0 ? ZSTD_getErrorName(size) : "it is shorter than it says");
  CachedRows rows;
  rows.resize(count, contents);
  const bool draws = contents.kind == CacheKind::Sampled;
  Columns columns(unpacked);
  const auto number = [&] {
    const float value = contents.quantised ? from_nats(columns.take<std::uint16_t>()) : columns.take<float>();
    check(std::isfinite(value) && value >= 0, "has a number of nats that is {}", value);
    return value;
  };
  for (float& loss : rows.target_loss) loss = number();
  for (float& rest : rows.rest) {
    if (draws) {
      rest = number();
    } else if (contents.quantised) {
      const auto code = columns.take<std::uint16_t>();
      rest = code == no_nats ? none : -from_nats(code);
    } else {
      rest = columns.take<float>();
    }
    check(draws || rest <= 0, "has a rest of {} nats, expected a probability", rest);
    // What is kept is never nothing.
    if (!draws) rest = std::min(rest, contents.quantised ? -0.5F / static_cast<float>(nats_steps) : -1e-7F);
  }
  take_hidden(columns, rows.hidden, contents.quantised);
  std::vector<std::uint16_t> ranges;
  if (!draws && contents.quantised)
    for (std::int64_t i = 0; i < count; ++i) ranges.push_back(columns.take<std::uint16_t>());
  if (!draws) {
    for (std::int64_t i = 0; i < count; ++i) {
      float* out = rows.log_p.data() + i * rows.width;
      if (contents.quantised) {
        const std::string_view codes = columns.raw(static_cast<std::size_t>(rows.width));
        const auto step = static_cast<float>(ranges[i] / nats_steps / most_codes);
        for (std::int64_t j = 0; j < rows.width; ++j) out[j] = -step * static_cast<unsigned char>(codes[j]);
      } else {
        const std::string_view values = columns.raw(sizeof(float) * static_cast<std::size_t>(rows.width));
        std::memcpy(out, values.data(), values.size());
        for (std::int64_t j = 0; j < rows.width; ++j)
          check(std::isfinite(out[j]) && out[j] <= 1e-3F, "has a log-probability of {}", out[j]);
      }
    }
  }
  BitReader bits(columns.rest());
  for (std::int64_t i = 0; i < count; ++i) {
    const std::uint64_t likeliest = bits.get(bits_below(contents.vocabulary));
    check(likeliest < static_cast<std::uint64_t>(contents.vocabulary), "has a token outside the vocabulary of {}",
          contents.vocabulary);
    rows.likeliest[i] = static_cast<std::int32_t>(likeliest);
    std::int32_t* ids = rows.ids.data() + i * rows.width;
    if (draws)
      decode_draws(bits, rows, contents, i);
    else if (rows.width < contents.vocabulary)
      get_ids(bits, {ids, static_cast<std::size_t>(rows.width)}, contents.vocabulary);
    else
      for (std::int64_t v = 0; v < rows.width; ++v) ids[v] = static_cast<std::int32_t>(v);
  }
  check(bits.is_at_end(), "goes on behind its last row");
  return rows;
}

}  // namespace limbeck::data
