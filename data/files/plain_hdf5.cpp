#include "data/files/plain_hdf5.h"

#include <algorithm>
#include <array>
#include <set>

#include "data/files/mapped_file.h"
#include "data/files/plain_hdf5_bytes.h"
#include "data/files/plain_hdf5_links.h"

namespace limbeck::data {

using core::DType;
using core::Shape;

namespace {

constexpr int max_depth = 32;
constexpr std::size_t max_objects = std::size_t{1} << 18U;
constexpr std::size_t max_name = 255;

/// Messages of an object's header (specification IV.A.2).
enum Message : std::uint64_t {
  Nil = 0,
  Dataspace = 1,
  LinkInfo = 2,
  Datatype = 3,
  OldFill = 4,
  Fill = 5,
  Link = 6,
  ExternalFiles = 7,
  Layout = 8,
  GroupInfo = 10,
  Filters = 11,
  Attribute = 12,
  Continuation = 16,
  SymbolTable = 17,
  ModificationTime = 18,
  AttributeInfo = 21,
  ReferenceCount = 22,
};

/// The bytes of a datatype message behind its version and class.
struct Encoding {
  DType dtype;
  char kind;
  std::string_view bytes;
};
constexpr std::array<Encoding, 5> encodings = {
    {{DType::F32, 1, {"\x20\x1f\0\4\0\0\0\0\0\x20\0\x17\x08\0\x17\x7f\0\0\0", 19}},
     {DType::F64, 1, {"\x20\x3f\0\x08\0\0\0\0\0\x40\0\x34\x0b\0\x34\xff\3\0\0", 19}},
     {DType::BF16, 1, {"\x20\x0f\0\2\0\0\0\0\0\x10\0\7\x08\0\7\x7f\0\0\0", 19}},
     {DType::I64, 0, {"\x08\0\0\x08\0\0\0\0\0\x40\0", 11}},
     {DType::U8, 0, {"\0\0\0\1\0\0\0\0\0\x08\0", 11}}}};

std::optional<DType> dtype_of(std::string_view message) {
  for (const Encoding& e : encodings)
    if (message.size() > e.bytes.size() && (message[0] & 0x0f) == e.kind &&
        message.substr(1, e.bytes.size()) == e.bytes)
      return e.dtype;
  return std::nullopt;
}

class Reader {
 public:
  Reader(PlainFile& file, std::map<std::string, PlainDataset>& datasets, bool with_bytes)
      : file_(file), datasets_(datasets), with_bytes_(with_bytes) {}

  void read() {
    PlainCursor in(file_, 0, 48);
    in.expect("\x89HDF\r\n\x1a\n", "is no HDF5 file");
    const std::uint64_t version = in.number(1);
    in.need(version == 2 || version == 3,
            "has an HDF5 superblock that Limbeck does not write, expected version 2 or 3");
    in.need(in.number(2) == 0x0808, "has HDF5 addresses that are not of 8 bytes");
    in.skip(1);
    in.need(in.number(8) == 0, "has an HDF5 superblock with more than a root");
    in.need(in.number(8) == undefined_address, "has an HDF5 superblock with more than a root");
    in.need(in.number(8) == file_.size(), "is truncated: the HDF5 superblock tells of another size");
    object(in.number(8), "", 0);
  }

 private:
  struct Object {
    std::vector<std::pair<std::string, std::uint64_t>> links;
    PlainDataset dataset;
    std::optional<Shape> shape;
    std::optional<DType> dtype;
    std::uint64_t values = undefined_address;
    std::uint64_t bytes = 0;
    bool is_group = false;
    bool has_type = false;
    bool has_layout = false;
  };

  void object(std::uint64_t at, const std::string& path, int depth) {
    file_.enter(path);
    file_.check(depth <= max_depth, at, "lies more than 32 groups deep");
    file_.check(seen_.insert(at).second, at, "is linked to a second time");
    file_.check(seen_.size() <= max_objects, at, "is one of more than 262144 groups and datasets");
    Object object;
    header(at, object);
    const bool is_dataset = object.has_type && object.shape && object.has_layout;
    file_.check(object.is_group != is_dataset, at, "is neither a group nor a dataset");
    if (is_dataset) {
      datasets_[path] = dataset(std::move(object), at);
      return;
    }
    for (const auto& [name, address] : object.links) this->object(address, path + "/" + name, depth + 1);
  }

