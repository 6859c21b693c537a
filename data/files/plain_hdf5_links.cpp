#include "data/files/plain_hdf5_links.h"

#include <bit>
#include <vector>

namespace limbeck::data {

namespace {

constexpr std::uint64_t record_bytes = 11;  // of links by name: a hash, and a heap's 7 bytes of reference

/// A fractal heap (specification III.G) without filters, its objects in direct blocks.
class Heap {
 public:
  Heap(PlainFile& file, std::uint64_t at) : file_(file) {
    PlainCursor in(file, at, 142);
    in.expect({"FRHP\0", 5}, "has links in no fractal heap");
    in.need(in.number(2) == 7, "has links in a heap with other references");
    in.need(in.number(2) == 0, "has links in a heap with filters");
    in.skip(1 + 4 + 12 * 8);
    width_ = in.number(2);
    start_ = in.number(8);
    most_direct_ = in.number(8);
    in.need(in.number(2) == 32, "has links in a heap with other references");
    in.skip(2);
    root_ = in.number(8);
    rows_ = in.number(2);
    in.need(width_ >= 1 && width_ <= 64 && std::has_single_bit(start_) && std::has_single_bit(most_direct_) &&
                start_ <= most_direct_ && most_direct_ <= (1U << 24U),
            "has links in a heap of impossible blocks");
    if (rows_ == 0) return;
    PlainCursor block(file, root_, 17 + 8 * width_ * rows_);
    block.expect({"FHIB\0", 5}, "has links in no block of a heap");
    block.skip(8 + 4);
    for (std::uint64_t i = 0; i < width_ * rows_; ++i) blocks_.push_back(block.number(8));
  }

  /// Where the object at `offset` of the heap's own space lies in the file.
  std::uint64_t address(std::uint64_t offset, std::uint64_t size) const {
    if (rows_ == 0) return root_ + inside(offset, size, start_);
    std::uint64_t first = 0;
    for (std::uint64_t row = 0; row < rows_; ++row) {
      const std::uint64_t block = row == 0 ? start_ : start_ << (row - 1);
      file_.check(block <= most_direct_, root_, "has links in a heap that is too large");
      if (offset < first + block * width_) {
        const std::uint64_t column = (offset - first) / block;
        return blocks_[row * width_ + column] + inside((offset - first) % block, size, block);
      }
      first += block * width_;
    }
    file_.fail(root_, "has a link outside its heap");
  }

 private:
  std::uint64_t inside(std::uint64_t offset, std::uint64_t size, std::uint64_t block) const {
    file_.check(offset <= most_direct_ && size <= most_direct_ && (rows_ == 0 || offset + size <= block), root_,
                "has a link outside its heap");
    return offset;
  }

  PlainFile& file_;
  std::uint64_t width_ = 0;
  std::uint64_t start_ = 0;
  std::uint64_t most_direct_ = 0;
  std::uint64_t root_ = 0;
  std::uint64_t rows_ = 0;  // of the root, if that is an indirect block
  std::vector<std::uint64_t> blocks_;
};

/// A version 2 B-tree (specification III.A.2) of links by name.
class Tree {
 public:
  Tree(PlainFile& file, std::uint64_t at, const std::function<void(std::uint64_t, std::uint64_t)>& each)
      : file_(file), each_(each) {
    PlainCursor in(file, at, 38);
    in.expect({"BTHD\0\5", 6}, "has links in no tree by name");
    node_bytes_ = in.number(4);
    in.need(in.number(2) == record_bytes && node_bytes_ >= 64 && node_bytes_ <= (1U << 24U),
            "has links in a tree with other records");
    const std::uint64_t depth = in.number(2);
    in.need(depth <= 8, "has links in a tree that is too deep");
    in.skip(2);
    const std::uint64_t root = in.number(8);
    const std::uint64_t count = in.number(2);
    // How many records a node of each depth and all below it hold at most: the widths of the counts come of it.
    most_ = {(node_bytes_ - 10) / record_bytes};
    all_ = most_;
    for (std::uint64_t d = 1; d <= depth; ++d) {
      const std::uint64_t pointer = pointer_bytes(d);
      most_.push_back((node_bytes_ - 10 - pointer) / (record_bytes + pointer));
      all_.push_back((most_[d] + 1) * all_[d - 1] + most_[d]);
      in.need(all_[d] < (std::uint64_t{1} << 48U), "has links in a tree that is too large");
    }
    if (root != undefined_address) node(root, count, depth);
  }

 private:
  static std::uint64_t width_of(std::uint64_t most) { return (std::bit_width(most) - 1) / 8 + 1; }
  std::uint64_t pointer_bytes(std::uint64_t depth) const {
    return 8 + width_of(most_[0]) + (depth > 1 ? width_of(all_[depth - 1]) : 0);
  }
  void node(std::uint64_t at, std::uint64_t count, std::uint64_t depth) {
    file_.check(count <= most_[depth], at, "has links in a node with too many records");
    PlainCursor in(file_, at, node_bytes_);
    in.expect({depth == 0 ? "BTLF\0\5" : "BTIN\0\5", 6}, "has links in no node of a tree");
    for (std::uint64_t i = 0; i < count; ++i) {
      in.skip(4);
      in.need(in.number(1) == 0, "has a link that is not in its heap");
      const std::uint64_t offset = in.number(4);
      each_(offset, in.number(2));
    }
    if (depth == 0) return;
    for (std::uint64_t i = 0; i <= count; ++i) {
      const std::uint64_t child = in.number(8);
      const std::uint64_t records = in.number(width_of(most_[0]));
      if (depth > 1) in.skip(width_of(all_[depth - 1]));
      node(child, records, depth - 1);
    }
  }

  PlainFile& file_;
  const std::function<void(std::uint64_t, std::uint64_t)>& each_;
  std::uint64_t node_bytes_ = 0;
  std::vector<std::uint64_t> most_;  // records of a node, by depth
  std::vector<std::uint64_t> all_;   // and of all nodes below it
};

}  // namespace

void for_each_dense_link(PlainFile& file, std::uint64_t heap, std::uint64_t tree,
                         const std::function<void(std::uint64_t at, std::uint64_t size)>& each) {
  const Heap objects(file, heap);
  const std::function<void(std::uint64_t, std::uint64_t)> place = [&](std::uint64_t offset, std::uint64_t size) {
    each(objects.address(offset, size), size);
  };
  Tree(file, tree, place);
}

}  // namespace limbeck::data
