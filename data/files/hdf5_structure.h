// What an HDF5 file from outside may hold, checked before HDF5 follows anything in it: a tree of groups and datasets of
// its own, and virtual datasets whose sources lie in files beside it. Included by hdf5_file*.cpp alone.
//
//     std::vector<std::string> paths = checked_datasets(file, place);     // throws, naming what leads out
//     Handle creation = checked_creation(dataset, place);                 // before anything else is asked of a dataset
#pragma once

#include <string>
#include <vector>

#include "data/files/hdf5_file.h"
#include "data/files/hdf5_handle.h"

namespace limbeck::data {

/// Paths of every dataset below the root, sorted. Throws for any link but a hard one, for what is neither a group nor a
/// dataset, and for more depth or more objects than a file of tensors has (a circle of hard links is endlessly deep).
std::vector<std::string> checked_datasets(hid_t file, const Hdf5Place& place);

/// The creation properties of a dataset. Throws where its values lie in files named by it (external storage), or where
/// it is virtual with a source that is not in a file beside this one, or that has no end: to know its extents, HDF5
/// would open others.
Handle checked_creation(hid_t dataset, const Hdf5Place& place);

}  // namespace limbeck::data