  PlainDataset dataset(Object object, std::uint64_t at) {
    file_.check(object.dtype.has_value() && (with_bytes_ || object.dtype != DType::U8), at,
                "has a type that is not float32, float64, bfloat16 or int64");
    PlainDataset& made = object.dataset;
    made.info = {*object.shape, *object.dtype};
    const auto bytes = static_cast<std::uint64_t>(core::bytes_of(*object.dtype, object.shape->numel()));
    if (object.values <= file_.size() && object.bytes == bytes && bytes <= file_.size() - object.values)
      made.first_byte = static_cast<std::int64_t>(object.values);
    return std::move(made);
  }

  void header(std::uint64_t at, Object& object) {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> rest;  // blocks that go on with it
    PlainCursor start(file_, at, 16);
    const bool is_new = start.raw(4) == "OHDR";
    if (is_new) {
      start.need(start.number(1) == 2, "has a header of no known version");
      const std::uint64_t flags = start.number(1);
      const std::uint64_t before = 6 + ((flags & 0x20U) != 0 ? 16U : 0U) + ((flags & 0x10U) != 0 ? 4U : 0U);
      const std::size_t width = std::size_t{1} << (flags & 3U);
      PlainCursor size(file_, at + before, width);
      const std::uint64_t first = at + before + width;
      messages(PlainCursor(file_, first, size.number(width)), true, (flags & 4U) != 0, object, rest);
      for (std::size_t i = 0; i < rest.size(); ++i) {
        PlainCursor block(file_, rest[i].first, rest[i].second - std::min<std::uint64_t>(rest[i].second, 4));
        block.expect("OCHK", "has a header that goes on nowhere");
        messages(std::move(block), true, (flags & 4U) != 0, object, rest);
      }
      return;
    }
    PlainCursor old(file_, at, 16);  // as libraries write that were not asked for newer structures
    old.need(old.number(2) == 1, "has a header of no known version");
    old.skip(6);
    messages(PlainCursor(file_, at + 16, old.number(4)), false, false, object, rest);
    for (std::size_t i = 0; i < rest.size(); ++i)
      messages(PlainCursor(file_, rest[i].first, rest[i].second), false, false, object, rest);
  }

  void messages(PlainCursor in, bool is_new, bool has_order, Object& object,
                std::vector<std::pair<std::uint64_t, std::uint64_t>>& rest) {
    const std::uint64_t head = is_new ? (has_order ? 6 : 4) : 8;
    while (in.left() >= head) {
      const std::uint64_t type = in.number(is_new ? 1 : 2);
      const std::uint64_t size = in.number(2);
      const std::uint64_t flags = in.number(1);
      in.skip(head - (is_new ? 4 : 5));
      in.need(size <= in.left(), "has a message that is longer than its header");
      PlainCursor message(file_, in.at(), size);
      in.skip(size);
      message.need((flags & 2U) == 0 || type == Nil, "has a message that is kept elsewhere");
      if (type == Continuation) {
        const std::uint64_t block = message.number(8);
        rest.emplace_back(block, message.number(8));
      } else {
        take(type, message, object);
      }
    }
  }

  void take(std::uint64_t type, PlainCursor& in, Object& object) {
    switch (type) {
      case Nil:
      case OldFill:
      case Fill:
      case GroupInfo:
      case ModificationTime:
      case ReferenceCount:
        return;
      case Dataspace:
        object.shape = shape(in);
        return;
      case LinkInfo:
        return link_info(in, object);
      case Datatype:
        object.has_type = true;
        object.dtype = dtype_of(in.raw(in.left()));
        return;
      case Link:
        object.links.push_back(link(in));
        return;
      case ExternalFiles:
        return in.need(false, "keeps its values in other files (external storage), expected them in this one");
      case Layout:
        object.has_layout = true;
        return layout(in, object);
      case Filters:
        return in.need(false, "is not contiguous: it has filters");
      case Attribute:
        return attribute(in, object.dataset);
      case SymbolTable:
        return in.need(false, "is a group of the old kind");
      case AttributeInfo:
        in.skip(1);
        if ((in.number(1) & 1U) != 0) in.skip(2);
        return in.need(in.number(8) == undefined_address, "has more attributes than Limbeck gives");
      default:
        in.need(false, "has a message that Limbeck does not write");
    }
  }

  Shape shape(PlainCursor& in) {
    const std::uint64_t version = in.number(1);
    const std::uint64_t rank = in.number(1);
    in.skip(1);
    in.need((version == 1 || version == 2) && rank <= Shape::max_rank, "has extents of an unknown kind");
    if (version == 1)
      in.skip(5);
    else
      in.need(in.number(1) == (rank == 0 ? 0 : 1), "has no values");
    std::vector<std::int64_t> extents;
    std::int64_t elements = 8;  // bytes, at most
    for (std::uint64_t i = 0; i < rank; ++i) {
      extents.push_back(static_cast<std::int64_t>(in.number(8)));
      in.need(extents.back() >= 0 &&
                  !__builtin_mul_overflow(elements, std::max<std::int64_t>(extents.back(), 1), &elements),
              "has more elements than memory can hold");
    }
    return Shape(extents);
  }

