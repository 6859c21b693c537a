// One HDF5 file behind HDF5's serial C API: groups, contiguous and virtual datasets, attributes. Checkpoints stand on
// it, and so do the plain files that `--logits` and `--dump-gradients` write. h5py opens all of them.
//
//     Hdf5File file = Hdf5File::create("logits.h5");
//     file.create_dataset("/logits", DType::F32, {T, V});            // groups on the way are made
//     file.write("/logits", DType::F32, rows, {t, 0}, {64, V});      // 64 rows from row t
//     file.set_attribute("/logits", "temperature", 1.0);
//     file.close();                                                  // flushes; reports what a destructor cannot
//
// An error is one line with the file, the path inside it and HDF5's own innermost message; HDF5 itself prints nothing.
// Threads may each use their own Hdf5File (not the same one): one at a time is in the library.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "core/state_dict.h"
#include "core/tensor.h"

namespace limbeck::data {

/// A part of a virtual dataset: the whole of dataset `path` of `file` (relative to the file that refers to it) is the
/// box at `offset` of `extent`.
struct VirtualSource {
  std::string file;
  std::string path;
  std::vector<std::int64_t> offset;
  core::Shape extent;
};

using Hdf5Attribute = std::variant<std::int64_t, double, std::string, std::vector<std::int64_t>>;

/// The path of a dotted module path below `group`: ("/model", "layers.0.mlp.up.weight") ->
/// "/model/layers/0/mlp/up/weight".
std::string hdf5_path(const std::string& group, const std::string& name);

class Hdf5File {
 public:
  /// Creates the file, or empties it. File times are not recorded: equal contents are equal bytes.
  static Hdf5File create(const std::filesystem::path& file);
  /// Opens it for reading; throws where it is missing, no HDF5 file, or more than a tree of groups and datasets: a link
  /// that is not hard, more than 32 groups deep, more than 262144 objects. A dataset with external storage, or with a
  /// virtual source that is not a whole dataset of a file beside this one, is refused when it is first looked at.
  static Hdf5File open(const std::filesystem::path& file);
  ~Hdf5File();
  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&&) = delete;
  Hdf5File(const Hdf5File&) = delete;

  /// Flushes and closes; every other call fails afterwards. A destructor closes too, but cannot report a full disk.
  void close();
  const std::filesystem::path& file() const { return file_; }

  /// A contiguous dataset, its contents to be written; float32, float64, bfloat16, float16, int32, int64 or uint8.
  void create_dataset(const std::string& path, core::DType dtype, const core::Shape& shape);
  /// The same with room for its values: the byte of the file from which on they lie, for who writes them there when the
  /// file is closed.
  std::int64_t reserve_dataset(const std::string& path, core::DType dtype, const core::Shape& shape);
  /// A dataset whose elements lie in other files. To other programs, places that no source covers, or whose file is
  /// missing, are NaN (floating point) or 0; read() refuses it.
  void create_virtual_dataset(const std::string& path, core::DType dtype, const core::Shape& shape,
                              std::span<const VirtualSource> sources);
  /// Writes the box [offset, offset + extent) from contiguous memory of `dtype`, converted to the dataset's by HDF5
  /// (which rounds ties to bfloat16 away from zero; core::bf16 rounds them to even).
  void write(const std::string& path, core::DType dtype, const void* values, std::span<const std::int64_t> offset,
             const core::Shape& extent);
  /// Creates a dataset and writes all of it.
  void write_dataset(const std::string& path, const core::Tensor& tensor);

  /// Reads the box [offset, offset + extent) into contiguous memory, converted to `dtype` as in write(). Throws for a
  /// virtual dataset: HDF5 would give a number for what it cannot read.
  void read(const std::string& path, core::DType dtype, void* values, std::span<const std::int64_t> offset,
            const core::Shape& extent) const;
  /// Reads a whole dataset as float32, or whatever `dtype` says.
  core::Tensor read_dataset(const std::string& path, const core::MemoryPtr& memory, core::DType dtype) const;
  core::StateInfo dataset_info(const std::string& path) const;
  bool contains(const std::string& path) const;
  /// Paths of every dataset, sorted: "/model/embed/weight".
  std::vector<std::string> datasets() const;

  /// Attributes of a dataset or group; "/" is the file itself.
  void set_attribute(const std::string& path, const std::string& name, const Hdf5Attribute& value);
  bool has_attribute(const std::string& path, const std::string& name) const;
  Hdf5Attribute attribute(const std::string& path, const std::string& name) const;
  template <class T>
  T attribute(const std::string& path, const std::string& name) const {
    Hdf5Attribute value = attribute(path, name);
    T* wanted = std::get_if<T>(&value);
    core::check(wanted != nullptr, "{}: attribute {} of {} has an unexpected type", file_.string(), name, path);
    return std::move(*wanted);
  }

 private:
  Hdf5File(std::filesystem::path file, std::int64_t id) : file_(std::move(file)), id_(id) {}
  void transfer(const std::string& path, core::DType dtype, const void* source, void* destination,
                std::span<const std::int64_t> offset, const core::Shape& extent) const;

  std::filesystem::path file_;
  std::int64_t id_;  // HDF5's hid_t; negative once closed
};

}  // namespace limbeck::data
