#include "data/files/hdf5_structure.h"

#include <algorithm>
#include <array>

namespace limbeck::data {

using core::check;

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

void check_virtual_sources(hid_t creation, const Hdf5Place& place) {
  if (H5Pget_layout(creation) != H5D_VIRTUAL) return;
  std::size_t count = 0;
  checked(H5Pget_virtual_count(creation, &count), place, "has no virtual sources");
  for (std::size_t i = 0; i < count; ++i) {
    const auto file_name = [&](char* to, std::size_t size) { return H5Pget_virtual_filename(creation, i, to, size); };
    const auto dataset = [&](char* to, std::size_t size) { return H5Pget_virtual_dsetname(creation, i, to, size); };
    const std::string file = text_of(file_name, place);
    check(is_plain(file), "{}: {} has a virtual source in \"{}\", expected a file beside this one", place.file,
          place.path, file.substr(0, max_name));
    const Handle seen_at(H5Pget_virtual_vspace(creation, i), H5Sclose, place, "virtual source has no place");
    std::array<hsize_t, H5S_MAX_RANK> first{};
    std::array<hsize_t, H5S_MAX_RANK> last{};
    const bool has_end = H5Sget_select_bounds(seen_at, first.data(), last.data()) >= 0;
    check(has_end && text_of(dataset, place).find('%') == std::string::npos,
          "{}: {} has a virtual source that has no end or whose name is a pattern", place.file, place.path);
  }
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
  check_virtual_sources(creation, place);
  return creation;
}

}  // namespace limbeck::data