  void link_info(PlainCursor& in, Object& object) {
    object.is_group = true;
    in.skip(1);
    if ((in.number(1) & 1U) != 0) in.skip(8);
    const std::uint64_t heap = in.number(8);
    const std::uint64_t tree = in.number(8);
    if (heap == undefined_address) return;
    for_each_dense_link(file_, heap, tree, [&](std::uint64_t at, std::uint64_t size) {
      PlainCursor message(file_, at, size);
      object.links.push_back(link(message));
    });
  }

  std::pair<std::string, std::uint64_t> link(PlainCursor& in) {
    in.need(in.number(1) == 1, "has a link of no known version");
    const std::uint64_t flags = in.number(1);
    const std::uint64_t kind = (flags & 8U) != 0 ? in.number(1) : 0;
    if ((flags & 4U) != 0) in.skip(8);
    if ((flags & 16U) != 0) in.skip(1);
    const std::uint64_t length = in.number(std::size_t{1} << (flags & 3U));
    in.need(length >= 1 && length <= max_name, "has a link whose name is not of 1 to 255 bytes");
    const std::string name(in.raw(length));
    in.need(name != "." && name.find('/') == std::string::npos && name.find('\0') == std::string::npos,
            "has a link whose name is none");
    in.need(kind == 0, "has \"" + name + "\", a soft or external link, expected groups and datasets of this file");
    return {name, in.number(8)};
  }

  void layout(PlainCursor& in, Object& object) {
    const std::uint64_t version = in.number(1);
    in.need(version == 3 || version == 4, "has a layout of no known version");
    const std::uint64_t kind = in.number(1);
    in.need(kind == 1 || kind == 3, "is not contiguous");
    if (kind == 1) {
      object.values = in.number(8);
      object.bytes = in.number(8);
      return;
    }
    object.dataset.is_virtual = true;
    const std::uint64_t heap = in.number(8);
    const std::uint64_t index = in.number(4);
    if (heap == undefined_address) return;  // no sources
    PlainCursor block = heap_object(heap, index);
    block.need(block.number(1) == 0, "has virtual sources of no known version");
    const std::uint64_t count = block.number(8);
    for (std::uint64_t i = 0; i < count; ++i) object.dataset.sources.push_back(source(block));
  }

  VirtualSource source(PlainCursor& in) {
    VirtualSource made;
    made.file = in.text();
    made.path = in.text();
    in.need(!made.file.empty() && made.file.size() <= max_name && made.file[0] != '.' &&
                made.file.find_first_of("/%") == std::string::npos,
            "has a virtual source in \"" + made.file + "\", expected a file beside this one");
    in.need(made.path.find('%') == std::string::npos, "has a virtual source whose name is a pattern");
    const auto taken = selection(in);
    auto seen_at = selection(in);
    in.need(seen_at.has_value(), "has a virtual source without a box");
    in.need(!taken || (taken->second == seen_at->second &&
                       std::count(taken->first.begin(), taken->first.end(), 0) == taken->second.rank()),
            "has a virtual source of which only a part is taken");
    made.offset = std::move(seen_at->first);
    made.extent = seen_at->second;
    return made;
  }

