#include "data/files/hdf5_handle.h"

#include <array>
#include <vector>

#include "core/error.h"

namespace limbeck::data {

using core::DType;

namespace {

/// The system's reason in the message of a failed read or write, which tells of every field of the call; else the
/// whole.
std::string short_message(const std::string& message) {
  constexpr std::string_view opening = "error message = '";
  const std::size_t at = message.find(opening);
  if (at == std::string::npos) return message;
  const std::size_t begin = at + opening.size();
  return message.substr(begin, message.find('\'', begin) - begin);
}

}  // namespace

void fail_hdf5(const Hdf5Place& place, const std::string& what) {
  // The innermost entry of HDF5's error stack says what really happened ("No such file or directory").
  std::string message;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* error, void* data) -> herr_t {
        auto& text = *static_cast<std::string*>(data);
        if (text.empty() && error->desc != nullptr) text = error->desc;
        return 0;
      },
      &message);
  H5Eclear2(H5E_DEFAULT);
  core::fail("{}:{}{} {} (HDF5: {})", place.file, place.path.empty() ? "" : " ", place.path, what,
             message.empty() ? "no message" : short_message(message));
}

namespace {

struct FloatFields {
  DType dtype;
  std::size_t sign, exponent, exponent_bits, mantissa_bits, bias;
};
constexpr std::array<FloatFields, 2> small_floats = {
    {{DType::BF16, 15, 7, 8, 7, 127}, {DType::F16, 15, 10, 5, 10, 15}}};

Handle small_float_type(const FloatFields& f, const Hdf5Place& place) {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose, place, "type was not made");
  checked(H5Tset_fields(type, f.sign, f.exponent, f.exponent_bits, 0, f.mantissa_bits), place, "type fields");
  checked(H5Tset_size(type, 2), place, "type size");
  checked(H5Tset_ebias(type, f.bias), place, "type bias");
  return type;
}

struct Plain {
  DType dtype;
  hid_t type;
};
std::array<Plain, 5> plain_types() {  // not constant: HDF5 makes these identifiers at run time
  return {{{DType::F32, H5T_IEEE_F32LE},
           {DType::F64, H5T_IEEE_F64LE},
           {DType::I32, H5T_STD_I32LE},
           {DType::I64, H5T_STD_I64LE},
           {DType::U8, H5T_STD_U8LE}}};
}

}  // namespace

Handle hdf5_type(DType dtype, const Hdf5Place& place) {
  for (const auto& plain : plain_types())
    if (plain.dtype == dtype) return {H5Tcopy(plain.type), H5Tclose, place, "type was not made"};
  for (const auto& fields : small_floats)
    if (fields.dtype == dtype) return small_float_type(fields, place);
  core::fail("{}: {} has dtype {}, which HDF5 files do not hold", place.file, place.path, dtype);
}

DType dtype_of_hdf5(hid_t type, const Hdf5Place& place) {
  for (const auto& plain : plain_types())
    if (H5Tequal(type, plain.type) > 0) return plain.dtype;
  for (const auto& fields : small_floats) {
    const Handle candidate = small_float_type(fields, place);
    if (H5Tequal(type, candidate) > 0) return fields.dtype;
  }
  core::fail("{}: {} has a type of {} bytes that Limbeck does not read", place.file, place.path, H5Tget_size(type));
}

Handle hdf5_space(const core::Shape& shape, const Hdf5Place& place) {
  if (shape.rank() == 0) return {H5Screate(H5S_SCALAR), H5Sclose, place, "scalar space was not made"};
  const std::vector<hsize_t> extents(shape.extents().begin(), shape.extents().end());
  return {H5Screate_simple(shape.rank(), extents.data(), nullptr), H5Sclose, place, "space was not made"};
}

}  // namespace limbeck::data
