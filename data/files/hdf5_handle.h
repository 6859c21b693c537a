// HDF5's identifiers as owned values, and its errors as ours. Included by hdf5_file*.cpp alone, so that hdf5.h stays
// there.
//
//     const Quiet quiet;                                      // HDF5 prints nothing from here on
//     Handle space(H5Screate(H5S_SCALAR), H5Sclose, place);   // closed at the end; throws where HDF5 fails
#pragma once

#include <hdf5.h>

#include <mutex>
#include <string>
#include <utility>

#include "core/dtype.h"
#include "core/shape.h"

namespace limbeck::data {

/// Where an HDF5 call works, for messages.
struct Hdf5Place {
  std::string file;
  std::string path;
};

/// Throws "file: path: what: HDF5's message".
[[noreturn]] void fail_hdf5(const Hdf5Place& place, const std::string& what);

/// Passes on the result of an HDF5 call; throws where it is negative.
template <class T>
T checked(T result, const Hdf5Place& place, const char* what) {
  if (result < 0) fail_hdf5(place, what);
  return result;
}

/// Of one thread at a time, while it lasts: the library need not be one that is built for several. Silences HDF5's
/// printing of errors on this thread, for good: what could not be closed it tries again at the end of the process.
class Quiet {
 public:
  Quiet() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

 private:
  inline static std::recursive_mutex in_library_;
  std::scoped_lock<std::recursive_mutex> lock_{in_library_};
};

class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle(hid_t id, Close close, const Hdf5Place& place, const char* what)
      : id_(checked(id, place, what)), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  Handle(const Handle&) = delete;
  operator hid_t() const { return id_; }  // NOLINT: passed to HDF5 as what it is

 private:
  hid_t id_;
  Close close_;
};

/// HDF5's type of a dtype; bfloat16 and float16 are floats of two bytes with their own fields.
Handle hdf5_type(core::DType dtype, const Hdf5Place& place);
/// The dtype of an HDF5 type, little endian only; throws for any other.
core::DType dtype_of_hdf5(hid_t type, const Hdf5Place& place);
/// A data space; rank 0 is HDF5's scalar.
Handle hdf5_space(const core::Shape& shape, const Hdf5Place& place);

}  // namespace limbeck::data
