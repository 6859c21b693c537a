// Results below the normal numbers (2^-126 in float32) become zeros. Processors take a hundred times as long to make or
// to read a number between, and such come up: what a token's gradient is times the weight of an expert that hardly
// counts, moments of what has no gradient any more.
//
//     int main() { const kernels::NoDenormals none; ... }       // before any thread is started
#pragma once

namespace limbeck::kernels {

/// While it lives, this thread, and those that it starts meanwhile, compute no such numbers; those that are read from a
/// file keep their value as factors. Nothing where the processor offers no such thing.
class NoDenormals {
 public:
  NoDenormals();
  ~NoDenormals();
  NoDenormals(const NoDenormals&) = delete;
  NoDenormals& operator=(const NoDenormals&) = delete;

 private:
  unsigned before_ = 0;
};

}  // namespace limbeck::kernels
