#include "data/files/hdf5_file.h"

#include <algorithm>
#include <limits>

#include "data/files/hdf5_handle.h"
#include "data/files/hdf5_structure.h"

namespace limbeck::data {

using core::check;
using core::DType;
using core::Shape;

static_assert(std::is_same_v<hid_t, std::int64_t>);

namespace {

/// No lock files (they fail on network file systems), large arrays start on a page, and a write that fails does so when
/// it is asked for: the sieve buffer, which holds back less than 64 KiB, would fail when the dataset is closed.
Handle access_properties(const Hdf5Place& place) {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, place, "access properties were not made");
  checked(H5Pset_file_locking(access, false, true), place, "file locking was not set");
  checked(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V110), place, "format bounds were not set");
  checked(H5Pset_alignment(access, 65536, 4096), place, "alignment was not set");
  checked(H5Pset_sieve_buf_size(access, 0), place, "the sieve buffer was not switched off");
  return access;
}

/// Properties of a new file, group or dataset, without times: equal states are equal files.
Handle creation_properties(hid_t kind, const Hdf5Place& place) {
  Handle creation(H5Pcreate(kind), H5Pclose, place, "properties were not made");
  checked(H5Pset_obj_track_times(creation, false), place, "object times were not switched off");
  return creation;
}

/// Of a dataset of which every value will be written.
Handle unfilled_properties(const Hdf5Place& place) {
  Handle properties = creation_properties(H5P_DATASET_CREATE, place);
  checked(H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER), place, "fill time was not set");
  return properties;
}

/// The groups on the way to a path. (Those that HDF5 makes by itself would carry times.)
void create_groups(hid_t file, const Hdf5Place& place) {
  const Handle creation = creation_properties(H5P_GROUP_CREATE, place);
  for (std::size_t end = place.path.find('/', 1); end != std::string::npos; end = place.path.find('/', end + 1)) {
    const std::string group = place.path.substr(0, end);
    if (checked(H5Lexists(file, group.c_str(), H5P_DEFAULT), place, "its groups were not looked up") > 0) continue;
    const Handle made(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), H5Gclose, place,
                      "its groups were not created");
  }
}

struct Dataset {
  Dataset(hid_t file, const Hdf5Place& place)
      : handle(H5Dopen2(file, place.path.c_str(), H5P_DEFAULT), H5Dclose, place, "was not opened as a dataset"),
        creation(checked_creation(handle, place)),
        layout(H5Pget_layout(creation)) {}
  Handle handle;
  Handle creation;
  H5D_layout_t layout;
};

void select_box(hid_t space, std::span<const std::int64_t> offset, const Shape& extent, const Hdf5Place& place) {
  const std::vector<hsize_t> start(offset.begin(), offset.end());
  const std::vector<hsize_t> count(extent.extents().begin(), extent.extents().end());
  checked(H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr), place,
          "box was not selected");
}

bool is_float(DType dtype) {
  return dtype == DType::F32 || dtype == DType::F64 || dtype == DType::BF16 || dtype == DType::F16;
}

void create(hid_t file, DType dtype, const Shape& shape, hid_t properties, const Hdf5Place& place) {
  const Handle type = hdf5_type(dtype, place);
  const Handle space = hdf5_space(shape, place);
  create_groups(file, place);
  const Handle dataset(H5Dcreate2(file, place.path.c_str(), type, space, H5P_DEFAULT, properties, H5P_DEFAULT),
                       H5Dclose, place, "dataset was not created");
}

Shape shape_of(hid_t dataset, const Hdf5Place& place) {
  const Handle space(H5Dget_space(dataset), H5Sclose, place, "has no data space");
  check(H5Sget_simple_extent_type(space) != H5S_NULL, "{}: {} has no values", place.file, place.path);
  const int rank = checked(H5Sget_simple_extent_ndims(space), place, "has no extents");
  check(rank <= Shape::max_rank, "{}: {} has {} dimensions, expected at most {}", place.file, place.path, rank,
        Shape::max_rank);
  std::vector<hsize_t> extents(static_cast<std::size_t>(rank));
  if (rank > 0) checked(H5Sget_simple_extent_dims(space, extents.data(), nullptr), place, "has no extents");
  for (const hsize_t extent : extents)
    check(extent <= INT64_MAX, "{}: {} has an extent of {}", place.file, place.path, extent);
  const Shape shape(std::vector<std::int64_t>(extents.begin(), extents.end()));
  check(shape.numel() <= INT64_MAX / 8, "{}: {} has too many elements: {}", place.file, place.path, shape);
  return shape;
}

core::StateInfo info_of(const Dataset& dataset, const Hdf5Place& place) {
  const Handle type(H5Dget_type(dataset.handle), H5Tclose, place, "has no type");
  return {shape_of(dataset.handle, place), dtype_of_hdf5(type, place)};
}

}  // namespace

std::string hdf5_path(const std::string& group, const std::string& name) {
  std::string path = group + "/" + name;
  std::replace(path.begin() + static_cast<std::ptrdiff_t>(group.size()), path.end(), '.', '/');
  check(!name.empty() && path.find("//") == std::string::npos && path.back() != '/',
        "tensor name \"{}\" has an empty part, expected parts divided by single dots", name);
  return path;
}

Hdf5File Hdf5File::create(const std::filesystem::path& file) {
  const Quiet quiet;
  const Hdf5Place place{file.string(), ""};
  const Handle access = access_properties(place);
  const Handle creation = creation_properties(H5P_FILE_CREATE, place);
  return {file, checked(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, creation, access), place, "was not created")};
}

