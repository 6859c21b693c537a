// The HDF5 library that is linked, for --version.
#pragma once

#include <string>

namespace limbeck::data {

/// "1.10.8"
std::string hdf5_version();

}  // namespace limbeck::data
