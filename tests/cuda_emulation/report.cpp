#include "tests/cuda_emulation/report.h"

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "tests/cuda_emulation/fibers/block.h"
#include "tests/cuda_emulation/runtime/machine.h"

namespace limbeck::emulation {

namespace {

/// Function and "file:line" by addr2line, "??" where unknown.
std::pair<std::string, std::string> look_up(const void* code) {
  std::pair<std::string, std::string> unknown{"??", "??"};
  Dl_info info{};
  link_map* map = nullptr;
  if (::dladdr1(code, &info, reinterpret_cast<void**>(&map), RTLD_DL_LINKMAP) == 0 || map == nullptr) return unknown;
  const std::string program = map->l_name[0] == '\0' ? fmt::format("/proc/{}/exe", ::getpid()) : map->l_name;
  const std::string command = fmt::format("addr2line -f -C -s -i -e '{}' {:#x} 2>/dev/null", program,
                                          reinterpret_cast<std::uintptr_t>(code) - map->l_addr);
  std::FILE* answer = ::popen(command.c_str(), "r");
  if (answer == nullptr) return unknown;
  std::array<std::string, 2> lines;
  std::array<char, 4096> line{};
  for (std::string& text : lines)
    if (std::fgets(line.data(), line.size(), answer) != nullptr) text = line.data();
  ::pclose(answer);
  for (std::string& text : lines) text.resize(std::min({text.find('\n'), text.find(" (discriminator"), text.size()}));
  return {lines[0].empty() ? "??" : lines[0], lines[1].empty() ? "??" : lines[1]};
}

std::string without_namespaces(std::string name) {
  for (const std::string_view part :
       {"(anonymous namespace)::", "limbeck::", "kernels::", "emulation::", "samples::", "void "})
    for (auto at = name.find(part); at != std::string::npos; at = name.find(part)) name.erase(at, part.size());
  return name.substr(0, name.find('('));
}

std::string text_of(uint3 index) { return fmt::format("[{},{},{}]", index.x, index.y, index.z); }

}  // namespace

std::string code_name(const void* code) { return without_namespaces(look_up(code).first); }

std::string code_place(const void* code) {
  const auto [function, line] = look_up(code);
  return line.starts_with('?') ? without_namespaces(function)
                               : fmt::format("{} ({})", without_namespaces(function), line);
}

std::string text_of(const std::source_location& where) {
  const std::string_view file = where.file_name();
  return fmt::format("{}:{}", file.substr(file.find_last_of('/') + 1), where.line());
}

void fail_with(const std::string& what) {
  std::string line = "cuda emulation: ";
  if (const Block* block = Block::running(); block != nullptr) {
    line += fmt::format("{}, block {}, ", code_name(block->kernel()), text_of(blockIdx));
    if (block->current() != nullptr) line += fmt::format("thread {}: ", text_of(block->current()->index));
  }
  if (Block::running() == nullptr)
    if (const std::string operation = running_operation(); !operation.empty()) line += operation + ": ";
  line += what + "\n";
  std::fputs(line.c_str(), stderr);
  std::abort();
}

}  // namespace limbeck::emulation
