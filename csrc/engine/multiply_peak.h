// How fast this machine multiplies int8 numbers: what a product of many rows cannot beat.
#pragma once

#include <string>

namespace wf::engine {

struct MultiplyPeak {
  std::string instruction;  // "" where no loop is known: for scalar code
  double gmacs = 0;         // 10^9 multiply-adds a second, all threads together
};

// From registers, with the best instruction of the instruction set `isa`, which must be one that
// runs here; best of a few loops of some milliseconds.
MultiplyPeak multiply_peak(const std::string& isa, int threads);

}  // namespace wf::engine
