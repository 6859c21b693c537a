// HDF5's own interface, for what our files do not do by themselves: to see a file as other programs do, and to write
// such as come from someone who means harm.
//
//     RawHdf5 file(folder / "index.h5");                     // to be changed
//     file.replace_virtual("/model/norm/weight", {7}, {{"../elsewhere.h5", "/x", {0}, {7}}});
//     std::vector<double> values = values_of(folder / "index.h5", "/model/norm/weight");
#pragma once

#include <hdf5.h>

#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

namespace limbeck::testing {

/// An identifier of HDF5, closed at the end.
class RawId {
 public:
  RawId(hid_t id) : id_(id) {  // NOLINT: made of what HDF5 returns
    if (id < 0) throw std::runtime_error("HDF5 failed in a test");
  }
  ~RawId() { H5Idec_ref(id_); }
  RawId(const RawId&) = delete;
  RawId& operator=(const RawId&) = delete;
  operator hid_t() const { return id_; }  // NOLINT: passed to HDF5 as what it is

 private:
  hid_t id_;
};

inline RawId raw_space(const std::vector<hsize_t>& extents) {
  return H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
}

/// All values of a dataset, virtual ones too.
inline std::vector<double> values_of(const std::filesystem::path& path, const std::string& dataset) {
  const RawId file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const RawId data = H5Dopen2(file, dataset.c_str(), H5P_DEFAULT);
  const RawId space = H5Dget_space(data);
  std::vector<double> values(static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  if (H5Dread(data, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0)
    throw std::runtime_error("HDF5 failed in a test");
  return values;
}

struct RawSource {
  std::string file;
  std::string dataset;
  std::vector<hsize_t> offset;
  std::vector<hsize_t> extent;
};

/// A file of a checkpoint, opened to be changed.
class RawHdf5 {
 public:
  explicit RawHdf5(const std::filesystem::path& path) : file_(open(path)) {}
  operator hid_t() const { return file_; }  // NOLINT: passed to HDF5 as what it is

  /// A dataset of float32 in place of one, with the attributes of it and whatever `properties` say.
  void replace(const std::string& path, const std::vector<hsize_t>& extents, hid_t properties,
               hid_t type = H5T_IEEE_F32LE) const {
    replace_with_space(path, raw_space(extents), properties, type);
  }
  void replace_with_space(const std::string& path, hid_t space, hid_t properties, hid_t type = H5T_IEEE_F32LE) const {
    H5Lmove(file_, path.c_str(), file_, "/old", H5P_DEFAULT, H5P_DEFAULT);
    {
      const RawId old = H5Dopen2(file_, "/old", H5P_DEFAULT);
      const RawId made = H5Dcreate2(file_, path.c_str(), type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
      for (const char* name : {"name", "dtype", "global_shape"}) copy_attribute(old, made, name);
    }
    H5Ldelete(file_, "/old", H5P_DEFAULT);
  }
  void replace_virtual(const std::string& path, const std::vector<hsize_t>& extents,
                       const std::vector<RawSource>& sources) const {
    const RawId properties = H5Pcreate(H5P_DATASET_CREATE);
    for (const RawSource& source : sources) {
      const RawId seen_at = raw_space(extents);
      H5Sselect_hyperslab(seen_at, H5S_SELECT_SET, source.offset.data(), nullptr, source.extent.data(), nullptr);
      const RawId taken = raw_space(source.extent);
      if (H5Pset_virtual(properties, seen_at, source.file.c_str(), source.dataset.c_str(), taken) < 0)
        throw std::runtime_error("HDF5 failed in a test");
    }
    if (sources.empty()) H5Pset_layout(properties, H5D_VIRTUAL);
    replace(path, extents, properties);
  }
  /// An attribute without a value in place of one.
  void empty_attribute(const std::string& path, const char* name) const {
    const RawId object = H5Oopen(file_, path.c_str(), H5P_DEFAULT);
    H5Adelete(object, name);
    const RawId nothing = H5Screate(H5S_NULL);
    const RawId made = H5Acreate2(object, name, H5T_NATIVE_INT64, nothing, H5P_DEFAULT, H5P_DEFAULT);
  }

 private:
  static hid_t open(const std::filesystem::path& path) {
    const RawId access = H5Pcreate(H5P_FILE_ACCESS);  // the structures that our own files have
    H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110);
    return H5Fopen(path.c_str(), H5F_ACC_RDWR, access);
  }
  static void copy_attribute(hid_t from, hid_t to, const char* name) {
    const RawId old = H5Aopen(from, name, H5P_DEFAULT);
    const RawId type = H5Aget_type(old);
    const RawId space = H5Aget_space(old);
    const RawId made = H5Acreate2(to, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    std::vector<char> value(4096);
    H5Aread(old, type, value.data());
    H5Awrite(made, type, value.data());
    if (H5Tis_variable_str(type) > 0) H5Dvlen_reclaim(type, space, H5P_DEFAULT, value.data());
  }

  RawId file_;
};

}  // namespace limbeck::testing