Hdf5File Hdf5File::open(const std::filesystem::path& file) {
  const Quiet quiet;
  const Hdf5Place place{file.string(), ""};
  const Handle access = access_properties(place);
  checked(H5PLset_loading_state(0), place, "plugins were not switched off");  // a file names the filters to load
  Hdf5File opened(file,
                  checked(H5Fopen(file.c_str(), H5F_ACC_RDONLY, access), place, "was not opened as an HDF5 file"));
  checked_datasets(opened.id_, place);
  return opened;
}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept : file_(std::move(other.file_)), id_(std::exchange(other.id_, -1)) {}

Hdf5File::~Hdf5File() {
  const Quiet quiet;
  if (id_ >= 0) H5Fclose(id_);
}

void Hdf5File::close() {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), ""};
  checked(H5Fflush(id_, H5F_SCOPE_LOCAL), place, "was not flushed");
  checked(H5Fclose(std::exchange(id_, -1)), place, "was not closed");
}

void Hdf5File::create_dataset(const std::string& path, DType dtype, const Shape& shape) {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), path};
  data::create(id_, dtype, shape, unfilled_properties(place), place);
}

std::int64_t Hdf5File::reserve_dataset(const std::string& path, DType dtype, const Shape& shape) {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), path};
  const Handle properties = unfilled_properties(place);
  checked(H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY), place, "time of its allocation was not set");
  data::create(id_, dtype, shape, properties, place);
  const haddr_t first = H5Dget_offset(Dataset(id_, place).handle);
  check(first != HADDR_UNDEF, "{}: {} has no room in the file", place.file, place.path);
  return static_cast<std::int64_t>(first);
}

void Hdf5File::create_virtual_dataset(const std::string& path, DType dtype, const Shape& shape,
                                      std::span<const VirtualSource> sources) {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), path};
  const Handle properties = creation_properties(H5P_DATASET_CREATE, place);
  if (is_float(dtype)) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    checked(H5Pset_fill_value(properties, H5T_NATIVE_DOUBLE, &nan), place, "fill value was not set");
  }
  const Handle space = hdf5_space(shape, place);
  for (const auto& source : sources) {
    const Handle source_space = hdf5_space(source.extent, place);
    select_box(space, source.offset, source.extent, place);
    checked(H5Pset_virtual(properties, space, source.file.c_str(), source.path.c_str(), source_space), place,
            "virtual source was not set");
  }
  data::create(id_, dtype, shape, properties, place);
}

void Hdf5File::transfer(const std::string& path, DType dtype, const void* source, void* destination,
                        std::span<const std::int64_t> offset, const Shape& extent) const {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), path};
  const Dataset dataset(id_, place);
  check(source != nullptr || dataset.layout != H5D_VIRTUAL,
        "{}: {} is a virtual dataset, whose values lie in other files", place.file, path);
  const Shape shape = shape_of(dataset.handle, place);
  bool inside = shape.rank() == extent.rank() && offset.size() == shape.extents().size();
  for (int i = 0; inside && i < shape.rank(); ++i)
    inside = offset[static_cast<std::size_t>(i)] >= 0 && extent[i] <= shape[i] &&
             offset[static_cast<std::size_t>(i)] <= shape[i] - extent[i];
  check(inside, "{}: {} has shape {}, which has no box {} at [{}]", place.file, path, shape, extent,
        fmt::join(offset, ","));
  if (extent.numel() == 0) return;
  const Handle file_space(H5Dget_space(dataset.handle), H5Sclose, place, "has no data space");
  if (shape.rank() > 0) select_box(file_space, offset, extent, place);
  const Handle memory_space = hdf5_space(extent, place);
  const Handle type = hdf5_type(dtype, place);
  if (source != nullptr)
    checked(H5Dwrite(dataset.handle, type, memory_space, file_space, H5P_DEFAULT, source), place, "was not written");
  else
    checked(H5Dread(dataset.handle, type, memory_space, file_space, H5P_DEFAULT, destination), place, "was not read");
}

void Hdf5File::write(const std::string& path, DType dtype, const void* values, std::span<const std::int64_t> offset,
                     const Shape& extent) {
  transfer(path, dtype, values, nullptr, offset, extent);
}

void Hdf5File::write_dataset(const std::string& path, const core::Tensor& tensor) {
  create_dataset(path, tensor.dtype(), tensor.shape());
  const std::vector<std::int64_t> start(tensor.shape().extents().size(), 0);
  if (tensor.numel() > 0) write(path, tensor.dtype(), tensor.host_raw(), start, tensor.shape());
}

void Hdf5File::read(const std::string& path, DType dtype, void* values, std::span<const std::int64_t> offset,
                    const Shape& extent) const {
  transfer(path, dtype, nullptr, values, offset, extent);
}

core::Tensor Hdf5File::read_dataset(const std::string& path, const core::MemoryPtr& memory, DType dtype) const {
  core::Tensor tensor = core::Tensor::empty(memory, dtype, dataset_info(path).shape);
  const std::vector<std::int64_t> start(tensor.shape().extents().size(), 0);
  if (tensor.numel() > 0) read(path, dtype, tensor.mutable_host_raw(), start, tensor.shape());
  return tensor;
}

core::StateInfo Hdf5File::dataset_info(const std::string& path) const {
  const Quiet quiet;
  const Hdf5Place place{file_.string(), path};
  return info_of(Dataset(id_, place), place);
}

bool Hdf5File::contains(const std::string& path) const {
  const Quiet quiet;
  for (std::size_t end = path.find('/', 1);;
       end = path.find('/', end + 1)) {  // HDF5 wants every group on the way checked
    if (H5Lexists(id_, path.substr(0, end).c_str(), H5P_DEFAULT) <= 0) return false;
    if (end == std::string::npos) return true;
  }
}

std::vector<std::string> Hdf5File::datasets() const {
  const Quiet quiet;
  return checked_datasets(id_, {file_.string(), "/"});
}

}  // namespace limbeck::data