  /// Offset and extent of a selection (specification VIII.A) that is one box; nothing where all is selected.
  std::optional<std::pair<std::vector<std::int64_t>, Shape>> selection(PlainCursor& in) {
    const std::uint64_t kind = in.number(4);
    const std::uint64_t version = in.number(4);
    if (kind == 3) {
      in.skip(8);
      return std::nullopt;
    }
    in.need(kind == 2 && (version == 1 || version == 2), "has a virtual source that is no box");
    if (version == 2) in.need(in.number(1) == 1, "has a virtual source that is no box");
    in.skip(version == 1 ? 8 : 4);
    const std::uint64_t rank = in.number(4);
    in.need(rank >= 1 && rank <= Shape::max_rank, "has a virtual source that is no box");
    std::vector<std::int64_t> first;
    std::vector<std::int64_t> extents;
    const auto add = [&](std::uint64_t begin, std::uint64_t size) {
      in.need(begin <= INT64_MAX && size >= 1 && size <= INT64_MAX - begin, "has a virtual source that is no box");
      first.push_back(static_cast<std::int64_t>(begin));
      extents.push_back(static_cast<std::int64_t>(size));
    };
    if (version == 2) {
      for (std::uint64_t i = 0; i < rank; ++i) {
        const std::uint64_t begin = in.number(8);
        const std::uint64_t stride = in.number(8);
        const std::uint64_t count = in.number(8);
        const std::uint64_t block = in.number(8);
        in.need(count != UINT64_MAX && block != UINT64_MAX && (count == 1 || (stride == 1 && block == 1)),
                "has a virtual source that is no box");
        add(begin, count == 1 ? block : count);
      }
    } else {
      in.need(in.number(4) == 1, "has a virtual source that is no box");
      std::array<std::uint64_t, Shape::max_rank> begin{};
      for (std::uint64_t i = 0; i < rank; ++i) begin[i] = in.number(4);
      for (std::uint64_t i = 0; i < rank; ++i) {
        const std::uint64_t end = in.number(4);
        in.need(end >= begin[i], "has a virtual source that is no box");
        add(begin[i], end - begin[i] + 1);
      }
    }
    return std::pair{std::move(first), Shape(extents)};
  }

  void attribute(PlainCursor& in, PlainDataset& dataset) {
    if (in.number(1) != 3) return;
    in.need(in.number(1) == 0, "has an attribute whose type is kept elsewhere");
    const std::uint64_t name_bytes = in.number(2);
    const std::uint64_t type_bytes = in.number(2);
    const std::uint64_t space_bytes = in.number(2);
    in.skip(1);
    const std::string_view name = in.raw(name_bytes);
    const std::string_view type = in.raw(type_bytes);
    PlainCursor space(file_, in.at(), space_bytes);
    in.skip(space_bytes);
    if (name == std::string_view("name\0", 5)) {
      const bool is_text = !type.empty() && (type[0] & 0x0f) == 9 && type.size() > 1 && (type[1] & 0x0f) == 1;
      in.need(is_text && shape(space).rank() == 0, "has a name that is no text");
      const std::uint64_t length = in.number(4);
      const std::uint64_t heap = in.number(8);
      if (length == 0) return;
      PlainCursor text = heap_object(heap, in.number(4));
      text.need(length <= 65536, "has a name that is too long");
      dataset.name = std::string(text.raw(length));
    } else if (name == std::string_view("global_shape\0", 13)) {
      in.need(dtype_of(type) == DType::I64, "has a global_shape that is no list of whole numbers");
      const Shape count = shape(space);
      in.need(count.rank() == 1 && count[0] <= Shape::max_rank, "has a global_shape that is no short list");
      dataset.global_shape.emplace();
      for (std::int64_t i = 0; i < count[0]; ++i)
        dataset.global_shape->push_back(static_cast<std::int64_t>(in.number(8)));
    }
  }

  /// An object of a global heap (specification III.E).
  PlainCursor heap_object(std::uint64_t heap, std::uint64_t index) {
    const auto [found, is_new] = heaps_.try_emplace(heap);
    if (is_new) {
      PlainCursor head(file_, heap, 16);
      head.expect({"GCOL\1", 5}, "has an attribute or sources in no global heap");
      head.skip(3);
      const std::uint64_t size = head.number(8);
      head.need(size >= 16, "has a global heap of no size");
      PlainCursor in(file_, heap + 16, size - 16);
      while (in.left() >= 16) {
        const std::uint64_t number = in.number(2);
        in.skip(6);
        const std::uint64_t bytes = in.number(8);
        if (number == 0) break;  // the free space behind all objects
        in.need(bytes <= in.left(), "has a global heap whose objects do not lie in it");
        found->second[number] = {in.at(), bytes};
        in.skip(std::min((bytes + 7) / 8 * 8, in.left()));
      }
    }
    const auto object = found->second.find(index);
    file_.check(object != found->second.end(), heap, "has an attribute or sources that its global heap does not hold");
    return {file_, object->second.first, object->second.second};
  }

  PlainFile& file_;
  std::map<std::string, PlainDataset>& datasets_;
  bool with_bytes_;
  std::map<std::uint64_t, std::map<std::uint64_t, std::pair<std::uint64_t, std::uint64_t>>> heaps_;
  std::set<std::uint64_t> seen_;  // addresses of objects
};

}  // namespace

PlainHdf5::PlainHdf5(const std::filesystem::path& file, bool with_bytes) : file_(file.string()) {
  const MappedFile mapped(file_);
  PlainFile bytes(file_, mapped.bytes());
  Reader(bytes, datasets_, with_bytes).read();
}

}  // namespace limbeck::data
