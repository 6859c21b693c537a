#!/usr/bin/env bash
# What `cmake --install` gives is enough: the program runs wherever its folder is moved to, with the kernels of the best
# level; examples/library builds against the components that it names, and trains; a project that asks for the core alone
# needs none of the others' packages; and one that has Limbeck as a folder keeps its own flags.
#
#     tests/installed.sh build/release
set -euo pipefail

build=$(cd "${1:?a build folder}" && pwd)
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  echo "tests/installed.sh: error: $*" >&2
  exit 1
}
install_to() { # PREFIX COMPONENT...
  local component
  for component in "${@:2}"; do cmake --install "$build" --prefix "$1" --component "$component" >/dev/null; done
}
configure() { cmake -S "$1" -B "$1/build" "${@:2}" >"$work/log" 2>&1; }

echo "== the program"
install_to "$work/first" kernels program
mv "$work/first" "$work/moved"
version=$("$work/moved/bin/limbeck" --version)
[[ $version == $("$build/bin/limbeck" --version) ]] || fail "the installed program says: $version"
loaded=$(ldd "$work/moved/bin/limbeck" | awk '/liblimbeck_kernels\.so/ {print $3}')
[[ $(realpath "$loaded") == "$work/moved/"* ]] || fail "the moved program loads $loaded"
for file in LICENSE README.md docs/library.md examples/tiny_moe.textproto examples/library/regression.cpp; do
  [[ -s $work/moved/share/limbeck/$file ]] || fail "share/limbeck/$file is not installed"
done

echo "== examples/library"
install_to "$work/prefix" kernels core optim parallel
[[ ! -e $work/prefix/bin ]] || fail "the libraries bring the program"
cp -r "$source/examples/library" "$work/library"
configure "$work/library" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON || fail "$(cat "$work/log")"
cmake --build "$work/library/build" >"$work/log" 2>&1 || fail "$(cat "$work/log")"
loss=$("$work/library/build/regression" | awk 'END {print $NF}')
awk -v loss="$loss" 'BEGIN {exit !(loss > 0 && loss < 0.001)}' || fail "regression ends at a loss of '$loss', expected below 0.001"
one=$("$work/library/build/moe_on_ranks" 1)
two=$("$work/library/build/moe_on_ranks" 2)
[[ $one == "$two" ]] || fail "with one rank the losses are '$one', with two '$two'"
awk '{loss[NR] = $NF} END {exit !(NR == 3 && loss[3] > 0 && loss[3] < 0.1 * loss[1])}' <<<"$two" || fail "the mixture learns nothing: '$two'"

echo "== docs/library.md shows what is compiled"
awk '/^```cpp$/ {inside = 1; next} /^```$/ {inside = 0} inside && NF {gsub(/^ +| +$/, ""); print}' "$source/docs/library.md" >"$work/shown"
sed 's/^ *//' "$source"/examples/library/*.cpp >"$work/compiled"
[[ $(wc -l <"$work/shown") -gt 20 ]] || fail "docs/library.md shows no code"
unknown=$(grep -vxFf "$work/compiled" "$work/shown" || true)
[[ -z $unknown ]] || fail "docs/library.md shows what is in neither example: $unknown"

echo "== the core alone"
install_to "$work/core" kernels core
mkdir "$work/alone"
cat >"$work/alone/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(alone LANGUAGES CXX)
find_package(limbeck REQUIRED COMPONENTS ${wanted})
foreach(name IN ITEMS limbeck::core limbeck::kernels)
  if(NOT TARGET ${name})
    message(FATAL_ERROR "no target ${name}")
  endif()
endforeach()
END
without=(-DCMAKE_PREFIX_PATH="$work/core")
for package in MPI HDF5 Protobuf ZLIB nlohmann_json spdlog CLI11 OpenMP; do without+=("-DCMAKE_DISABLE_FIND_PACKAGE_$package=ON"); done
configure "$work/alone" "${without[@]}" -Dwanted=core || fail "$(cat "$work/log")"
configure "$work/alone" "${without[@]}" -Dwanted=optim && fail "a component that is not installed was found"
grep -q "limbeck's optim: it is not installed here" "$work/log" || fail "$(cat "$work/log")"
configure "$work/alone" "${without[@]}" -Dwanted=cuda && fail "a component that does not exist was found"
grep -q "limbeck's cuda: there is no such component" "$work/log" || fail "$(cat "$work/log")"

echo "== everything, by every header"
install_to "$work/prefix" mpi data
mkdir "$work/all"
cat >"$work/all/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(everything LANGUAGES CXX)
find_package(limbeck REQUIRED)
add_executable(everything everything.cpp)
target_link_libraries(everything PRIVATE limbeck::optim limbeck::mpi limbeck::data)
END
(cd "$work/prefix/include/limbeck" && find . -name '*.h' | sed 's|^./|#include "|; s|$|"|') >"$work/all/everything.cpp"
cat >>"$work/all/everything.cpp" <<'END'
int main() {
  limbeck::parallel::MpiWorld world;
  return limbeck::data::hdf5_version().empty() ? 1 : world.size() - 1;
}
END
configure "$work/all" -DCMAKE_PREFIX_PATH="$work/prefix" || fail "$(cat "$work/log")"
cmake --build "$work/all/build" >"$work/log" 2>&1 || fail "$(cat "$work/log")"
OMPI_MCA_btl=^tcp "$work/all/build/everything" </dev/null >"$work/log" 2>&1 || fail "the program ends with $?: $(cat "$work/log")"

echo "== a folder of another project"
mkdir "$work/parent"
cat >"$work/parent/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.25)
project(parent LANGUAGES CXX)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
add_subdirectory(${limbeck} limbeck)
add_executable(mine ${limbeck}/examples/library/moe_on_ranks.cpp)
target_link_libraries(mine PRIVATE limbeck::optim limbeck::parallel)
if(TARGET limbeck OR TARGET test_core OR CMAKE_CXX_STANDARD OR CMAKE_CXX_FLAGS OR CMAKE_BUILD_TYPE OR CMAKE_RUNTIME_OUTPUT_DIRECTORY)
  message(FATAL_ERROR "Limbeck brings its program or tests, or changes how its parent is built")
endif()
END
configure "$work/parent" -Dlimbeck="$source" -DLIMBECK_PARTS="optim;parallel" -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON -DCMAKE_DISABLE_FIND_PACKAGE_HDF5=ON ||
  fail "$(cat "$work/log")"
mine=$(grep -B1 -A1 '"command".*mine.dir' "$work/parent/build/compile_commands.json")
[[ $mine == *-std=* && $mine != *-W* && $mine != *-O3* ]] || fail "the parent's source is compiled by: $mine"
echo "passed after $SECONDS s"
