#include "data/files/hdf5_file.h"
#include "data/files/hdf5_handle.h"

namespace limbeck::data {

namespace {

Handle open_object(hid_t file, const Hdf5Place& place) {
  return {H5Oopen(file, place.path.c_str(), H5P_DEFAULT), H5Oclose, place, "was not opened"};
}

Handle string_type(std::size_t bytes, const Hdf5Place& place) {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose, place, "string type was not made");
  checked(H5Tset_size(type, bytes), place, "string size");
  checked(H5Tset_cset(type, H5T_CSET_UTF8), place, "string encoding");
  checked(H5Tset_strpad(type, H5T_STR_NULLPAD), place, "string padding");
  return type;
}

std::string read_string(hid_t attribute, hid_t type, const Hdf5Place& place) {
  if (checked(H5Tis_variable_str(type), place, "string attribute") > 0) {  // as h5py writes them
    const Handle memory_type(H5Tcopy(type), H5Tclose, place, "string type was not made");
    char* text = nullptr;
    checked(H5Aread(attribute, memory_type, static_cast<void*>(&text)), place, "attribute was not read");
    std::string result = text == nullptr ? "" : text;
    H5free_memory(text);
    return result;
  }
  const std::size_t bytes = H5Tget_size(type);
  core::check(bytes <= (1U << 26U), "{}: {} has a string attribute of {} bytes", place.file, place.path, bytes);
  const Handle memory_type = string_type(bytes, place);
  std::string result(bytes, '\0');
  checked(H5Aread(attribute, memory_type, result.data()), place, "attribute was not read");
  result.resize(result.find_last_not_of('\0') + 1);
  return result;
}

}  // namespace

void Hdf5File::set_attribute(const std::string& path, const std::string& name, const Hdf5Attribute& value) {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), path};
  const Handle object = open_object(id_, place);
  const auto put = [&](hid_t type, hid_t space, const void* data) {
    const Handle attribute(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, place,
                           "attribute was not created");
    checked(H5Awrite(attribute, type, data), place, "attribute was not written");
  };
  const Handle scalar = hdf5_space({}, place);
  if (const auto* integer = std::get_if<std::int64_t>(&value)) {
    put(H5T_NATIVE_INT64, scalar, integer);
  } else if (const auto* number = std::get_if<double>(&value)) {
    put(H5T_NATIVE_DOUBLE, scalar, number);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    const char* pointer = text->c_str();  // of variable length: h5py shows it as str
    put(string_type(H5T_VARIABLE, place), scalar, &pointer);
  } else {
    const auto& list = std::get<std::vector<std::int64_t>>(value);
    const Handle space = hdf5_space({static_cast<std::int64_t>(list.size())}, place);
    const std::int64_t nothing = 0;  // HDF5 wants an address even of no elements
    put(H5T_NATIVE_INT64, space, list.empty() ? &nothing : list.data());
  }
}

bool Hdf5File::has_attribute(const std::string& path, const std::string& name) const {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), path};
  return checked(H5Aexists(open_object(id_, place), name.c_str()), place, "attributes are not readable") > 0;
}

Hdf5Attribute Hdf5File::attribute(const std::string& path, const std::string& name) const {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), path};
  const Handle object = open_object(id_, place);
  const Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, place,
                         ("attribute " + name + " was not opened").c_str());
  const Handle type(H5Aget_type(attribute), H5Tclose, place, "attribute has no type");
  const Handle space(H5Aget_space(attribute), H5Sclose, place, "attribute has no space");
  const auto count = checked(H5Sget_simple_extent_npoints(space), place, "attribute has no extent");
  const int rank = checked(H5Sget_simple_extent_ndims(space), place, "attribute has no extent");
  core::check(H5Sget_simple_extent_type(space) != H5S_NULL, "{}: attribute {} of {} has no value", file_.string(), name,
              path);
  const H5T_class_t kind = H5Tget_class(type);
  core::check(rank == 0 || (kind == H5T_INTEGER && rank == 1 && count <= 4096),
              "{}: attribute {} of {} has {} values, expected a number, a string or a short list of integers",
              file_.string(), name, path, count);
  if (kind == H5T_STRING) return read_string(attribute, type, place);
  if (kind == H5T_FLOAT) {
    double number = 0;
    checked(H5Aread(attribute, H5T_NATIVE_DOUBLE, &number), place, "attribute was not read");
    return number;
  }
  core::check(kind == H5T_INTEGER, "{}: attribute {} of {} is no number and no string", file_.string(), name, path);
  std::vector<std::int64_t> list(static_cast<std::size_t>(std::max<hssize_t>(count, 1)));
  checked(H5Aread(attribute, H5T_NATIVE_INT64, list.data()), place, "attribute was not read");
  if (rank == 0) return list[0];
  list.resize(static_cast<std::size_t>(count));
  return list;
}

}  // namespace limbeck::data
