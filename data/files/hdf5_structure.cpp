#include "data/files/hdf5_structure.h"

#include <algorithm>
#include <array>

namespace limbeck::data {

using core::check;
using core::Shape;

namespace {

constexpr int max_depth = 32;
constexpr std::size_t max_objects = std::size_t{1} << 18U;
constexpr std::size_t max_name = 255;

struct Link {
  std::string name;
  H5L_type_t type;
};

class Walk {
 public:
  explicit Walk(const std::string& file) : file_(file) {}

  void group(hid_t id, const std::string& path, int depth) {
    check(depth <= max_depth, "{}: {} lies more than {} groups deep", file_, path, max_depth);
    // All links of a group are known to be hard before one is opened.
    const std::vector<Link> links = links_of(id, path);
    for (const Link& link : links) {
      const std::string inner = path + "/" + link.name;
      const Hdf5Place place{file_, inner};
      const Handle object(H5Oopen(id, link.name.c_str(), H5P_DEFAULT), H5Oclose, place, "was not opened");
      const H5I_type_t kind = H5Iget_type(object);
      check(kind == H5I_GROUP || kind == H5I_DATASET, "{}: {} is neither a group nor a dataset", file_, inner);
      if (kind == H5I_GROUP)
        group(object, inner, depth + 1);
      else
        datasets_.push_back(inner);
    }
  }
  std::vector<std::string> datasets() && { return std::move(datasets_); }

 private:
  std::vector<Link> links_of(hid_t id, const std::string& path) {
    std::vector<Link> links;
    const auto add = [](hid_t, const char* name, const auto* info, void* data) -> herr_t {
      auto& found = *static_cast<std::vector<Link>*>(data);
      found.push_back({name, info->type});
      return found.size() > max_objects ? 1 : 0;
    };
    // In the order of the file: for another, HDF5 1.10 makes a table that it frees unfilled where the file is bad.
    checked(H5Literate(id, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add, &links), {file_, path + "/"}, "was not listed");
    num_objects_ += links.size();
    check(num_objects_ <= max_objects, "{}: holds more than {} groups and datasets", file_, max_objects);
    for (const auto& [name, type] : links) {
      check(!name.empty() && name.size() <= max_name && name != "." && name.find('/') == std::string::npos,
            "{}: {}/{} is no name of 1 to {} bytes", file_, path, name.substr(0, max_name), max_name);
      check(type == H5L_TYPE_HARD, "{}: {}/{} is a soft or external link, expected a group or dataset of this file",
            file_, path, name);
    }
    return links;
  }

  std::string file_;
  std::vector<std::string> datasets_;
  std::size_t num_objects_ = 0;
};

/// A text that HDF5 gives by f(buffer, size).
template <class F>
std::string text_of(F&& f, const Hdf5Place& place) {
  const auto size = static_cast<std::size_t>(checked(f(nullptr, 0), place, "virtual source has no name"));
  std::string text(size + 1, '\0');
  checked(f(text.data(), size + 1), place, "virtual source has no name");
  text.resize(size);
  return text;
}

/// A name of a file in the same folder. HDF5 would fill in numbers at %b, and takes "." for the file itself.
bool is_plain(const std::string& file) {
  return !file.empty() && file.size() <= max_name && file[0] != '.' && file.find_first_of("/%") == std::string::npos;
}

struct Box {
  std::vector<std::int64_t> offset;
  Shape extent;
};

/// The elements that a space selects, which are one box; an empty box where all are selected.
Box selected_box(hid_t space, const Hdf5Place& place) {
  const H5S_sel_type kind = H5Sget_select_type(space);
  const int rank = checked(H5Sget_simple_extent_ndims(space), place, "virtual source has no extents");
  check((kind == H5S_SEL_ALL || kind == H5S_SEL_HYPERSLABS) && rank <= Shape::max_rank,
        "{}: {} has a virtual source that is no box", place.file, place.path);
  if (kind == H5S_SEL_ALL) return {};
  std::array<hsize_t, H5S_MAX_RANK> first{};
  std::array<hsize_t, H5S_MAX_RANK> last{};
  checked(H5Sget_select_bounds(space, first.data(), last.data()), place, "virtual source has no bounds");
  Box box;
  std::vector<std::int64_t> extents;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    check(first[i] <= last[i] && last[i] < INT64_MAX, "{}: {} has a virtual source from {} to {}", place.file,
          place.path, first[i], last[i]);
    box.offset.push_back(static_cast<std::int64_t>(first[i]));
    extents.push_back(static_cast<std::int64_t>(last[i] - first[i] + 1));
  }
  box.extent = Shape(extents);
  check(H5Sget_select_npoints(space) == box.extent.numel(), "{}: {} has a virtual source that is no box", place.file,
        place.path);
  return box;
}

}  // namespace

std::vector<std::string> checked_datasets(hid_t file, const Hdf5Place& place) {
  const Handle root(H5Gopen2(file, "/", H5P_DEFAULT), H5Gclose, place, "has no root");
  Walk walk(place.file);
  walk.group(root, "", 0);
  std::vector<std::string> datasets = std::move(walk).datasets();
  std::sort(datasets.begin(), datasets.end());
  return datasets;
}

Handle checked_creation(hid_t dataset, const Hdf5Place& place) {
  Handle creation(H5Dget_create_plist(dataset), H5Pclose, place, "has no creation properties");
  check(checked(H5Pget_external_count(creation), place, "has no list of external files") == 0,
        "{}: {} keeps its values in other files (external storage), expected them in this one", place.file, place.path);
  virtual_sources(creation, place);
  return creation;
}

std::vector<VirtualSource> virtual_sources(hid_t creation, const Hdf5Place& place) {
  std::vector<VirtualSource> sources;
  if (H5Pget_layout(creation) != H5D_VIRTUAL) return sources;
  std::size_t count = 0;
  checked(H5Pget_virtual_count(creation, &count), place, "has no virtual sources");
  for (std::size_t i = 0; i < count; ++i) {
    VirtualSource source;
    source.file =
        text_of([&](char* to, std::size_t size) { return H5Pget_virtual_filename(creation, i, to, size); }, place);
    source.path =
        text_of([&](char* to, std::size_t size) { return H5Pget_virtual_dsetname(creation, i, to, size); }, place);
    check(is_plain(source.file), "{}: {} has a virtual source in \"{}\", expected a file beside this one", place.file,
          place.path, source.file.substr(0, max_name));
    check(source.path.find('%') == std::string::npos, "{}: {} has a virtual source whose name is a pattern", place.file,
          place.path);
    const Handle seen_at(H5Pget_virtual_vspace(creation, i), H5Sclose, place, "virtual source has no place");
    const Handle taken(H5Pget_virtual_srcspace(creation, i), H5Sclose, place, "virtual source has no extents");
    Box box = selected_box(seen_at, place);
    const Box whole = selected_box(taken, place);
    check(!box.offset.empty(), "{}: {} has a virtual source without a box", place.file, place.path);
    check(whole.offset.empty() || (std::count(whole.offset.begin(), whole.offset.end(), 0) == whole.extent.rank() &&
                                   whole.extent == box.extent),
          "{}: {} has a virtual source of which only a part is taken", place.file, place.path);
    source.offset = std::move(box.offset);
    source.extent = box.extent;
    sources.push_back(std::move(source));
  }
  return sources;
}

}  // namespace limbeck::data
